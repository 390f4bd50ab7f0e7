"""Sum outcomes by unit and arm inside the database: its rows stay there, only sums leave it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from unimixer.abtest.analysis.statistics import moments
from unimixer.abtest.database import Database
from unimixer.abtest.specification import DAY_US, Experiment, Metric

if TYPE_CHECKING:
    from tea_tasting.aggr import Aggregates

NUMERATOR, DENOMINATOR = "n", "d"
_TABLES = ("abtest_values", "abtest_covariates", "abtest_segments", "abtest_units")


class UnitTable:
    """One row a unit, in temporary tables that vanish with the context.

    Units enter with their first exposure inside the experiment; those of overrides and shadow arms are left out. A
    unit that saw several arms is counted and left out of all sums.

    Args:
        database: inside a transaction, see :meth:`Events.snapshot`.
        experiment: the specification.
        as_of: microseconds since 1970; exposures and outcomes at this time or later are not read.
        before: microseconds before ``as_of`` in which a unit enters with its first outcome, all into one arm, to see
            the metrics before an experiment; None for the exposures of the experiment.
    """

    def __init__(self, database: Database, experiment: Experiment, as_of: int, *, before: int | None = None) -> None:
        self.database, self.experiment, self.as_of, self.before = database, experiment, as_of, before
        self._covariates = [f"x{index}" for index in range(len(experiment.covariates))] if before is None else []

    def __enter__(self) -> UnitTable:
        self._drop()
        self._run(
            "CREATE TEMP TABLE abtest_units (unit TEXT PRIMARY KEY, arm TEXT, first BIGINT, crossed INTEGER, "
            "exposures BIGINT)"
        )
        self._enter_units()
        self._sum_outcomes()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:  # a transaction that fails takes them along
            self._drop()

    @property
    def covariates(self) -> dict[str, str]:
        """Columns of the covariates, by name."""
        return dict(zip(self.experiment.covariates, self._covariates, strict=False))

    def units(self) -> dict[str, int]:
        """Count the units of every arm, without those in several."""
        return dict(self._run("SELECT arm, COUNT(*) FROM abtest_units WHERE crossed = 0 GROUP BY arm"))

    def crossed(self) -> int:
        """Count the units in several arms."""
        return int(self._run("SELECT COALESCE(SUM(crossed), 0) FROM abtest_units")[0][0])

    def entries(self) -> list[tuple[str, int, int]]:
        """Count the new units of every arm and day since the start."""
        start = self.experiment.start_us
        day = f"(first - {start}) / {DAY_US}"
        return [
            (str(arm), int(number), int(count))
            for arm, number, count in self._run(
                f"SELECT arm, {day}, COUNT(*) FROM abtest_units WHERE crossed = 0 GROUP BY arm, {day} ORDER BY 2, 1"
            )
        ]

    def segment_values(self, segment: str) -> list[str]:
        """List the values of a segment, the most frequent first."""
        column = self._segment_column(segment)
        rows = self._run(
            f"SELECT {column} FROM abtest_values WHERE crossed = 0 AND {column} IS NOT NULL "
            f"GROUP BY {column} ORDER BY COUNT(*) DESC, {column}"
        )
        return [str(value) for (value,) in rows]

    def sums(self, metric: Metric, segment: tuple[str, str] | None = None) -> dict[str, Aggregates]:
        """Compute means, variances and covariances of a metric and the covariates in every arm.

        A metric with a window or a day counts the units that are old enough for all of it: how old a unit is does not
        depend on its arm. A missing covariate is the mean of those present.

        Args:
            metric: of the experiment.
            segment: name and value, to sum over its units only.
        """
        index = self.experiment.metrics.index(metric)
        columns = {NUMERATOR: f"n{index}"}
        if metric.kind == "ratio":
            columns[DENOMINATOR] = f"d{index}"
        where = f"crossed = 0 AND first <= {self.as_of - horizon(metric)}"
        parameters: list[Any] = []
        if segment is not None:
            where += f" AND {self._segment_column(segment[0])} = ?"
            parameters.append(segment[1])
        return self.moments(columns | {name: name for name in self._covariates}, where, parameters)

    def moments(self, columns: Mapping[str, str], where: str, parameters: Sequence[Any] = ()) -> dict[str, Aggregates]:
        """Compute the aggregates of expressions by arm; sums of squares are taken around the mean of all units."""
        names = list(columns)
        averages = ", ".join(f"AVG({columns[name]})" for name in names)
        (centers,) = self._run(f"SELECT {averages} FROM abtest_values WHERE {where}", parameters)
        centered = [
            f"COALESCE({columns[name]} - ({float(center or 0)!r}), 0)"
            for name, center in zip(names, centers, strict=True)
        ]
        pairs = [(i, j) for i in range(len(names)) for j in range(i, len(names))]
        terms = [f"SUM({one})" for one in centered] + [f"SUM({centered[i]} * {centered[j]})" for i, j in pairs]
        rows = self._run(
            f"SELECT arm, COUNT(*), {', '.join(terms)} FROM abtest_values WHERE {where} GROUP BY arm", parameters
        )
        found = {}
        for arm, count, *values in rows:
            first, second = [float(value) for value in values[: len(names)]], values[len(names) :]
            means = {name: float(centers[i] or 0) + first[i] / count for i, name in enumerate(names)}
            covariances = {
                (names[i], names[j]): (float(total) - first[i] * first[j] / count) / max(count - 1, 1)
                for (i, j), total in zip(pairs, second, strict=True)
            }
            found[str(arm)] = moments(int(count), means, covariances)
        return found

    def covariate_sums(self) -> dict[str, Aggregates]:
        """Compute the aggregates of the covariates by arm, over all units in one arm."""
        return self.moments({name: name for name in self._covariates}, "crossed = 0") if self._covariates else {}

    def outcome_sums(self, column: str) -> dict[str, Aggregates]:
        """Compute the aggregates of a column of outcomes and of the exposures by arm."""
        return self.moments({NUMERATOR: column, DENOMINATOR: "exposures"}, "crossed = 0")

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """Run a query that may read the tables of this context."""
        return self._run(sql, parameters)

    def _segment_column(self, segment: str) -> str:
        return f"g{self.experiment.segments.index(segment)}"

    def _enter_units(self) -> None:
        experiment = self.experiment
        if self.before is not None:
            self._run(
                "INSERT INTO abtest_units SELECT unit, ?, MIN(time), 0, 0 FROM outcomes WHERE time >= ? AND time < ? "
                "GROUP BY unit",
                [experiment.control, self.as_of - self.before, self.as_of],
            )
        else:
            self._enter_exposed()
        self._enter_covariates()

    def _enter_exposed(self) -> None:
        experiment = self.experiment
        overrides = list(experiment.overrides)
        left_out = f" AND unit NOT IN ({', '.join('?' * len(overrides))})" if overrides else ""
        until = min(self.as_of, experiment.end_us)
        self._run(
            "INSERT INTO abtest_units SELECT unit, MIN(arm), MIN(time), CASE WHEN MIN(arm) = MAX(arm) THEN 0 ELSE 1 "
            "END, COUNT(*) FROM exposures WHERE experiment = ? AND shadow = 0 AND time >= ? AND time < ?"
            f"{left_out} GROUP BY unit",
            [experiment.name, experiment.start_us, until, *overrides],
        )

    def _enter_covariates(self) -> None:
        experiment = self.experiment
        if self._covariates:
            columns = ", ".join(f"{name} DOUBLE PRECISION" for name in self._covariates)
            self._run(f"CREATE TEMP TABLE abtest_covariates (unit TEXT PRIMARY KEY, {columns})")
            values = ", ".join("MAX(CASE WHEN name = ? THEN value END)" for _ in self._covariates)
            self._run(
                f"INSERT INTO abtest_covariates SELECT unit, {values} FROM covariates WHERE experiment = ? "
                "GROUP BY unit",
                [*experiment.covariates, experiment.name],
            )
        if experiment.segments:
            names = [self._segment_column(segment) for segment in experiment.segments]
            self._run(
                f"CREATE TEMP TABLE abtest_segments (unit TEXT PRIMARY KEY, {', '.join(f'{n} TEXT' for n in names)})"
            )
            picked = [self.database.json_text("e.context", key) for key in experiment.segments]
            values = ", ".join(f"MIN({expression})" for expression, _ in picked)
            self._run(
                f"INSERT INTO abtest_segments SELECT u.unit, {values} FROM abtest_units u JOIN exposures e ON "
                "e.unit = u.unit AND e.time = u.first WHERE e.experiment = ? AND e.shadow = 0 GROUP BY u.unit",
                [*(parameter for _, parameter in picked), experiment.name],
            )

    def _sum_outcomes(self) -> None:
        experiment = self.experiment
        columns, terms, parameters = [], [], []
        for index, metric in enumerate(experiment.metrics):
            for letter, event in ((NUMERATOR, metric.event), (DENOMINATOR, metric.denominator)):
                if event is not None:
                    columns.append(f"{letter}{index}")
                    terms.append(_term(metric, experiment.end_us))
                    parameters.append(event)
        extra = [*self._covariates, *(self._segment_column(segment) for segment in experiment.segments)]
        types = [f"{name} DOUBLE PRECISION" for name in [*columns, *self._covariates]]
        types += [f"{name} TEXT" for name in extra[len(self._covariates) :]]
        self._run(
            "CREATE TEMP TABLE abtest_values (unit TEXT, arm TEXT, first BIGINT, crossed INTEGER, "
            f"exposures DOUBLE PRECISION, outcomes DOUBLE PRECISION{''.join(f', {one}' for one in types)})"
        )
        joins = " LEFT JOIN abtest_covariates x ON x.unit = u.unit" if self._covariates else ""
        joins += " LEFT JOIN abtest_segments g ON g.unit = u.unit" if experiment.segments else ""
        picked = [f"MAX({name[0]}.{name})" for name in extra]
        self._run(
            "INSERT INTO abtest_values SELECT u.unit, u.arm, u.first, u.crossed, u.exposures, COUNT(o.unit)"
            f"{''.join(f', {one}' for one in [*terms, *picked])} FROM abtest_units u LEFT JOIN outcomes o ON "
            f"o.unit = u.unit AND o.time >= u.first AND o.time < {self.as_of}{joins} GROUP BY u.unit",
            parameters,
        )

    def _drop(self) -> None:
        for table in _TABLES:
            self._run(f"DROP TABLE IF EXISTS {table}")

    def _run(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        return self.database.execute(sql, parameters)


def horizon(metric: Metric) -> int:
    """Return the time after its first exposure that a unit needs to count, in microseconds.

    Day 0 of a unit is the 24 hours from its first exposure. A return on day d, and active days D1 to Dd, are known
    when day d is over.
    """
    if metric.kind == "retention":
        assert metric.day is not None
        return (metric.day + 1) * DAY_US
    if metric.kind == "active-days":
        assert metric.window_days is not None
        return (metric.window_days + 1) * DAY_US
    return (metric.window_days or 0) * DAY_US


def _term(metric: Metric, end: int) -> str:
    """Write the sum over the outcomes of a unit; its one parameter is the event."""
    day = f"(o.time - u.first) / {DAY_US}"
    if metric.kind == "retention":
        return f"COALESCE(MAX(CASE WHEN o.event = ? AND {day} = {metric.day} THEN 1 ELSE 0 END), 0)"
    if metric.kind == "active-days":
        return f"COUNT(DISTINCT CASE WHEN o.event = ? AND {day} BETWEEN 1 AND {metric.window_days} THEN {day} END)"
    limit = f"o.time < {end}" if metric.window_days is None else f"o.time < u.first + {horizon(metric)}"
    return f"COALESCE(SUM(CASE WHEN o.event = ? AND {limit} THEN COALESCE(o.value, 1) ELSE 0 END), 0)"
