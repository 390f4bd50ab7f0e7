"""Scripts of the benchmarks on mistakes of their callers."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "benchmarks"


def test_every_script_of_the_library_ends_as_a_command_does() -> None:
    with_library = [path for path in SCRIPTS.glob("*.py") if re.search(r"^from unimixer", path.read_text(), re.M)]
    scripts = [path for path in with_library if "__main__" in path.read_text()]
    assert len(scripts) > 20
    assert [path.name for path in scripts if not path.read_text().endswith("\n    script(main)\n")] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mixers.py", "--out", "studies", "--study", "mixer"], "unknown study 'mixer'; did you mean 'mixers'?"),
        (["held_out_days.py", "no run"], "no run"),
    ],
)
def test_a_mistake_is_one_sentence(arguments: list[str], message: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / arguments[0]), *arguments[1:]], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line
