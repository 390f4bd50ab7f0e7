"""Two files compared by tensor: what is copied, what is new, and the file that comes out."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import save_file

from unimixer.bundles.file_changes import apply_changes, changes
from unimixer.bundles.file_parts import parts_of
from unimixer.data.encoding.arrays import write_arrays
from unimixer.errors import UnimixerError

Table = NDArray[np.float32]


def again(before: Path | None, after: Path) -> int:
    """Make a file from an earlier one and the changes; returns the bytes that were not copied."""
    copies, literal = changes(before, after)
    made = io.BytesIO()
    apply_changes(before, copies, literal, made, after.stat().st_size)
    assert made.getvalue() == after.read_bytes()
    return literal.nbytes


def saved(path: Path, **tensors: NDArray[np.generic]) -> Path:
    save_file(tensors, path)
    return path


def table(rows: int, seed: int = 0, width: int = 16) -> Table:
    return np.random.default_rng(seed).normal(size=(rows, width)).astype(np.float32)


def test_a_changed_row_costs_a_row(tmp_path: Path) -> None:
    rows = table(1_000)
    before = saved(tmp_path / "a.safetensors", rows=rows)
    changed = rows.copy()
    changed[[3, 500, 501, 999]] += 1
    assert again(before, saved(tmp_path / "b.safetensors", rows=changed)) == 4 * 64
    assert again(before, before) == 0
    assert again(None, before) == before.stat().st_size


def test_rows_that_moved_together_are_copied(tmp_path: Path) -> None:
    rows = table(1_000)
    before = saved(tmp_path / "a.safetensors", rows=rows)
    grown = np.concatenate([rows[:600], table(20, 1), rows[600:]])  # a table that ends inside a packed weight
    shrunk = np.delete(rows, [0, 10, 777], 0)
    moved = rows[np.random.default_rng(2).permutation(1_000)]
    header = 64  # names and shapes
    assert again(before, saved(tmp_path / "b.safetensors", rows=grown)) <= 20 * 64 + header
    assert again(before, saved(tmp_path / "c.safetensors", rows=shrunk)) <= header
    assert again(before, saved(tmp_path / "d.safetensors", rows=moved)) <= header


def test_rows_that_are_equal_among_themselves_are_copied(tmp_path: Path) -> None:
    rows = np.zeros((5_000, 16), dtype=np.float32)
    rows[::7] = table(715)
    before = saved(tmp_path / "a.safetensors", rows=rows)
    after = saved(tmp_path / "b.safetensors", rows=np.concatenate([table(3, 1), rows]))
    assert again(before, after) <= 3 * 64 + 64


def test_a_vocabulary_that_grows_at_its_end_costs_what_it_gained(tmp_path: Path) -> None:
    def texts(count: int) -> Path:
        write_arrays(
            tmp_path / f"{count}.arrow", {"text": pa.array([f"id-{n:06d}" for n in range(count)], pa.large_string())}
        )
        return tmp_path / f"{count}.arrow"

    assert set(parts_of(texts(5_000))) >= {"text/1", "text/2"}
    assert again(texts(5_000), texts(5_100)) < 100 * (8 + 9) + 500  # offsets and texts, and the metadata of the file


@settings(deadline=None, max_examples=60)
@given(data=st.data(), rows=st.integers(0, 40), width=st.sampled_from([1, 3, 8, 16]), new=st.integers(0, 60))
def test_any_file_comes_out_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, rows: int, width: int, new: int
) -> None:
    place = tmp_path_factory.mktemp("files")
    first = table(rows, width=width)
    picked = data.draw(st.lists(st.integers(-3, rows - 1), min_size=new, max_size=new))
    after = np.stack([first[row] if row >= 0 else table(1, 9 - row, width)[0] for row in picked]) if new else first[:0]
    a = saved(place / "a.safetensors", other=table(3, 5), rows=first, vector=first[:, 0].copy())
    b = saved(place / "b.safetensors", rows=after, vector=after[:, 0].copy(), more=table(2, 6))
    again(a, b)


@pytest.mark.parametrize(
    "copies", [[[0, 0, 99]], [[0, -1, 4]], [[4, 0, 4], [0, 4, 4]], [[0, 0, -4]], [[0, 0, 4]], [[8, 0, 4]]]
)
def test_ranges_that_do_not_fit_are_refused(tmp_path: Path, copies: list[list[int]]) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"12345678")
    with pytest.raises(UnimixerError, match="do not fit the bundle before"):
        apply_changes(path, np.asarray(copies), np.zeros(3, dtype=np.uint8), io.BytesIO(), 8)


def test_a_file_that_is_not_what_its_name_says_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"\xff\xff\xff not a graph")
    with pytest.raises(UnimixerError, match=r"model\.onnx: not readable as \.onnx"):
        parts_of(path)
