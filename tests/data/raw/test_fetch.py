"""Downloads against a real server on this machine: resumed, dropped, refused, damaged, unsafe."""

from __future__ import annotations

import hashlib
import io
import re
import shutil
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from unimixer.data.raw import download
from unimixer.data.raw.fetch import fetch
from unimixer.data.raw.published import PUBLISHED, Published
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
        self.stated: str | None = None  # redirects as a hub of files does, and states this SHA-256

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/data.zip"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server = self.server
        wanted = self.headers.get("Range")
        if server.stated is not None and not self.path.startswith("/store"):
            self.send_response(302)
            self.send_header("X-Linked-ETag", f'"{server.stated}"')
            self.send_header("Location", f"/store{self.path}")
            self.end_headers()
            return
        server.requested.append(wanted)
        failure = server.failures.pop(0) if server.failures else 200
        if failure != 200:
            self.send_error(failure)
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


@pytest.mark.parametrize(
    ("name", "files"), [("criteo", "train.txt"), ("avazu", "train.csv"), ("taobao-ads", "raw_sample.csv, ad_feature")]
)
def test_data_behind_a_licence_names_its_page_and_its_files(tmp_path: Path, name: str, files: str) -> None:
    with pytest.raises(
        UnimixerError, match=f"{re.escape(PUBLISHED[name].page)}, then give the folder that holds {files}"
    ):
        fetch(name, tmp_path)


def test_the_size_is_said_before_the_first_byte_and_what_is_there_is_counted(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data.zip.part").write_bytes(server.body[:1500])
    load(server, tmp_path)
    size = f"{len(server.body) / 1000:.1f} kB"
    assert f"note: data.zip: {size} from 127.0.0.1:{server.server_address[1]}, 1.5 kB of them are there" in (
        capsys.readouterr().err
    )


def test_a_file_that_the_disk_cannot_hold_is_refused_before_it_is_loaded(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download.shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10**6, 10**6, 1000))
    with pytest.raises(
        UnimixerError, match=r"loading data.zip needs 400.\d kB, but only 1.0 kB are free; free room or"
    ):
        load(server, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_archive_that_unpacks_to_more_than_is_free_is_kept_packed(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = [10**6, 1000]  # before the download and before unpacking
    monkeypatch.setattr(
        download.shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10**6, 10**6, free.pop(0))
    )
    with pytest.raises(UnimixerError, match=r"unpacking data.zip needs 400.0 kB, but only 1.0 kB are free"):
        load(server, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"data.zip", "data.zip.sha256"}


def test_files_in_an_archive_are_compared_with_the_checksums_of_their_publisher(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {"u.data": hashlib.md5(b"1\t2\t3\t4\n" * 50_000).hexdigest(), "README": "0000"}
    monkeypatch.setitem(PUBLISHED, "movielens-100k", Published("page", server.url, contents=known))
    with pytest.raises(
        UnimixerError, match=r"data.zip: md5 of ml/README in it is \w+, the publisher's is 0000; remove"
    ):
        load(server, tmp_path)
    assert not (tmp_path / "movielens-100k").exists()
    known["README"] = hashlib.md5(b"hello").hexdigest()
    assert (load(server, tmp_path) / "ml" / "README").exists()


def test_a_data_set_of_plain_files_is_loaded_file_by_file_and_appears_whole(server: Server, tmp_path: Path) -> None:
    server.body, base = b"PAR1", server.url.removesuffix("/data.zip")
    names = PUBLISHED["yambda-50m"].files
    server.failures = [200, 200, 404]  # the third file is missing; 200 is no failure
    with pytest.raises(UnimixerError, match=r"album_item_mapping.parquet: the server answers 404"):
        fetch("yambda-50m", tmp_path, url=base, pause=0.01)
    assert not (tmp_path / "yambda-50m").exists()
    folder = fetch("yambda-50m", tmp_path, url=base, pause=0.01)
    assert len(server.requested) == 4  # two files of the first call were not loaded again
    assert sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()) == sorted(names)
    assert [path.name for path in tmp_path.iterdir()] == ["yambda-50m"]


def test_the_checksum_that_a_hub_states_on_its_redirect_is_compared(server: Server, tmp_path: Path) -> None:
    server.stated = hashlib.sha256(server.body).hexdigest()
    assert load(server, tmp_path / "right").is_dir()
    server.stated = "0" * 64
    with pytest.raises(UnimixerError, match=r"data.zip: sha256 of the download is \w+, the server's is 0000"):
        load(server, tmp_path / "wrong")
    assert list((tmp_path / "wrong").iterdir()) == []


def test_only_addresses_of_archives_on_the_web_are_taken(tmp_path: Path) -> None:
    for url in ("file:///etc/data.zip", "https://example.org/data.rar"):
        with pytest.raises(UnimixerError, match=r"must be the http or https address of a .zip"):
            fetch("movielens-1m", tmp_path, url=url)
    with pytest.raises(UnimixerError, match=r"must be the http or https address of the folder with the files"):
        fetch("yambda-50m", tmp_path, url="ftp://example.org/flat")
