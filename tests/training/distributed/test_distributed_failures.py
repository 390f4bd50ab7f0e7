"""What keeps processes from training together is one sentence, and never a hang."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path

import pytest
from needs import needs_torchrec
from own_process import OwnProcess, environment, free_port, unimixer
from tiny import tiny_values

from unimixer.errors import MissingExtraError, UnimixerError
from unimixer.settings import parse
from unimixer.training.config import DistributedConfig, OptimizerConfig, Recipe
from unimixer.training.distributed.checks import check_versions
from unimixer.training.distributed.layout import allowed_shardings
from unimixer.training.process_group import SINGLE_PROCESS, ProcessGroup, launched
from unimixer.training.train import _started_again, train

FITS = {"torch": "2.13.0+cpu", "torchrec": "1.8.0", "fbgemm-gpu-cpu": "1.8.0"}


def test_releases_that_were_built_for_each_other_fit() -> None:
    check_versions(FITS)
    check_versions({"torch": "2.11.1", "torchrec": "1.6.0", "fbgemm-gpu": "1.6.0"})


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
        check_versions(FITS | changes)


def test_a_missing_package_names_the_extra() -> None:
    with pytest.raises(MissingExtraError, match=r"unimixer\[distributed\]"):
        check_versions({"torch": "2.13.0"})


@needs_torchrec
@pytest.mark.slow
def test_a_port_that_is_taken_is_one_sentence(toy_folder: Path, tmp_path: Path) -> None:
    recipe = write(tmp_path / "recipe.yaml", toy_folder, "distributed.timeout=5")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()  # and never says a word, for which torch would wait without end
        port = taken.getsockname()[1]
        said = both([[str(recipe)]] * 2, tmp_path, port)
    assert said[0] == f"error: rank 0: 127.0.0.1:{port} is taken by another process; choose a free port (--master-port)"
    assert said[1].startswith(f"error: rank 1: the 2 processes did not meet at 127.0.0.1:{port} within 5 s")
    assert not (tmp_path / "run").exists()


@needs_torchrec
@pytest.mark.slow
def test_what_keeps_processes_from_training_together_is_one_sentence_of_each(toy_folder: Path, tmp_path: Path) -> None:
    recipes = [write(tmp_path / f"{rank}.yaml", toy_folder, f"training.batch_size={64 + rank}") for rank in (0, 1)]
    for sentence in both([[str(recipe)] for recipe in recipes], tmp_path, free_port()):
        assert sentence.startswith(
            "error: the processes disagree on recipe.training.batch_size: 64 on rank 0, 65 on rank 1; start all"
        )
    assert not (tmp_path / "run").exists()


@needs_torchrec
@pytest.mark.slow
def test_a_checkpoint_of_a_process_alone_is_refused(toy_folder: Path, tmp_path: Path) -> None:
    recipe = parse(Recipe, tiny_values(toy_folder, "training.max_steps=4", "distributed.data_shards=2"), where="tiny")
    run = train(recipe, folder=tmp_path / "run", quiet=True)
    (run.folder / "result.json").unlink()  # as if it had been stopped before its end
    checkpoint = run.folder / "checkpoints" / "step-000000004"
    for sentence in both([["--resume", str(run.folder)]] * 2, None, free_port()):
        assert sentence == (
            f"error: {checkpoint} was written by a single process; continue it with one process, without torchrun"
        )


@needs_torchrec
@pytest.mark.slow
def test_processes_that_do_not_come_are_waited_for_no_longer_than_said(toy_folder: Path, tmp_path: Path) -> None:
    recipe = write(tmp_path / "recipe.yaml", toy_folder, "distributed.timeout=3")
    begin, port = time.perf_counter(), free_port()
    sentence = end(start([str(recipe)], tmp_path, 0, port))
    assert time.perf_counter() - begin < 60
    assert sentence.startswith(f"error: rank 0: the 2 processes did not meet at 127.0.0.1:{port} within 3 s")


def write(path: Path, dataset: Path, *overrides: str) -> Path:
    path.write_text(json.dumps(tiny_values(dataset, *overrides)), encoding="utf-8")
    return path


def start(given: list[str], folder: Path | None, rank: int, port: int) -> OwnProcess:
    """One of two processes, started without torchrun, which would add a report of its own."""
    place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    run = [] if folder is None else ["--run", str(folder / "run")]
    return unimixer("train", *given, *run, env=environment(**place, MASTER_PORT=str(port)))


def end(process: OwnProcess) -> str:
    """The one line that a process which cannot go on says."""
    out, said = process.communicate(timeout=90)
    assert (process.returncode, out) == (2, ""), said
    assert len(said.splitlines()) == 1, said
    return said.rstrip("\n")


def both(given: list[list[str]], folder: Path | None, port: int) -> list[str]:
    """What two processes say that start together."""
    processes = [start(arguments, folder, rank, port) for rank, arguments in enumerate(given)]
    try:
        return [end(process) for process in processes]
    finally:
        for process in processes:
            process.kill()


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
        allowed_shardings(DistributedConfig(tables={"usr": "row_wise"}), OptimizerConfig(), {"user": 5})
    with pytest.raises(UnimixerError, match=r"rowwise_adagrad .* does not go with column_wise"):
        allowed_shardings(DistributedConfig(sharding="column_wise"), adagrad, {"user": 5})
    found = allowed_shardings(DistributedConfig(tables={"user": "row_wise"}), adagrad, {"user": 5, "item": 7})
    assert found == {"user": ["row_wise"], "item": ["table_wise", "row_wise"]}


def test_a_process_alone_says_everything_to_itself() -> None:
    alone = SINGLE_PROCESS
    assert alone.is_rank_zero
    assert alone.sums([1.0, 2.0]) == [1.0, 2.0]
    assert alone.gather("x") == alone.collect("x") == ["x"]
    assert alone.on_rank_zero(lambda: 3) == 3
    assert list(alone.shards(3)) == [0, 1, 2]
    assert [list(ProcessGroup(rank, 2).shards(5)) for rank in (0, 1)] == [[0, 2, 4], [1, 3]]
