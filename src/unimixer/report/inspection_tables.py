"""The tables of an inspection, for the page and for the terminal."""

from __future__ import annotations

from unimixer.inspection.inspect import Inspection

SHARPNESS_COLUMNS = (
    *("layer", "temperature", "row maximum", "row entropy", "to permutation", "to flat"),
    *("local row maximum", "change", "raw change", "local change"),
)
SHORT_COLUMNS = (*SHARPNESS_COLUMNS[:6], "change", "raw change")
SHARPNESS_WORDS = (
    "Row maximum: mean largest entry of a row, 1 for a permutation. Row entropy: 0 for a permutation, 1 for a flat "
    "matrix. Distances are Frobenius norms divided by the square root of N; change is the distance from the start, at "
    "the trained temperature, and raw change that of the numbers before Sinkhorn, divided by their norm."
)
RANK_COLUMNS = ("place", "kind", "T x D", "effective rank", "of min(T, D)", "stable rank")
RANK_WORDS = (
    "Mean and standard deviation over rows. Effective rank is the exponential of the entropy of the normalised "
    "singular values of the tokens of one sample (Roy and Vetterli; RankUp, arXiv:2604.17878), stable rank is the "
    "squared Frobenius norm divided by the squared spectral norm."
)
ATTENTION_COLUMNS = ("layer", "heads", "blocks", "row maximum", "row entropy")


def sharpness_rows(found: Inspection) -> list[list[str]]:
    """One row a layer and temperature."""
    rows = []
    for layer, mixing in enumerate(found.mixings, start=1):
        changes = (mixing.change, mixing.raw_change, mixing.local_change)
        for at in mixing.at:
            inside = None if at.inside is None else at.inside.row_maximum
            by = at.between
            numbers = (by.row_maximum, by.row_entropy, by.to_permutation, by.to_flat, inside)
            from_start = [_number(change) if at.trained else "" for change in changes]
            tau = at.words.removeprefix("temperature ")
            rows.append([f"{layer}: {mixing.place}", tau, *map(_number, numbers), *from_start])
    return rows


def short_rows(found: Inspection) -> list[list[str]]:
    """One row a layer, at the trained temperature."""
    rows = []
    for layer, mixing in enumerate(found.mixings, start=1):
        by, tau = mixing.trained.between, "-" if mixing.temperature is None else f"{mixing.temperature:g}"
        numbers = (by.row_maximum, by.row_entropy, by.to_permutation, by.to_flat, mixing.change, mixing.raw_change)
        rows.append([f"{layer}: {mixing.place}", tau, *map(_number, numbers)])
    return rows


def rank_rows(found: Inspection) -> list[list[str]]:
    """One row a place."""
    return [
        [
            *(rank.place, rank.kind, f"{rank.num_tokens} x {rank.token_dim}"),
            *(f"{rank.mean:.2f} ± {rank.deviation:.2f}", f"{rank.share:.0%}"),
            f"{rank.stable_mean:.2f} ± {rank.stable_deviation:.2f}",
        ]
        for rank in found.ranks
    ]


def attention_rows(found: Inspection) -> list[list[str]]:
    """One row a layer."""
    rows = []
    for layer in found.attention:
        heads, out, blocks = layer.mean.shape
        numbers = map(_number, (layer.row_maximum, layer.row_entropy))
        rows.append([layer.place, str(heads), f"{out} x {blocks}", *numbers])
    return rows


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.1e}" if 0 < abs(value) < 0.0005 else f"{value:.3f}"
