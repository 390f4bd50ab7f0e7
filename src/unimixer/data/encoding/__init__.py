"""Fit the transform on the training part and encode rows with it."""
