"""What all tests share."""

from __future__ import annotations

import gc
import importlib
import multiprocessing
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import quick  # noqa: F401
import torch
from tiny import tiny_recipe
from toy import counting, day_tables, toy_tables

from unimixer.data.dataset import Dataset
from unimixer.data.prepare import prepare
from unimixer.environment import cores
from unimixer.training.run import RunFolder
from unimixer.training.train import train
from unimixer.workers import local
from unimixer.workers.ray import executor_on

torch.set_num_threads(1)
gc.set_threshold(10_000)  # a trace makes millions of objects that live until it ends
gc.disable()  # what imports and collection make lives until the end
# torch's compiler reads these when it is imported: no processes of its own, and no optimizing of what calls kernels
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
os.environ.setdefault("AOT_INDUCTOR_COMPILE_WRAPPER_OPT_LEVEL", "O0")
# all processes that the library starts for tests are copies of one, which has imported what any of them needs
local.PRELOAD[:] = [
    *("quick", "unimixer.cli.serve", "unimixer.cli.compare", "unimixer.cli.tune", "torch._dynamo", "pandas"),
    *("torch.utils.tensorboard", "torchrec.distributed.embedding", "torchrec.distributed.planner"),
]
multiprocessing.get_context("forkserver").set_forkserver_preload(local.PRELOAD)
# processes that prepare data are such copies too; test_passes.py starts some that import the script, as a user's do


def executor_of_copies(ray: str | None, purpose: str, *, imports_main: bool) -> Any:
    return executor_on(ray, purpose, imports_main=imports_main and ray is not None)


importlib.import_module("unimixer.data.prepare").executor_on = executor_of_copies  # type: ignore[attr-defined]
# a property that needs more examples than these says so
hypothesis.settings.register_profile("few", hypothesis.settings(), max_examples=40)
hypothesis.settings.load_profile("few")


def pytest_xdist_auto_num_workers() -> int:
    """A process more than cores: some tests wait for servers, signals and locks."""
    return cores() + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Pages of the guides and launches of several processes begin first: at the end a core would wait for them."""
    items.sort(key=lambda item: "distributed" not in item.path.parts)
    items.sort(key=lambda item: item.path.name != "test_docs.py")


def pytest_collection_finish() -> None:
    """Leave modules and tests, a million objects that live until the end, out of every later collection of garbage."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def _one_table_of_operators() -> Iterator[None]:
    """Conversions to ONNX only read this table, and making it is an eighth of one."""
    try:
        from torch.onnx._internal.exporter._registration import ONNXRegistry
    except ImportError:  # without the packages nothing is converted
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(cache(ONNXRegistry.from_torchlib)))
        yield


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test draws the same numbers in whatever order the tests run."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def toy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the prepared small world; tests must not change it."""
    folder = tmp_path_factory.mktemp("stores") / "toy"
    prepare(toy_tables(), folder)
    return folder


@pytest.fixture
def toy_dataset(toy_folder: Path) -> Dataset:
    """The small world, prepared and freshly opened."""
    return Dataset(toy_folder)


@pytest.fixture(scope="session")
def counting_run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A model of four days whose features count earlier impressions, beside its data; tests must not change it."""
    folder = tmp_path_factory.mktemp("counting")
    prepare(day_tables(*range(4), **counting()), folder / "data")
    return train(tiny_recipe(folder / "data", "training.max_steps=2"), folder=folder / "run", quiet=True)


@pytest.fixture(scope="session")
def toy_run(toy_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A finished run on the small world; tests must not change it."""
    return train(tiny_recipe(toy_folder), folder=tmp_path_factory.mktemp("runs") / "toy", quiet=True)
