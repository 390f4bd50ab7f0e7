"""Processes on this machine: replies, reports, deaths and ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest

from unimixer.workers.executor import Reply, Report
from unimixer.workers.local import LocalExecutor


def work(message: Any, report: Report) -> Any:
    """Do what the message says."""
    kind, *rest = message
    if kind == "count":
        for number in range(rest[0]):
            report(number)
    elif kind == "print":
        print("printed by the worker", flush=True)
    elif kind == "kill":
        os.kill(os.getpid(), rest[0])
    elif kind == "exit":
        os._exit(rest[0])
    elif kind == "report and sleep":
        report(rest[0])
        time.sleep(60)
    elif kind == "sleep":
        time.sleep(60)
    elif kind == "raise":
        raise ValueError(rest[0])
    elif kind == "variable":
        return os.environ[rest[0]]
    return os.getpid(), {name: os.environ[name] for name in ("OMP_NUM_THREADS", "POLARS_MAX_THREADS")}


def executor(tmp_path: Path, workers: int = 1) -> LocalExecutor[str]:
    return LocalExecutor(work, workers=workers, threads=3, log=tmp_path / "log")


def next_reply(pool: LocalExecutor[str]) -> Reply[str]:
    reply = None
    while reply is None:
        reply = pool.wait(1.0)
    return reply


def test_a_task_gives_its_value_after_its_reports(tmp_path: Path) -> None:
    reports: list[int] = []
    with executor(tmp_path) as pool:
        assert (pool.free, pool.running) == (1, [])
        pool.submit("one", ("count", 4), reports.append)
        assert (pool.free, pool.running) == (0, ["one"])
        reply = next_reply(pool)
        assert (pool.free, pool.running, pool.wait(0.01)) == (1, [], None)
        pool.submit("two", ("print",))
        assert next_reply(pool).value == reply.value  # the process of the first task did the second one
    assert reports == [0, 1, 2, 3]
    assert reply.task == "one"
    assert reply.value[0] != os.getpid()
    assert reply.value[1] == {"OMP_NUM_THREADS": "3", "POLARS_MAX_THREADS": "3"}
    assert (tmp_path / "log").read_text() == "printed by the worker\n"


@pytest.mark.parametrize(
    ("message", "died"),
    [
        (("kill", signal.SIGKILL), "was killed by SIGKILL, perhaps by the system for want of memory"),
        (("kill", signal.SIGTERM), "was killed by SIGTERM"),
        (("exit", 7), "ended by itself with exit code 7"),
    ],
)
def test_a_process_that_dies_costs_its_own_task_alone(tmp_path: Path, message: tuple[str, int], died: str) -> None:
    with executor(tmp_path, workers=2) as pool:
        pool.submit("dies", message)
        pool.submit("lives", ("count", 1))
        replies = {reply.task: reply for reply in (next_reply(pool), next_reply(pool))}
        assert replies["dies"].died == died
        assert replies["lives"].died is None
        pool.submit("next", ("count", 1))
        assert next_reply(pool).died is None


def test_a_process_that_died_while_idle_is_replaced(tmp_path: Path) -> None:
    with executor(tmp_path) as pool:
        pool.submit("first", ("count", 0))
        first = next_reply(pool).value[0]
        os.kill(first, signal.SIGKILL)
        while pool._idle[0].process.is_alive():
            time.sleep(0.01)
        pool.submit("second", ("count", 0))
        reply = next_reply(pool)
        assert (reply.task, reply.died) == ("second", None)
        assert reply.value[0] != first


def test_stop_reaches_running_tasks_and_the_end_ends_all(tmp_path: Path) -> None:
    with executor(tmp_path) as pool:
        pool.submit("first", ("count", 0))
        number = next_reply(pool).value[0]
        pool.submit("long", ("sleep",))
        pool.stop()
        assert next_reply(pool).died == "was killed by SIGTERM"
        pool.submit("longer", ("sleep",))
    with pytest.raises(ProcessLookupError):
        os.kill(number, 0)


def test_a_signal_to_stop_leaves_the_server_of_processes_which_knows_new_variables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = forkserver.ForkServer()  # that of this process may have been made by another library
    for name in ("ensure_running", "connect_to_new_process", "set_forkserver_preload"):
        monkeypatch.setattr(forkserver, name, getattr(server, name))
    for value in ("first", "second"):
        monkeypatch.setenv("UNIMIXER_TEST", value)
        with executor(tmp_path) as pool:
            pool.submit("one", ("variable", "UNIMIXER_TEST"))
            assert next_reply(pool).value == value
        os.kill(server._forkserver_pid, signal.SIGTERM)  # type: ignore[attr-defined]


def test_an_error_of_the_work_is_raised(tmp_path: Path) -> None:
    with executor(tmp_path) as pool:
        pool.submit("bad", ("raise", "a fault of the program"))
        with pytest.raises(ValueError, match="a fault of the program"):
            next_reply(pool)


SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from test_local import executor, next_reply
pool = executor(Path(sys.argv[2]))
pool.submit("first", ("count", 0))
print(next_reply(pool).value[0], flush=True)
pool.submit("long", ("sleep",))
next_reply(pool)
"""


def test_processes_end_with_their_parent_and_its_script_needs_no_guard(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(Path(__file__).parent), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        parent.kill()
    end = time.monotonic() + 10
    while Path(f"/proc/{worker}").exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert not Path(f"/proc/{worker}").exists()
