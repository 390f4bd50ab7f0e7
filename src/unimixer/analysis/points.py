"""Points of scaling curves, one line per run: read from CSV or Parquet and checked."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from unimixer.analysis.units import AUC, ERROR, EXCESS, FACTORS, GAIN, METRICS, check_metric, check_size, parse_number
from unimixer.errors import UnimixerError, check_choice, nearest
from unimixer.experiments.results import POINTS

SIZES = ("params", "flops", "latency_ms", "rows")
"""What errors are laws of: kinds of size, and the length of the log."""
SAME_ROWS = 1.05
"""Numbers of training samples within this factor count as one."""
NEEDED = ("model", "params", "metric")
OPTIONAL = ("flops", "seed", "rows", "latency_ms", "auc", "best_auc", "excess_log_loss", "dataset", "status")
NUMBERS = ("params", "flops", "metric", "seed", "rows", "latency_ms", "auc", "best_auc", EXCESS)
FINISHED = ("ok", "done", "finished", "completed", "success")
UNFINISHED = ("failed", "error", "crashed", "killed", "running")
"""Words of the column ``status``."""
_CANNOT = "; correct the row or remove it"
_MAY_LACK = ("latency_ms", "auc", "best_auc", EXCESS, "rows", "seed")  # their cells may be empty


@dataclass(frozen=True)
class Point:
    """One run.

    Args:
        model: label of the model, after the name of the dataset if the file has several datasets.
        metric: value of the file, in units of one.
        params: dense parameters.
        where: file and line, for messages.
        flops: forward, a sample.
        seed: of the run.
        rows: training samples.
        latency_ms: of a batch as served.
        best_auc: best reachable AUC on these data.
    """

    model: str
    metric: float
    params: float
    where: str
    flops: float | None = None
    seed: int | None = None
    rows: float | None = None
    latency_ms: float | None = None
    best_auc: float | None = None

    def size(self, column: str) -> float | None:
        """Return the parameters, the FLOPs, the latency or the rows."""
        size: float | None = getattr(self, column)
        return size

    @property
    def config(self) -> tuple[float, ...]:
        """The values that runs of one size share."""
        return (self.params, self.flops or 0.0, self.rows or 0.0)


@dataclass(frozen=True)
class Points:
    """All runs of a file.

    Args:
        points: in the order of the file.
        metric: kind of the metric: ``auc``, ``gain``, ``error`` or ``excess_log_loss``.
        source: the file.
        notes: sentences about rows that were left out.
    """

    points: tuple[Point, ...]
    metric: str
    source: str
    notes: tuple[str, ...] = ()

    @property
    def models(self) -> list[str]:
        """Labels of the models, in the order of the file."""
        return list(dict.fromkeys(point.model for point in self.points))

    @property
    def sizes(self) -> list[str]:
        """Kinds of size that every run has and that vary in a model; without such, all but the rows."""
        known = [name for name in SIZES if all(point.size(name) is not None for point in self.points)]
        return [name for name in known if self._varies(name)] or [name for name in known if name != "rows"]

    def _varies(self, name: str) -> bool:
        values: dict[str, list[float]] = {}
        for point in self.points:
            values.setdefault(point.model, []).append(point.size(name) or 0.0)
        apart = SAME_ROWS if name == "rows" else 1.0
        return any(max(own) > apart * min(own) for own in values.values())

    def only(self, parts: Sequence[str]) -> Points:
        """Return the points of some models, whose names are given cut at their commas: a label may hold some."""
        known = {tuple(part.strip() for part in name.split(",")): name for name in self.models}
        models, rest = [], tuple(parts)
        while rest:
            length = next((n for n in range(len(rest), 0, -1) if rest[:n] in known), 0)
            if not length:
                raise UnimixerError(f"{self.source}: no model {rest[0]!r}{nearest(rest[0], self.models)}")
            models.append(known[rest[:length]])
            rest = rest[length:]
        return replace(self, points=tuple(point for point in self.points if point.model in models))


def read_points(
    path: Path | str, *, metric: str | None = None, form: str | None = None, units: Mapping[str, str] | None = None
) -> Points:
    """Read a file of points, or the one in the folder of a sweep.

    Args:
        path: CSV or Parquet with the columns ``model``, ``params``, ``metric``, and where at hand ``flops``, ``seed``,
            ``rows``, ``latency_ms``, ``best_auc``, ``dataset``, ``status``; or a folder with ``points.csv``.
        metric: ``auc``, ``gain``, ``error`` or ``excess_log_loss`` (default: the excess log loss where the file has
            such a column, as that of a sweep whose truth is known, unless a gain is to be fitted; AUC where it has a
            column ``auc``; else an error where one is to be fitted, and a gain otherwise).
        form: of the law that is to be fitted, ``gain`` or ``error``.
        units: of ``params``, ``flops`` and ``metric``, where they are not one.

    Raises:
        UnimixerError: with the line, the rule and the way out.
    """
    path = Path(path)
    if path.is_dir():
        if not (path / POINTS).exists():
            raise UnimixerError(f"{path} has no {POINTS}; give a sweep's folder (unimixer scale run), or a CSV file")
        path = path / POINTS
    if not path.exists():
        raise UnimixerError(f"{path}: no such file; expected a CSV or Parquet file with {', '.join(NEEDED)}")
    frame = _read(path)
    return check_points(frame, source=path.name, metric=metric, form=form, units=units)


def check_points(
    frame: pl.DataFrame,
    *,
    source: str = "points",
    metric: str | None = None,
    form: str | None = None,
    units: Mapping[str, str] | None = None,
) -> Points:
    """Check the points of a table in memory; messages count lines as in a CSV file, whose first line is the header."""
    # polars gives the second column of a name in CSV another one
    names = [re.sub(r"_duplicated_\d+$", "", name).strip().lower() for name in frame.columns]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UnimixerError(f"{source}: column {twice!r} appears twice; remove one of them")
    frame = frame.rename(dict(zip(frame.columns, names, strict=True)))
    for name in NEEDED:
        if name not in frame.columns:
            raise UnimixerError(f"{source}: no column {name!r}{nearest(name, frame.columns)}")
    if "store" in frame.columns:
        raise UnimixerError(f"{source}: unknown column 'store'; it is now 'dataset'")
    excess = EXCESS in frame.columns and form != GAIN
    kind = metric or (EXCESS if excess else AUC if "auc" in frame.columns else ERROR if form == ERROR else GAIN)
    check_choice("metric", kind, METRICS)
    units, datasets = dict(units or {}), set(_texts(frame, "dataset"))
    absent = next((name for name in units if name not in frame.columns), None)
    if absent is not None:
        raise UnimixerError(f"{source}: no column {absent!r}, for which a unit is given; leave the unit out")
    points, failed = [], 0
    for number, row in enumerate(frame.iter_rows(named=True), start=2):
        if not _finished(row, f"{source}, line {number}"):
            failed += 1
            continue
        if datasets and not str(row.get("dataset") or "").strip():
            raise UnimixerError(f"{source}, line {number}: no dataset, but other rows name one; fill the cell")
        points.append(_point(row, f"{source}, line {number}", kind, units, several_datasets=len(datasets) > 1))
    if not points:
        raise UnimixerError(f"{source}: no rows{f' but {failed} that failed' if failed else ''}; nothing to fit")
    _check_duplicates(points)
    notes = (f"{failed} run{'s' if failed > 1 else ''} that failed left out",) if failed else ()
    return Points(tuple(points), kind, source, notes)


def points_csv(points: Points) -> str:
    """Write all runs as CSV, in units of one."""
    names = [*NEEDED, *(name for name in OPTIONAL if name in Point.__dataclass_fields__)]
    rows = [[getattr(point, name) for name in names] for point in points.points]
    frame = pl.DataFrame(rows, schema=names, orient="row", infer_schema_length=None)
    return frame.drop([name for name in names if frame[name].null_count() == frame.height]).write_csv()


def _read(path: Path) -> pl.DataFrame:
    try:
        if path.suffix.lower() in (".parquet", ".pq"):
            return pl.read_parquet(path)
        return pl.read_csv(path, infer_schema=False, comment_prefix=None)
    except pl.exceptions.NoDataError:
        raise UnimixerError(f"{path.name} is empty; expected a header with {', '.join(NEEDED)} and rows") from None
    except (pl.exceptions.PolarsError, UnicodeDecodeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UnimixerError(f"{path.name}: not a table that can be read ({reason}); expected CSV or Parquet") from None


def _finished(row: Mapping[str, object], where: str) -> bool:
    """Return whether the run of a row counts; a word that is not known could mean either."""
    status = str(row.get("status") or FINISHED[0]).strip().lower() or FINISHED[0]
    if status not in (*FINISHED, *UNFINISHED):
        counts, left_out = ", ".join(FINISHED), ", ".join(UNFINISHED)
        raise UnimixerError(
            f"{where}: unknown status {status!r}; a run counts with {counts}, it does not with {left_out}"
        )
    return status in FINISHED


def _point(
    row: Mapping[str, object], where: str, kind: str, units: Mapping[str, str], *, several_datasets: bool
) -> Point:
    model = str(row["model"] or "").strip()
    if not model:
        raise UnimixerError(f"{where}: no model; every row needs a name in the column model")
    where = f"{where} ({model})"
    values = {name: _number(name, row.get(name), where, units) for name in NUMBERS}
    for name in SIZES:
        value = values[name]
        if value is not None:
            check_size(name, value, where, units)
    metric, params = values["metric"], values["params"]
    if kind == EXCESS and EXCESS in row:
        if values[EXCESS] is None:
            raise UnimixerError(f"{where}: excess_log_loss is empty; fill it, or fit the AUC: --metric-is auc")
        metric = values[EXCESS]
    assert metric is not None  # an empty cell of these two was refused
    assert params is not None
    check_metric(kind, metric, where)
    best, seed, dataset = values["best_auc"], values["seed"], str(row.get("dataset") or "").strip()
    if best is not None and not 0 < best <= 1:
        raise UnimixerError(f"{where}: best_auc={best:g} is no AUC, which lies between 0 and 1{_CANNOT}")
    if seed is not None and seed != int(seed):
        raise UnimixerError(f"{where}: seed={seed:g} is not a whole number{_CANNOT}")
    return Point(
        model=f"{dataset}: {model}" if several_datasets and dataset else model,
        metric=metric,
        params=params,
        where=where,
        flops=values["flops"],
        seed=None if seed is None else int(seed),
        rows=values["rows"],
        latency_ms=values["latency_ms"],
        best_auc=best,
    )


def _number(name: str, cell: object, where: str, units: Mapping[str, str]) -> float | None:
    """Parse a cell as a number; ``None`` for an empty cell that may be empty."""
    if cell is None or (isinstance(cell, str) and not cell.strip()):
        if name in ("params", "metric"):
            raise UnimixerError(f"{where}: {name} is empty; remove the row, or give it status=failed")
        return None
    try:
        value = parse_number(cell) if isinstance(cell, str) else float(str(cell))
    except ValueError:
        raise UnimixerError(f"{where}: {name}={cell!r} is not a number{_CANNOT}") from None
    if not math.isfinite(value):
        if name in _MAY_LACK and math.isnan(value):
            return None
        raise UnimixerError(f"{where}: {name}={cell}: not a finite number; remove the row, or give it status=failed")
    written = isinstance(cell, str) and not cell.strip()[-1].isdigit() and not cell.strip().endswith(".")
    return value if written else value * FACTORS[units.get(name, "1")]


def _check_duplicates(points: Sequence[Point]) -> None:
    """Raise for two runs of one model, size and seed; without seeds, only if their metrics are equal too."""
    seen: dict[tuple[object, ...], Point] = {}
    for point in points:
        same = (point.model, *point.config)
        key = (*same, point.metric, point.latency_ms) if point.seed is None else (*same, point.seed)
        if key in seen:
            same_values = "the same model, size and metric" if point.seed is None else "the same model, size and seed"
            raise UnimixerError(
                f"{point.where} repeats {seen[key].where}: {same_values}; remove one of them, or, where they are "
                "different runs, tell them apart by a column seed"
            )
        seen[key] = point


def _texts(frame: pl.DataFrame, name: str) -> list[str]:
    return [str(value).strip() for value in frame[name].to_list() if value] if name in frame.columns else []
