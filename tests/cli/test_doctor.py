"""What the doctor sees, with and without optional packages."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unimixer.cli.doctor import describe_triple, diagnose, driver_version, matmul_rate
from unimixer.errors import EXTRAS

Cli = Callable[..., Any]


def test_the_doctor_says_versions_hardware_and_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNIMIXER_RUNS", "elsewhere")
    facts = diagnose()
    assert facts["torch version"].startswith("2.")
    assert facts["cpu cores"] >= 1
    assert facts["runs"] == "elsewhere"
    assert "float32 matrix multiply" not in facts
    json.dumps(facts)


def test_missing_extras_are_named_with_the_command_that_brings_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for packages in EXTRAS.values():
        for package in packages:
            monkeypatch.delitem(sys.modules, package, raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    facts = diagnose()
    assert facts["extra [track]"] == "tensorboard missing: pip install 'unimixer[track]'"
    assert facts["extra [report]"] == "matplotlib, plotly, jinja2 missing: pip install 'unimixer[report]'"


def test_a_machine_without_a_compiler_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert diagnose()["C++ compiler (torch.compile)"] == "none: compile=true cannot work"


def test_the_matrix_rate_is_a_number_of_operations() -> None:
    assert 1e7 < matmul_rate(size=128, seconds=0.05) < 1e14


def test_the_doctor_judges_the_three_packages_of_distributed_training() -> None:
    fitting = {"torch": "2.13.0+cpu", "torchrec": "1.8.0", "fbgemm-gpu-cpu": "1.8.0"}
    assert describe_triple(fitting).endswith("they go together")
    told = describe_triple({**fitting, "torchrec": "1.7.0"})
    assert "torchrec 1.7.0" in told
    assert "pip install" in told
    assert "distributed" in describe_triple({"torch": "2.13.0"})


def test_the_driver_is_what_its_own_program_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 570.00\necho 570.00\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert driver_version() == "570.00"
    program.write_text("#!/bin/sh\nexit 9\n")
    assert driver_version() is None


def test_doctor_works_without_optional_packages(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("matplotlib", "tensorboard"):
        monkeypatch.setitem(sys.modules, package, None)
    done = cli("doctor", "--json")
    assert done.code == 0
    assert done.json["extra [report]"] == "matplotlib missing: pip install 'unimixer[report]'"
    shown = " ".join(cli("doctor").out.split())
    assert "extra [report]" in shown
    assert "matplotlib missing: pip install 'unimixer[report]'" in shown
    assert "torch version" in cli("doctor", "--benchmark").out
