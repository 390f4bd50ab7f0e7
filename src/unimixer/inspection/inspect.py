"""Measure what a trained model does to its tokens: mixing matrices, effective ranks, attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from unimixer.backbones import count_parameters
from unimixer.data.dataset import Dataset, dataset_path
from unimixer.data.loader import Loader
from unimixer.environment import states_kept, versions
from unimixer.errors import UnimixerError, check_positive
from unimixer.inspection.activations import WEIGHTS, AttentionMeter, AttentionReport, watch
from unimixer.inspection.effective_rank import RankMeter, RankStatistics
from unimixer.inspection.matrices import learned_mixings
from unimixer.inspection.mixings import MixingReport, measure_mixings
from unimixer.profiling.flops import count_flops
from unimixer.progress import progress_bar
from unimixer.ranker import Ranker
from unimixer.training.model import best_weights, build_ranker, load_ranker, with_tasks
from unimixer.training.run import RunFolder, dataset_of
from unimixer.training.train import WARM_UP
from unimixer.training.warm_start import WarmStart

TEMPERATURES = (1.0, 0.3, 0.1, 0.05)
ROWS = 2_048
BATCH_ROWS = 256


@dataclass(frozen=True)
class Inspection:
    """Measurements of one trained run."""

    run: str
    backbone: str
    patterns: tuple[str, str]
    parameters: int
    flops: int
    """Of the backbone for one example, forward."""
    split: str
    rows: int
    mixings: list[MixingReport]
    ranks: list[RankStatistics]
    attention: list[AttentionReport]
    temperatures: list[tuple[int, float]]
    """Step and temperature of every line that the run logged; a first stage has steps up to zero."""
    notes: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Return the numbers without the matrices."""
        plain = {key: getattr(self, key) for key in ("run", "backbone", "patterns", "parameters", "flops", "split")}
        return {
            **plain,
            "rows": self.rows,
            "mixings": [mixing.as_json() for mixing in self.mixings],
            "effective_rank": [rank.as_json() for rank in self.ranks],
            "attention": [layer.as_json() for layer in self.attention],
            "temperature": self.temperatures,
            "notes": self.notes,
        }


@states_kept()
def inspect_run(
    run: Path | str,
    *,
    temperatures: Sequence[float] = TEMPERATURES,
    rows: int = ROWS,
    split: str = "validation",
    dataset: Path | None = None,
) -> Inspection:
    """Measure the best weights of a run, without writing anything.

    Args:
        run: a run folder with best weights.
        temperatures: temperatures at which learned matrices are solved, beside the one of the training.
        rows: number of rows whose tokens are measured, or all if the split has fewer; a fixed seed draws them, so
            all runs on one dataset use the same rows.
        split: ``train``, ``validation`` or ``test``.
        dataset: folder of the dataset, if it moved since the training.

    Raises:
        UnimixerError: no best weights, no dataset, an unknown split, rows or temperatures that are not positive.
    """
    check_positive(rows=rows)
    for tau in temperatures:
        check_positive(temperature=tau)
    folder = RunFolder(run)
    best_weights(folder)  # refuse before the data is opened
    opened = _open_dataset(folder, dataset)
    if not opened.summary(split).rows:
        raise UnimixerError(f"split {split!r} of {opened.folder} has no rows; choose another --split")
    model = load_ranker(folder)
    ranks, attention, measured = measure_rows(model, opened, split, rows)
    backbone, notes = model.backbone, []
    learned = learned_mixings(backbone)
    mixings: list[MixingReport] = []
    if learned:
        start, note = starting_model(folder)
        notes.append(note)
        mixings = measure_mixings(learned, [] if start is None else learned_mixings(start.backbone), temperatures)
    else:
        notes.append(f"{folder.recipe.model.backbone} has no learned mixing matrices to draw at temperatures")
    if measured < rows:
        notes.append(f"the {split} part has {measured:,} rows, fewer than the {rows:,} asked for")
    return Inspection(
        run=str(folder.folder),
        backbone=folder.recipe.model.backbone,
        patterns=backbone.patterns(),
        parameters=count_parameters(backbone),
        flops=count_flops(backbone),
        split=split,
        rows=measured,
        mixings=mixings,
        ranks=ranks,
        attention=attention,
        temperatures=temperature_history(folder),
        notes=notes,
    )


@torch.no_grad()
def measure_rows(
    model: Ranker, dataset: Dataset, split: str, rows: int
) -> tuple[list[RankStatistics], list[AttentionReport], int]:
    """Measure effective ranks and mean attention on rows of a split, and count the rows."""
    loader = Loader(dataset, split, batch_size=min(rows, BATCH_ROWS), shuffle=True)
    ranks: dict[str, RankMeter] = {}
    attention: dict[str, AttentionMeter] = {}
    wanted, done = min(rows, loader.num_rows), 0
    backbone = model.backbone
    with watch(backbone) as activations, progress_bar("measuring", wanted) as advance:
        for batch in loader.batches():
            activations.clear()
            model(batch)
            count = min(len(batch), wanted - done)
            for place, kind, value in activations:
                if kind == WEIGHTS:
                    attention.setdefault(place, AttentionMeter(place)).add(value[:count])
                else:
                    shape = (value.shape[1], value.shape[2])
                    ranks.setdefault(place, RankMeter(place, kind, shape)).add(value[:count])
            done += count
            advance(count)
            if done == wanted:
                break
    return [meter.statistics() for meter in ranks.values()], [meter.report() for meter in attention.values()], done


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


def temperature_history(run: RunFolder) -> list[tuple[int, float]]:
    """Read step and temperature of every logged training step; a first stage comes before, at steps up to zero."""
    history = _logged(run)
    if run.recipe.temperature.schedule != "two-stage" or not (run.folder / WARM_UP / "config.yaml").exists():
        return history
    first = _logged(RunFolder(run.folder / WARM_UP))
    last = first[-1][0] if first else 0
    return [*((step - last, tau) for step, tau in first), *history]


def _logged(run: RunFolder) -> list[tuple[int, float]]:
    return [(line["step"], line["temperature"]) for line in run.history() if line["kind"] == "train"]


def _open_dataset(run: RunFolder, folder: Path | None) -> Dataset:
    path = dataset_path(str(folder or run.recipe.dataset))
    if not (path / "manifest.json").exists():
        raise UnimixerError(
            f"{run.folder} was trained on the dataset {run.recipe.dataset}, "
            f"and {path} holds no dataset (no manifest.json); "
            "if it moved, give its folder with --data"
        )
    return dataset_of(run, path)
