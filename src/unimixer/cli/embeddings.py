"""``unimixer embeddings``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from unimixer.cli.output import Json, Run, emit, table, takes
from unimixer.errors import UnimixerError
from unimixer.inspection.embeddings import embedding_vectors, neighbours, write_vectors


@dataclass(frozen=True)
class EmbeddingsOptions:
    """Choose the run, the table, and what to do with its vectors."""

    run: Run
    table: Annotated[str, typer.Option("--table", help="Embedding table: the name of its feature, or features.table.")]
    output: Annotated[Path | None, typer.Option("--output", help="Parquet file for ids and vectors.")] = None
    near: Annotated[str | None, typer.Option("--neighbours", help="Print the ids nearest to this one.")] = None
    count: Annotated[int, typer.Option("--count", min=1, help="Number of neighbours.")] = 10
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing output file.")] = False
    as_json: Json = False


@takes(EmbeddingsOptions)
def embeddings(options: EmbeddingsOptions) -> None:
    """Write the vectors of an embedding table with their ids, or print the nearest neighbours of an id.

    Examples: unimixer embeddings RUN --table item_id --output items.parquet · unimixer embeddings RUN --table item_id
    --neighbours 42
    """
    if options.output is None and options.near is None:
        raise UnimixerError("give --output FILE to write the vectors, or --neighbours ID to print the nearest ids")
    if options.output is not None and options.output.exists() and not options.overwrite:
        raise UnimixerError(f"{options.output} exists; choose another --output, or pass --overwrite")
    vectors = embedding_vectors(options.run, options.table)
    values: dict[str, object] = {"table": options.table, "ids": vectors.height}
    values["width"] = vectors.schema["vector"].shape[0]  # type: ignore[attr-defined]
    if options.output is not None:
        write_vectors(vectors, options.output)
        values["output"] = str(options.output)
    nearest = None if options.near is None else neighbours(vectors, options.near, options.count)
    if nearest is not None:
        values["neighbours"] = nearest.to_dicts()

    def show() -> None:
        if options.output is not None:
            print(f"{options.output}: {vectors.height:,} vectors of width {values['width']}")
        if nearest is not None:
            table(f"nearest to {options.near}", ["id", "cosine"], [[i, f"{c:.4f}"] for i, c in nearest.rows()])

    emit(values, options.as_json, show)
