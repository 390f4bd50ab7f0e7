"""The size that decides whether weights stand beside an ONNX graph: a table with several names counts once."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from unimixer.bundles.onnx_file import weight_bytes


def test_a_table_that_users_candidates_and_histories_read_counts_once() -> None:
    table, tower, limits = torch.zeros(10, 4), torch.zeros(4), torch.zeros(3, dtype=torch.int64)
    names = {"users.weight": table, "candidates.weight": table, "histories.weight": table.detach(), "tower": tower}
    program: Any = SimpleNamespace(state_dict=names, constants={"limits": limits, "shape": 7})
    assert weight_bytes(program) == 4 * (10 * 4 + 4) + 8 * 3


def test_slices_of_one_buffer_are_weights_of_their_own() -> None:
    packed = torch.zeros(10, 4)
    program: Any = SimpleNamespace(state_dict={"a": packed[:3], "b": packed[3:]}, constants={})
    assert weight_bytes(program) == 4 * 10 * 4
