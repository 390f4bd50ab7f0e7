"""Download public data sets: resume, verify checksums, unpack safely, whole or not at all."""

from __future__ import annotations

import hashlib
import http.client
import re
import shutil
import ssl
import tarfile
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from unimixer.errors import UnimixerError, unknown
from unimixer.io import atomic_folder, disk_errors, write_text
from unimixer.progress import plain_console

_BLOCK_BYTES = 1 << 18
_TIMEOUT_SECONDS = 60
_RETRIED = (408, 425, 429, 500, 502, 503, 504)
"""HTTP answers that may pass; others, such as 404, are final."""


@dataclass(frozen=True)
class Download:
    """The addresses of a published data set."""

    page: str
    """The publisher's page."""
    url: str | None = None
    """The archive; ``None`` where a licence must be accepted on the page first."""
    md5: str | None = None
    """The publisher's checksum of the archive, where there is one."""


REGISTRY = {
    "kuairand-pure": Download(
        page="https://zenodo.org/records/10439422",
        url="https://zenodo.org/records/10439422/files/KuaiRand-Pure.tar.gz",
        md5="0820331067a3784d9691136f772b35a7",
    ),
    "movielens-100k": Download(
        page="https://grouplens.org/datasets/movielens/100k/",
        url="https://files.grouplens.org/datasets/movielens/ml-100k.zip",
        md5="0e33842e24a9c977be4e0107933c0723",
    ),
    "movielens-1m": Download(
        page="https://grouplens.org/datasets/movielens/1m/",
        url="https://files.grouplens.org/datasets/movielens/ml-1m.zip",
        md5="c4d9eecfca2ab87c1945afe126590906",
    ),
    "criteo": Download(page="https://www.kaggle.com/c/criteo-display-ad-challenge/data"),
    "avazu": Download(page="https://www.kaggle.com/c/avazu-ctr-prediction/data"),
}


def fetch(
    name: str, folder: Path, *, url: str | None = None, md5: str | None = None, retries: int = 5, pause: float = 1.0
) -> Path:
    """Download and unpack a data set.

    The archive is loaded into ``folder/ARCHIVE.part``; a later call goes on where an earlier one stopped. It is checked
    against the publisher's checksum, and against the SHA-256 that an earlier download left in ``ARCHIVE.sha256``, then
    renamed and unpacked into ``folder/NAME``, which appears whole or not at all. A data set that is there already is
    not loaded again.

    Args:
        name: a name in :data:`REGISTRY`.
        folder: where to put it; made if need be.
        url: another address of the archive (a mirror); ``md5`` is then its checksum, if known.
        md5: expected checksum of the archive at ``url``.
        retries: attempts without any progress before giving up.
        pause: seconds before the second attempt; they double with every further one.

    Returns:
        The folder with the unpacked files.

    Raises:
        UnimixerError: an unknown name, a data set behind a licence, an address that does not answer, a wrong checksum,
            an unsafe archive, or a folder that cannot be written.
    """
    if name not in REGISTRY:
        raise unknown("data set", name, REGISTRY)
    known = REGISTRY[name]
    if url is None:
        url, md5 = known.url, known.md5
    if url is None:
        raise UnimixerError(
            f"{name} cannot be downloaded for you, its licence must be accepted with an account: see {known.page}, "
            "then give the folder with the unpacked files as 'raw'"
        )
    target = folder / name
    if target.is_dir():
        return target
    archive = folder / _archive_name(url)
    with disk_errors(archive):
        folder.mkdir(parents=True, exist_ok=True)
        if not archive.is_file():
            part = archive.with_name(archive.name + ".part")
            _download(url, part, retries, pause)
            _verify(part, archive, md5)
            part.replace(archive)
        _unpack(archive, target)
    return target


def _archive_name(url: str) -> str:
    parts = urllib.parse.urlsplit(url)
    name = PurePosixPath(urllib.parse.unquote(parts.path)).name
    if parts.scheme not in ("http", "https") or not name.endswith((".zip", ".tar.gz", ".tgz")):
        raise UnimixerError(f"url={url!r} must be the http or https address of a .zip, .tar.gz or .tgz archive")
    return name


# --- download ---------------------------------------------------------------------------------------------------------


