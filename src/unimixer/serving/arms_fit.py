"""Check that the bundles of all arms answer the same calls, so that no arm refuses what another one takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from unimixer.abtest.specification import Experiment
from unimixer.data.schema import Schema
from unimixer.errors import UnimixerError
from unimixer.serving.arms import Arms
from unimixer.serving.encoding.parse_request import CallReader

_UNIT = Experiment.model_fields["unit"].default


@dataclass(frozen=True)
class Opened:
    """What the check needs of an open bundle."""

    folder: Path
    schema: Schema
    tasks: tuple[str, ...]
    reader: CallReader


def check_fit(server: Opened, bundles: Mapping[str, Opened], arms: Arms) -> None:
    """Check the arms, and let the readers of their bundles take and require the same columns.

    Args:
        server: bundle of the server, which requests outside of experiments get.
        bundles: of arms, by their place.
        arms: of the experiments.

    Raises:
        UnimixerError: an experiment does not fit the bundles.
    """
    if not arms.experiments:
        return
    user_key = server.schema.keys.user
    for experiment in arms.experiments:
        _check_experiment(experiment, server, bundles, user_key)
    for place, bundle in bundles.items():
        _check_bundle(place, bundle, server)
    readers = {id(one.reader): one.reader for one in (server, *bundles.values())}.values()
    known = [reader.columns for reader in readers]
    columns = {field: frozenset().union(*(one[field] for one in known)) for field in ("user", "items", "context")}
    columns["context"] |= arms.columns - {user_key}
    required = frozenset().union(*(reader.required for reader in readers))
    for reader in readers:
        reader.share(columns, required)


def _check_experiment(
    experiment: Experiment, server: Opened, bundles: Mapping[str, Opened], user_key: str | None
) -> None:
    where = f"experiment {experiment.name!r}"
    if experiment.unit == _UNIT and user_key != _UNIT:
        key = "no key of users" if user_key is None else f"the key {user_key!r} of users"
        raise UnimixerError(f"{where}: unit={_UNIT!r}, but the bundle has {key}; set unit to that, or to a column")
    control = experiment.arms[experiment.control].bundle
    if control is not None and bundles[control].folder != server.folder:
        raise UnimixerError(
            f"{where}: the control has the bundle {control}, but the server has {server.folder}, which requests "
            "outside of the experiment get; serve the bundle of the control"
        )


def _check_bundle(place: str, bundle: Opened, server: Opened) -> None:
    if bundle.tasks != server.tasks:
        raise UnimixerError(
            f"{place}: the bundle scores {', '.join(bundle.tasks)}, that of the server {', '.join(server.tasks)}; "
            "arms answer with the same tasks"
        )
    if bundle.schema.keys != server.schema.keys:
        raise UnimixerError(f"{place}: the bundle has other key columns than that of the server; arms have the same")
    events = {history.event for history in server.schema.histories}
    for history in bundle.schema.histories:
        if history.event not in events:
            raise UnimixerError(
                f"{place}: its history {history.name!r} needs events that the bundle of the server does not take, so "
                "new events would not reach it; use histories of the same events"
            )
