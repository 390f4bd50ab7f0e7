"""README and guides run as written: every python block and every command behind a dollar sign, in an empty folder."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from needs import needs_torchrec

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```(python|console)\n(.*?)^```", re.MULTILINE | re.DOTALL)
PAGES = (
    "README.md",
    "docs/data.md",
    "docs/training.md",
    "docs/inspect.md",
    "docs/export.md",
    "docs/models.md",
    "docs/study.md",
    "docs/scaling.md",
    "docs/abtest_reading.md",
    pytest.param("docs/distributed.md", marks=needs_torchrec),
    "docs/serving.md",
    "docs/abtest_simulation.md",
    "docs/abtest.md",
)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_page_runs_as_written(page: str, tmp_path: Path) -> None:
    blocks = BLOCK.findall((ROOT / page).read_text(encoding="utf-8"))
    assert blocks, f"{page} has no block that runs"
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONWARNINGS": "ignore"}
    for language, text in blocks:
        shell = [["bash", "-ec", line[2:]] for line in text.splitlines() if line.startswith("$ ")]
        for command in [[sys.executable, "-c", text]] if language == "python" else shell:
            done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240)
            assert done.returncode == 0, f"{page}: {text}\n{done.stdout}\n{done.stderr}"


def test_links_inside_the_repository_lead_somewhere() -> None:
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
