"""One clear sentence for every mistake: what is wrong, where, the rule, the way out."""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Iterable, Sequence

INTERRUPTED, TEMPORARY_FAILURE = 130, 75
"""Exit codes of what a signal stopped: that of shells for Ctrl-C; EX_TEMPFAIL, "try again", for SIGTERM."""
_LISTED = 24
"""Names that a message lists at most."""


class UnimixerError(ValueError):
    """A mistake of the caller's or of the input; the command line prints its message alone and exits with 2."""


class StoppedError(UnimixerError):
    """A signal stopped the work, which can go on later; nothing is wrong with the input.

    Args:
        message: where it stopped, and what continues it.
        interrupted: whether Ctrl-C was the signal.
    """

    def __init__(self, message: str, *, interrupted: bool) -> None:
        super().__init__(message)
        self.exit_code = INTERRUPTED if interrupted else TEMPORARY_FAILURE


EXTRAS = {
    "report": ("matplotlib", "plotly", "jinja2"),
    "track": ("tensorboard",),
    "serve": ("onnx", "onnxscript", "onnxruntime", "fastapi", "uvicorn", "orjson", "prometheus_client"),
    "sweep": ("ray",),
}
"""Packages that each extra brings, as they are imported."""


def missing_packages(extra: str) -> list[str]:
    """Packages of an extra that are not installed; nothing is imported to find out."""
    return [package for package in EXTRAS[extra] if importlib.util.find_spec(package) is None]


class MissingExtraError(UnimixerError, ImportError):
    """An optional package is not installed; the message names the extra that brings it."""

    def __init__(self, task: str, extra: str) -> None:
        super().__init__(f"{task} needs optional packages: pip install 'unimixer[{extra}]'")


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the nearest known name, or the known names where none is near."""
    names = sorted(set(known))
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]!r}?"
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"; known: {', '.join(names[:_LISTED])}{more}" if names else ""


def unknown(what: str, name: str, known: Iterable[str]) -> UnimixerError:
    """The error for a name that is not in a set of known names."""
    return UnimixerError(f"unknown {what} {name!r}{nearest(name, known)}")


def first_line(error: Exception) -> str:
    """The first line of what another library says of an error, at most 200 characters of it."""
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
        raise UnimixerError(f"{name}={value!r} is not one of {', '.join(choices)}{_did_you_mean(value, choices)}")


def _did_you_mean(value: str, choices: Sequence[str]) -> str:
    close = difflib.get_close_matches(str(value), list(choices), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


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
