"""The command line: one file a verb, which parses and calls."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Sequence

import typer

from unimixer.cli import (
    ablate,
    bench,
    compare,
    config,
    consolidate,
    convert,
    data,
    demo,
    doctor,
    evaluate,
    export,
    inspect,
    models,
    parity,
    predict,
    runs,
    scale,
    serve,
    store,
    train,
)
from unimixer.errors import UnimixerError

app = typer.Typer(
    name="unimixer",
    help="Ranking models that scale: from raw impression logs to a trained, evaluated, predicting ranker.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
app.add_typer(data.app, name="data")
app.add_typer(config.app, name="config")
app.add_typer(scale.app, name="scale")
app.add_typer(store.app, name="store")
app.command("demo", help=demo.HELP)(demo.demo)
app.command("models", help=models.HELP)(models.models)
app.command("train", help=train.HELP)(train.train)
app.command("evaluate", help=evaluate.HELP)(evaluate.evaluate)
app.command("convert", help=convert.HELP)(convert.convert)
app.command("consolidate", help=consolidate.HELP)(consolidate.consolidate)
app.command("export", help=export.HELP)(export.export)
app.command("inspect", help=inspect.HELP)(inspect.inspect)
app.command("predict", help=predict.HELP)(predict.predict)
app.command("serve", help=serve.HELP)(serve.serve)
app.command("parity", help=parity.HELP)(parity.parity)
app.command("runs", help=runs.HELP)(runs.runs)
app.command("compare", help=compare.HELP)(compare.compare)
app.command("ablate", help=ablate.HELP)(ablate.ablate)
app.command("bench", help=bench.HELP)(bench.bench)
app.command("doctor", help=doctor.HELP)(doctor.doctor)

INTERRUPTED = 130

_UsageError: type[Exception] = typer.BadParameter.__mro__[1]
"""What typer raises for arguments that do not fit; it has this class under no name of its own."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; a user's mistake is one sentence on standard error and exit code 2."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    try:
        code = app(given, prog_name="unimixer", standalone_mode=False)
        if code == INTERRUPTED:
            print("error: interrupted", file=sys.stderr)
    except BrokenPipeError:
        code = 141
    except (UnimixerError, OSError) as error:
        code = _fail(str(error), given)
    except _UsageError as error:
        code = _usage(error, given)
    raise SystemExit(code if isinstance(code, int) else 0)


def _usage(error: Exception, arguments: Sequence[str]) -> int:
    context, message = getattr(error, "ctx", None), getattr(error, "format_message", error.__str__)()
    if type(error).__name__ == "NoArgsIsHelpError":  # the help is printed already
        return 2
    place = "unimixer" if context is None else context.command_path
    return _fail(f"{' '.join(message.split()).rstrip('.')} (see: {place} --help)", arguments)


def _fail(message: str, arguments: Sequence[str]) -> int:
    with contextlib.suppress(OSError):  # where nobody reads it, the exit code tells
        print(f"error: {' '.join(message.split())}", file=sys.stderr)
    if "--json" in arguments:
        print(json.dumps({"error": message}))
    return 2
