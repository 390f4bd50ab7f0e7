"""The package as users get it: metadata, extras, and a wheel that works in an empty folder."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from unimixer.environment import torchrec_command
from unimixer.errors import EXTRAS, MissingExtraError
from unimixer.settings import packaged_files

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WITHOUT_PACKAGES = {"dev", "docs", "distributed", "gpu"}
"""Extras that the doctor does not list: tools of developers, TorchRec, which has a line of its own, and Triton."""


def test_versions_and_dates_of_a_release_agree() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["version"]
    heading = re.search(r"^## (\d\S*) \((.*)\)$", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert heading is not None
    assert heading.groups() == (PROJECT["version"], str(citation["date-released"]))


def test_every_place_names_the_same_versions_of_python() -> None:
    known = [text.rpartition(" ")[2] for text in PROJECT["classifiers"] if "Python :: 3." in text]
    minors = [int(version.partition(".")[2]) for version in known]
    assert minors == list(range(minors[0], minors[-1] + 1))
    assert PROJECT["requires-python"] == f">={known[0]},<3.{minors[-1] + 1}"
    for page in ("README.md", "Makefile"):
        assert f"Python {known[0]} to {known[-1]}" in (ROOT / page).read_text(), page
    assert re.findall(r"python(3\.\d+) ", (ROOT / "Makefile").read_text()) == known
    assert f'target-version = "py{known[0].replace(".", "")}"' in (ROOT / "pyproject.toml").read_text()


def test_the_readme_fits_on_two_screens() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


def test_the_doctor_knows_the_packages_of_every_extra() -> None:
    extras = PROJECT["optional-dependencies"]
    assert set(EXTRAS) == set(extras) - WITHOUT_PACKAGES
    for extra, modules in EXTRAS.items():
        brought = {Requirement(text) for text in extras[extra]}
        needed = {canonicalize_name(r.name) for r in brought if r.marker is None or r.marker.evaluate()}
        assert {canonicalize_name(module) for module in modules} == needed, extra


def test_a_missing_package_names_the_extra_that_brings_it() -> None:
    checked = set()
    texts = {path: path.read_text(encoding="utf-8") for path in (ROOT / "src").rglob("*.py")}
    for path in [path for path, text in texts.items() if "raise MissingExtraError" in text]:
        for node in ast.walk(ast.parse(texts[path])):
            for extra in _extras_raised(node):
                assert extra in PROJECT["optional-dependencies"], path
                assert isinstance(node, ast.Try)
                modules = {name.partition(".")[0] for part in node.body for name in _imported(part)} - {"unimixer", ""}
                assert modules <= {*EXTRAS.get(extra, ()), "torchrec", "markupsafe"}, path
                checked.add(extra)
    assert checked >= {"report", "serve", "abtest", "sweep", "distributed"}


def _extras_raised(node: ast.AST) -> list[str]:
    """List the extras that the handlers of a ``try`` name."""
    handlers = node.handlers if isinstance(node, ast.Try) else []
    calls = [call for handler in handlers for call in ast.walk(handler) if isinstance(call, ast.Call)]
    named = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "MissingExtraError"]
    return [str(ast.literal_eval(call.args[1])) for call in named]


def _imported(node: ast.AST) -> list[str]:
    names = [alias.name for part in ast.walk(node) if isinstance(part, ast.Import) for alias in part.names]
    names += [str(part.module) for part in ast.walk(node) if isinstance(part, ast.ImportFrom)]
    for call in ast.walk(node):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "import_module":
            names.append(str(ast.literal_eval(call.args[0])))
    return names


def test_tables_of_several_processes_need_a_second_command() -> None:
    assert torchrec_command("2.13.0+cpu") == "pip install --no-deps torchrec==1.8.0"
    error = MissingExtraError("a task", "distributed", torchrec_command("2.13.0"))
    way_out = "pip install 'unimixer[distributed]', then pip install --no-deps torchrec==1.8.0"
    assert str(error) == f"a task needs optional packages: {way_out}"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder in which the wheel of this tree is installed, alone."""
    folder = tmp_path_factory.mktemp("wheel")
    source, dist, target = folder / "source", folder / "dist", folder / "target"
    shutil.copytree(ROOT / "src", source / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    _done([*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(dist), str(source)], folder)
    (wheel,) = dist.glob("*.whl")
    assert wheel.name == f"unimixer-{PROJECT['version']}-py3-none-any.whl"
    _done([*pip, "install", "--no-deps", "--no-compile", "--target", str(target), str(wheel)], folder)
    return target


def _done(command: list[str], folder: Path, **environment: str) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240, env=environment or None)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_wheel_in_an_empty_folder_runs_the_readme_and_finds_its_recipes(installed: Path, tmp_path: Path) -> None:
    snippet = re.search(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), flags=re.MULTILINE | re.DOTALL)
    assert snippet is not None
    script = f"""{snippet[1]}
assert tuple(tokens.shape) == (32, 16, 64)
import unimixer
from unimixer.cli import main
from unimixer.training.config import load_recipe
print(unimixer.__file__, load_recipe("kuairand-rankmixer").model.backbone)
main(["--version"])
"""
    out = _done([sys.executable, "-c", script], tmp_path, PYTHONPATH=str(installed), OMP_NUM_THREADS="1")
    place, backbone, program, version = out.split()
    assert Path(place) == installed / "unimixer" / "__init__.py"
    assert (backbone, program, version) == ("rankmixer", "unimixer", PROJECT["version"])
    assert (installed / "bin" / "unimixer").exists()


def test_the_wheel_holds_every_file_of_the_package_that_is_no_code(installed: Path) -> None:
    data = {path.relative_to(ROOT / "src") for path in (ROOT / "src" / "unimixer").rglob("*") if path.is_file()}
    data = {path for path in data if path.suffix not in (".py", ".pyc")}
    assert len(data) > len(packaged_files()) + len(packaged_files("studies"))
    assert {path for path in data if not (installed / path).exists()} == set()
