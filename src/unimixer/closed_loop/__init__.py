"""Simulate online experiments in a closed loop: users of a synthetic world see, click, and return or stay away."""
