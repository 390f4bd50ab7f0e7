"""Preparation on a Ray cluster that is there already: the same dataset, and a dead worker is one sentence."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed: pip install 'unimixer[sweep]'"),
]
TOKEN = secrets.token_hex(32)
"""Ray lets in whoever knows it."""
OBJECTS = 100 * 1024**2
"""Bytes of the cluster's object dataset."""


PREPARES = """
import json, sys
from test_passes import contents, deadly, prepare, toy_tables
from unimixer.errors import UnimixerError
from pathlib import Path

address, folder = sys.argv[1], Path(sys.argv[2])
alone = prepare(toy_tables(1_000, chunk_rows=37), folder / "1")
said = {}
for name, tables, workers in (
    ("joined", toy_tables(1_000, chunk_rows=37), 2),
    ("crowded", toy_tables(1_000, chunk_rows=37), 3),
    ("killed", deadly(), 2),
    ("after", toy_tables(1_000, chunk_rows=37), 2),
):
    try:
        dataset = prepare(tables, folder / name, workers=workers, ray=address)
        said[name] = contents(store.folder) == contents(alone.folder)
    except UnimixerError as error:
        said[name] = str(error)
print(json.dumps(said))
"""


def environment() -> dict[str, str]:
    """What the cluster and those who join it have in common, a token of their own among it."""
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),  # the log's functions are those of test modules
        "PYTHONWARNINGS": "ignore",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": TOKEN,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",  # Ray's default, 15, starves them on a busy machine
    }


@pytest.fixture(scope="module")
def head() -> Iterator[str]:
    """The address of a cluster of two cores; ``ray stop`` would end those of others too, so its session is ended."""
    ports = free_ports(4)
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # names of sockets must be short
    command = [
        *(str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", f"--port={ports[0]}"),
        *("--num-cpus=2", f"--object-store-memory={OBJECTS}", "--include-dashboard=false", f"--temp-dir={folder}"),
        *("--node-ip-address=127.0.0.1", f"--ray-client-server-port={ports[1]}"),
        *(f"--dashboard-agent-listen-port={ports[2]}", f"--metrics-export-port={ports[3]}"),
        *("--min-worker-port=0", "--max-worker-port=0"),
    ]
    log = Path(folder) / "start.log"
    with log.open("w") as out:
        process = subprocess.Popen(command, env=environment(), stdout=out, stderr=out, start_new_session=True)
    try:
        wait_for(ports[0], process, log)
        yield f"127.0.0.1:{ports[0]}"
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            end(process, number)
        shutil.rmtree(folder, ignore_errors=True)


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()


def wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    limit = time.monotonic() + 60
    while time.monotonic() < limit:
        assert process.poll() is None, log.read_text(encoding="utf-8")
        with socket.socket() as sock:
            if sock.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise AssertionError("no cluster after 60 s")


def end(process: subprocess.Popen[bytes], number: int) -> None:
    """Send a signal to all processes of a session and wait a while for their end."""
    for member in of_session(process.pid):
        with suppress(ProcessLookupError):
            os.kill(member, number)
    limit = time.monotonic() + 10
    while time.monotonic() < limit and (process.poll() is None or of_session(process.pid)):
        time.sleep(0.2)


def of_session(leader: int) -> list[int]:
    """Processes of a session, by their numbers."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if os.getsid(int(path.name)) == leader:
                found.append(int(path.name))
        except ProcessLookupError:
            continue
    return found


@pytest.fixture(scope="module")
def said(head: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What came of preparations on the cluster, and what they left; Ray leaves sockets behind, so in a process."""
    folder = tmp_path_factory.mktemp("cluster")
    command = [sys.executable, "-c", PREPARES, head, str(folder)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return {**found, "left": sorted(path.name for path in folder.iterdir())}


def test_a_cluster_that_is_joined_makes_the_same_dataset(said: dict[str, object]) -> None:
    assert said["joined"] is True


def test_more_workers_than_cores_are_refused(said: dict[str, object]) -> None:
    assert str(said["crowded"]).startswith("--workers 3: the cluster has 2 cores, and every worker needs one")


def test_a_killed_worker_is_one_sentence_and_leaves_nothing(said: dict[str, object]) -> None:
    sentence = str(said["killed"])
    assert sentence.startswith(
        "a worker of the preparation was killed by SIGKILL, perhaps by the system for want of memory"
    )
    assert sentence.endswith(
        "; nothing half-written was left: prepare again, with fewer --workers where memory was short"
    )
    assert "\n" not in sentence
    assert said["left"] == ["1", "after", "joined"]


def test_a_cluster_that_lost_a_worker_prepares_again(said: dict[str, object]) -> None:
    assert said["after"] is True
