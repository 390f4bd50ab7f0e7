"""What an import costs and brings, and what is public."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import unimixer

PUBLIC = [
    "Predictor",
    "Ranker",
    "Run",
    "UnimixerError",
    "create_model",
    "evaluate",
    "export",
    "predict",
    "prepare",
    "train",
]
HEAVY = ("torch", "numpy", "pydantic", "polars", "pyarrow", "yaml", "typer", "rich", "sklearn", "scipy", "matplotlib")
SCRIPT = """
import json, sys
seen = {{}}
for statement in {statements!r}:
    exec(statement)
    seen[statement] = [name for name in {heavy!r} if name in sys.modules]
print(json.dumps(seen))
"""


def loaded(*statements: str) -> Any:
    """Heavy packages that are loaded after each of some statements, run one after the other in a fresh Python."""
    script = SCRIPT.format(statements=statements, heavy=HEAVY)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    return json.loads(done.stdout.splitlines()[-1])


def test_public_names_are_pinned() -> None:
    assert unimixer.__all__ == PUBLIC
    assert dir(unimixer) == sorted(PUBLIC)


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_can_be_imported_and_has_a_docstring(name: str) -> None:
    assert getattr(unimixer, name).__doc__


def test_a_module_of_the_package_never_hides_a_public_name() -> None:
    package = Path(unimixer.__file__).parent
    assert {path.stem for path in package.iterdir()} & {*PUBLIC} == set()


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'unimixer' has no attribute 'nothing'"):
        unimixer.nothing  # noqa: B018


def test_the_package_alone_loads_nothing_heavy_and_the_model_needs_torch_alone() -> None:
    rooms = (
        "unimixer.ops",
        "unimixer.mixing",
        "unimixer.blocks",
        "unimixer.backbones",
        "unimixer.features",
        "unimixer.models",
    )
    model = [f"import {room}" for room in rooms]
    names = [f"from unimixer import {name}" for name in ("Ranker", "create_model")]
    seen = loaded("import unimixer", "from unimixer import UnimixerError", "import torch", *model, *names)
    assert seen["import unimixer"] == []
    assert seen["from unimixer import UnimixerError"] == []
    for statement in (*model, *names):
        assert seen[statement] == seen["import torch"], statement


ALONE = """
import importlib, sys

BLOCKED = {"pydantic", "yaml", "polars", "pyarrow", "scipy", "sklearn", "typer", "rich", "safetensors", "matplotlib"}
BLOCKED |= {"fastapi", "onnx", "onnxruntime", "ray", "torchrec", "fbgemm_gpu", "redis", "psycopg", "jinja2", "plotly"}

class Without:
    # finds every package but the blocked ones
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in BLOCKED else self.finder.find_spec(name, path, target)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
for room in ("ops", "mixing", "blocks", "backbones", "features", "metrics", "ranker", "models"):
    for name in FILES[room]:
        importlib.import_module(name)
import torch, unimixer
from unimixer.backbones import BACKBONES, build_backbone
for name in BACKBONES:
    build_backbone(name, num_tokens=4, token_dim=16)(torch.ones(2, 4, 16, requires_grad=True)).sum().backward()
print(sum(map(len, FILES.values())))
"""


def test_the_rooms_of_the_model_run_with_torch_alone() -> None:
    package = Path(unimixer.__file__).parent
    files = {
        room: [
            ".".join(path.relative_to(package.parent).with_suffix("").parts).removesuffix(".__init__")
            for path in sorted([*(package / room).rglob("*.py"), *package.glob(f"{room}.py")])
            if "triton" not in path.name and "kernels" not in path.parts  # Triton is a part of torch on a GPU alone
        ]
        for room in ("ops", "mixing", "blocks", "backbones", "features", "metrics", "ranker", "models")
    }
    script = f"FILES = {files!r}\n{ALONE}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == sum(map(len, files.values())) > 60


def test_help_and_a_mistyped_verb_do_not_load_torch() -> None:
    call = "import contextlib, io, unimixer.cli\nwith contextlib.redirect_stdout(io.StringIO()):\n  "
    calls = [
        f"{call}\n  try: unimixer.cli.main({arguments})\n  except SystemExit as done: assert done.code == {code}, done"
        for arguments, code in ((["--help"], 0), (["trian"], 2))
    ]
    for packages in loaded(*calls).values():
        assert set(packages) <= {"typer", "rich", "pydantic"}  # typer looks at pydantic by itself


def test_the_package_runs_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "unimixer", "--help"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert "Usage: unimixer" in done.stdout
