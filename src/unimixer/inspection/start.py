"""Rebuild the model that a run started from, and measure how far its learned matrices moved."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from unimixer.environment import states_kept, versions
from unimixer.errors import UnimixerError
from unimixer.inspection.matrices import STILL, learned_mixings, moved_share
from unimixer.ranker import Ranker
from unimixer.training.model import build_ranker, load_ranker, with_tasks
from unimixer.training.run import RunFolder
from unimixer.training.train import WARM_UP
from unimixer.training.warm_start import WarmStart


class Movement(NamedTuple):
    """The global matrix of one learned mixing before and after training, both at the trained temperature."""

    place: str
    """Name of the module."""
    start: Tensor
    trained: Tensor

    @property
    def moved(self) -> float:
        """The share that moved, see :func:`~unimixer.inspection.matrices.moved_share`."""
        return moved_share(self.start, self.trained)

    @property
    def still(self) -> bool:
        """Whether the matrix equals its start."""
        return self.moved < STILL


@states_kept()
def measure_movement(run: RunFolder) -> list[Movement]:
    """Solve the learned matrices of a run and of its start; it reads weights and no data.

    Raises:
        UnimixerError: no best weights, or the weights that the run started from cannot be read.
    """
    learned = learned_mixings(load_ranker(run).backbone)
    if not learned:
        return []
    start, note = starting_model(run)
    if start is None:
        raise UnimixerError(f"{run.folder}: {note}; how far a matrix moved is known only with its start")
    before = learned_mixings(start.backbone)
    return [
        Movement(layer.place, first.between(layer.temperature), layer.between(layer.temperature))
        for first, layer in zip(before, learned, strict=True)
    ]


def moved_shares(run: Path | str) -> dict[str, float]:
    """Measure for every learned mixing of a run which share of its global matrix moved, by the name of the module.

    A model without learned mixing gives an empty dictionary.

    Raises:
        UnimixerError: as :func:`measure_movement`.

    Example:
        >>> moved_shares("runs/lite")  # doctest: +SKIP
        {'stack.sublayers.0': 0.37, 'stack.sublayers.2': 0.29}
    """
    return {movement.place: movement.moved for movement in measure_movement(RunFolder(run))}


def starting_model(run: RunFolder) -> tuple[Ranker | None, str]:
    """Rebuild the model before its first step, with a note on its origin; None, with the reason, if that is impossible.

    A run without a warm start is drawn again with the seed of the recipe, which gives the same numbers under the same
    version of torch. Other runs start from the best weights of the run before them.
    """
    recipe = run.recipe
    source = run.folder / WARM_UP if recipe.temperature.schedule == "two-stage" else run.warm_start
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.training.seed)
        model = build_ranker(recipe.model, with_tasks(run.transform.spec, tuple(recipe.tasks)))
    if source is not None:
        try:
            model.load_state_dict(WarmStart(RunFolder(source), model, run.transform).state(model))
        except (UnimixerError, OSError) as error:
            return None, f"the start is unknown because its weights cannot be read: {error}"
        return model.eval(), f"the start is the best weights of {source}"
    trained, here = run.environment["versions"].get("torch"), versions()["torch"]
    note = f"the start is drawn again with seed {recipe.training.seed}"
    if trained != here:
        note += f"; the run was trained with torch {trained} and this is {here}, so numbers may differ"
    return model.eval(), note
