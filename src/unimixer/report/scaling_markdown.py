"""Scaling laws as Markdown: what the exponents say, tables, what to know before using them, the method."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from unimixer.analysis.joint_law import JointLaw
from unimixer.analysis.scaling_laws import Analysis
from unimixer.analysis.series import NAMES
from unimixer.report.scaling_method import method
from unimixer.report.scaling_tables import (
    JOINT_COLUMNS,
    LAW_COLUMNS,
    PAIR_COLUMNS,
    conclusions,
    equation,
    joint_cells,
    law_cells,
    pair_cells,
    predicted_cells,
    prediction_columns,
)
from unimixer.report.study_markdown import markdown_table


def markdown(
    found: Sequence[Analysis], joint: Mapping[str, JointLaw], *, title: str, pictures: Mapping[str, str]
) -> str:
    """The whole report.

    Args:
        found: one analysis a kind of size.
        joint: laws over parameters and rows.
        title: above it.
        pictures: by kind of size, the path of its picture from the report.
    """
    return "\n\n".join([f"# {title}", *_parts(found, joint, pictures)]) + "\n"


def _parts(found: Sequence[Analysis], joint: Mapping[str, JointLaw], pictures: Mapping[str, str]) -> Iterator[str]:
    for one in found:
        yield f"## Over {NAMES[one.x]}"
        yield "\n".join(f"- {line}" for line in conclusions(one))
        if one.x in pictures:
            yield f"![{one.words} over {NAMES[one.x]}]({pictures[one.x]})"
        yield f"{equation(one)}:"
        yield markdown_table(LAW_COLUMNS, [law_cells(one, model) for model in one.laws], text=(0,))
        if one.pairs:
            yield "Exponents compared:"
            yield markdown_table(PAIR_COLUMNS, [pair_cells(pair) for pair in one.pairs], text=(0, 5))
        yield "Predicted:"
        cells = [predicted_cells(point, one) for point in one.predicted]
        yield markdown_table(prediction_columns(one), cells, text=(0,))
        if one.warnings:
            yield "Before you use this:"
            yield "\n".join(f"- {text}" for text in one.warnings)
    if joint:
        yield "## Over parameters and data"
        yield markdown_table(JOINT_COLUMNS, [joint_cells(m, law) for m, law in joint.items()], text=(0,))
        told = [f"- {model}: {text}" for model, law in joint.items() for text in law.warnings]
        if told:
            yield "\n".join(told)
    yield "## Method"
    for subject, words in method(found[0], joint=bool(joint)):
        yield f"{subject}. {words}"
