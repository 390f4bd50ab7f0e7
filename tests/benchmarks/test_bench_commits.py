"""Two commits of a small repository."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

import unimixer
from benchmarks.suite.commits import compare_commits
from unimixer.errors import UnimixerError

PACKAGE = Path(unimixer.__file__).parent


def git(root: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.com", "-c", "commit.gpgsign=false"]
    return subprocess.run(
        ["git", *identity, *arguments], cwd=root, check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """This package without its benchmarks, then with slow matrices."""
    root = tmp_path / "repository"
    shutil.copytree(PACKAGE, root / "src" / "unimixer", ignore=shutil.ignore_patterns("__pycache__", "bench"))
    git(root, "init", "--quiet")
    git(root, "add", ".")
    git(root, "commit", "--quiet", "-m", "first")
    source = root / "src" / "unimixer" / "mixing" / "constrained.py"
    text = source.read_text(encoding="utf-8")
    at = "    def matrices(self) -> Tensor:\n"
    assert at in text
    slow = f'{at}        __import__("time").sleep(0.02)\n'
    source.write_text(text.replace(at, slow), encoding="utf-8")
    git(root, "commit", "--quiet", "-am", "slow")
    return root


def test_a_slow_commit_is_seen_and_the_repository_is_left_as_it_was(repository: Path) -> None:
    before = git(repository, "status", "--porcelain"), git(repository, "worktree", "list")
    found = compare_commits(
        "HEAD~1", "HEAD", ["sinkhorn-cached"], cases="L=512 b=4", rounds=1, threads=1, root=repository
    )
    by_name = {row.implementation: row for row in found}
    assert set(by_name) == {"solved", "cached"}
    cached = by_name["cached"]
    assert cached.verdict == "no interval"
    assert cached.new_seconds is not None
    assert cached.new_seconds > 0.04  # two patterns
    assert cached.ratio is not None
    assert cached.ratio > 10
    assert (git(repository, "status", "--porcelain"), git(repository, "worktree", "list")) == before


def test_what_cannot_be_compared_is_refused(repository: Path, tmp_path: Path) -> None:
    with pytest.raises(UnimixerError, match="'nothing' is no commit, branch or tag of"):
        compare_commits("nothing", None, ["mixing"], root=repository)
    with pytest.raises(UnimixerError, match="comparing commits needs a git checkout of unimixer"):
        compare_commits("HEAD", None, ["mixing"], root=tmp_path)
    with pytest.raises(UnimixerError, match="unknown benchmark 'mixin'"):
        compare_commits("HEAD", None, ["mixin"], root=repository)
    with pytest.raises(UnimixerError, match="rounds=0 must be greater than 0"):
        compare_commits("HEAD", None, ["mixing"], rounds=0, root=repository)
