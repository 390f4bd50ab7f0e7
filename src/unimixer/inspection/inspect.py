"""What a trained model does to its tokens: mixing matrices, effective ranks, attention, in numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from unimixer.backbones import count_parameters
from unimixer.data.dataset import Store, find_store
from unimixer.data.loader import Loader
from unimixer.environment import states_kept
from unimixer.errors import UnimixerError, check_positive
from unimixer.inspection.attention import AttentionMeter, AttentionReport
from unimixer.inspection.effective_rank import RankMeter, RankStatistics
from unimixer.inspection.matrices import learned_mixings
from unimixer.inspection.mixings import MixingReport, look_at_matrices
from unimixer.inspection.places import WEIGHTS, watch
from unimixer.inspection.start import starting_model
from unimixer.profiling.flops import count_flops
from unimixer.progress import progress_bar
from unimixer.ranker import Ranker
from unimixer.training.model import best_weights, load_ranker
from unimixer.training.run import RunFolder, store_of
from unimixer.training.train import WARM_UP

TEMPERATURES = (1.0, 0.3, 0.1, 0.05)
ROWS = 2_048
BATCH_ROWS = 256


@dataclass(frozen=True)
class Inspection:
    """All that was found."""

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
        """Numbers without the matrices."""
        plain = {key: getattr(self, key) for key in ("run", "backbone", "patterns", "parameters", "flops", "split")}
        return {
            **plain,
            "rows": self.rows,
            "mixings": [mixing.as_json() for mixing in self.mixings],
            "effective_rank": [found.as_json() for found in self.ranks],
            "attention": [found.as_json() for found in self.attention],
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
    store: Path | None = None,
) -> Inspection:
    """Look into the best weights of a run; nothing is written.

    Args:
        run: a run folder with best weights.
        temperatures: at which learned matrices are solved again, beside the one that they were trained with.
        rows: held-out rows whose tokens are looked at, or all where the split has fewer; drawn with a fixed seed, so
            runs on one store see the same rows.
        split: ``train``, ``validation`` or ``test``.
        store: the store, where it moved since the training.

    Raises:
        UnimixerError: no best weights, no store, an unknown split, rows or temperatures that are not positive.
    """
    check_positive(rows=rows)
    for tau in temperatures:
        check_positive(temperature=tau)
    folder = RunFolder(run)
    best_weights(folder)  # refuse before the data is opened
    opened = _open_store(folder, store)
    if not opened.summary(split).rows:
        raise UnimixerError(f"split {split!r} of {opened.folder} has no rows; choose another --split")
    model = load_ranker(folder)
    ranks, attention, seen = look_at_rows(model, opened, split, rows)
    backbone, notes = model.backbone, []
    learned = learned_mixings(backbone)
    mixings: list[MixingReport] = []
    if learned:
        start, note = starting_model(folder)
        notes.append(note)
        mixings = look_at_matrices(learned, [] if start is None else learned_mixings(start.backbone), temperatures)
    else:
        notes.append(f"{folder.recipe.model.backbone} has no learned mixing matrices: nothing to draw at temperatures")
    if seen < rows:
        notes.append(f"the {split} part has {seen:,} rows, fewer than the {rows:,} asked for")
    return Inspection(
        run=str(folder.folder),
        backbone=folder.recipe.model.backbone,
        patterns=backbone.patterns(),
        parameters=count_parameters(backbone),
        flops=count_flops(backbone),
        split=split,
        rows=seen,
        mixings=mixings,
        ranks=ranks,
        attention=attention,
        temperatures=temperature_history(folder),
        notes=notes,
    )


@torch.no_grad()
def look_at_rows(
    model: Ranker, store: Store, split: str, rows: int
) -> tuple[list[RankStatistics], list[AttentionReport], int]:
    """Effective ranks and mean attention over rows of a split, and how many rows there were."""
    loader = Loader(store, split, batch_size=min(rows, BATCH_ROWS), shuffle=True)
    ranks: dict[str, RankMeter] = {}
    attention: dict[str, AttentionMeter] = {}
    wanted, done = min(rows, loader.num_rows), 0
    backbone = model.backbone
    with watch(backbone) as seen, progress_bar("looking", wanted) as advance:
        for batch in loader.batches():
            seen.clear()
            model(batch)
            count = min(len(batch), wanted - done)
            for place, kind, value in seen:
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


def temperature_history(run: RunFolder) -> list[tuple[int, float]]:
    """Step and temperature of every logged training step; those of a first stage come before, at steps up to zero."""
    own = _logged(run)
    if run.recipe.temperature.schedule != "two-stage" or not (run.folder / WARM_UP / "config.yaml").exists():
        return own
    first = _logged(RunFolder(run.folder / WARM_UP))
    last = first[-1][0] if first else 0
    return [*((step - last, tau) for step, tau in first), *own]


def _logged(run: RunFolder) -> list[tuple[int, float]]:
    return [(line["step"], line["temperature"]) for line in run.history() if line["kind"] == "train"]


def _open_store(run: RunFolder, folder: Path | None) -> Store:
    path = find_store(str(folder or run.recipe.store))
    if not (path / "manifest.json").exists():
        raise UnimixerError(
            f"{run.folder} was trained on the store {run.recipe.store}, and {path} is none (no manifest.json); "
            "if it moved, say where with --data"
        )
    return store_of(run, path)
