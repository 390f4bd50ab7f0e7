"""The calendar: its steps in order, its lock, its gate, its way back, and its end after kills at every step."""

from __future__ import annotations

import fcntl
import json
import subprocess
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import program_copies
import pytest
from own_process import OwnProcess, environment

from benchmarks import killing
from benchmarks.daily_kills import SCRIPT, calendar, compare

GATE = SCRIPT.with_name("gate.py")
COMMANDS = 8
"""Commands of a day that can be killed: fetch, extend, train, evaluate, export, apply, store, reload."""
PROGRAM = """
import json, sys, time
from pathlib import Path

words = sys.argv[1:]
after = dict(zip(words, words[1:]))
with open("calls", "a") as file:
    file.write(" ".join(words) + "\\n")


def write(path, text):
    hidden = Path(path).with_name(f".{Path(path).name}.1.tmp")
    hidden.parent.mkdir(parents=True, exist_ok=True)
    hidden.write_text(text)
    time.sleep(0.1)
    hidden.replace(path)


if words[0] == "fetch":
    write(words[2], words[1])
elif words[:2] == ["data", "extend"]:
    days = json.loads(Path("data/manifest.json").read_text()).get("days", [])
    day = Path(after["--raw"]).stem
    assert [one["last"] for one in days][-1:] < [day], "a day twice"
    write("data/manifest.json", json.dumps({"days": [*days, {"last": day}]}))
elif words[:2] == ["train", "--resume"]:
    write(words[2] + "/weights", "trained")
elif words[0] == "train":
    assert Path(after["--continue"], "weights").exists()
    Path(after["--run"]).mkdir(parents=True)
    write(after["--run"] + "/weights", "trained")
elif words[0] == "evaluate":
    time.sleep(0.1)
    print("a remark")
    print(json.dumps({"tasks": {"click": {"auc": 0.7, "calibration": 1.0}}, "unknown": {"user_id": 0.1}}))
elif words[0] == "export":
    assert Path(after["--delta"]).exists()
    write(after["--out"], after["--delta"])
elif words[:2] == ["bundle", "apply"]:
    assert words[2] == Path(words[3]).read_text()
    write(after["--out"], words[3])
elif words[:2] == ["store", "build"]:
    write(after["--out"], words[2])
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A calendar whose commands only write small files."""
    (tmp_path / "program.py").write_text(PROGRAM)
    first, program = "2026-01-01", f"{sys.executable} -S program.py"
    settings = {"UNIMIXER": program, "PYTHON": sys.executable, "RECIPE": "recipe.yaml", "FETCH": f"{program} fetch"}
    (tmp_path / "settings.sh").write_text("".join(f"{key}='{value}'\n" for key, value in settings.items()))
    for path, text in {
        f"runs/{first}/weights": "trained",
        f"bundles/{first}": "base",
        "data/manifest.json": "{}",
        "shipped": f"{first}\n",
        "bounds.json": '{"tasks": {"click": {"auc": [0.6, 1]}}}',
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    (tmp_path / "current").symlink_to(f"bundles/{first}")
    return tmp_path


def add(place: Path, **settings: str) -> None:
    with (place / "settings.sh").open("a") as file:
        file.writelines(f'{name}="{value}"\n' for name, value in settings.items())


def run(place: Path, last: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", str(SCRIPT), str(place), last], capture_output=True, text=True)


def files(place: Path) -> dict[str, str]:
    """What the days left, without what was said on the way."""
    names = ("raw", "data", "runs", "validation", "deltas", "bundles", "shipped", "features.sqlite")
    paths = [path for name in names for path in ((place / name), *(place / name).rglob("*"))]
    return {str(path.relative_to(place)): path.read_text() for path in paths if path.is_file()}


def test_days_come_one_after_the_other_and_a_second_call_does_nothing(place: Path) -> None:
    add(place, STORE="features.sqlite")
    done = run(place, "2026-01-03")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (place / "shipped").read_text() == "2026-01-03\n"
    assert str((place / "current").readlink()) == "bundles/2026-01-03"
    calls = (place / "calls").read_text().splitlines()
    assert calls[:COMMANDS] == [
        "fetch 2026-01-02 raw/.2026-01-02.tmp",
        "data extend data --raw raw/2026-01-02.parquet",
        "train recipe.yaml --continue runs/2026-01-01 --data data --run runs/2026-01-02",
        "evaluate runs/2026-01-02 --data data --json",
        "export runs/2026-01-02 --data data --delta bundles/2026-01-01 --out deltas/2026-01-02",
        "bundle apply bundles/2026-01-01 deltas/2026-01-02 --out bundles/2026-01-02",
        "store build runs/2026-01-02 --raw raw --other-data --out features.sqlite --overwrite",
        "fetch 2026-01-03 raw/.2026-01-03.tmp",
    ]
    assert run(place, "2026-01-03").returncode == 0
    assert (place / "calls").read_text().splitlines() == calls
    assert "2026-01-03 in service" in (place / "daily.log").read_text()


def test_kills_at_every_step_end_in_the_same_state(place: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    add(place, STORE="features.sqlite", RELOAD="true")
    whole = tmp_path_factory.mktemp("whole")
    subprocess.run(["cp", "-a", f"{place}/.", str(whole)], check=True)
    assert run(whole, "2026-01-02").returncode == 0
    (place / "kills").mkdir()
    wrapper = f"{sys.executable} -S {killing.__file__}"
    add(place, UNIMIXER=f"{wrapper} $UNIMIXER", FETCH=f"{wrapper} $FETCH", RELOAD=f"{wrapper} true")
    codes = calendar(place, 1)
    assert (codes[-1], len(codes) - 1) == (0, 2 * COMMANDS)
    assert files(place) == files(whole)
    assert list(place.rglob(".*.tmp")) == []


def test_the_gate_refuses_a_day_until_it_is_accepted(place: Path) -> None:
    bounds = {"tasks": {"click": {"auc": [0.8, 1], "log_loss": [0, 1]}}, "unknown": {"user_id": [0, 0.05]}}
    (place / "bounds.json").write_text(json.dumps(bounds))
    for _ in range(2):
        assert run(place, "2026-01-03").returncode == 3
        assert (place / "shipped").read_text() == "2026-01-01\n"
        assert not (place / "deltas" / "2026-01-02").exists()
    said = (place / "logs" / "2026-01-02.log").read_text()
    assert "auc of click is 0.7, outside 0.8 to 1" in said
    assert "log_loss of click is None, outside 0 to 1" in said
    assert "unknown share of user_id is 0.1, outside 0 to 0.05" in said
    (place / "validation" / "2026-01-02.accepted").touch()
    assert run(place, "2026-01-02").returncode == 0


def test_a_server_that_refuses_a_bundle_keeps_the_one_before(place: Path) -> None:
    add(place, RELOAD="false")
    assert run(place, "2026-01-02").returncode == 1
    assert str((place / "current").readlink()) == "bundles/2026-01-01"
    assert (place / "shipped").read_text() == "2026-01-01\n"
    add(place, RELOAD="true")
    assert run(place, "2026-01-02").returncode == 0
    assert str((place / "current").readlink()) == "bundles/2026-01-02"


def test_a_step_that_fails_ends_the_call_with_its_code(place: Path) -> None:
    (place / "fetch.sh").write_text("exit 7")
    add(place, FETCH="sh fetch.sh")
    done = run(place, "2026-01-02")
    assert done.returncode == 7
    assert "fetch failed with exit code 7; its output is in logs/2026-01-02.log" in done.stdout


def test_a_relative_path_of_the_script_finds_its_gate(place: Path) -> None:
    call = ["bash", SCRIPT.name, str(place), "2026-01-02"]
    assert subprocess.run(call, cwd=SCRIPT.parent, capture_output=True).returncode == 0
    assert (place / "shipped").read_text() == "2026-01-02\n"


def test_the_last_day_is_yesterday_in_the_zone_of_the_days(place: Path) -> None:
    """A day that is not over in its zone would be appended in part, and its other rows never."""
    west, east = "Etc/GMT+12", "Etc/GMT-14"  # never the same date
    day = str((datetime.now(ZoneInfo(west)) - timedelta(days=1)).date())
    for name in ("runs", "bundles"):
        (place / name / "2026-01-01").rename(place / name / day)
    (place / "shipped").write_text(f"{day}\n")
    add(place, ZONE=west)
    call = ["bash", str(SCRIPT), str(place)]
    assert subprocess.run(call).returncode == 0
    assert not (place / "calls").exists()
    add(place, ZONE=east)
    assert subprocess.run(call, capture_output=True).returncode == 0
    assert (place / "shipped").read_text() > day
    add(place, ZONE="Nowhere")
    assert subprocess.run(call, capture_output=True).returncode == 1


def test_two_calls_at_once_are_refused(place: Path) -> None:
    with (place / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = run(place, "2026-01-02")
    assert done.returncode == 75
    assert "another call is running" in done.stderr
    assert not (place / "calls").exists()


@pytest.mark.parametrize(
    ("measured", "code"),
    [
        ({"tasks": {"click": {"auc": 0.7}}, "unknown": {"user_id": 0.0}}, 0),
        ({"tasks": {"click": {"auc": 0.59}}, "unknown": {"user_id": 0.0}}, 3),
        ({"tasks": {"click": {"auc": None}}, "unknown": {"user_id": 0.0}}, 3),
        ({"tasks": {}, "unknown": {"user_id": 0.0}}, 3),
        ({"tasks": {"click": {"auc": 0.7}}, "unknown": {}}, 3),
    ],
)
def test_a_value_outside_its_bounds_or_missing_is_refused(tmp_path: Path, measured: dict[str, Any], code: int) -> None:
    (tmp_path / "measured").write_text(json.dumps(measured))
    (tmp_path / "bounds").write_text(
        json.dumps({"tasks": {"click": {"auc": [0.6, 1]}}, "unknown": {"user_id": [0, 0.5]}})
    )
    done = subprocess.run([sys.executable, GATE, tmp_path / "measured", tmp_path / "bounds"])
    assert done.returncode == code


@pytest.mark.slow
@pytest.mark.timeout(1_800)
def test_a_real_day_that_is_killed_at_every_step_ends_in_the_same_bits(tmp_path: Path) -> None:
    address = tmp_path / "program"
    command = f"{sys.executable} -S {program_copies.__file__} {address}"
    with OwnProcess(program_copies.serve, str(address), env=environment()) as server:
        while not address.exists():
            assert server.poll() is None, server.communicate()
            time.sleep(0.02)
        kills = compare(tmp_path, rows=1_000, users=300, items=100, days=1, unimixer=command)
    assert kills == 2 * COMMANDS
