"""The commit of the source tree, read beside whoever else works in the repository."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from unimixer import environment


def test_the_commit_is_read_without_the_lock_of_the_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is killed while it reads must not leave ``index.lock``, so nothing may be written."""

    def git(*arguments: str) -> str:
        command = ["git", "-c", "user.name=A", "-c", "user.email=a@example.org", *arguments]
        return subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout.strip()

    file, index = tmp_path / "package.py", tmp_path / ".git" / "index"
    file.write_text("one = 1\n")
    git("init", "-q")
    git("add", "package.py")
    git("commit", "-qm", "first")
    monkeypatch.setattr(environment, "__file__", str(file))
    os.utime(file, (1, 1))  # git looks at its content again, and keeps what it finds in the index
    before = index.read_bytes()
    assert environment.commit() == git("rev-parse", "HEAD")
    assert index.read_bytes() == before
    git("status", "--porcelain")  # as it reads by itself
    assert index.read_bytes() != before
    file.write_text("one = 2\n")
    assert environment.commit() == git("rev-parse", "HEAD") + "+changes"
