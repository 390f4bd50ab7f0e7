"""Load one file over HTTP: say its size, resume where an earlier call stopped, compare checksums."""

from __future__ import annotations

import hashlib
import http.client
import re
import shutil
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any

from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from unimixer.errors import UnimixerError
from unimixer.io import write_text
from unimixer.progress import note, plain_console

BLOCK_BYTES = 1 << 18
_TIMEOUT_SECONDS = 60
_RETRIED = (408, 425, 429, 500, 502, 503, 504)
"""HTTP answers that may pass; others, such as 404, are final."""


def download(url: str, path: Path, *, md5: str | None = None, retries: int = 5, pause: float = 1.0) -> None:
    """Load a file; what an earlier call left in ``PATH.part`` is not loaded again.

    The file is checked against the publisher's checksum, the SHA-256 that the server states, and the one that an
    earlier download left in ``PATH.sha256``.

    Raises:
        UnimixerError: too little free space, a server that does not answer, or a wrong checksum.
    """
    transfer = _Transfer(url, path)
    transfer.run(retries, pause)
    transfer.verify(md5)
    transfer.part.replace(path)


def file_name(url: str) -> str:
    """Return the name of the file at an address."""
    return PurePosixPath(urllib.parse.unquote(urllib.parse.urlsplit(url).path)).name


def digest(path: Path, kind: str) -> str:
    """Return the checksum of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, kind).hexdigest()


def check_space(folder: Path, needed: int, purpose: str) -> None:
    """Raise if a folder has fewer free bytes than are needed."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UnimixerError(
            f"{folder}: {purpose} needs {size(needed)}, but only {size(free)} are free; free room or choose another "
            "--out"
        )


def size(count: int) -> str:
    """Write a number of bytes for people."""
    value, unit = float(count), "bytes"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follow redirects and remember the checksum that Hugging Face states before it redirects to a store of files."""

    sha256: str | None = None

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        stated = str(headers.get("X-Linked-ETag", "")).strip('"')
        if re.fullmatch(r"[0-9a-f]{64}", stated):
            self.sha256 = stated
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class _Transfer:
    """One file on its way."""

    def __init__(self, url: str, path: Path) -> None:
        self.url, self.path = url, path
        self.part = path.with_name(path.name + ".part")
        self._redirects, self._said = _Redirects(), False
        self._opener = urllib.request.build_opener(self._redirects)

    def _have(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def run(self, retries: int, pause: float) -> None:
        """Fill the part with the whole answer, in as many attempts as make progress."""
        failures, furthest = 0, self._have()
        with _progress() as progress:
            while True:
                try:
                    if self._attempt(progress):
                        return
                    reason = "the connection closed early"
                except urllib.error.HTTPError as error:
                    if error.code not in _RETRIED:
                        raise UnimixerError(f"{self.url}: the server answers {error.code} {error.reason}") from None
                    reason = f"the server answers {error.code}"
                except (
                    urllib.error.URLError,
                    http.client.HTTPException,
                    ssl.SSLError,
                    ConnectionError,
                    TimeoutError,
                ) as error:
                    reason = str(getattr(error, "reason", error)) or type(error).__name__
                # an attempt that came further than all before starts the count anew
                reached = self._have()
                failures = 1 if reached > furthest else failures + 1
                furthest = max(furthest, reached)
                if failures >= retries:
                    raise UnimixerError(
                        f"{self.url}: {reason}, {failures} attempts without progress; run it again to go on, "
                        f"{self.part} keeps what is there"
                    )
                time.sleep(pause * 2 ** (failures - 1))

    def _attempt(self, progress: Progress) -> bool:
        """Make one request; return whether the file is complete after it."""
        have = self._have()
        # identity: a length that is counted and resumed must be that of the stored bytes
        headers = {"User-Agent": "unimixer", "Accept-Encoding": "identity"}
        headers |= {"Range": f"bytes={have}-"} if have else {}
        try:
            answer = self._opener.open(urllib.request.Request(self.url, headers=headers), timeout=_TIMEOUT_SECONDS)
        except urllib.error.HTTPError as error:
            if error.code != 416 or not have:
                raise
            error.close()
            if re.fullmatch(rf"bytes \*/{have}", error.headers.get("Content-Range", "")):
                return True
            self.part.unlink()  # longer than the file on the server: another file
            return False
        with answer:
            start = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range", ""))
            resumed = answer.status == 206 and start is not None and int(start[1]) == have
            have = have if resumed else 0
            length = answer.headers.get("Content-Length")
            total = have + int(length) if length is not None else None
            self._say(total, have)
            task = progress.add_task(self.path.name, total=total, completed=have)
            with self.part.open("ab" if resumed else "wb") as out:
                for block in _blocks(answer):
                    out.write(block)
                    have += len(block)
                    progress.update(task, completed=have)
        return total is None or have == total

    def _say(self, total: int | None, have: int) -> None:
        """Print the size before the first byte is loaded, and raise if the disk does not hold it."""
        if total is not None:
            check_space(self.part.parent, total - have, f"loading {self.path.name}")
        if not self._said:
            there = f", {size(have)} of them are there" if have else ""
            host = urllib.parse.urlsplit(self.url).netloc
            note(f"{self.path.name}: {'unknown size' if total is None else size(total)} from {host}{there}")
            self._said = True

    def verify(self, md5: str | None) -> None:
        """Compare the file with all checksums that are known; record its SHA-256 the first time."""
        digests = {kind: digest(self.part, kind) for kind in ("md5", "sha256")}
        record = self.path.with_name(self.path.name + ".sha256")
        recorded = record.read_text(encoding="utf-8").split()[:1] if record.exists() else []
        known = [
            ("md5", md5, "the publisher's"),
            ("sha256", self._redirects.sha256, "the server's"),
            ("sha256", recorded[0] if recorded else None, f"the one in {record}"),
        ]
        for kind, expected, source in known:
            if expected is not None and digests[kind] != expected:
                self.part.unlink()
                raise UnimixerError(
                    f"{self.path}: {kind} of the download is {digests[kind]}, {source} is {expected}; the file was "
                    "damaged or has changed, and was removed: run it again"
                )
        if not recorded:
            write_text(record, f"{digests['sha256']}  {self.path.name}\n")
            if md5 is None and self._redirects.sha256 is None:
                message = f"{self.path.name}: sha256 {digests['sha256']}, recorded in {record.name}"
                plain_console(stderr=True).print(message, soft_wrap=True)


def _blocks(answer: IO[bytes]) -> Iterator[bytes]:
    while block := answer.read(BLOCK_BYTES):
        yield block


def _progress() -> Progress:
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    console = plain_console(stderr=True)
    return Progress(*columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal)
