"""What the doctor sees, with and without optional packages."""

from __future__ import annotations

import json
import shutil
import sys

import pytest

from unimixer.diagnosis import EXTRAS, diagnose, matmul_rate


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
    assert facts["extra [track]"] == "missing: pip install 'unimixer[track]'"
    assert facts["extra [report]"] == "missing: pip install 'unimixer[report]'"


def test_a_machine_without_a_compiler_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert diagnose()["C++ compiler (torch.compile)"] == "none: compile=true cannot work"


def test_the_matrix_rate_is_a_number_of_operations() -> None:
    assert 1e7 < matmul_rate(size=128, seconds=0.05) < 1e14
