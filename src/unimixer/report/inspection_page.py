"""An inspection as one page that needs no network, beside its pictures and its numbers as JSON."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unimixer.errors import UnimixerError
from unimixer.inspection.inspect import Inspection
from unimixer.inspection.matrices import shrunk
from unimixer.io import atomic_file, write_text
from unimixer.report.inspection_explorer import EXPLORER, SCRIPT, STYLE
from unimixer.report.inspection_tables import (
    ATTENTION_COLUMNS,
    RANK_COLUMNS,
    RANK_WORDS,
    SHARPNESS_COLUMNS,
    SHARPNESS_WORDS,
    attention_rows,
    rank_rows,
    sharpness_rows,
)

PAGE, NUMBERS = "inspect.html", "inspect.json"
PICTURES = {
    "global.png": "Learned matrices between blocks: rows are temperatures, columns are layers.",
    "local.png": "Some of the learned matrices inside blocks.",
    "attention.png": "Attention, the mean over rows: rows are heads, columns are layers.",
    "effective-rank.png": "Rank of the tokens of a sample, from the first place of the network to the last.",
    "temperature.png": "Temperature of the run.",
}
"""Names of pictures and what they show, in the order of the page."""
PANEL = 256
"""Entries along one side of a matrix in the explorer; of larger ones squares show their strongest entry."""
MADE = (PAGE, NUMBERS, *PICTURES)


def check_free(folder: Path, *, overwrite: bool) -> None:
    """Raise if a file that an inspection writes is there and must not be replaced.

    Raises:
        UnimixerError: names the file and both ways out.
    """
    if folder.exists() and not folder.is_dir():
        raise UnimixerError(f"{folder} is a file, expected a folder or a new name; choose another --out")
    existing = next((folder / name for name in MADE if (folder / name).exists()), None)
    if existing is not None and not overwrite:
        raise UnimixerError(f"{existing} exists; choose another --out, or pass --overwrite to replace it")


def write_inspection(
    found: Inspection, pictures: Mapping[str, bytes], folder: Path, *, overwrite: bool = False
) -> list[Path]:
    """Write pictures, numbers and the page, each file whole, the page last; other files of the folder stay.

    Args:
        found: what was found.
        pictures: PNG files by their names, see :data:`PICTURES`.
        folder: where; made if it is not there.
        overwrite: replace what an earlier inspection wrote.
    """
    check_free(folder, overwrite=overwrite)
    for name in PICTURES:
        if name not in pictures:  # of an earlier inspection of something else
            (folder / name).unlink(missing_ok=True)
    for name, content in pictures.items():
        with atomic_file(folder / name) as temporary:
            temporary.write_bytes(content)
    write_text(folder / NUMBERS, json.dumps(found.as_json(), indent=1) + "\n")
    write_text(folder / PAGE, page(found, pictures))
    return [folder / name for name in MADE if (folder / name).exists()]


def page(found: Inspection, pictures: Mapping[str, bytes]) -> str:
    """The page: text, tables, pictures and scripts inside one file."""
    title = f"{found.backbone}: {found.run}"
    body = "\n".join(part for part in _parts(found, pictures) if part)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<link rel="icon" href="data:,">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{escape(title)}</h1>\n{body}\n</body>\n</html>\n"
    )


def _parts(found: Inspection, pictures: Mapping[str, bytes]) -> Iterator[str]:
    local, between = found.patterns
    yield (
        f"<p>{found.parameters:,} parameters and {found.flops:,} FLOPs an example in the backbone. "
        f"Inside blocks: {escape(local)}. Between blocks: {escape(between)}.</p>"
    )
    yield "".join(f"<p>{escape(note[:1].upper() + note[1:])}.</p>" for note in found.notes)
    if found.mixings:
        yield "<h2>Learned mixing</h2>"
        yield EXPLORER + _data(panels(found)) + f"<script>{SCRIPT}</script>"
        yield _table(SHARPNESS_COLUMNS, sharpness_rows(found), text=2) + f"<p>{SHARPNESS_WORDS}</p>"
        yield _figure("global.png", pictures) + _figure("local.png", pictures)
    if found.attention:
        yield "<h2>Attention</h2>" + _table(ATTENTION_COLUMNS, attention_rows(found), text=1)
        yield _figure("attention.png", pictures)
    yield f"<h2>Effective rank on {found.rows:,} rows of the {escape(found.split)} part</h2>"
    yield _ranks(found) + f"<p>{RANK_WORDS}</p>" + _figure("effective-rank.png", pictures)
    if "temperature.png" in pictures:
        yield "<h2>Temperature</h2>" + _figure("temperature.png", pictures)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, text: int) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    return f"<div class=wide><table><thead><tr>{head}</tr></thead><tbody>{_cells(rows, text)}</tbody></table></div>"


def _cells(rows: Sequence[Sequence[str]], text: int) -> str:
    def cell(number: int, value: str) -> str:
        return f"<td{'' if number < text else ' class=n'}>{escape(value)}</td>"

    return "".join(f"<tr>{''.join(cell(n, value) for n, value in enumerate(row))}</tr>" for row in rows)


def _ranks(found: Inspection) -> str:
    """The table of ranks with a bar a row: full width is min(T, D)."""
    lines = []
    for rank, row in zip(found.ranks, rank_rows(found), strict=True):
        tip = escape(f"{row[0]}: {row[3]} of at most {min(rank.num_tokens, rank.token_dim)}, {rank.rows:,} rows")
        bar = f"<td class=bar title='{tip}'><span style='width:{rank.share:.1%}'></span></td>"
        lines.append(_cells([row], text=2).removesuffix("</tr>") + bar + "</tr>")
    head = "".join(f"<th>{escape(column)}</th>" for column in RANK_COLUMNS)
    return (
        f"<div class=wide><table><thead><tr>{head}<th></th></tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def _figure(name: str, pictures: Mapping[str, bytes]) -> str:
    if name not in pictures:
        return ""
    words, content = escape(PICTURES[name]), base64.b64encode(pictures[name]).decode("ascii")
    image = f'<img alt="{words}" src="data:image/png;base64,{content}">'
    return f"<figure>{image}<figcaption>{words}</figcaption></figure>"


def panels(found: Inspection) -> list[dict[str, Any]]:
    """What the explorer shows: every layer, then some of its blocks, at every temperature."""
    shown = []
    for number, mixing in enumerate(found.mixings, start=1):
        at = [{"words": found_at.words, **_coded(found_at.global_matrix)} for found_at in mixing.at]
        shown.append({"title": f"layer {number}: between blocks", "what": "block", "at": at})
        for index, block in enumerate(mixing.shown_blocks):
            inside = [(a.words, a.local_matrices) for a in mixing.at]
            at = [{"words": words, **_coded(part[index])} for words, part in inside if part is not None]
            shown.append({"title": f"layer {number}: inside block {block}", "what": "place", "at": at})
    return shown


def _coded(matrix: Tensor) -> dict[str, Any]:
    """A matrix as 16-bit steps between its bounds."""
    values = shrunk(matrix, PANEL).double()
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


def _data(values: Any) -> str:
    text = json.dumps(values).replace("<", "\\u003c")
    return f'<script type="application/json" id="panels">{text}</script>'
