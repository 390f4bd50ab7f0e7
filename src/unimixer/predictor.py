"""Score new rows with a finished run: the same transform, the same model, streamed."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as parquet
import torch
from scipy.special import expit

from unimixer.data.coverage import Coverage, UnknownValuesWarning
from unimixer.data.encoding.later_counts import outcome_columns, with_counts
from unimixer.data.raw.adapters.own import with_options
from unimixer.data.raw.folders import PARQUET_SUFFIXES, log_files
from unimixer.data.raw.frames import frame_of
from unimixer.data.raw.readers import read_chunks
from unimixer.data.raw.tables import Chunk, RawTables
from unimixer.data.raw.values import column
from unimixer.data.schema import Schema
from unimixer.environment import states_kept
from unimixer.errors import UnimixerError
from unimixer.io import atomic_file
from unimixer.metrics import conditional_logits, conditional_name
from unimixer.progress import progress_bar, say
from unimixer.training.model import load_ranker, pick_device
from unimixer.training.run import RunFolder

SCORE_ROWS = 4_096
FEW_ROWS = 20
"""Number of rows below which a share of unknown values is no reason to warn."""


class Predictor:
    """Score rows with the best model of a run and its transform.

    Rows need the keys and the context columns of the schema; features of users and items come from the tables that
    the run keeps, unless the rows have columns of their own. Users and items never seen are allowed: they are
    out-of-vocabulary. ``coverage`` counts unknown and missing values of all rows so far, feature by feature.

    Args:
        run: a run folder with best weights.
        device: ``auto``, ``cpu`` or ``cuda``.
    """

    @states_kept()
    def __init__(self, run: Path | str, *, device: str = "auto") -> None:
        self.run = folder = RunFolder(run)
        self.device = pick_device(device)
        self.transform = folder.transform
        self.model = load_ranker(folder, device=self.device)
        self.tasks, self.chain = tuple(folder.recipe.tasks), folder.recipe.model.chain
        self.coverage = Coverage(self.transform.spec, folder.environment["data"].get("coverage"))
        self._warned, self._told, self._warn_at = set[str](), set[str](), FEW_ROWS
        self._autocast = folder.recipe.training.precision == "bfloat16"

    def logits(self, chunk: Chunk) -> torch.Tensor:
        """Compute logits ``(rows, tasks)`` in the order of the rows."""
        parts = [torch.empty(0, len(self.tasks))]
        for start in range(0, chunk.frame.height, SCORE_ROWS):
            rows = Chunk(chunk.frame.slice(start, SCORE_ROWS), chunk.source, chunk.first_row + start)
            encoded = self.transform.raw_batch(rows)
            self.coverage.add(encoded)
            batch = encoded.to(self.device)
            with torch.no_grad(), torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self._autocast):
                parts.append(self.model(batch).float().cpu())
        return torch.cat(parts)

    def chunks(
        self, rows: Any, *, also: Sequence[str] = (), separator: str | None = None, or_empty: bool = False
    ) -> Iterator[Chunk]:
        """Split rows into chunks, see :func:`chunks_of`, and add the counts of earlier impressions that they lack."""
        schema = self.transform.schema
        read = partial(chunks_of, rows, schema, also=also, separator=separator, or_empty=or_empty)
        return with_counts(RawTables(schema, read), self.transform.log_end, self._tell) if schema.counts else read()

    def _tell(self, text: str) -> None:
        """Say a line once."""
        if text not in self._told:
            self._told.add(text)
            say(text)

    def predict(self, rows: Any) -> pl.DataFrame:
        """Compute probabilities, one column a task, in the order of the rows.

        A label of a chain also has its probability given the label before it, in a column ``LABEL_given_BEFORE``.

        Warns once a feature with :class:`~unimixer.data.coverage.UnknownValuesWarning` if most of its values so far are
        unknown, or missing, and were not in training.

        Args:
            rows: a polars or pandas frame, an Arrow table or record batch, a mapping of columns, a sequence of
                mappings, the path of a file or folder, or a chunk of a reader.
        """
        scores = pl.concat([self.scores(chunk) for chunk in self.chunks(rows, or_empty=True)])
        self.warn()
        return scores

    def warn(self, stacklevel: int = 3) -> None:
        """Warn, once a feature, of features that are unknown or missing in most rows so far."""
        if self.coverage.rows < self._warn_at:
            return
        self._warn_at = 2 * self.coverage.rows  # a share that was small takes as many rows again to become most
        for remark in self.coverage.remarks():
            if remark.grave and remark.feature not in self._warned:
                self._warned.add(remark.feature)
                warnings.warn(remark.text, UnknownValuesWarning, stacklevel=stacklevel)

    def scores(self, chunk: Chunk) -> pl.DataFrame:
        """Compute the probabilities of some rows, without warnings."""
        logits = self.logits(chunk)
        scores, column = torch.sigmoid(logits).numpy(), dict(zip(self.tasks, logits.numpy().T, strict=True))
        conditional = {
            conditional_name(label, before): expit(conditional_logits(column[label], column[before])).astype(np.float32)
            for label, before in self.chain.items()
        }
        return pl.DataFrame({**{task: scores[:, i] for i, task in enumerate(self.tasks)}, **conditional})

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of all scores: the tasks, then the labels of a chain given those before them."""
        return (*self.tasks, *(conditional_name(*link) for link in self.chain.items()))


