"""The files of systemd are right: they parse, they name options and scripts that exist, and systemd accepts them."""

from __future__ import annotations

import shutil
import subprocess
from configparser import ConfigParser
from pathlib import Path

import pytest

from unimixer.cli import load_verb

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "examples" / "deploy"
UNITS = ("ranker.service", "ranker-daily.service", "ranker-daily.timer")


def unit(name: str) -> ConfigParser:
    parser = ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string((DEPLOY / name).read_text(encoding="utf-8"))
    return parser


def test_every_unit_is_known() -> None:
    assert {path.name for path in DEPLOY.iterdir()} == set(UNITS)


def test_the_server_is_started_with_options_that_exist() -> None:
    program, verb, bundle, *words = unit("ranker.service")["Service"]["ExecStart"].split()
    assert (Path(program).name, verb, bundle) == ("unimixer", "serve", "current")
    known = {option for parameter in load_verb("serve").params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= known
    options = dict(zip(words[::2], words[1::2], strict=True))
    assert float(options["--grace"]) < float(unit("ranker.service")["Service"]["TimeoutStopSec"])


def test_the_timer_starts_the_daily_script() -> None:
    script, place = unit("ranker-daily.service")["Service"]["ExecStart"].split()
    assert (ROOT / Path(script).relative_to("/opt/unimixer")).is_file()
    assert place == unit("ranker.service")["Service"]["WorkingDirectory"]
    assert unit("ranker-daily.timer")["Timer"]["Persistent"] == "true"
    assert unit("ranker-daily.timer")["Install"]["WantedBy"] == "timers.target"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    for name in UNITS:
        text = (DEPLOY / name).read_text(encoding="utf-8")
        for ours, here in (("/opt/unimixer/.venv/bin/unimixer", "/bin/true"), ("/opt/unimixer", str(ROOT))):
            text = text.replace(ours, here)
        (tmp_path / name).write_text(text.replace("User=ranker", "User=root"), encoding="utf-8")
    command = ["systemd-analyze", "verify", "--man=no", *(str(tmp_path / name) for name in UNITS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
