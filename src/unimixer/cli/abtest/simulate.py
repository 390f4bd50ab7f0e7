"""``unimixer abtest simulate``."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unimixer.cli.output import Json, emit, say_what_is_not_drawn, table, takes

if TYPE_CHECKING:
    from unimixer.closed_loop.config import SimulationConfig
    from unimixer.closed_loop.result import Result

CONFIG = "simulation.yaml"


@dataclass(frozen=True)
class SimulateOptions:
    """Choose the population, the arms, and what is broken."""

    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Settings: users=5000 arms.a=popularity arms.b=truth."),
    ] = None
    config: Annotated[Path | None, typer.Option("--config", help="Settings in YAML.")] = None
    out: Annotated[Path, typer.Option("--out", help="Folder to make.")] = Path("simulation")
    database: Annotated[
        str | None, typer.Option("--database", help="Events (default: sqlite:///OUT/events.sqlite).")
    ] = None
    http: Annotated[
        bool, typer.Option("--http", help="Export the runs of all arms and serve them over HTTP by one server.")
    ] = False
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the folder of an earlier simulation.")] = False
    as_json: Json = False


@takes(SimulateOptions)
def simulate(options: SimulateOptions) -> None:
    """Simulate an experiment on users of a synthetic world, read it, and print the true effects beside it.

    An arm is a ranker: truth, truth-like, noisy:S, diverse:W, popularity, random, or a run folder. Examples: unimixer
    abtest simulate · unimixer abtest simulate users=5000 arms.old=diverse:2 arms.new=truth · unimixer abtest
    simulate broken=[bots] · unimixer abtest simulate arms.a=runs/first arms.b=runs/second --http
    """
    from unimixer.abtest.events import Events
    from unimixer.closed_loop.config import SimulationConfig
    from unimixer.closed_loop.result import read_simulation
    from unimixer.closed_loop.served import check_served, simulate_served
    from unimixer.closed_loop.simulate import simulate as simulate_here
    from unimixer.io import write_text
    from unimixer.report.abtest_simulation import draw_simulation, markdown
    from unimixer.settings import dump_yaml, load_yaml, override, parse

    document = override({} if options.config is None else load_yaml(options.config), options.settings or [])
    config = parse(SimulationConfig, document, where=str(options.config or "settings"))
    folder = options.out.resolve()
    _check_free(folder, overwrite=options.overwrite)
    say_what_is_not_drawn("unimixer abtest simulate --overwrite")
    address = options.database or f"sqlite:///{folder / 'events.sqlite'}"
    if options.database is not None:
        _check_empty(address)
    if options.http:
        check_served(config)
        _make_folder(folder, config)
        simulation = simulate_served(config, folder, address)
    else:
        simulation = simulate_here(config)
        _make_folder(folder, config)
    write_text(folder / "experiment.yaml", dump_yaml(simulation.experiment))
    events = Events(address, timeout=600.0)
    try:
        result = read_simulation(simulation, events)
    finally:
        events.close()
    write_text(folder / "result.json", json.dumps(result.as_json(), indent=1) + "\n")
    write_text(folder / "result.md", markdown(result))
    written = draw_simulation(result, folder / "simulation")
    files = [str(folder / name) for name in ("experiment.yaml", "result.json", "result.md")] + [str(f) for f in written]
    emit(result.as_json() | {"files": files, "database": events.name}, options.as_json, lambda: _show(result, files))


def _check_free(path: Path, *, overwrite: bool) -> None:
    """Raise if the folder exists; only that of an earlier simulation may be replaced."""
    from unimixer.errors import UnimixerError

    if path.exists() and not overwrite:
        raise UnimixerError(f"{path} exists; choose another --out, or pass --overwrite to replace it")
    if path.exists() and not (path / CONFIG).is_file():
        raise UnimixerError(f"{path} holds no simulation, so it is not replaced; choose another --out")


def _check_empty(address: str) -> None:
    """Raise if the database has events: those of units with the same numbers would count in both experiments."""
    from unimixer.abtest.events import Events
    from unimixer.errors import UnimixerError

    events = Events(address)
    try:
        if any(events.counts().values()):
            raise UnimixerError(
                f"{events.name} has events already, and those of a simulation would mix with them; choose a --database "
                "without events"
            )
    finally:
        events.close()


def _make_folder(path: Path, config: SimulationConfig) -> None:
    from unimixer.io import write_text
    from unimixer.settings import dump_yaml

    if path.exists():
        shutil.rmtree(path)
    write_text(path / CONFIG, dump_yaml(config))


def _show(result: Result, files: list[str]) -> None:
    from unimixer.report.abtest import headline
    from unimixer.report.abtest_simulation import arm_table, truth_table

    for title, content in (("the arms, each shown to all users", arm_table(result)), ("effects", truth_table(result))):
        table(title, content.columns, content.rows, left=max(content.text) + 1)
    if result.simulation.agreement is not None:
        print(f"lists of the server that equal those computed without it: {result.simulation.agreement:.3%}")
    print(headline(result.reading))
    for reason in result.reading.verdict.reasons:
        print(f"  {reason}")
    print(f"written: {', '.join(files)}")