def chunks_of(
    rows: Any, schema: Schema, *, also: Sequence[str] = (), separator: str | None = None, or_empty: bool = False
) -> Iterator[Chunk]:
    """Split rows of any form into chunks; those of files are streamed.

    Args:
        rows: see :meth:`Predictor.predict`.
        schema: that of the run's transform, which names the columns to read of files.
        also: further columns to read of files.
        separator: between two fields of CSV (default: as the schema says).
        or_empty: for files without rows, return an empty chunk instead of raising.

    Raises:
        UnimixerError: if the form of the rows is unknown; it lists the known ones.
    """
    if isinstance(rows, Chunk):
        yield rows
    elif isinstance(rows, str | Path):
        yield from read_rows(schema, Path(rows), also=also, separator=separator, or_empty=or_empty)
    else:
        yield Chunk(frame_of(rows), "rows")


def read_rows(
    schema: Schema, path: Path, *, also: Sequence[str] = (), separator: str | None = None, or_empty: bool = False
) -> Iterator[Chunk]:
    """Stream the columns of raw rows that a run reads, in the order of the rows.

    Args:
        schema: that of the run's transform; its ``files`` say how CSV is read.
        path: a file, or a folder as ``data prepare`` reads it.
        also: further columns.
        separator: between two fields of CSV (default: as the schema says).
        or_empty: for files without rows, return an empty chunk instead of raising.
    """
    files = with_options(schema.files, str(path), {} if separator is None else {"separator": separator})
    columns = list(dict.fromkeys([*schema.needed_columns(outcomes=False), *also]))
    paths = log_files(path, "rows")
    optional = [*schema.optional_columns(), *(outcome_columns(schema) if schema.counts else ())]
    optional = list(dict.fromkeys(optional))
    return read_chunks(paths, columns=columns, optional=optional, files=files, or_empty=or_empty)


def write_predictions(
    predictor: Predictor, chunks: Iterable[Chunk], output: Path, keep: Sequence[str] = (), *, suffix: str = ""
) -> int:
    """Stream scores to Parquet or CSV (by the file's ending) with the kept input columns in front.

    Args:
        predictor: the model.
        chunks: raw rows.
        output: file to write; it gets its name when it is complete.
        keep: columns of the rows to copy.
        suffix: text behind the name of every score.

    Returns:
        The number of rows.

    Raises:
        UnimixerError: the ending is unknown, a kept column is missing or has the name of a task, a row is malformed.
    """
    csv = is_csv(output)
    check_kept(keep, [f"{name}{suffix}" for name in predictor.columns])
    rows, types = 0, dict[str, pl.DataType]()

    def frames() -> Iterator[pl.DataFrame]:
        nonlocal rows
        for chunk in chunks:
            rows += chunk.frame.height
            kept = [_alike(chunk, column(chunk, name), types) for name in keep]
            nested = next((series for series in kept if csv and series.dtype.is_nested()), None)
            if nested is not None:
                raise UnimixerError(
                    f"column {nested.name!r} holds lists, which CSV cannot; write {output.stem}.parquet"
                )
            scores = [score.alias(f"{score.name}{suffix}") for score in predictor.scores(chunk).get_columns()]
            yield pl.DataFrame([*kept, *scores])
            advance(chunk.frame.height)

    with atomic_file(output) as temporary, progress_bar("scoring", None) as advance:
        _write(frames(), temporary, csv=csv)
    return rows


def _alike(chunk: Chunk, series: pl.Series, types: dict[str, pl.DataType]) -> pl.Series:
    """Cast a kept column to its type in the first chunk."""
    wanted = types.setdefault(series.name, series.dtype)
    if series.dtype == wanted:
        return series
    try:
        alike = series.cast(wanted)
        same = alike.cast(series.dtype).equals(series)
    except pl.exceptions.PolarsError:
        same = False
    if not same:
        raise UnimixerError(
            f"{chunk.source}: kept column {series.name!r} has type {series.dtype}, but {wanted} in the first file; "
            "write the files alike"
        )
    return alike


def is_csv(output: Path) -> bool:
    """Return whether scores are written as CSV; raise for an ending of neither CSV nor Parquet."""
    ending = output.suffix.lower()
    if ending not in (".csv", *PARQUET_SUFFIXES):
        raise UnimixerError(f"{output}: scores are written as Parquet or CSV; let the name end with .parquet or .csv")
    return ending == ".csv"


def check_kept(keep: Sequence[str], scores: Sequence[str]) -> None:
    """Raise for a kept column that is named twice, or has the name of a score."""
    for name in keep:
        if name in scores:
            raise UnimixerError(
                f"cannot keep column {name!r}: the scores of task {name!r} take its name; pass --suffix _score"
            )
        if list(keep).count(name) > 1:
            raise UnimixerError(f"column {name!r} is kept twice; name it once")


def _write(frames: Iterator[pl.DataFrame], path: Path, *, csv: bool) -> None:
    if csv:
        with path.open("wb") as file:
            for number, frame in enumerate(frames):
                frame.write_csv(file, include_header=number == 0)
        return
    writer: parquet.ParquetWriter | None = None
    try:
        for frame in frames:
            table = frame.to_arrow()
            writer = writer or parquet.ParquetWriter(path, table.schema)
            writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()
