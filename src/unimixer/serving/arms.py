"""Choose the arm of a request: the experiments in service, and those that were stopped."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from typing import Any

from unimixer.abtest.assignment import assign
from unimixer.abtest.canonical import canonical_text, is_id
from unimixer.abtest.events import Events
from unimixer.abtest.records import Exposure
from unimixer.abtest.specification import Experiment, load_experiment
from unimixer.abtest.stops import is_stopped, stop_file
from unimixer.errors import UnimixerError, unknown
from unimixer.io import write_text
from unimixer.serving.errors import HTTPError


@dataclass(frozen=True)
class Choice:
    """The arm of a request, and the rows of the event table that follow from it."""

    experiment: Experiment
    arm: str
    unit: str
    time: int
    propensity: float
    exposed: bool

    @property
    def bundle(self) -> str | None:
        """Bundle of the arm; None for that of the server."""
        return self.experiment.arms[self.arm].bundle

    def exposure(
        self, request_id: str, version: str, items: Sequence[str | None], context: Mapping[str, Any]
    ) -> Exposure:
        """Return the row of an answer.

        Args:
            request_id: of the answer.
            version: of the bundle.
            items: in the order shown.
            context: of the request.
        """
        names = {*self.experiment.targeting, *self.experiment.segments}
        kept = {  # 2, 2.0 and "2" are one segment, as they are one value of targeting; a boolean stays one
            name: value if isinstance(value, list | bool) else canonical_text(value)
            for name, value in context.items()
            if name in names
        }
        return Exposure(
            experiment=self.experiment.name,
            version=self.experiment.version,
            unit=self.unit,
            arm=self.arm,
            time=self.time,
            request_id=request_id,
            bundle=version,
            propensity=self.propensity,
            positions=json.dumps(items),
            context=json.dumps(kept) if kept else "{}",
        )

    def in_shadow(self, row: Exposure, arm: str) -> Exposure:
        """Return the row of a shadow arm for the same request, whose id it extends."""
        return row._replace(request_id=f"{row.request_id}/{arm}", arm=arm, shadow=1, propensity=None)


class Experiments:
    """The files of the experiments of a server.

    Args:
        files: specifications.
        events: database that knows the registered specifications.
    """

    def __init__(self, files: Sequence[Path] = (), events: Events | None = None) -> None:
        self.files, self.events = files, events
        self._file_of: dict[str, Path] = {}
        self.stopped: set[str] = set()
        """Names of experiments that give everyone the bundle of the server; a name is never taken out."""

    def read(self) -> tuple[Experiment, ...]:
        """Read the specifications; :meth:`register` keeps them.

        Raises:
            UnimixerError: a mistake, experiments that would share units, or the file of a stop names another
                experiment.
        """
        experiments = tuple(load_experiment(path) for path in self.files)
        for one, other in combinations(experiments, 2):
            _check_apart(one, other)
        for experiment, path in zip(experiments, self.files, strict=True):
            if is_stopped(experiment, path):
                self.stopped.add(experiment.name)
        return experiments

    def register(self, experiments: Sequence[Experiment]) -> None:
        """Register what :meth:`read` returned, all or none; call it when nothing else can fail.

        Raises:
            UnimixerError: a change would spoil a running experiment.
        """
        if self.events is not None:
            self.events.register(*experiments)
        self._file_of = {one.name: path for one, path in zip(experiments, self.files, strict=True)}

    def stop(self, name: str) -> None:
        """Stop an experiment now and at every later start.

        Raises:
            UnimixerError: there is no such experiment.
            HTTPError: it is stopped, but the next start would not know (503).
        """
        if name not in self._file_of:
            raise unknown("experiment", name, self._file_of)
        self.stopped.add(name)
        path = stop_file(self._file_of[name])
        try:
            if not path.exists():
                moment = datetime.now(UTC).isoformat(timespec="seconds")
                write_text(path, json.dumps({"experiment": name, "stopped": moment}) + "\n")
        except UnimixerError as error:
            raise HTTPError(
                503, f"experiment {name!r} is stopped, but the next start of the server would start it again: {error}"
            ) from None


class Arms:
    """The arms of one reading of the specifications.

    Args:
        experiments: that share no unit.
        stopped: names of stopped ones; it may grow.
        count: told the experiment, the arm (empty without one) and the reason of every decision.
    """

    def __init__(
        self,
        experiments: Sequence[Experiment],
        stopped: set[str],
        count: Callable[[str, str, str], object] = lambda experiment, arm, reason: None,
    ) -> None:
        self.experiments, self._stopped, self._count = tuple(experiments), stopped, count

    @property
    def bundles(self) -> list[str]:
        """Bundles of the arms, every one once."""
        arms = [arm for experiment in self.experiments for arm in experiment.arms.values()]
        return list(dict.fromkeys(arm.bundle for arm in arms if arm.bundle is not None))

    @property
    def columns(self) -> frozenset[str]:
        """Columns of the context that experiments read."""
        return frozenset(
            column
            for experiment in self.experiments
            for column in (*experiment.targeting, *experiment.segments, experiment.unit)
        )

    def choose(self, body: Mapping[str, Any], user_key: str | None, time: int) -> Choice | None:
        """Return the arm of a request, None where it takes part in no experiment.

        Args:
            body: of the request, not checked yet.
            user_key: name of the column that ``user`` has the key of.
            time: of the request, in microseconds.
        """
        context = body.get("context")
        known = context if isinstance(context, dict) else {}
        units = [_unit(experiment, body.get("user"), known, user_key) for experiment in self.experiments]
        both = zip(self.experiments, units, strict=True)
        for experiment, unit in sorted(both, key=lambda one: canonical_text(one[1]) not in one[0].overrides):
            if experiment.name in self._stopped:
                self._count(experiment.name, "", "stopped")
                continue
            found = assign(experiment, unit, known, time=time)
            self._count(experiment.name, found.arm or "", found.reason)
            if found.arm is not None:
                text = canonical_text(unit) or ""
                return Choice(experiment, found.arm, text, time, found.propensity, found.exposed)
        return None


def _unit(experiment: Experiment, user: Any, context: Mapping[str, Any], user_key: str | None) -> str | float | None:
    if experiment.unit != user_key:
        unit = context.get(experiment.unit)
    else:
        unit = user.get(user_key) if isinstance(user, dict) else user
    return unit if is_id(unit) else None


def _check_apart(one: Experiment, other: Experiment) -> None:
    """Raise if two experiments have one name, or may share a unit."""
    if one.name == other.name:
        raise UnimixerError(f"two specifications have the name {one.name!r}; give every experiment its own")
    if one.unit == other.unit and one.layer is not None and other.layer is not None:
        (first, end), (second, stop) = one.layer.buckets, other.layer.buckets
        if one.layer.name == other.layer.name and (end <= second or stop <= first):
            return
    raise UnimixerError(
        f"experiments {one.name!r} and {other.name!r} may share units; give them one unit, one layer and ranges of "
        "buckets that do not overlap"
    )
