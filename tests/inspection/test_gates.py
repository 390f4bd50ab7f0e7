"""Gates of experts by task: means over rows, under the names of tasks and experts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from unimixer.data.dataset import Dataset
from unimixer.data.loader import Loader
from unimixer.inspection import inspect_run
from unimixer.inspection.gates import GateMeter, GateReport
from unimixer.inspection.inspect import measure_rows
from unimixer.ranker import Ranker
from unimixer.report.inspection import gate_table, page
from unimixer.report.inspection_figures import draw_inspection
from unimixer.training.run import RunFolder


def test_weights_are_means_over_the_rows_that_count() -> None:
    meter = GateMeter(1, "click", ["a", "b"])
    for weights, rows in (([[0.75, 0.25], [0.25, 0.75]], 2), ([[1.0, 0.0], [0.0, 1.0]], 1)):
        meter.weights = torch.tensor(weights)
        meter.add(rows)
    report = meter.report()
    assert report.weights == {"a": pytest.approx(2 / 3), "b": pytest.approx(1 / 3)}
    assert report.largest == pytest.approx((0.75 + 0.75 + 1.0) / 3)
    assert report.as_json() == {
        "level": 1,
        "reader": "click",
        "weights": report.weights,
        "largest": report.largest,
    }


def test_every_gate_of_every_level_is_measured(toy_dataset: Dataset) -> None:
    options = {"num_experts": 1, "num_shared_experts": 2, "expert_dims": [4]}
    model = Ranker(
        toy_dataset.transform.spec,
        backbone="mlp",
        num_tokens=4,
        embedding_dim=4,
        width=8,
        task_head="ple",
        task_head_options=options,
    ).eval()
    _, _, gates, rows = measure_rows(model, toy_dataset, "validation", 40)
    assert rows == 40
    assert [(gate.level, gate.reader) for gate in gates] == [
        *((1, "is_click"), (1, "long_view"), (1, "shared")),
        *((2, "is_click"), (2, "long_view")),
    ]
    assert list(gates[2].weights) == ["is_click 1", "long_view 1", "shared 1", "shared 2"]
    pooled: list[torch.Tensor] = []
    model.towers.register_forward_pre_hook(lambda module, arguments: pooled.append(arguments[0]))
    with torch.no_grad():
        model(next(iter(Loader(toy_dataset, "validation", batch_size=40, shuffle=True).batches())))
        experts: Any = model.towers.experts
        expected = experts.levels[0].gates[1](pooled[0]).mean(0)
    assert list(gates[1].weights.values()) == pytest.approx(expected.tolist(), rel=1e-5)


def test_the_page_has_a_table_and_a_picture_of_gates(toy_run: RunFolder) -> None:
    plain = inspect_run(toy_run.folder, rows=8, interaction_rows=0)
    assert plain.gates == []
    assert gate_table(plain).rows == []
    weights = [{"a 1": 0.25, "shared 1": 0.75}, {"b 1": 0.5, "shared 1": 0.5}]
    gates = [GateReport(1, reader, w, 0.8) for reader, w in zip(("a", "b"), weights, strict=True)]
    found = replace(plain, gates=gates, mixings=[], ranks=plain.ranks[:1])
    table = gate_table(found)
    assert table.columns == ("level", "gate of", "a 1", "shared 1", "b 1", "largest")
    assert table.rows == [["1", "a", "0.250", "0.750", "", "0.800"], ["1", "b", "", "0.500", "0.500", "0.800"]]
    pictures = draw_inspection(found)
    assert set(pictures) == {"gates.png", "effective-rank.png"}
    text = page(found, pictures)
    assert "Experts by task" in text
    assert all(f">{cell}</td>" in text for row in table.rows for cell in row if cell)
