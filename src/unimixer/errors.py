"""Say every mistake, and every failure of the system, in one sentence: what, where, the rule, the way out."""

from __future__ import annotations

import difflib
import errno
import importlib.util
import platform
import re
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

INTERRUPTED, TEMPORARY_FAILURE = 130, 75
"""Exit codes of a stopped command: that of shells for Ctrl-C; EX_TEMPFAIL, "try again", for SIGTERM."""
_LISTED = 24
"""Names that a message lists at most."""


class UnimixerError(ValueError):
    """A mistake of the caller or in the input: the command line prints its message alone and exits with 2."""


class StoppedError(UnimixerError):
    """A signal stopped the work, which can be continued; the input is right.

    Args:
        message: where the work stopped, and the command that continues it.
        interrupted: whether the signal was Ctrl-C.
    """

    def __init__(self, message: str, *, interrupted: bool) -> None:
        super().__init__(message)
        self.exit_code = INTERRUPTED if interrupted else TEMPORARY_FAILURE


EXTRAS = {
    "report": ("matplotlib", "plotly", "jinja2"),
    "track": ("tensorboard",),
    "serve": (
        *("onnx", "onnxscript", "onnxruntime", "fastapi", "fastapi_offline", "uvicorn", "httptools"),
        *(() if platform.system() == "Windows" else ("uvloop",)),
        *("orjson", "prometheus_client", "redis", "psycopg"),
    ),
    "sweep": ("ray",),
    "tune": ("optuna",),
    "abtest": ("tea_tasting",),
}
"""Packages that each extra brings, as they are imported."""


def missing_packages(extra: str) -> list[str]:
    """List the packages of an extra that are not installed, without importing any."""
    return [package for package in EXTRAS[extra] if importlib.util.find_spec(package) is None]


class MissingExtraError(UnimixerError, ImportError):
    """An optional package is not installed; the message names the extra that brings it.

    Args:
        task: the work that needs the package.
        extra: that brings it.
        then: a command that has to follow the installation.
    """

    def __init__(self, task: str, extra: str, then: str | None = None) -> None:
        after = f", then {then}" if then else ""
        super().__init__(f"{task} needs optional packages: pip install 'unimixer[{extra}]'{after}")


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the nearest known name, or the known names where none is near."""
    names = sorted(set(known))
    close = _most_alike(name, names)
    if close is not None:
        return f"; did you mean {close!r}?"
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"; known: {', '.join(names[:_LISTED])}{more}" if names else ""


def unknown(what: str, name: str, known: Iterable[str]) -> UnimixerError:
    """Make the error for a name that is not in a set of known names."""
    return UnimixerError(f"unknown {what} {name!r}{nearest(name, known)}")


def first_line(error: Exception) -> str:
    """Return the first line of another library's error message, cut after 200 characters."""
    lines = (line.strip() for line in str(error).splitlines())
    return next(filter(None, lines), type(error).__name__)[:200]


def check_positive(**values: float) -> None:
    """Raise unless every named value is greater than zero."""
    for name, value in values.items():
        if not value > 0:
            raise UnimixerError(f"{name}={value} must be greater than 0")


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Raise unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise UnimixerError(f"{name}={value!r} is not one of {', '.join(choices)}{did_you_mean(value, choices)}")


