"""Measure the parts on this machine, against a reference that they must agree with and against ceilings.

``python -m benchmarks.suite`` in a checkout lists the benchmarks and runs them.
"""
