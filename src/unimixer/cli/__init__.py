"""The command line: one file a verb, which parses and calls."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

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
from unimixer.errors import INTERRUPTED, TEMPORARY_FAILURE, StoppedError, UnimixerError
from unimixer.refusals import explain

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

_UsageError: type[Exception] = typer.BadParameter.__mro__[1]
"""What typer raises for arguments that do not fit; it has this class under no name of its own."""


class _Terminated(BaseException):
    """SIGTERM: ends a command as Ctrl-C does, so that what is half-written is removed."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; a mistake of the user's is one sentence on standard error and exit code 2."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what a terminal cannot show is shown by its code
            stream.reconfigure(errors="backslashreplace")
    with _sigterm():
        code = _run(given)
    raise SystemExit(code)


def _run(given: Sequence[str]) -> int:
    try:
        code = app(given, prog_name="unimixer", standalone_mode=False)
        sys.stdout.flush()
        return _fail("interrupted", given, INTERRUPTED) if code == INTERRUPTED else code if isinstance(code, int) else 0
    except BrokenPipeError:
        with suppress(OSError, ValueError):  # what is still in the buffer has no reader either
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        return _fail("interrupted", given, INTERRUPTED)
    except _Terminated:
        return _fail("stopped by SIGTERM; run it again to begin anew", given, TEMPORARY_FAILURE)
    except StoppedError as error:
        return _fail(str(error), given, error.exit_code)
    except UnimixerError as error:
        return _fail(str(error), given)
    except _UsageError as error:
        return _usage(error, given)
    except BaseException as error:
        sentence = explain(error)
        if sentence is None:
            raise
        return _fail(sentence, given)


@contextmanager
def _sigterm() -> Iterator[None]:
    """Let SIGTERM raise, unless whoever called has a handler of its own."""
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
    place = "unimixer" if context is None else context.command_path
    message = re.sub(r"://\S*@", "://", message)  # it repeats arguments, and an address may have a password
    return _fail(f"{' '.join(message.split()).rstrip('.')} (see: {place} --help)", arguments)


def _fail(message: str, arguments: Sequence[str], code: int = 2) -> int:
    with suppress(OSError):  # where nobody reads it, the exit code tells
        print(f"error: {' '.join(message.split())}", file=sys.stderr)
    if "--json" in arguments:
        print(json.dumps({"error": message}))
    return code
