"""The model that a run started from, built again."""

from __future__ import annotations

import torch

from unimixer.environment import versions
from unimixer.errors import UnimixerError
from unimixer.ranker import Ranker
from unimixer.training.model import build_ranker, with_tasks
from unimixer.training.run import RunFolder
from unimixer.training.train import WARM_UP
from unimixer.training.warm_start import WarmStart


def starting_model(run: RunFolder) -> tuple[Ranker | None, str]:
    """The model before its first step, and where it is from; None, and why, where it cannot be had.

    A run that starts from nothing is drawn again with the recipe's seed, which gives the same numbers under the same
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
            return None, f"the start is unknown, for its weights cannot be read: {error}"
        return model.eval(), f"the start is the best weights of {source}"
    trained, here = run.environment["versions"].get("torch"), versions()["torch"]
    doubt = "" if trained == here else f"; it was trained with torch {trained}, this is {here}, so numbers may differ"
    return model.eval(), f"the start is drawn again with seed {recipe.training.seed}{doubt}"
