"""What keeps processes from training together is one sentence, and never a hang."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from launch import environment, free_port, needs_torchrec
from tiny import tiny_values

from unimixer.errors import MissingExtraError, UnimixerError
from unimixer.training.config import DistributedConfig, OptimizerConfig
from unimixer.training.distributed import World, check_triple, launched
from unimixer.training.distributed.plan import wishes
from unimixer.training.train import _started_again

FITS = {"torch": "2.13.0+cpu", "torchrec": "1.8.0", "fbgemm-gpu-cpu": "1.8.0"}


def test_releases_that_were_built_for_each_other_fit() -> None:
    check_triple(FITS)
    check_triple({"torch": "2.11.1", "torchrec": "1.6.0", "fbgemm-gpu": "1.6.0"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"torchrec": "1.7.0"}, "does not go with torchrec 1.7.0: .* torchrec==1.8.0"),
        ({"fbgemm-gpu-cpu": "1.6.0"}, "does not go with fbgemm 1.6.0"),
        ({"torch": "2.12.0"}, "does not go with torchrec 1.8.0 and fbgemm 1.8.0: .* pip install .*==1.7.0"),
    ],
)
def test_a_wrong_triple_is_one_sentence_with_the_way_out(changes: dict[str, str], message: str) -> None:
    with pytest.raises(UnimixerError, match=message):
        check_triple(FITS | changes)


def test_a_missing_package_names_the_extra() -> None:
    with pytest.raises(MissingExtraError, match=r"unimixer\[distributed\]"):
        check_triple({"torch": "2.13.0"})


@needs_torchrec
@pytest.mark.slow
def test_a_port_that_is_taken_is_one_sentence(toy_folder: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps(tiny_values(toy_folder, "distributed.timeout=5")), encoding="utf-8")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = start(recipe, tmp_path, "0", port)
    assert done.returncode == 2
    assert f"rank 0: 127.0.0.1:{port} is taken by another process; choose a free port (--master-port)" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


@needs_torchrec
@pytest.mark.slow
def test_processes_that_do_not_come_are_waited_for_no_longer_than_said(toy_folder: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps(tiny_values(toy_folder, "distributed.timeout=3")), encoding="utf-8")
    begin = time.perf_counter()
    done = start(recipe, tmp_path, "0", str(free_port()))
    assert time.perf_counter() - begin < 60
    assert done.returncode == 2
    assert "the 2 processes did not meet at 127.0.0.1:" in done.stderr
    assert "within 3 s" in done.stderr


def start(recipe: Path, folder: Path, rank: str, port: str) -> subprocess.CompletedProcess[str]:
    """One of two processes, started without torchrun."""
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    command = [sys.executable, "-m", "unimixer", "train", str(recipe), "--run", str(folder / "run")]
    return subprocess.run(command, env=environment(**place), capture_output=True, text=True, timeout=90)


def test_restarts_need_a_folder_to_find_the_run_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    values = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "x", "MASTER_PORT": "1", "TORCHELASTIC_MAX_RESTARTS": "2"}
    assert not launched({})
    assert launched(values)
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UnimixerError, match="--max-restarts needs --run FOLDER"):
        _started_again(None)
    assert not _started_again(tmp_path)  # the first start: an existing folder is somebody else's
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert _started_again(tmp_path)


def test_wishes_for_tables_that_cannot_be_met_are_refused() -> None:
    adagrad = OptimizerConfig(sparse="rowwise_adagrad")
    with pytest.raises(UnimixerError, match=r"unknown table in distributed\.tables 'usr'; did you mean 'user'"):
        wishes(DistributedConfig(tables={"usr": "row_wise"}), OptimizerConfig(), {"user": 5})
    with pytest.raises(UnimixerError, match=r"rowwise_adagrad .* does not go with column_wise"):
        wishes(DistributedConfig(sharding="column_wise"), adagrad, {"user": 5})
    found = wishes(DistributedConfig(tables={"user": "row_wise"}), adagrad, {"user": 5, "item": 7})
    assert found == {"user": ["row_wise"], "item": ["table_wise", "row_wise"]}


def test_a_process_alone_says_everything_to_itself() -> None:
    alone = World()
    assert alone.leader
    assert alone.sums([1.0, 2.0]) == [1.0, 2.0]
    assert alone.gather("x") == alone.collect("x") == ["x"]
    assert alone.lead(lambda: 3) == 3
    assert list(alone.shards(3)) == [0, 1, 2]
    assert [list(World(rank, 2).shards(5)) for rank in (0, 1)] == [[0, 2, 4], [1, 3]]
