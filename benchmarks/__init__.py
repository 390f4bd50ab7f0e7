"""Benchmarks: the suite and scripts of their own. No part of the installed package."""
