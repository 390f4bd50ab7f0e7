"""The command line: one file a verb, which parses and calls."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from importlib.metadata import version
from types import FrameType
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from unimixer.errors import INTERRUPTED, TEMPORARY_FAILURE, StoppedError, UnimixerError, explain

VERBS = {
    "demo": "Make a synthetic world, train UniMixing-Lite, RankMixer and an MLP on it, and draw the results.",
    "data": "Datasets: download a public log, infer a schema, prepare a log, extend and describe a dataset.",
    "config": "Recipes: list the packaged ones, print one with every key and where its value is from.",
    "models": "Print the backbones with the patterns that they mix by, or the options of one.",
    "train": "Train a recipe on a prepared dataset, or continue an interrupted run.",
    "evaluate": "Measure the best weights of a run on a split of its dataset, or on a file of labelled raw rows.",
    "predict": "Score raw rows of users and items seen or unseen, in their order, streamed.",
    "runs": "Print finished runs: mean and spread over seeds of every recipe.",
    "inspect": "Inspect a run: how far its learned matrices moved, which fields interact, effective ranks, attention.",
    "importance": "Measure which features matter to a run or a bundle: the loss of AUC when a feature comes from other "
    "rows.",
    "embeddings": "Write the vectors of an embedding table with their ids, or print the nearest neighbours of an id.",
    "convert": "Write the recipe of another model that starts with the scores of a finished run, and say how far they "
    "move.",
    "consolidate": "Consolidate the weights of an interrupted run on several processes, for evaluate and predict.",
    "compare": "Train models at equal budgets with several seeds and report significant differences; or continue "
    "a study.",
    "ablate": "Train a model and its ablations at equal budgets, and report the effect of each change.",
    "tune": "Search for better settings of a recipe on validation; or continue a search.",
    "scale": "Scaling laws: count costs, sweep over sizes, fit exponents, choose a size, report.",
    "replay-days": "Predict every appended day by the models of the day before, then train on it.",
    "export": "Write a run as a bundle for serving: graph, weights, schema, vocabularies, checksums, held-out "
    "requests.",
    "bundle": "Bring a bundle up to date by a delta.",
    "store": "Build and print the feature store of a server.",
    "serve": "Serve a bundle over HTTP: POST /v1/rank, the open inference protocol under /v2, GET /docs.",
    "replay": "Compute the answers of a prediction log again and list the differences by row and feature; exit code 1 "
    "if any.",
    "abtest": "Online experiments: plan, assign, load events, read results, simulate.",
    "doctor": "Show the versions, the hardware and the installed extras of this machine.",
}
"""The first sentence of every verb's help, in the order of a first project.

The file of a verb, with all its imports, is loaded when it is called.
"""


class LazyGroup(TyperGroup):
    """A group that lists its verbs by their first sentences and loads the file of the one that is called."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Replace the listed verb by the one in its file."""
        name, _, rest = super().resolve_command(ctx, args)
        assert name is not None
        return name, load_verb(name), rest


def load_verb(name: str) -> Any:
    """Load a verb from its file: an ``app`` of several verbs, or the function of the same name."""
    module = import_module(f"unimixer.cli.{name.replace('-', '_')}")
    if hasattr(module, "app"):
        return typer.main.get_group(module.app)
    alone = typer.Typer(add_completion=False, rich_markup_mode="rich")
    alone.command(name)(getattr(module, name.replace("-", "_")))
    return typer.main.get_command(alone)


app = typer.Typer(
    name="unimixer",
    cls=LazyGroup,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)


def _print_version(asked: bool) -> None:
    if asked:
        print(f"unimixer {version('unimixer')}")
        raise typer.Exit


@app.callback(help="Ranking models that scale: from raw impression logs to a trained, evaluated, predicting ranker.")
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options of the program itself."""


for _verb, _summary in VERBS.items():
    app.command(_verb, help=_summary)(lambda: None)

_UsageError: type[Exception] = typer.BadParameter.__mro__[1]
"""The error of typer for arguments that do not fit; typer exports this class under no name."""


class _Terminated(BaseException):
    """SIGTERM: end a command as Ctrl-C does, so that half-written files are removed."""


def main(arguments: Sequence[str] | None = None, *, program: typer.Typer = app, name: str = "unimixer") -> None:
    """Run a command; a mistake of the user is one sentence on standard error and exit code 2.

    Args:
        arguments: of the command (default: those of the process).
        program: the commands.
        name: of the program in its help.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a character that the terminal lacks is shown by its code
            stream.reconfigure(errors="backslashreplace")
    with _sigterm():
        code = _run(lambda: program(words, prog_name=name, standalone_mode=False), words)
    raise SystemExit(code)


def script(call: Callable[[], Any]) -> None:
    """Run the function of a script as a command is run: an error is one sentence, and the exit code says its kind."""
    with _sigterm():
        code = _run(call, sys.argv[1:])
    raise SystemExit(code)


def _run(call: Callable[[], Any], words: Sequence[str]) -> int:
    try:
        code = call()
        sys.stdout.flush()
        return _fail("interrupted", words, INTERRUPTED) if code == INTERRUPTED else code if isinstance(code, int) else 0
    except BrokenPipeError:
        with suppress(OSError, ValueError):  # the rest of the buffer has no reader either
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        return _fail("interrupted", words, INTERRUPTED)
    except _Terminated:
        return _fail("stopped by SIGTERM; run it again to begin anew", words, TEMPORARY_FAILURE)
    except StoppedError as error:
        return _fail(str(error), words, error.exit_code)
    except UnimixerError as error:
        return _fail(str(error), words)
    except _UsageError as error:
        return _usage(error, words)
    except BaseException as error:
        sentence = explain(error)
        if sentence is None:
            raise
        return _fail(sentence, words)


@contextmanager
def _sigterm() -> Iterator[None]:
    """Let SIGTERM raise, unless the caller has a handler of its own."""
    before = signal.getsignal(signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread() or before is not signal.SIG_DFL:
        yield
        return

    def end(_number: int, _frame: FrameType | None) -> None:
        raise _Terminated

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _usage(error: Exception, arguments: Sequence[str]) -> int:
    context, message = getattr(error, "ctx", None), getattr(error, "format_message", error.__str__)()
    if type(error).__name__ == "NoArgsIsHelpError":  # the help is printed already
        return 2
    command = "unimixer" if context is None else context.command_path
    message = re.sub(r"://\S*@", "://", message)  # it repeats arguments, and an address may have a password
    return _fail(f"{' '.join(message.split()).rstrip('.')} (see: {command} --help)", arguments)


def _fail(message: str, arguments: Sequence[str], code: int = 2) -> int:
    with suppress(OSError):  # without a reader the exit code tells
        print(f"error: {' '.join(message.split())}", file=sys.stderr)
    if "--json" in arguments:
        print(json.dumps({"error": message}))
    return code
