"""What the system refuses is one sentence, whichever library says it; a fault of the program stays what it is."""

from __future__ import annotations

import errno
import resource
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet
from safetensors.torch import save_file

from unimixer.errors import explain, io_failure, out_of_memory
from unimixer.io import DiskError, atomic_file

NUMBERS = np.random.default_rng(0).random(20_000)


@pytest.fixture
def small_files() -> Iterator[None]:
    """Files cannot grow over 40 kB, as on a disk that is nearly full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def _numpy(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, NUMBERS)


def _sqlite(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE t (x)")
        connection.executemany("INSERT INTO t VALUES (?)", [(float(x),) for x in NUMBERS])
        connection.commit()


WRITERS: dict[str, Callable[[Path], object]] = {
    "safetensors": lambda path: save_file({"x": torch.tensor(NUMBERS)}, path),
    "pyarrow": lambda path: parquet.write_table(pa.table({"x": NUMBERS}), path),
    "polars parquet": lambda path: pl.DataFrame({"x": NUMBERS}).write_parquet(path),
    "polars csv": lambda path: pl.DataFrame({"x": NUMBERS}).write_csv(path),
    "numpy": _numpy,
    "torch": lambda path: torch.save(torch.tensor(NUMBERS), path),
    "sqlite": _sqlite,
}


@pytest.mark.parametrize("library", WRITERS)
def test_a_full_disk_is_one_sentence_with_the_path_whichever_library_writes(
    library: str, tmp_path: Path, small_files: None
) -> None:
    path = tmp_path / "out"
    with pytest.raises(DiskError) as error, atomic_file(path) as temporary:
        WRITERS[library](temporary)
    assert str(error.value).startswith(f"{path}: cannot write: the ")
    assert "the file grew over the allowed size; nothing half-written was left; " in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, "x"), "the disk is full"),
        (OSError(errno.ENAMETOOLONG, "x"), "the name is too long for a file"),
        (OSError(errno.EMFILE, "x"), "too many files are open"),
        (OSError("No space left on device (os error 28)"), "the disk is full"),
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0"), "the disk is full, or"),
    ],
)
def test_a_reason_is_read_from_the_number_or_the_text(error: BaseException, reason: str) -> None:
    found = io_failure(error)
    assert found is not None
    assert found.reason.startswith(reason)


def test_a_fault_of_the_program_is_not_explained_away() -> None:
    for error in (KeyError("os error 28"), ValueError("x"), RuntimeError("shapes differ"), pa.ArrowInvalid("x")):
        assert explain(error) is None
    with pytest.raises(pl.exceptions.ColumnNotFoundError) as raised:
        pl.DataFrame({"a": [1]}).select("b")
    assert explain(raised.value) is None


def test_want_of_memory_says_how_much_was_asked_for() -> None:
    said = {}
    for name, ask in {
        "torch": lambda: torch.empty(2**50),
        "numpy": lambda: np.empty(2**50),
        "pyarrow": lambda: pa.allocate_buffer(2**50),
        "shape": lambda: torch.empty(2**60, 1000),
    }.items():
        with pytest.raises((MemoryError, RuntimeError)) as error:
            ask()
        said[name] = out_of_memory(error.value) or ""
    assert said["torch"].startswith("out of memory: 4,194,304.0 GiB were asked for at once; reduce the batch size")
    assert "8.00 PiB were asked for" in said["numpy"]
    assert "1,048,576.0 GiB" in said["pyarrow"]
    assert "a tensor of shape [1152921504606846976, 1000] is larger than any memory" in said["shape"]
    gpu = RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of")
    assert (out_of_memory(gpu) or "").startswith("the GPU is out of memory: 20.00 GiB were asked for")
    assert out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) is None
