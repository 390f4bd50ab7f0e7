"""README and guides run as written: every python block and every command behind a dollar sign, in an empty folder.

Only large synthetic worlds have fewer rows here, and servers, which share two cores with other tests, more time.
"""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from cli_runner import runner
from needs import needs_torchrec
from own_process import launch, run_program

from unimixer.cli import main

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```(python|console)\n(.*?)^```", re.MULTILINE | re.DOTALL)
PROGRAM = re.compile(r"unimixer ([^|&;<>$]*?)(?: > ([\w.]+))?")
"""A line that calls the program and needs nothing else of a shell but a file for the output."""
RANKS = re.compile(r"torchrun --standalone --nproc-per-node=(\d) -m -- unimixer ([^|&;<>$]*)")
LARGE = re.compile(r"\brows=[\d_]{5,}")
FEW = "rows=4000"
SERVER = re.compile(r"\bunimixer serve ")
PATIENT = "unimixer serve --timeout 60 "
PAGES = (
    "README.md",
    "docs/first_run.md",
    "docs/concepts.md",
    "docs/data.md",
    "docs/training.md",
    "docs/own_loop.md",
    "docs/metrics.md",
    "docs/days.md",
    "docs/inspect.md",
    "docs/export.md",
    "docs/models.md",
    "docs/study.md",
    "docs/tune.md",
    "docs/scaling.md",
    "docs/abtest_reading.md",
    pytest.param("docs/distributed.md", marks=needs_torchrec),
    "docs/serving.md",
    "docs/abtest_simulation.md",
    "docs/abtest.md",
    "docs/days_serving.md",
)


@pytest.fixture
def _no_server_left(tmp_path: Path) -> Iterator[None]:
    """Stop the server of a page that failed in the middle, or its port is taken in the next test."""
    yield
    number = tmp_path / "server.pid"
    if number.exists():
        with suppress(ProcessLookupError):
            os.kill(int(number.read_text()), signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("_no_server_left")
@pytest.mark.parametrize("page", PAGES)
def test_page_runs_as_written(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = BLOCK.findall(LARGE.sub(FEW, (ROOT / page).read_text(encoding="utf-8")))
    assert blocks, f"{page} has no block that runs"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONWARNINGS", "ignore")
    program = runner(main, capsys)
    names = {"__name__": "__main__"}  # blocks of a page go on with the names of those before
    for language, text in blocks:
        if language == "python":
            exec(compile(text, page, "exec"), names)
            continue
        for line in re.findall(r"^\$ (.*)", text, re.MULTILINE):
            # here, and ranks in copies of one process: a process of its own would import everything again
            if called := PROGRAM.fullmatch(line):
                done = program(*called[1].split())
                assert done.code == 0, f"{page}: {line}\n{done.out}\n{done.err}"
                if called[2]:
                    Path(called[2]).write_text(done.out, encoding="utf-8")
            elif ranks := RANKS.fullmatch(line):
                assert not launch(int(ranks[1]), run_program, ranks[2].split()), f"{page}: {line}"
            else:
                line = SERVER.sub(PATIENT, line)
                shell = subprocess.run(["bash", "-ec", line], capture_output=True, text=True, timeout=240)
                assert shell.returncode == 0, f"{page}: {line}\n{shell.stdout}\n{shell.stderr}"


def test_links_inside_the_repository_lead_somewhere() -> None:
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
