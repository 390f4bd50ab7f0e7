"""The plan of a sweep: models, sizes and seeds on one stream, and how learning rates are carried over; on disk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from unimixer.data.dataset import Store
from unimixer.errors import UnimixerError
from unimixer.experiments.cases import build_case, open_stores, short
from unimixer.experiments.lr_transfer import POWER
from unimixer.experiments.size_series import Ladder
from unimixer.experiments.sizes import second_anchor, with_depth
from unimixer.experiments.study_config import Study
from unimixer.io import write_text
from unimixer.settings import dump_yaml, load_yaml, parse
from unimixer.training.config import Count

SWEEP = "sweep.yaml"
GRID = (5e-4, 1e-3, 2e-3, 4e-3, 8e-3)


class Sweep(Study):
    """Every model at every size, with several seeds; one pass over the stream unless the recipe says otherwise."""

    seeds: PositiveInt = 3
    dense_lr: tuple[PositiveFloat, ...] = Field(default=GRID, min_length=1)
    """Learning rates to choose from at the smallest size; a single one is not searched."""
    dial: Literal["width", "depth", "both"] = "width"
    """What grows."""
    lr_search: Literal["smallest", "two"] = "smallest"
    """Where rates are searched, see :mod:`unimixer.experiments.lr_transfer`."""
    lr_power: NonNegativeFloat = POWER
    """p, for a search at the smallest size."""
    anchors: tuple[Count, ...] = ()
    """Sizes of the search, kept from the first call on: sizes that come later do not move the rates of others."""

    def model_post_init(self, context: Any) -> None:
        """Check what concerns several fields."""
        if self.flops or not self.params:
            raise UnimixerError("the sizes of a sweep are dense parameters: give --sizes 0.25M..64M")
        super().model_post_init(context)
        if len(self.sparse_lr) > 1:
            raise UnimixerError("a sweep has one rate for the embedding tables: give one --sparse-lr")
        object.__setattr__(self, "params", tuple(sorted(self.params)))
        if not self.anchors:
            more = (second_anchor(self.params),) if self.lr_search == "two" and len(self.dense_lr) > 1 else ()
            object.__setattr__(self, "anchors", (self.params[0], *more))


def is_sweep(folder: Path) -> bool:
    """Whether a folder holds a sweep."""
    return (folder / SWEEP).exists()


def read_sweep(folder: Path) -> Sweep:
    """The plan that a folder's rows belong to."""
    if not is_sweep(folder):
        raise UnimixerError(f"{folder} is not a sweep (no {SWEEP}); begin one with: unimixer scale run --out {folder}")
    return parse(Sweep, load_yaml(folder / SWEEP), where=str(folder / SWEEP))


def joined(old: Sweep, new: Sweep, folder: Path) -> Sweep:
    """Both plans as one: models, sizes and seeds may come on top, all else must agree."""
    for field in ("dense_lr", "sparse_lr", "tasks", "recipe", "dial", "lr_search", "lr_power"):
        before, after = getattr(old, field), getattr(new, field)
        if before != after:
            raise UnimixerError(
                f"{folder}: the sweep began with {_difference(field, before, after)}; choose another --out"
            )
    if [store.hash for store in old.data] != [store.hash for store in new.data]:
        was, now = (", ".join(f"{store.path} ({store.hash})" for store in plan.data) for plan in (old, new))
        raise UnimixerError(f"{folder}: the sweep began with data {was}, not {now}; choose another --out")
    models = {variant.label: variant for variant in old.models}
    for variant in new.models:
        if models.setdefault(variant.label, variant) != variant:
            raise UnimixerError(
                f"{folder}: model {variant.label!r} was begun with other settings; give this one a label of its own"
            )
    return old.model_copy(
        update={
            "models": tuple(models.values()),
            "params": tuple(sorted({*old.params, *new.params})),
            "seeds": max(old.seeds, new.seeds),
        }
    )


def _difference(field: str, before: Any, after: Any) -> str:
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        key = next(key for key in [*before, *after] if before.get(key) != after.get(key))
        field, before, after = f"{field} {key}", before.get(key, "its default"), after.get(key, "its default")
    show = [", ".join(map(str, value)) if isinstance(value, tuple) else value for value in (before, after)]
    return f"{field}={show[0]}, not {show[1]}"


def open_sweep(sweep: Sweep, folder: Path) -> Sweep:
    """The plan with its stores opened, joined with what the folder holds already."""
    opened = open_stores(sweep)
    assert isinstance(opened, Sweep)
    return joined(read_sweep(folder), opened, folder) if is_sweep(folder) else opened


def write_sweep(folder: Path, sweep: Sweep) -> None:
    """Keep the plan."""
    write_text(folder / SWEEP, dump_yaml(sweep))


def build_ladders(sweep: Sweep) -> tuple[list[Ladder], dict[str, str]]:
    """Every model at all its sizes on every store, and where the plan is lenient why some sizes cannot be built."""
    ladders, left_out = [], {}
    anchors = sweep.anchors if len(sweep.dense_lr) > 1 else ()
    for ref in sweep.data:
        store = Store(ref.path)
        for variant in sweep.models:
            cases = []
            for size in sorted({*sweep.params, *anchors}):
                grown = with_depth(
                    variant.backbone, variant.options, sweep.dial, budget=size, smallest=sweep.anchors[0]
                )
                try:
                    sized = variant.model_copy(update={"options": grown})
                    cases.append(build_case(sweep, sized, store, ref, "params", size))
                except UnimixerError as error:
                    if not sweep.lenient:
                        raise UnimixerError(f"{variant.label} at {short(size)} parameters: {error}") from None
                    left_out[f"{variant.label} at {short(size)} parameters"] = str(error)
            if cases:
                ladders.append(
                    Ladder(
                        cases,
                        seeds=sweep.seeds,
                        grid=sweep.dense_lr,
                        sparse_lr=sweep.sparse_lr[0],
                        anchors=anchors,
                        power=sweep.lr_power,
                        monitor=sweep.recipe.get("training.monitor"),
                    )
                )
    if not ladders:
        raise UnimixerError(f"no model can be built: {next(iter(left_out.values()))}")
    return ladders, left_out
