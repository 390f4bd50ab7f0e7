"""Estimated memory against the tensors of a step that runs."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from unimixer.backbones import BACKBONES
from unimixer.data.dataset import Dataset
from unimixer.data.loader import Loader
from unimixer.features.batch import Batch
from unimixer.features.spec import DenseField, FeatureSpec
from unimixer.profiling.memory import estimate_memory, measure_memory
from unimixer.ranker import Ranker, count_dense
from unimixer.training.config import OptimizerConfig

SMALL: dict[str, dict[str, Any]] = {
    "dlrm": {"bottom_dims": (24,), "top_dims": (24, 12)},
    "finalmlp": {"first_dims": (24, 12), "second_dims": (16,), "gate_dims": (12,)},
    "deepfm": {"hidden_dims": (24, 12)},
    "mlp": {"hidden_dims": (24, 12)},
    "fm": {"num_factors": 8},
}


def ranker_of(dataset: Dataset, name: str, **arguments: Any) -> Ranker:
    options = {"token_dim": 16, **SMALL.get(name, {})}
    return Ranker(dataset.transform.spec, backbone=name, num_tokens=8, options=options, **arguments)


def batch_of(dataset: Dataset, rows: int) -> Batch:
    return next(iter(Loader(dataset, "train", batch_size=rows, num_workers=0).batches()))


@pytest.mark.parametrize("name", list(BACKBONES))
def test_the_estimate_is_within_a_tenth_of_what_a_step_holds(name: str, toy_dataset: Dataset) -> None:
    ranker, batch = ranker_of(toy_dataset, name), batch_of(toy_dataset, 128)
    found, measured = estimate_memory(ranker, batch), measure_memory(ranker, batch)
    assert found.total == pytest.approx(measured.total, rel=0.1)
    assert found.activations == pytest.approx(measured.activations, rel=0.1)
    assert found.parameters == measured.parameters
    assert found.gradients == pytest.approx(measured.gradients, rel=0.1)
    assert found.optimizer == pytest.approx(measured.optimizer, rel=0.01)


@pytest.mark.parametrize(
    "arguments",
    [{"sequences": "tokens"}, {"sequences": "cross_attention"}, {"sequence_encoder": "target_attention"}],
    ids=lambda a: next(iter(a.values())),
)
def test_models_that_read_events_are_estimated_too(arguments: dict[str, Any], toy_dataset: Dataset) -> None:
    ranker, batch = ranker_of(toy_dataset, "rankmixer", **arguments), batch_of(toy_dataset, 96)
    found, measured = estimate_memory(ranker, batch), measure_memory(ranker, batch)
    assert found.activations == pytest.approx(measured.activations, rel=0.1)
    assert found.total == pytest.approx(measured.total, rel=0.1)


@pytest.mark.parametrize("sparse", ["adam", "rowwise_adagrad"])
def test_optimizers_hold_what_their_rules_need(sparse: str, toy_dataset: Dataset) -> None:
    ranker, batch = ranker_of(toy_dataset, "mlp"), batch_of(toy_dataset, 32)
    config = OptimizerConfig(sparse=sparse)  # type: ignore[arg-type]
    found, measured = (of(ranker, batch, config) for of in (estimate_memory, measure_memory))
    tables = sum(ranker.spec.tables.values())
    state = 2 * tables * 16 if sparse == "adam" else tables
    assert found.optimizer == 4 * (2 * count_dense(ranker) + state)
    assert measured.optimizer == pytest.approx(found.optimizer, rel=0.01)


def test_the_activations_of_two_layers_are_those_of_hand() -> None:
    # backward of an MLP needs the input of every linear layer and, for SiLU, what entered it
    spec = FeatureSpec((), (DenseField("x", "context", 6),), (), {"nothing": 2}, ("y",))
    ranker = Ranker(
        spec,
        backbone="mlp",
        num_tokens=2,
        tokenizer="chunk",
        embedding_dim=4,
        tower_hidden_dims=(),
        options={"token_dim": 3, "hidden_dims": (5,)},
    )
    rows = 10
    batch = Batch(torch.zeros(rows, 0, dtype=torch.int32), torch.randn(rows, 6))
    found = estimate_memory(ranker, batch)
    assert found.activations == measure_memory(ranker, batch).activations
    numbers = rows * (4 + 6 + 5)  # into the tokenizer, into the hidden layer, out of its ReLU and into the tower
    assert numbers * 4 <= found.activations <= numbers * 4 + rows * (6 * 4 + 3 + 4 * 4)  # raw input, masks, logits


def test_half_precision_holds_less(toy_dataset: Dataset) -> None:
    ranker, batch = ranker_of(toy_dataset, "rankmixer"), batch_of(toy_dataset, 128)
    full, half = (estimate_memory(ranker, batch, precision=p).activations for p in ("float32", "bfloat16"))
    assert half == pytest.approx(measure_memory(ranker, batch, precision="bfloat16").activations, rel=0.1)
    assert half < full


def test_the_estimate_takes_no_memory_and_no_weights(toy_dataset: Dataset) -> None:
    batch = batch_of(toy_dataset, 64)
    with torch.device("meta"):
        hollow = ranker_of(toy_dataset, "unimixer-lite")
    assert estimate_memory(hollow, batch) == estimate_memory(ranker_of(toy_dataset, "unimixer-lite"), batch)
    assert batch.labels is not None
    assert torch.isfinite(batch.labels).all()
