"""Download public data sets: archives unpacked safely, or plain files, whole or not at all."""

from __future__ import annotations

import re
import shutil
import tarfile
import urllib.parse
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import IO

from unimixer.data.raw.download import BLOCK_BYTES, check_space, digest, download, file_name
from unimixer.data.raw.published import PUBLISHED, Published
from unimixer.errors import UnimixerError, unknown
from unimixer.io import atomic_folder, disk_errors


def fetch(
    name: str, folder: Path, *, url: str | None = None, md5: str | None = None, retries: int = 5, pause: float = 1.0
) -> Path:
    """Download a data set, and unpack it if it is an archive.

    A file is loaded into ``folder/FILE.part``; a later call goes on where an earlier one stopped. It is checked, see
    :func:`~unimixer.data.raw.download.download`, and unpacked into ``folder/NAME``, which appears whole or not at all.
    A data set that is there already is not loaded again.

    Args:
        name: a name in :data:`~unimixer.data.raw.published.PUBLISHED`.
        folder: where to put it; made if need be.
        url: a mirror: another address of the archive, whose checksum ``md5`` is then, if known; or of the folder in
            which the files are.
        md5: expected checksum of the archive at ``url``.
        retries: attempts without any progress before giving up.
        pause: seconds before the second attempt; they double with every further one.

    Returns:
        The folder with the files.

    Raises:
        UnimixerError: an unknown name, a data set behind a licence, an address that does not answer, a wrong checksum,
            an unsafe archive, or a folder that cannot be written or has too little free space.
    """
    if name not in PUBLISHED:
        raise unknown("data set", name, PUBLISHED)
    known = PUBLISHED[name]
    if url is None:
        url, md5 = known.url, known.md5
    if url is None:
        raise UnimixerError(
            f"{name} cannot be downloaded for you, its publisher asks for an account: get it from {known.page}, then "
            f"give the folder that holds {known.layout}: unimixer data prepare {name} --raw FOLDER"
        )
    target = folder / name
    if target.is_dir():
        return target
    _check_url(url, known)
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if known.files:
            _fetch_files(target, url, known.files, retries, pause)
        else:
            archive = folder / file_name(url)
            if not archive.is_file():
                download(url, archive, md5=md5, retries=retries, pause=pause)
            _unpack(archive, target, known.contents)
    return target


def _check_url(url: str, known: Published) -> None:
    """Raise if the address is not that of an archive, or of a folder where the data set is several files."""
    web = urllib.parse.urlsplit(url).scheme in ("http", "https")
    if not web or not (known.files or file_name(url).endswith((".zip", ".tar.gz", ".tgz"))):
        kind = "address of the folder with the files" if known.files else "address of a .zip, .tar.gz or .tgz archive"
        raise UnimixerError(f"url={url!r} must be the http or https {kind}")


def _fetch_files(target: Path, url: str, names: tuple[str, ...], retries: int, pause: float) -> None:
    """Load plain files beside the target, then move all of them into it."""
    waiting = target.with_name(f"{target.name}.download")
    for name in names:
        path = waiting / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_file():
            download(f"{url.rstrip('/')}/{name}", path, retries=retries, pause=pause)
    with atomic_folder(target) as temporary:
        for name in names:
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            (waiting / name).replace(temporary / name)
    shutil.rmtree(waiting)


# --- unpack -----------------------------------------------------------------------------------------------------------


def _unpack(archive: Path, target: Path, contents: Mapping[str, str]) -> None:
    """Write the files of an archive, all or none, and compare those whose checksum the publisher states."""
    try:
        with atomic_folder(target) as temporary:
            for name, stream in _members(archive):
                path = temporary / _safe(name, archive)
                path.parent.mkdir(parents=True, exist_ok=True)
                with stream, path.open("wb") as out:
                    shutil.copyfileobj(stream, out, BLOCK_BYTES)
                expected = contents.get(path.name)
                if expected is not None and digest(path, "md5") != expected:
                    raise UnimixerError(
                        f"{archive}: md5 of {name} in it is {digest(path, 'md5')}, the publisher's is {expected}; "
                        "remove the archive and run again, or choose another --url"
                    )
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error) as error:
        raise UnimixerError(f"{archive}: not a whole archive ({error}); remove it and run again") from None


def _members(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Yield names and contents of the regular files; links and devices are refused."""
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as packed:
            check_space(
                archive.parent, sum(entry.file_size for entry in packed.infolist()), f"unpacking {archive.name}"
            )
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
