"""Simulate an experiment over HTTP: one server holds the arms, assigns users and logs exposures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unimixer.abtest.assignment import assign
from unimixer.abtest.specification import Experiment
from unimixer.bundles.write import ExportOptions, export_run
from unimixer.closed_loop.config import SimulationConfig
from unimixer.closed_loop.event_rows import EventRows, covariate_rows, outcome_rows, request_ids
from unimixer.closed_loop.rankers import Ranker
from unimixer.closed_loop.server import Client, server
from unimixer.closed_loop.sessions import Sessions, Visits
from unimixer.closed_loop.simulate import (
    Simulation,
    counted,
    is_run,
    make_environment,
    make_experiment,
    potential_outcomes,
)
from unimixer.closed_loop.truth import true_effects
from unimixer.errors import UnimixerError
from unimixer.progress import progress_bar, say
from unimixer.serving.stores.build import build_store
from unimixer.settings import dump_yaml

ROWS = 2_000
"""Outcomes, or clicks, of one request."""


class ServedRanker(Ranker):
    """Ask a server for every list, and tell it what users did.

    Args:
        client: of the server.
        experiment: that the server runs.
    """

    def __init__(self, client: Client, experiment: Experiment) -> None:
        self.client, self.experiment, self.answered = client, experiment, 0

    def scores(self, sessions: Sessions) -> Tensor:
        """Return the places in the ranking of the server, the best first, as scores."""
        length = sessions.candidates.shape[1]
        order = self.rank(sessions, length)
        return torch.zeros(order.shape).scatter(1, order, length - torch.arange(length).float().expand(order.shape))

    def rank(self, sessions: Sessions, shown: int) -> Tensor:
        """Return the positions of the first items of the answers, after a check of their arms."""
        ids = request_ids(sessions, self.experiment)
        names = [*sessions.context, "time"]
        columns = [column.tolist() for column in (*sessions.context.values(), sessions.time)]
        contexts = [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
        for context in contexts:
            context.pop("hour")  # the transform reads it from the time
        users, items = sessions.user.tolist(), sessions.candidates.tolist()
        bodies = [
            {"user": user, "context": context, "items": candidates}
            for user, context, candidates in zip(users, contexts, items, strict=True)
        ]
        answers = list(self.client.post_all("/v1/rank", list(zip(bodies, ids, strict=True))))
        for user, answer in zip(users, answers, strict=True):
            expected, chosen = assign(self.experiment, user).arm, answer.get("experiment", {}).get("arm")
            if chosen != expected:
                raise UnimixerError(f"user {user}: the server chose arm {chosen!r}, and the specification {expected!r}")
        self.answered += len(answers)
        return torch.tensor([answer["ranking"][:shown] for answer in answers])

    def observe(self, visits: Visits) -> None:
        """Send the outcomes, and the clicks for the histories."""
        rows = outcome_rows(visits, self.experiment).drop("received").to_dicts()
        events = [{name: value for name, value in row.items() if value is not None} for row in rows]
        self._send("/v1/outcomes", events)
        self.send_clicks(visits)

    def send_clicks(self, visits: Visits) -> None:
        """Send the clicks for the histories."""
        row, position = (part.numpy() for part in visits.clicks.nonzero(as_tuple=True))
        columns = (visits.user.numpy()[row], visits.items.numpy()[row, position], visits.time.numpy()[row])
        clicks = zip(*(column.tolist() for column in columns), strict=True)
        self._send("/admin/events", [{"user_id": u, "item_id": i, "time": t, "click": 1} for u, i, t in clicks])

    def _send(self, path: str, events: Sequence[dict[str, Any]]) -> None:
        for first in range(0, len(events), ROWS):
            self.client.post(path, {"events": events[first : first + ROWS]})


def check_served(config: SimulationConfig) -> None:
    """Raise unless a server can run the simulation."""
    for arm, text in config.arms.items():
        if not is_run(text):
            raise UnimixerError(f"arms.{arm}={text!r}: a server needs a bundle, so every arm must name a run folder")
    if config.broken:
        raise UnimixerError("broken: a server logs its events itself; faults are for simulations without --http")


def simulate_served(config: SimulationConfig, folder: Path, database: str) -> Simulation:
    """Export the runs of all arms, serve them with one server, and run the experiment over HTTP.

    The days before the experiment and the truth are computed without the server, by the same runs.

    Args:
        config: every arm names a run.
        folder: for the bundles, the feature store, the specification and the lines of the server.
        database: address of the events.

    Raises:
        UnimixerError: an arm names no run, or the server refuses a request.
    """
    check_served(config)
    environment = make_environment(config)
    exported = {run: folder / f"bundle-{arm}" for arm, run in reversed(config.arms.items())}
    form = ExportOptions(largest=max(2, config.candidates))
    versions = {run: export_run(run, bundle, form).version for run, bundle in exported.items()}
    bundles = {arm: exported[run] for arm, run in config.arms.items()}
    say(f"bundles: {', '.join(f'{arm} {versions[run]}' for arm, run in config.arms.items())}")
    experiment = make_experiment(config, environment, {arm: str(path.resolve()) for arm, path in bundles.items()})
    specification, store = folder / "experiment.yaml", folder / "features.sqlite"
    specification.write_text(dump_yaml(experiment), encoding="utf-8")
    build_store(Path(config.arms[experiment.control]), str(store))
    outcomes = potential_outcomes(environment, config.arms)
    arguments = [str(bundles[experiment.control]), "--store", str(store), "--experiment", str(specification)]
    arguments += ["--database", database, "--positions", str(config.shown)]
    with server(arguments, folder / "server.log") as client:
        ranker = ServedRanker(client, experiment)
        if outcomes.before is not None:
            ranker.send_clicks(outcomes.before)
        with progress_bar("serving", config.days, unit="days") as advance:
            days = counted(range(config.days), advance)
            happened = environment.run(ranker, days, outcomes.population.copy())
    expected, _ = outcomes.reveal([assign(experiment, user) for user in range(config.users)], experiment.control)
    users = sorted(set(happened.user.tolist()))
    return Simulation(
        experiment=experiment,
        rows=EventRows.only(covariate_rows(outcomes.before, experiment, users)),
        effects=tuple(true_effects(outcomes.visits, experiment, experiment.end_us)),
        arms=outcomes.arms,
        as_of=experiment.end_us,
        agreement=agreement(happened, expected),
    )


def agreement(happened: Visits, expected: Visits) -> float:
    """Return the share of the expected sessions that happened with the same list."""
    lists = [
        {key: tuple(items) for key, items in zip(_keys(visits), visits.items.tolist(), strict=True)}
        for visits in (happened, expected)
    ]
    return float(np.mean([lists[0].get(key) == items for key, items in lists[1].items()]))


def _keys(visits: Visits) -> list[tuple[int, int, int]]:
    return list(zip(visits.day.tolist(), visits.user.tolist(), visits.number.tolist(), strict=True))
