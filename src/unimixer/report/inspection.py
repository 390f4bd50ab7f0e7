"""Write an inspection: one page that works without network, beside its pictures and its numbers as JSON."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unimixer.errors import UnimixerError
from unimixer.inspection.inspect import Inspection
from unimixer.inspection.matrices import Sharpness, max_pooled
from unimixer.io import atomic_file, check_foreign, write_text
from unimixer.report.html import render
from unimixer.report.tables import TextTable

PAGE, NUMBERS = "inspect.html", "inspect.json"
PICTURES = {
    "global.png": "Learned matrices between blocks: rows are temperatures, columns are layers.",
    "local.png": "Some of the learned matrices inside blocks.",
    "interactions.png": "Interaction of pairs of parts of the input, by the model and by its learned matrices.",
    "attention.png": "Attention, the mean over rows: rows are heads, columns are layers.",
    "gates.png": "Mean weight of every expert in the gate of every task.",
    "effective-rank.png": "Rank of the tokens of a sample, from the first place of the network to the last.",
    "temperature.png": "Temperature of the run.",
}
"""Names of pictures and their captions, in the order of the page."""
FILES = (PAGE, NUMBERS, *PICTURES)
PANEL = 256
"""Entries along one side of a matrix on the page; a larger matrix shows the strongest entry of every square."""

_SHARPNESS_COLUMNS = ("layer", "temperature", "row maximum", "row entropy", "to permutation", "to flat")
SHARPNESS_CAPTION = (
    "Row maximum: mean largest entry of a row, 1 for a permutation. Row entropy: 0 for a permutation, 1 for a flat "
    "matrix. Moved: share of the weights that lie elsewhere than at the start, at the trained temperature. Distances "
    "are Frobenius norms divided by the square root of N; change is the distance from the start, likewise, and raw "
    "change that of the numbers before Sinkhorn, divided by their norm."
)
SHOWN_PAIRS = 30
"""Pairs of parts of the input in the table of the page."""
INTERACTION_CAPTION = (
    "Strength: mean squared second difference of the first task's logit, when one part, the other, or both come from "
    "another row; a model that adds up its parts has 0. In the matrices: how much the learned mixing brings the two "
    "together, compared with a flat matrix, which has 1."
)
GATE_CAPTION = (
    "Mean weight of every expert in a gate; those of a gate add up to 1. Largest: mean over rows of the largest weight "
    "of a row, 1 if every row chooses one expert."
)
RANK_CAPTION = (
    "Mean and standard deviation over rows. Effective rank is the exponential of the entropy of the normalized "
    "singular values of the tokens of one sample (Roy and Vetterli; RankUp, arXiv:2604.17878), stable rank is the "
    "squared Frobenius norm divided by the squared spectral norm."
)


def check_free(folder: Path, *, overwrite: bool) -> None:
    """Raise if the folder already holds a file of an inspection that must not be replaced.

    Raises:
        UnimixerError: names the file and both ways out.
    """
    if folder.exists() and not folder.is_dir():
        raise UnimixerError(f"{folder} is a file, expected a folder or a new name; choose another --out")
    check_foreign(folder)
    existing = next((folder / name for name in FILES if (folder / name).exists()), None)
    if existing is not None and not overwrite:
        raise UnimixerError(f"{existing} exists; choose another --out, or pass --overwrite to replace it")


def write_inspection(
    inspection: Inspection, pictures: Mapping[str, bytes], folder: Path, *, overwrite: bool = False
) -> list[Path]:
    """Write pictures, numbers and the page, each file whole, the page last; other files of the folder stay.

    Args:
        inspection: the measurements of a run.
        pictures: PNG files by their names, see :data:`PICTURES`.
        folder: folder to write to; it is created if needed.
        overwrite: replace the files of an earlier inspection.
    """
    check_free(folder, overwrite=overwrite)
    html = page(inspection, pictures)
    for name in PICTURES:
        if name not in pictures:  # it belongs to an earlier inspection of another run
            (folder / name).unlink(missing_ok=True)
    for name, content in pictures.items():
        with atomic_file(folder / name) as temporary:
            temporary.write_bytes(content)
    write_text(folder / NUMBERS, json.dumps(inspection.as_json(), indent=1) + "\n")
    write_text(folder / PAGE, html)
    return [folder / name for name in FILES if (folder / name).exists()]


def page(inspection: Inspection, pictures: Mapping[str, bytes]) -> str:
    """Render the page: text, tables, pictures and scripts inside one file."""
    return render(
        "inspection.html.j2",
        title=f"{inspection.backbone}: {inspection.run}",
        patterns=inspection.patterns,
        facts=[
            (f"{inspection.parameters:,}", "parameters in the backbone"),
            (f"{inspection.flops:,}", "FLOPs an example"),
            (f"{inspection.rows:,}", f"rows of the {inspection.split} part"),
        ],
        notes=inspection.notes,
        values=panels(inspection),
        sharpness=sharpness_table(inspection),
        sharpness_caption=SHARPNESS_CAPTION,
        attention=attention_table(inspection),
        gates=gate_table(inspection),
        gate_caption=GATE_CAPTION,
        moved=inspection.movement(),
        interactions=interaction_table(inspection, SHOWN_PAIRS),
        interaction_sentences=[] if inspection.interactions is None else inspection.interactions.sentences(),
        interaction_caption=INTERACTION_CAPTION,
        ranks=rank_table(inspection),
        bars=[
            (f"{rank.share:.1%}", f"{rank.mean:.2f} of at most {min(rank.num_tokens, rank.token_dim)}")
            for rank in inspection.ranks
        ],
        rank_caption=RANK_CAPTION,
        rows=inspection.rows,
        split=inspection.split,
        pictures=pictures,
        captions=PICTURES,
    )


def panels(inspection: Inspection) -> list[dict[str, Any]]:
    """Encode the matrices that the page shows: of every layer the global one and some local ones, by temperature."""
    encoded = []
    for number, mixing in enumerate(inspection.mixings, start=1):
        matrices = [{"words": at.words, **_encode(at.global_matrix)} for at in mixing.at]
        encoded.append({"title": f"layer {number}: between blocks", "unit": "block", "at": matrices})
        for index, block in enumerate(mixing.shown_blocks):
            local = [(at.words, at.local_matrices) for at in mixing.at]
            matrices = [{"words": words, **_encode(part[index])} for words, part in local if part is not None]
            encoded.append({"title": f"layer {number}: inside block {block}", "unit": "place", "at": matrices})
    return encoded


def sharpness_table(inspection: Inspection) -> TextTable:
    """Write the sharpness of every learned mixing, a row for each layer and temperature."""
    columns = (*_SHARPNESS_COLUMNS, "local row maximum", "moved", "change", "raw change", "local change")
    rows = []
    for layer, mixing in enumerate(inspection.mixings, start=1):
        changes = (mixing.moved, mixing.change, mixing.raw_change, mixing.local_change)
        for at in mixing.at:
            local_maximum = None if at.inside is None else at.inside.row_maximum
            from_start = [_number(change) if at.trained else "" for change in changes]
            temperature = at.words.removeprefix("temperature ")
            numbers = [*_sharpness(at.between), _number(local_maximum)]
            rows.append([f"{layer}: {mixing.place}", temperature, *numbers, *from_start])
    return TextTable(columns, rows, text=(0, 1))


def short_table(inspection: Inspection) -> TextTable:
    """Write the sharpness of every learned mixing at the trained temperature."""
    rows = []
    for layer, mixing in enumerate(inspection.mixings, start=1):
        temperature = "-" if mixing.temperature is None else f"{mixing.temperature:g}"
        changes = map(_number, (mixing.moved, mixing.change, mixing.raw_change))
        rows.append([f"{layer}: {mixing.place}", temperature, *_sharpness(mixing.trained.between), *changes])
    return TextTable((*_SHARPNESS_COLUMNS, "moved", "change", "raw change"), rows)


def rank_table(inspection: Inspection) -> TextTable:
    """Write effective and stable rank at every place of the network."""
    columns = ("place", "kind", "T x D", "effective rank", "of min(T, D)", "stable rank")
    rows = [
        [
            *(rank.place, rank.kind, f"{rank.num_tokens} x {rank.token_dim}"),
            *(f"{rank.mean:.2f} ± {rank.deviation:.2f}", f"{rank.share:.0%}"),
            f"{rank.stable_mean:.2f} ± {rank.stable_deviation:.2f}",
        ]
        for rank in inspection.ranks
    ]
    return TextTable(columns, rows, text=(0, 1, 2))


def attention_table(inspection: Inspection) -> TextTable:
    """Write the sharpness of attention in every layer."""
    rows = []
    for layer in inspection.attention:
        heads, out, blocks = layer.mean.shape
        numbers = map(_number, (layer.row_maximum, layer.row_entropy))
        rows.append([layer.place, str(heads), f"{out} x {blocks}", *numbers])
    return TextTable(("layer", "heads", "blocks", "row maximum", "row entropy"), rows)


def gate_table(inspection: Inspection) -> TextTable:
    """Write the mean weights of all experts, a row for each gate."""
    experts = list(dict.fromkeys(name for gate in inspection.gates for name in gate.weights))
    rows = [
        [
            *(str(gate.level), gate.reader),
            *("" if name not in gate.weights else _number(gate.weights[name]) for name in experts),
            _number(gate.largest),
        ]
        for gate in inspection.gates
    ]
    return TextTable(("level", "gate of", *experts, "largest"), rows, text=(0, 1))


def interaction_table(inspection: Inspection, most: int) -> TextTable:
    """Write the strongest pairs of parts of the input, at most ``most``."""
    interactions = inspection.interactions
    if interactions is None:
        return TextTable((), [])
    total = sum(interactions.model[pair].item() for pair in interactions.ranked()) or 1.0
    rows = []
    for first, second in interactions.ranked()[:most]:
        strength = interactions.model[first, second].item()
        row = [
            interactions.parts[first].name,
            interactions.parts[second].name,
            _number(strength),
            f"{strength / total:.1%}",
        ]
        if interactions.matrices is not None:
            row.append(_number(interactions.matrices[first, second].item()))
        if interactions.truth is not None:
            row.append("yes" if (first, second) in interactions.truth else "no")
        rows.append(row)
    columns = ["part", "and part", "strength", "of all"]
    columns += ["in the matrices"] if interactions.matrices is not None else []
    columns += ["truly interact"] if interactions.truth is not None else []
    return TextTable(columns, rows, text=(0, 1))


def _sharpness(between: Sharpness) -> list[str]:
    """Write the numbers of :data:`_SHARPNESS_COLUMNS` after the temperature."""
    numbers = (between.row_maximum, between.row_entropy, between.to_permutation, between.to_flat)
    return [_number(number) for number in numbers]


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.1e}" if 0 < abs(value) < 0.0005 else f"{value:.3f}"


def _encode(matrix: Tensor) -> dict[str, Any]:
    """Encode a matrix as 16-bit steps between its bounds."""
    values = max_pooled(matrix, PANEL).double()
    low, high = min(0.0, values.min().item()), values.max().item()
    steps = ((values - low) / ((high - low) or 1.0) * 65535).round().to(torch.int32)
    codes = steps.numpy().astype("<u2").tobytes()
    return {
        "rows": values.shape[0],
        "columns": values.shape[1],
        "step": -(-max(matrix.shape) // max(values.shape)),
        "low": low,
        "high": high,
        "codes": base64.b64encode(codes).decode("ascii"),
    }
