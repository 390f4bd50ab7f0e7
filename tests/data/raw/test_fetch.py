"""Downloads against a real server on this machine: resumed, dropped, refused, damaged, unsafe."""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from unimixer.data.raw.fetch import REGISTRY, fetch
from unimixer.errors import UnimixerError


class Server(ThreadingHTTPServer):
    """Serves one body; behaves as badly as a test asks."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.body = b""
        self.ranges = True  # understands the Range header
        self.drops: list[int] = []  # bytes after which the next connections break off
        self.failures: list[int] = []  # statuses of the next answers
        self.requested: list[str | None] = []  # Range header of every request

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/data.zip"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server = self.server
        wanted = self.headers.get("Range")
        server.requested.append(wanted)
        if server.failures:
            self.send_error(server.failures.pop(0))
            return
        start = int(re.findall(r"\d+", wanted)[0]) if wanted and server.ranges else 0
        if start >= len(server.body) > 0:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(server.body)}")
            self.end_headers()
            return
        body = server.body[start:]
        self.send_response(206 if wanted and server.ranges else 200)
        if wanted and server.ranges:
            self.send_header("Content-Range", f"bytes {start}-{len(server.body) - 1}/{len(server.body)}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: server.drops.pop(0)] if server.drops else body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        running.body = packed({"ml/u.data": b"1\t2\t3\t4\n" * 50_000, "ml/README": b"hello"})
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def packed(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def load(server: Server, folder: Path, **options: object) -> Path:
    return fetch("movielens-100k", folder, url=server.url, pause=0.01, **options)  # type: ignore[arg-type]


def test_an_archive_is_loaded_unpacked_and_its_sha256_recorded(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = load(server, tmp_path / "raw")
    assert folder == tmp_path / "raw" / "movielens-100k"
    assert (folder / "ml" / "README").read_bytes() == b"hello"
    digest = hashlib.sha256(server.body).hexdigest()
    assert (tmp_path / "raw" / "data.zip.sha256").read_text() == f"{digest}  data.zip\n"
    assert digest in capsys.readouterr().err
    assert {p.name for p in (tmp_path / "raw").iterdir()} == {"movielens-100k", "data.zip", "data.zip.sha256"}


def test_a_data_set_that_is_there_is_not_loaded_again(server: Server, tmp_path: Path) -> None:
    assert load(server, tmp_path) == load(server, tmp_path)
    assert len(server.requested) == 1


def test_a_dropped_connection_is_resumed_where_it_broke(server: Server, tmp_path: Path) -> None:
    server.drops = [100_000, 50_000]
    folder = load(server, tmp_path)
    assert server.requested == [None, "bytes=100000-", "bytes=150000-"]
    assert (folder / "ml" / "u.data").stat().st_size == 400_000


def test_a_part_of_an_earlier_run_is_resumed(server: Server, tmp_path: Path) -> None:
    (tmp_path / "data.zip.part").write_bytes(server.body[:1234])
    load(server, tmp_path, md5=hashlib.md5(server.body).hexdigest())
    assert server.requested == ["bytes=1234-"]


def test_a_complete_part_is_not_loaded_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "data.zip.part").write_bytes(server.body)
    assert (load(server, tmp_path) / "ml" / "README").exists()


def test_a_part_longer_than_the_file_is_thrown_away(server: Server, tmp_path: Path) -> None:
    (tmp_path / "data.zip.part").write_bytes(server.body + b"more")
    assert (load(server, tmp_path) / "ml" / "README").exists()
    assert server.requested == [f"bytes={len(server.body) + 4}-", None]


def test_a_server_without_ranges_is_loaded_from_the_start(server: Server, tmp_path: Path) -> None:
    server.ranges, server.drops = False, [100_000]
    folder = load(server, tmp_path, md5=hashlib.md5(server.body).hexdigest())
    assert server.requested == [None, "bytes=100000-"]
    assert (folder / "ml" / "u.data").stat().st_size == 400_000


def test_a_wrong_checksum_is_an_error_and_leaves_no_file(server: Server, tmp_path: Path) -> None:
    with pytest.raises(
        UnimixerError, match=r"data.zip: md5 of the download is \w+, the publisher's is 0000; .*run it again"
    ):
        load(server, tmp_path, md5="0000")
    assert list(tmp_path.iterdir()) == []


def test_a_second_download_is_compared_with_the_recorded_checksum(server: Server, tmp_path: Path) -> None:
    (tmp_path / "data.zip.sha256").write_text("1111  data.zip\n")
    with pytest.raises(UnimixerError, match=r"sha256 of the download is \w+, the one in .*data.zip.sha256 is 1111"):
        load(server, tmp_path)


def test_a_missing_page_is_an_error_at_once(server: Server, tmp_path: Path) -> None:
    server.failures = [404]
    with pytest.raises(UnimixerError, match=r"data.zip: the server answers 404 Not Found"):
        load(server, tmp_path)
    assert len(server.requested) == 1


def test_a_busy_server_is_asked_again(server: Server, tmp_path: Path) -> None:
    server.failures = [503, 429]
    load(server, tmp_path)
    assert len(server.requested) == 3


def test_attempts_without_progress_end_with_an_error_that_keeps_the_part(server: Server, tmp_path: Path) -> None:
    server.drops = [1000, 0, 0, 0]
    with pytest.raises(
        UnimixerError, match=r"closed early, 3 attempts without progress; run it again to go on, .*part keeps"
    ):
        load(server, tmp_path, retries=3)
    assert (tmp_path / "data.zip.part").read_bytes() == server.body[:1000]


def test_an_address_where_nobody_listens_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UnimixerError, match=r"Connection refused, 2 attempts without progress"):
        fetch("movielens-1m", tmp_path, url="http://127.0.0.1:9/data.zip", retries=2, pause=0.01)


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a/../../evil", "C:\\evil"])
def test_an_archive_that_leads_out_of_its_folder_is_refused(server: Server, tmp_path: Path, name: str) -> None:
    server.body = packed({"fine": b"1", name: b"2"})
    with pytest.raises(UnimixerError, match=r"leads out of the folder; such an archive is not unpacked"):
        load(server, tmp_path / "raw")
    assert not (tmp_path / "raw" / "movielens-100k").exists()
    assert not (tmp_path / "evil").exists()


def test_a_tar_is_unpacked_and_one_with_a_link_is_refused(server: Server, tmp_path: Path) -> None:
    def tar(link: bool) -> bytes:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
            entry = tarfile.TarInfo("data/log.csv")
            entry.size = 5
            archive.addfile(entry, io.BytesIO(b"hello"))
            if link:
                entry = tarfile.TarInfo("data/link")
                entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
                archive.addfile(entry)
        return buffer.getvalue()

    url = server.url.replace("data.zip", "data.tar.gz")
    server.body = tar(link=False)
    assert (fetch("kuairand-pure", tmp_path / "a", url=url) / "data" / "log.csv").read_bytes() == b"hello"
    server.body = tar(link=True)
    with pytest.raises(UnimixerError, match=r"'data/link' is a link or a device"):
        fetch("kuairand-pure", tmp_path / "b", url=url)
    assert {p.name for p in (tmp_path / "b").iterdir()} == {"data.tar.gz", "data.tar.gz.sha256"}


def test_a_file_that_is_no_archive_is_an_error(server: Server, tmp_path: Path) -> None:
    server.body = b"<html>please log in</html>"
    with pytest.raises(UnimixerError, match=r"data.zip: not a whole archive .*; remove it and run again"):
        load(server, tmp_path)


def test_an_unknown_name_gives_the_nearest_one(tmp_path: Path) -> None:
    with pytest.raises(UnimixerError, match=r"unknown data set 'movielens-1'; did you mean 'movielens-1m'"):
        fetch("movielens-1", tmp_path)


@pytest.mark.parametrize("name", ["criteo", "avazu"])
def test_data_behind_a_licence_names_its_page(tmp_path: Path, name: str) -> None:
    with pytest.raises(UnimixerError, match=re.escape(REGISTRY[name].page)):
        fetch(name, tmp_path)


def test_only_addresses_of_archives_on_the_web_are_taken(tmp_path: Path) -> None:
    for url in ("file:///etc/data.zip", "https://example.org/data.rar"):
        with pytest.raises(UnimixerError, match=r"must be the http or https address of a .zip"):
            fetch("movielens-1m", tmp_path, url=url)