def did_you_mean(value: str, choices: Sequence[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the nearest choice, or nothing where none is near."""
    close = _most_alike(str(value), choices)
    return "" if close is None else f"; did you mean {close!r}?"


def _most_alike(name: str, names: Sequence[str]) -> str | None:
    """Return the name that is most like another one; one that is farther away has to begin with the same letter."""
    alike = [other for other in names if other[:1] == name[:1]]
    for cutoff, candidates in ((0.6, names), (0.5, alike)):
        close = difflib.get_close_matches(name, candidates, n=1, cutoff=cutoff)
        if close:
            return close[0]
    return None


def check_divisible(name: str, value: int, *, by: str, divisor: int) -> None:
    """Raise unless ``divisor`` divides ``value``; the message gives the nearest valid values."""
    check_positive(**{name: value, by: divisor})
    if value % divisor:
        below, above = value // divisor * divisor, (value // divisor + 1) * divisor
        way_out = f"{below} or {above}" if below else f"{above}"
        raise UnimixerError(
            f"{name}={value} must be divisible by {by}={divisor}; the nearest valid {name} is {way_out}"
        )


def check_shape(name: str, value: object, shape: tuple[int | None, ...]) -> None:
    """Raise unless ``value.shape`` matches ``shape``, in which ``None`` stands for any size."""
    actual = tuple(getattr(value, "shape", ()))
    if len(actual) != len(shape) or any(w is not None and w != a for w, a in zip(shape, actual, strict=True)):
        expected = "(" + ", ".join("any" if s is None else str(s) for s in shape) + ")"
        raise UnimixerError(f"{name} has shape {actual}, expected {expected}")


_LIBRARIES = ("polars", "pyarrow", "pyo3_runtime", "safetensors")
"""Packages whose errors carry the number of an operating system's error in their text."""
_ASKED = (
    r"tried to allocate (\d+) bytes|Unable to allocate ([\d.]+ \wiB)|Tried to allocate ([\d.]+ \wiB)"
    r"|malloc of size (\d+)"
)
"""Amounts of memory in the messages of torch on a CPU, numpy, torch on a GPU and pyarrow."""


@dataclass(frozen=True)
class IOFailure:
    """Name the reason why a file cannot be written or read, and the way out."""

    reason: str
    way_out: str = "free space or choose another folder"


_FULL = IOFailure("the disk is full")
_OVER = IOFailure("the disk is full, or the file grew over the allowed size")
_FILE = IOFailure("a part of the path is a file", "choose another folder")
_OPEN = IOFailure("too many files are open", "raise the limit (ulimit -n 65536)")
_NUMBERS = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: IOFailure("the disk quota is used up"),
    errno.EFBIG: IOFailure(
        "the file grew over the allowed size", "raise the limit (ulimit -f) or choose another folder"
    ),
    errno.EACCES: IOFailure("permission denied", "ask for the right to it, or choose another place"),
    errno.EPERM: IOFailure("permission denied", "ask for the right to it, or choose another place"),
    errno.EROFS: IOFailure("the file system is read-only", "choose another folder"),
    errno.ENOTDIR: _FILE,
    errno.EEXIST: _FILE,
    errno.ENAMETOOLONG: IOFailure("the name is too long for a file", "choose a shorter name"),
    errno.EMFILE: _OPEN,
    errno.ENFILE: _OPEN,
    errno.EIO: IOFailure("the disk cannot be read or written (input/output error)", "check the disk"),
    errno.ESTALE: IOFailure("the network file system lost the file", "try again"),
}
_SQLITE = {
    sqlite3.SQLITE_FULL: _FULL,
    sqlite3.SQLITE_IOERR: _OVER,
    sqlite3.SQLITE_READONLY: _NUMBERS[errno.EACCES],
    sqlite3.SQLITE_CANTOPEN: IOFailure("the file cannot be opened", "check its folder and the right to it"),
}


def io_failure(error: BaseException) -> IOFailure | None:
    """Return the reason why a file cannot be read or written; None for an error of any other kind.

    Libraries wrap a full disk in errors of their own. They are recognized by their numbers and texts, so that no
    library is imported for it.
    """
    if isinstance(error, sqlite3.Error):
        return _SQLITE.get(getattr(error, "sqlite_errorcode", 0) & 0xFF)
    if isinstance(error, OSError) and error.errno is not None:
        return _NUMBERS.get(error.errno)
    text = str(error)
    if isinstance(error, OSError) or type(error).__module__.partition(".")[0] in _LIBRARIES:
        number = re.search(r"(?:os error|errno) (\d+)", text, re.IGNORECASE)
        if number is not None:
            return _NUMBERS.get(int(number[1]))
    # numpy and torch tell of a short write without its number
    if isinstance(error, OSError) and re.search(r"\d+ requested and \d+ written", text):
        return _OVER
    if isinstance(error, RuntimeError) and ("inline_container" in text or "PytorchStreamWriter" in text):
        return _OVER
    return None


def out_of_memory(error: BaseException) -> str | None:
    """Return the sentence for a lack of memory, with the amount asked for; None for any other error."""
    text = str(error)
    asked = re.search(_ASKED, text)
    overflow = re.search(r"Storage size calculation overflowed with sizes=(\[[\d, ]*\])", text)
    if not isinstance(error, MemoryError) and not (isinstance(error, RuntimeError) and (asked or overflow)):
        return None
    much = ""
    if overflow is not None:
        much = f": a tensor of shape {overflow[1]} is larger than any memory"
    elif asked is not None:
        size = next(group for group in asked.groups() if group)
        much = (
            f": {int(size) / 2**30:,.1f} GiB were asked for at once" if size.isdigit() else f": {size} were asked for"
        )
    where = "the GPU is out of memory" if "CUDA" in text else "out of memory"
    return (
        f"{where}{much}; reduce the batch size, embedding width, model, rows or number of processes, "
        "or use a machine with more"
    )


def explain(error: BaseException) -> str | None:
    """Return one sentence for a failure of the system; None for an error that is a fault of the program."""
    memory = out_of_memory(error)
    if memory is not None:
        return memory
    failure = io_failure(error)
    name = getattr(error, "filename", None)
    where = f"{name}: " if isinstance(error, OSError) and name is not None else ""
    if failure is not None:
        return f"{where}{failure.reason}; {failure.way_out}"
    if isinstance(error, FileNotFoundError):
        return f"{where}no such file"
    if isinstance(error, OSError):
        return f"{where}{error.strerror or error}"
    return None


def first_difference(name: str, before: Any, after: Any) -> str:
    """Describe the first difference between two values of a setting."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        key = next(key for key in [*before, *after] if before.get(key) != after.get(key))
        name, before, after = f"{name} {key}", before.get(key, "default"), after.get(key, "default")
    texts = [", ".join(map(str, value)) if isinstance(value, tuple) else value for value in (before, after)]
    return f"{name}={texts[0]}, not {texts[1]}"
