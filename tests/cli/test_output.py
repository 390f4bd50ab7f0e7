"""What a verb prints arrives whole: brackets, narrow terminals, terminals of few characters."""

from __future__ import annotations

import io
import os
import sys
from dataclasses import dataclass
from typing import Annotated

import pytest
import typer
from own_process import unimixer
from typer.testing import CliRunner

from unimixer.cli.output import table, takes

TEXTS = ("pip install 'unimixer[serve]'", "[bold]x[/bold]", ":smile:", "[/]", "Größe 漢字 · ½", "a" * 300)


def printed(monkeypatch: pytest.MonkeyPatch, *, terminal: bool, columns: int = 80, encoding: str = "utf-8") -> str:
    buffer = io.BytesIO()
    stream = io.TextIOWrapper(buffer, encoding=encoding, errors="backslashreplace", newline="\n")
    monkeypatch.setattr(stream, "isatty", lambda: terminal)
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    table(f"title {TEXTS[0]}", [f"column {TEXTS[0]}", "[n]", "third"], [[text, "[1]", 12_345] for text in TEXTS])
    stream.flush()
    return buffer.getvalue().decode(encoding)


@pytest.mark.parametrize("columns", [20, 40, 80, 500])
@pytest.mark.parametrize("terminal", [False, True])
def test_a_table_prints_every_text_as_it_is(terminal: bool, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    out = printed(monkeypatch, terminal=terminal, columns=columns)
    assert f"title {TEXTS[0]}" in out
    cells = out.replace("\x1b[3m", "").replace("\x1b[0m", "").splitlines()[1:]
    first = "".join(line.split("│" if "│" in line else "┃")[1].strip() for line in cells if line[:1] in "│┃")
    together = first.replace(" ", "")
    for text in TEXTS:
        assert text.replace(" ", "") in together
    assert out.replace("\n", "").count("[1]") == len(TEXTS)
    assert "[n]" in out


def test_a_terminal_of_few_characters_gets_a_table_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    out = printed(monkeypatch, terminal=False, encoding="ascii")
    assert out.isascii()
    assert "Gr\\xf6\\xdfe \\u6f22\\u5b57 \\xb7 \\xbd" in out
    assert "pip install 'unimixer[serve]'" in out


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_help_and_errors_print_on_a_terminal_of_few_characters(encoding: str) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": f"{encoding}:strict", "NO_COLOR": "1"}
    for arguments, code in ((["train", "--help"], 0), (["train", "漢字.yaml", "--json"], 2)):
        process = unimixer(*arguments, env=environment)
        out, err = process.communicate(60)
        assert process.returncode == code, err
        assert "Traceback" not in err
    assert err == "error: \\u6f22\\u5b57.yaml: no such file\n"
    assert out == '{"error": "\\u6f22\\u5b57.yaml: no such file"}\n'


@dataclass(frozen=True)
class Options:
    """An argument with a default, an option without one."""

    size: Annotated[int, typer.Option("--size", min=1)]
    name: Annotated[str, typer.Argument()] = "nobody"


def test_a_verb_takes_its_options_as_one_object() -> None:
    taken: list[Options] = []
    app = typer.Typer()

    @app.command()
    @takes(Options)
    def verb(options: Options) -> None:
        """A verb."""
        taken.append(options)

    app(["--size", "3"], standalone_mode=False)
    app(["somebody", "--size", "4"], standalone_mode=False)
    assert taken == [Options(3), Options(4, "somebody")]
    assert verb.__doc__ == "A verb."


@dataclass(frozen=True)
class Shared:
    threads: Annotated[int, typer.Option("--threads", min=1, help="Threads of each process.")] = 1
    rate: Annotated[str | None, typer.Option("--rate")] = None


@dataclass(frozen=True)
class Own(Shared):
    models: Annotated[list[str] | None, typer.Option("--models", help="Models to train.")] = None
    rate: Annotated[str | None, typer.Option("--rate")] = "1e-3"


def run_own(*arguments: str) -> tuple[int, str]:
    app = typer.Typer()

    @app.command()
    @takes(Own)
    def show(options: Own) -> None:
        """Print the options."""
        print(options)

    done = CliRunner().invoke(app, list(arguments))
    return done.exit_code, done.output


def test_every_field_is_an_option_and_a_class_may_change_a_default_that_it_inherits() -> None:
    assert run_own() == (0, "Own(threads=1, rate='1e-3', models=None)\n")
    given = ("--models", "a", "--models", "b", "--threads", "3", "--rate", "5")
    assert run_own(*given) == (0, "Own(threads=3, rate='5', models=['a', 'b'])\n")


def test_the_help_has_the_own_options_before_the_inherited_ones_and_limits_hold() -> None:
    code, text = run_own("--help")
    assert code == 0
    assert "Print the options." in text
    assert text.index("--models") < text.index("--rate") < text.index("--threads")
    assert run_own("--threads", "0")[0] == 2
