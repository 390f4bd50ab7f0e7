"""What the system, or a library in its place, says when it refuses: one place that turns it into words.

Libraries wrap a full disk or want of memory in errors of their own. They are told by their numbers and texts, so that
nothing has to be imported for it; every other error of a library is a fault of the program and stays what it is.
"""

from __future__ import annotations

import errno
import re
import sqlite3
from dataclasses import dataclass

_LIBRARIES = ("polars", "pyarrow", "pyo3_runtime", "safetensors")
"""Packages whose errors carry the number of an operating system's error in their text."""


_ASKED = (
    r"tried to allocate (\d+) bytes|Unable to allocate ([\d.]+ \wiB)|Tried to allocate ([\d.]+ \wiB)"
    r"|malloc of size (\d+)"
)
"""What torch on a CPU, numpy, torch on a GPU and pyarrow say that they could not get."""


@dataclass(frozen=True)
class Refusal:
    """Why a file cannot be written or read, and what helps."""

    reason: str
    way_out: str = "free space or choose another folder"


_FULL = Refusal("the disk is full")
_OVER = Refusal("the disk is full, or the file grew over the allowed size")
_FILE = Refusal("a part of the path is a file", "choose another folder")
_OPEN = Refusal("too many files are open", "raise the limit (ulimit -n 65536)")
_NUMBERS = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: Refusal("the disk quota is used up"),
    errno.EFBIG: Refusal("the file grew over the allowed size", "raise the limit (ulimit -f) or choose another folder"),
    errno.EACCES: Refusal("permission denied", "ask for the right to it, or choose another place"),
    errno.EPERM: Refusal("permission denied", "ask for the right to it, or choose another place"),
    errno.EROFS: Refusal("the file system is read-only", "choose another folder"),
    errno.ENOTDIR: _FILE,
    errno.EEXIST: _FILE,
    errno.ENAMETOOLONG: Refusal("the name is too long for a file", "choose a shorter name"),
    errno.EMFILE: _OPEN,
    errno.ENFILE: _OPEN,
    errno.EIO: Refusal("the disk cannot be read or written (input/output error)", "check the disk"),
    errno.ESTALE: Refusal("the network file system lost the file", "try again"),
}
_SQLITE = {
    sqlite3.SQLITE_FULL: _FULL,
    sqlite3.SQLITE_IOERR: _OVER,
    sqlite3.SQLITE_READONLY: _NUMBERS[errno.EACCES],
    sqlite3.SQLITE_CANTOPEN: Refusal("the file cannot be opened", "check its folder and the right to it"),
}


def refusal(error: BaseException) -> Refusal | None:
    """Why a file was refused, None where the error says nothing of the kind."""
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
    """The sentence for want of memory, with what was asked for; None for any other error."""
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
        f"{where}{much}; make what is large smaller (batch size, embedding width, model, rows or processes at once), "
        "or use a machine with more"
    )


def explain(error: BaseException) -> str | None:
    """One sentence for what the system refused; None for an error that is a fault of the program."""
    memory = out_of_memory(error)
    if memory is not None:
        return memory
    found = refusal(error)
    name = getattr(error, "filename", None)
    where = f"{name}: " if isinstance(error, OSError) and name is not None else ""
    if found is not None:
        return f"{where}{found.reason}; {found.way_out}"
    if isinstance(error, FileNotFoundError):
        return f"{where}no such file"
    if isinstance(error, OSError):
        return f"{where}{error.strerror or error}"
    return None
