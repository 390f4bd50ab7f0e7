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
from unimixer.environment import states_kept
from unimixer.errors import UnimixerError, check_choice, check_positive
from unimixer.inspection.activations import WEIGHTS, AttentionMeter, AttentionReport, watch
from unimixer.inspection.effective_rank import RankMeter, RankStatistics
from unimixer.inspection.gates import GateReport, watch_gates
from unimixer.inspection.interactions import Interactions, count_passes, mixing_strengths, second_differences
from unimixer.inspection.matrices import learned_mixings
from unimixer.inspection.mixings import MixingReport, measure_mixings, warning
from unimixer.inspection.parts import PARTS, input_parts, known_groups, token_shares
from unimixer.inspection.start import starting_model
from unimixer.profiling.flops import count_flops
from unimixer.progress import progress_bar
from unimixer.ranker import Ranker
from unimixer.training.model import best_weights, load_ranker
from unimixer.training.run import RunFolder, dataset_of
from unimixer.training.train import WARM_UP

TEMPERATURES = (1.0, 0.3, 0.1, 0.05)
ROWS = 2_048
INTERACTION_ROWS = 128
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
    gates: list[GateReport]
    """Of the experts below the task towers."""
    interactions: Interactions | None
    temperatures: list[tuple[int, float]]
    """Step and temperature of every line that the run logged; a first stage has steps up to zero."""
    notes: list[str] = field(default_factory=list)

    def movement(self) -> list[str]:
        """Say how far every learned matrix moved, with a warning if one did not."""
        sentences = [mixing.sentence(layer) for layer, mixing in enumerate(self.mixings, start=1)]
        warned = warning(self.mixings)
        return sentences if warned is None else [*sentences, warned]

    def sentences(self) -> list[str]:
        """Say how far the matrices moved and what the interactions tell."""
        return [*self.movement(), *([] if self.interactions is None else self.interactions.sentences())]

    def as_json(self) -> dict[str, Any]:
        """Return the numbers without the matrices."""
        plain = {key: getattr(self, key) for key in ("run", "backbone", "patterns", "parameters", "flops", "split")}
        return {
            **plain,
            "rows": self.rows,
            "mixings": [mixing.as_json() for mixing in self.mixings],
            "effective_rank": [rank.as_json() for rank in self.ranks],
            "sentences": self.sentences(),
            "attention": [layer.as_json() for layer in self.attention],
            "gates": [gate.as_json() for gate in self.gates],
            "interactions": None if self.interactions is None else self.interactions.as_json(),
            "temperature": self.temperatures,
            "notes": self.notes,
        }


@states_kept()
def inspect_run(
    run: Path | str,
    *,
    temperatures: Sequence[float] = TEMPERATURES,
    rows: int = ROWS,
    interaction_rows: int = INTERACTION_ROWS,
    by: str | None = None,
    split: str = "validation",
    dataset: Path | None = None,
) -> Inspection:
    """Measure the best weights of a run, without writing anything.

    Args:
        run: a run folder with best weights.
        temperatures: temperatures at which learned matrices are solved, beside the one of the training.
        rows: number of rows whose tokens are measured, or all if the split has fewer; a fixed seed draws them, so
            all runs on one dataset use the same rows.
        interaction_rows: number of rows for the interactions of the input's parts; 0 leaves them out.
        by: the parts, see :func:`~unimixer.inspection.parts.input_parts` (default: groups where the dataset names them,
            else tokens).
        split: ``train``, ``validation`` or ``test``.
        dataset: folder of the dataset, if it moved since the training.

    Raises:
        UnimixerError: no best weights, no dataset, an unknown split, rows or temperatures that are not positive.
    """
    check_positive(rows=rows)
    if interaction_rows < 0:
        raise UnimixerError(f"interaction_rows={interaction_rows} must be 0 or more")
    for tau in temperatures:
        check_positive(temperature=tau)
    if by is not None:
        check_choice("by", by, PARTS)
    folder = RunFolder(run)
    best_weights(folder)  # refuse before the data is opened
    opened = _open_dataset(folder, dataset)
    if not opened.summary(split).rows:
        raise UnimixerError(f"split {split!r} of {opened.folder} has no rows; choose another --split")
    model = load_ranker(folder)
    ranks, attention, gates, measured = measure_rows(model, opened, split, rows)
    backbone, notes = model.backbone, []
    learned = learned_mixings(backbone)
    mixings: list[MixingReport] = []
    if learned:
        start, note = starting_model(folder)
        notes.append(note)
        mixings = measure_mixings(learned, [] if start is None else learned_mixings(start.backbone), temperatures)
    else:
        notes.append(f"{folder.recipe.model.backbone} has no learned mixing matrices to draw at temperatures")
    interactions = None
    if interaction_rows:
        interactions = measure_interactions(model, opened, split, interaction_rows, by)
        if interactions is None:
            notes.append("the model reads its input as one part, so there are no interactions to measure")
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
        gates=gates,
        interactions=interactions,
        temperatures=temperature_history(folder),
        notes=notes,
    )


@torch.no_grad()
def measure_rows(
    model: Ranker, dataset: Dataset, split: str, rows: int
) -> tuple[list[RankStatistics], list[AttentionReport], list[GateReport], int]:
    """Measure effective ranks, mean attention and mean gates on rows of a split, and count the rows."""
    loader = Loader(dataset, split, batch_size=min(rows, BATCH_ROWS), shuffle=True)
    ranks: dict[str, RankMeter] = {}
    attention: dict[str, AttentionMeter] = {}
    wanted, done = min(rows, loader.num_rows), 0
    backbone = model.backbone
    with watch(backbone) as activations, watch_gates(model) as gates, progress_bar("measuring", wanted) as advance:
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
            for gate in gates:
                gate.add(count)
            done += count
            advance(count)
            if done == wanted:
                break
    statistics, weights = [meter.statistics() for meter in ranks.values()], [m.report() for m in attention.values()]
    return statistics, weights, [meter.report() for meter in gates], done


@torch.no_grad()
def measure_interactions(model: Ranker, dataset: Dataset, split: str, rows: int, by: str | None) -> Interactions | None:
    """Measure the interactions of the input's parts on rows of a split; None where there are no two parts."""
    truth = known_groups(dataset)
    chosen = by or ("tokens" if truth is None else "groups")
    parts = input_parts(model, chosen, None if truth is None else truth.groups)
    if len(parts) < 2:
        return None
    loader = Loader(dataset, split, batch_size=min(rows, BATCH_ROWS), shuffle=True)
    wanted, done = min(rows, loader.num_rows), 0
    total = torch.zeros(len(parts), len(parts), dtype=torch.float64)
    batches = -(-wanted // loader.batch_size)
    with progress_bar("interactions", batches * count_passes(len(parts)), unit="passes") as advance:
        for batch in loader.batches():
            count = min(len(batch), wanted - done)
            inputs = [part[:count] for part in model.embed(batch)]
            total += second_differences(model, inputs, parts, advance) * count
            done += count
            if done == wanted:
                break
    learned = learned_mixings(model.backbone)
    matrices = None
    if learned and all(
        layer.mixing.length == model.backbone.num_tokens * model.backbone.token_dim for layer in learned
    ):
        shares = token_shares(model, parts).double()
        matrices = shares @ mixing_strengths(learned, model.backbone.num_tokens) @ shares.T
    return Interactions(
        by=chosen,
        task=model.spec.labels[0],
        rows=done,
        parts=parts,
        model=total / done,
        matrices=matrices,
        truth=truth.pairs if truth is not None and chosen == "groups" else None,
    )


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