def _download(url: str, part: Path, retries: int, pause: float) -> None:
    """Fill ``part`` with the whole answer, in as many attempts as make progress."""
    failures, furthest = 0, part.stat().st_size if part.exists() else 0
    with _progress() as progress:
        task = progress.add_task(_archive_name(url), total=None)
        while True:
            try:
                if _attempt(url, part, progress, task):
                    return
                reason = "the connection closed early"
            except urllib.error.HTTPError as error:
                if error.code not in _RETRIED:
                    raise UnimixerError(f"{url}: the server answers {error.code} {error.reason}") from None
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
            reached = part.stat().st_size if part.exists() else 0
            failures = 1 if reached > furthest else failures + 1
            furthest = max(furthest, reached)
            if failures >= retries:
                raise UnimixerError(
                    f"{url}: {reason}, {failures} attempts without progress; run it again to go on, "
                    f"{part} keeps what is there"
                )
            time.sleep(pause * 2 ** (failures - 1))


def _attempt(url: str, part: Path, progress: Progress, task: TaskID) -> bool:
    """Make one request; return whether the file is complete after it."""
    have = part.stat().st_size if part.exists() else 0
    # identity: a length that is counted and resumed must be that of the stored bytes
    headers = {"User-Agent": "unimixer", "Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not have:
            raise
        error.close()
        if re.fullmatch(rf"bytes \*/{have}", error.headers.get("Content-Range", "")):
            return True
        part.unlink()  # longer than the file on the server: another file
        return False
    with answer:
        start = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range", ""))
        resumed = answer.status == 206 and start is not None and int(start[1]) == have
        have = have if resumed else 0
        length = answer.headers.get("Content-Length")
        total = have + int(length) if length is not None else None
        progress.update(task, total=total, completed=have)
        with part.open("ab" if resumed else "wb") as out:
            for block in _blocks(answer):
                out.write(block)
                have += len(block)
                progress.update(task, completed=have)
    return total is None or have == total


def _blocks(answer: IO[bytes]) -> Iterator[bytes]:
    while block := answer.read(_BLOCK_BYTES):
        yield block


def _progress() -> Progress:
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    console = plain_console(stderr=True)
    return Progress(*columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal)


# --- check ------------------------------------------------------------------------------------------------------------


def _verify(part: Path, archive: Path, md5: str | None) -> None:
    """Compare the file with the publisher's checksum and with the recorded one; record it the first time."""
    digests = {kind: _digest(part, kind) for kind in ("md5", "sha256")}
    record = archive.with_name(archive.name + ".sha256")
    recorded = record.read_text(encoding="utf-8").split()[:1] if record.exists() else []
    for kind, expected in (("md5", md5), ("sha256", recorded[0] if recorded else None)):
        if expected is not None and digests[kind] != expected:
            part.unlink()
            source = "the publisher's" if kind == "md5" else f"the one in {record}"
            raise UnimixerError(
                f"{archive}: {kind} of the download is {digests[kind]}, {source} is {expected}; the file was damaged "
                "or has changed, and was removed: run it again"
            )
    if not recorded:
        write_text(record, f"{digests['sha256']}  {archive.name}\n")
        if md5 is None:
            message = f"{archive.name}: sha256 {digests['sha256']}, recorded in {record.name}"
            plain_console(stderr=True).print(message, soft_wrap=True)


def _digest(path: Path, kind: str) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, kind).hexdigest()


# --- unpack -----------------------------------------------------------------------------------------------------------


def _unpack(archive: Path, target: Path) -> None:
    """Write the files of an archive, all or none."""
    try:
        with atomic_folder(target) as temporary:
            for name, stream in _members(archive):
                path = temporary / _safe(name, archive)
                path.parent.mkdir(parents=True, exist_ok=True)
                with stream, path.open("wb") as out:
                    shutil.copyfileobj(stream, out, _BLOCK_BYTES)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error) as error:
        raise UnimixerError(f"{archive}: not a whole archive ({error}); remove it and run again") from None


def _members(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Yield names and contents of the regular files; links and devices are refused."""
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as packed:
            for entry in packed.infolist():
                if not entry.is_dir():
                    yield entry.filename, packed.open(entry)
        return
    with tarfile.open(archive, "r:gz") as stored:
        for member in stored:
            if member.isdir():
                continue
            content = stored.extractfile(member) if member.isreg() else None
            if content is None:
                raise UnimixerError(
                    f"{archive}: {member.name!r} is a link or a device; such an archive is not unpacked"
                )
            yield member.name, content


def _safe(name: str, archive: Path) -> PurePosixPath:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or re.match(r"[A-Za-z]:", name):
        raise UnimixerError(f"{archive}: {name!r} leads out of the folder; such an archive is not unpacked")
    return path
