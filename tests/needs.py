"""Marks of tests that need what an installation may lack; each says what brings it."""

from __future__ import annotations

import importlib.util

import pytest

needs_torchrec = pytest.mark.skipif(
    importlib.util.find_spec("torchrec") is None, reason="TorchRec is not installed: make venv-distributed"
)
