"""All processes must be about to do the same; a difference is one sentence on every one of them."""

from __future__ import annotations

from typing import Any

from unimixer.data.dataset import Store
from unimixer.environment import versions
from unimixer.errors import UnimixerError
from unimixer.training.config import Recipe
from unimixer.training.distributed.triple import installed_versions
from unimixer.training.process_group import World
from unimixer.training.summary import flat

LOCAL = ("training.device", "training.threads", "training.num_workers")
"""Keys of a recipe that may differ: they are about the machine of a process."""


def agree(world: World, recipe: Recipe, store: Store, **more: Any) -> None:
    """Compare recipe, data, versions and whatever else is named over all processes, before anything is built.

    Raises:
        UnimixerError: on every rank alike, naming the first thing that differs, or the rank that gets no rows.
    """
    if not world.distributed:
        return
    own = flat({"recipe": recipe.model_dump(mode="json", exclude={"store"}), **more})
    own |= flat({"version": versions() | installed_versions(), "data": store.hash})
    for name in LOCAL:
        own.pop(f"recipe.{name}", None)
    said = world.gather(own)
    for name in sorted(set().union(*said)):
        values = [one.get(name, "nothing") for one in said]
        rank = next((r for r, value in enumerate(values) if value != values[0]), None)
        if rank is not None:
            raise UnimixerError(
                f"the processes disagree on {name}: {values[0]} on rank 0, {values[rank]} on rank {rank}; "
                "start all of them with the same recipe, data and packages"
            )
    check_shares(world, recipe, store)
    if recipe.distributed.dense == "fsdp" and recipe.training.compile and world.size > 1:
        raise UnimixerError(
            "distributed.dense=fsdp does not go with training.compile, for compiled code does not gather what other "
            "processes hold; leave one of the two out"
        )


def check_shares(world: World, recipe: Recipe, store: Store) -> None:
    """Raise where a process, or a shard, would get no rows."""
    shards, rows = recipe.distributed.data_shards or world.size, store.summary("train").rows
    if shards < world.size:
        raise UnimixerError(
            f"distributed.data_shards={shards}: rank {shards} of {world.size} processes would have no data; "
            f"start at most {shards} processes, or a run with more shards"
        )
    if rows < shards:
        raise UnimixerError(
            f"{store.folder} has {rows} training rows for {shards} shards: some processes would have no data; "
            "start fewer processes or prepare more data"
        )
