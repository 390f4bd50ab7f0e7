"""Options as one object: what a dataclass says is what the command line takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer
from typer.testing import CliRunner

from unimixer.cli.output import takes


@dataclass(frozen=True)
class Shared:
    threads: Annotated[int, typer.Option("--threads", min=1, help="Threads of each process.")] = 1
    rate: Annotated[str | None, typer.Option("--rate")] = None


@dataclass(frozen=True)
class Own(Shared):
    models: Annotated[list[str] | None, typer.Option("--models", help="Models to train.")] = None
    rate: Annotated[str | None, typer.Option("--rate")] = "1e-3"


def run(*arguments: str) -> tuple[int, str]:
    app = typer.Typer()

    @app.command()
    @takes(Own)
    def show(options: Own) -> None:
        """Print the options."""
        print(options)

    done = CliRunner().invoke(app, list(arguments))
    return done.exit_code, done.output


def test_every_field_is_an_option_and_a_class_may_change_a_default_that_it_inherits() -> None:
    assert run() == (0, "Own(threads=1, rate='1e-3', models=None)\n")
    given = ("--models", "a", "--models", "b", "--threads", "3", "--rate", "5")
    assert run(*given) == (0, "Own(threads=3, rate='5', models=['a', 'b'])\n")


def test_the_help_has_the_own_options_before_the_inherited_ones_and_limits_hold() -> None:
    code, text = run("--help")
    assert code == 0
    assert "Print the options." in text
    assert text.index("--models") < text.index("--rate") < text.index("--threads")
    assert run("--threads", "0")[0] == 2
