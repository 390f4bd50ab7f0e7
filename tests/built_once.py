"""Folders that all processes of tests share: built by the first that needs one."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch


def built_once(factory: pytest.TempPathFactory, name: str, *builds: Callable[[Path], object]) -> Path:
    """A folder that is built once a test session, whichever worker of pytest-xdist comes first."""
    root = factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    folder = root / name
    with (root / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "built").exists():
            folder.mkdir()
            torch.set_num_threads(1)
            for build in builds:
                build(folder)
            (folder / "built").touch()
    return folder
