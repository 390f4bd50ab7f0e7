"""Rebuild the model that a run started from, and measure how far its learned matrices moved."""

from __future__ import annotations

from pathlib import Path

import torch

from unimixer.environment import states_kept, versions
from unimixer.errors import UnimixerError
from unimixer.inspection.matrices import learned_mixings, moved_share
from unimixer.ranker import Ranker
from unimixer.training.model import build_ranker, load_ranker, with_tasks
from unimixer.training.run import RunFolder
from unimixer.training.train import WARM_UP
from unimixer.training.warm_start import WarmStart


@states_kept()
@torch.no_grad()
def moved_shares(run: Path | str) -> dict[str, float]:
    """Measure for every learned mixing of a run which share of its global matrix moved, by the name of the module.

    It reads weights and no data. The start and the best weights are both solved at the trained temperature, see
    :func:`~unimixer.inspection.matrices.moved_share`. A model without learned mixing gives an empty dictionary.

    Raises:
        UnimixerError: no best weights, or the weights that the run started from cannot be read.

    Example:
        >>> moved_shares("runs/lite")  # doctest: +SKIP
        {'stack.sublayers.0': 0.37, 'stack.sublayers.2': 0.29}
    """
    folder = RunFolder(run)
    learned = learned_mixings(load_ranker(folder).backbone)
    if not learned:
        return {}
    start, note = starting_model(folder)
    if start is None:
        raise UnimixerError(f"{folder.folder}: {note}; without the start nobody can say how far a matrix moved")
    before = {layer.place: layer for layer in learned_mixings(start.backbone)}
    taus = {layer.place: layer.temperature for layer in learned}
    return {
        layer.place: moved_share(before[layer.place].between(taus[layer.place]), layer.between(taus[layer.place]))
        for layer in learned
    }


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
