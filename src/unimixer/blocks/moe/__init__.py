"""Mixtures of per-token experts."""
