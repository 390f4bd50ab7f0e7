"""Public code beside ours: turns, ratios and kept rows, without a peer."""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import peers
from unimixer.errors import UnimixerError


def test_programs_take_turns_and_ratios_are_those_of_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, ...]] = []
    rates = iter([10.0, 20.0, 5.0, 20.0, 10.0, 30.0])

    def measured(python: str, *arguments: object) -> dict[str, Any]:
        calls.append(tuple(map(str, arguments)))
        return {"rate": next(rates), "parameters": 7}

    monkeypatch.setattr(peers, "measured", measured)
    ratios_of_pairs = peers.turns("python", 3, "rate", ["peer"], ["ours", peers.PEER_PARAMETERS])
    assert calls == [("peer",), ("ours", "7")] * 3  # ours has the parameters of the peer
    assert (ratios_of_pairs["ratio"], ratios_of_pairs["low"], ratios_of_pairs["high"]) == (3.0, 2.0, 4.0)
    assert (ratios_of_pairs["peer value"], ratios_of_pairs["ours value"]) == (10.0, 20.0)


def test_the_same_comparison_on_one_machine_is_replaced(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(peers, "FOLDER", tmp_path)
    row = {"peer": "a", "case": "blocks", "machine": "m", "threads": 2, "ratio": 1.5}
    peers.save([row, {**row, "machine": "n"}])
    peers.save([{**row, "ratio": 2.5}])
    with (tmp_path / "peers.csv").open(encoding="utf-8", newline="") as file:
        assert [(kept["machine"], kept["ratio"]) for kept in csv.DictReader(file)] == [("m", "2.5"), ("n", "1.5")]


def test_a_folder_that_is_no_peer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnimixerError, match=r"none of the peers: it has neither model_zoo/UniMixer\.py nor fuxictr/"):
        next(peers.compared(tmp_path, argparse.Namespace(), tmp_path))
    (tmp_path / "fuxictr").mkdir()
    with pytest.raises(UnimixerError, match="training needs --raw"):
        next(peers.compared(tmp_path, argparse.Namespace(raw=None, dataset=None), tmp_path))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_our_worker_gives_one_line_of_numbers(precision: str) -> None:
    numbers = peers.measured(sys.executable, "blocks", "ours", "rankmixer", 16, 1, 64, precision, 1)
    assert numbers["parameters"] == 2 * (16 * (3 * 16 * 16 + 2 * 16 + 16) + 2 * 2 * 16)
    assert numbers["rate"] > 0
