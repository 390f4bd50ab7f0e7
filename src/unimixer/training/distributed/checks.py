"""Checks before several processes train together: their packages fit, and all of them have the same task."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from unimixer.data.dataset import Dataset
from unimixer.environment import torchrec_command, versions
from unimixer.errors import MissingExtraError, UnimixerError
from unimixer.training.config import Recipe
from unimixer.training.process_group import ProcessGroup
from unimixer.training.summary import flat

FBGEMM = ("fbgemm-gpu-cpu", "fbgemm-gpu")
"""The CPU build and the CUDA build are two distributions of one package."""
LOCAL = ("training.device", "training.threads", "training.num_workers")
"""Keys of a recipe that describe the machine of a process and so may differ."""


def check_versions(installed: Mapping[str, str] | None = None) -> None:
    """Raise unless torch 2.(X+5), torchrec 1.X and fbgemm 1.X are installed together: each is built for the others.

    Args:
        installed: versions by distribution, instead of those of this environment.

    Raises:
        MissingExtraError: torchrec or fbgemm is not installed.
        UnimixerError: the three do not fit; the message says which releases would.
    """
    packages = installed_versions() if installed is None else dict(installed)
    fbgemm = next((packages[name] for name in FBGEMM if name in packages), None)
    expected = expected_minor(packages["torch"])
    if "torchrec" not in packages or fbgemm is None:
        raise MissingExtraError("training on several processes", "distributed", torchrec_command(packages["torch"]))
    wrong = [f"{n} {v}" for n, v in (("torchrec", packages["torchrec"]), ("fbgemm", fbgemm)) if _minor(v) != expected]
    if wrong:
        raise UnimixerError(
            f"torch {packages['torch']} does not go with {' and '.join(wrong)}: torch 2.(X+5) needs torchrec 1.X and "
            f"fbgemm 1.X; pip install fbgemm-gpu-cpu==1.{expected[1]}.0, then {torchrec_command(packages['torch'])}"
        )


def installed_versions() -> dict[str, str]:
    """Return the versions of torch, torchrec and fbgemm, without those that are not installed."""
    packages = {}
    for name in ("torch", "torchrec", *FBGEMM):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    return packages


def expected_minor(torch: str) -> tuple[int, int]:
    """Return the release of torchrec and fbgemm that is built for a torch."""
    major, minor = _minor(torch)
    return major - 1, minor - 5


def _minor(text: str) -> tuple[int, int]:
    major, minor = text.split("+")[0].split(".")[:2]
    return int(major), int(minor)


def check_same_config(processes: ProcessGroup, recipe: Recipe, dataset: Dataset, **more: Any) -> None:
    """Compare recipe, data, versions and other values over all processes, before anything is built.

    Raises:
        UnimixerError: on every rank, naming the first value that differs, or the rank that gets no rows.
    """
    if not processes.distributed:
        return
    own = flat({"recipe": recipe.model_dump(mode="json", exclude={"dataset"}), **more})
    own |= flat({"version": installed_versions() | versions(), "data": dataset.hash})
    for name in LOCAL:
        own.pop(f"recipe.{name}", None)
    configs = processes.gather(own)
    for name in sorted(set().union(*configs)):
        values = [config.get(name, "nothing") for config in configs]
        rank = next((r for r, value in enumerate(values) if value != values[0]), None)
        if rank is not None:
            raise UnimixerError(
                f"the processes disagree on {name}: {values[0]} on rank 0, {values[rank]} on rank {rank}; "
                "start all of them with the same recipe, data and packages"
            )
    _check_shards(processes, recipe, dataset)
    if recipe.distributed.dense == "fsdp" and recipe.training.compile and processes.size > 1:
        raise UnimixerError(
            "distributed.dense=fsdp does not go with training.compile: compiled code cannot gather the parameters of "
            "other processes; leave one of the two out"
        )


def _check_shards(processes: ProcessGroup, recipe: Recipe, dataset: Dataset) -> None:
    """Raise if a process, or a shard, would get no rows."""
    shards, rows = recipe.distributed.data_shards or processes.size, dataset.summary("train").rows
    if shards < processes.size:
        raise UnimixerError(
            f"distributed.data_shards={shards}: rank {shards} of {processes.size} processes would have no data; "
            f"start at most {shards} processes, or a run with more shards"
        )
    if rows < shards:
        raise UnimixerError(
            f"{dataset.folder} has {rows} training rows for {shards} shards: some processes would have no data; "
            "start fewer processes or prepare more data"
        )
