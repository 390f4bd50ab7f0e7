"""Behaviour sequences inside the stack: as tokens and by cross-attention."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from tiny import tiny_recipe
from torch import Tensor
from toy import DAY, START, toy_frames

from unimixer.blocks import CrossAttention
from unimixer.data.dataset import Dataset
from unimixer.data.loader import Loader
from unimixer.data.raw.tables import Chunk
from unimixer.errors import UnimixerError
from unimixer.features.batch import Batch
from unimixer.features.spec import FeatureSpec
from unimixer.models import width_for_budget
from unimixer.predictor import Predictor
from unimixer.ranker import Ranker, count_dense, dense_parameters, table_parameters
from unimixer.training.model import load_ranker
from unimixer.training.train import train

SMALL: dict[str, Any] = {"num_tokens": 4, "embedding_dim": 8, "width": 16, "tower_hidden_dims": (8,)}
ABLE = ("unimixer", "unimixer-lite", "rankmixer")
VARIANTS: list[Any] = [
    *(pytest.param({"sequences": "cross_attention", "backbone": name}, id=f"attention-{name}") for name in ABLE),
    *(pytest.param({"sequences": "tokens", "backbone": name}, id=f"tokens-{name}") for name in (*ABLE, "mlp", "dcnv2")),
    pytest.param({"sequences": "tokens", "sequence_tokens": 1, "sequence_dim": 5}, id="one token"),
    pytest.param({"sequences": "tokens", "tokenizer": "semantic", "num_tokens": 8}, id="tokens-semantic"),
    pytest.param({"sequences": "cross_attention", "sequence_dim": 5, "tokenizer": "random"}, id="narrow events"),
    pytest.param(
        {"sequences": "cross_attention", "options": {"residual": "siamese", "sequence_head_dim": 4}}, id="siamese"
    ),
    pytest.param({"sequences": "cross_attention", "sequence_encoder": "transformer"}, id="another encoder"),
    pytest.param(
        {"sequences": "cross_attention", "tokenizer": "field", "options": {"token_dim": 44}}, id="attention-field"
    ),
]


@pytest.fixture(scope="module")
def dataset(toy_folder: Any) -> Dataset:
    return Dataset(toy_folder)


@pytest.fixture(scope="module")
def spec(dataset: Dataset) -> FeatureSpec:
    return dataset.transform.spec


@pytest.fixture(scope="module")
def batch(dataset: Dataset) -> Batch:
    return next(Loader(dataset, "train", batch_size=32, shuffle=True).batches())


def build(spec: FeatureSpec, **options: Any) -> Ranker:
    torch.manual_seed(0)
    return Ranker(spec, **{**SMALL, **options})


def cold(batch: Batch) -> Batch:
    """The batch with no events at all."""
    values, offsets = {**batch.sequence_values}, {**batch.sequence_offsets}
    values["clicks"], offsets["clicks"] = values["clicks"][:0], torch.zeros_like(offsets["clicks"])
    return replace(batch, sequence_values=values, sequence_offsets=offsets)


def loss_of(ranker: Ranker, batch: Batch) -> Tensor:
    assert batch.labels is not None
    return torch.nn.functional.binary_cross_entropy_with_logits(ranker(batch), batch.labels)


def test_pooled_is_the_default_and_score_then_takes_one_vector(spec: FeatureSpec, batch: Batch) -> None:
    ranker, other = build(spec), build(spec, sequences="pooled")
    assert ranker.state_dict().keys() == other.state_dict().keys()
    (embedded,) = ranker.embed(batch)
    assert torch.equal(ranker.score(embedded), other(batch))


@pytest.mark.parametrize("options", VARIANTS)
def test_every_variant_scores_and_every_parameter_learns(
    spec: FeatureSpec, batch: Batch, options: dict[str, Any]
) -> None:
    ranker = build(spec, sparse_gradients=True, **options)
    assert ranker(batch).shape == (32, 2)
    loss_of(ranker, batch).backward()
    for name, parameter in ranker.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.is_sparse is name.startswith("embedding.tables"), name
        gradient = parameter.grad.to_dense() if parameter.grad.is_sparse else parameter.grad
        assert gradient.isfinite().all(), name
        assert gradient.any(), name


@pytest.mark.parametrize("options", VARIANTS)
def test_a_row_scores_alike_alone_and_in_a_batch(spec: FeatureSpec, dataset: Dataset, options: dict[str, Any]) -> None:
    ranker = build(spec, **options).eval()
    with torch.no_grad():
        together = ranker(next(Loader(dataset, "test", batch_size=9).batches()))
        alone = [ranker(b) for b in islice(Loader(dataset, "test", batch_size=1).batches(), 9)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", VARIANTS)
def test_events_reach_the_score_and_empty_histories_are_fine(
    spec: FeatureSpec, batch: Batch, options: dict[str, Any]
) -> None:
    ranker = build(spec, **{"embedding_init_std": 0.5, **options})
    with torch.no_grad():
        assert not torch.allclose(ranker(batch), ranker(cold(batch)), atol=1e-4)
    loss_of(ranker, cold(batch)).backward()
    gradients = [p.grad for p in dense_parameters(ranker) if p.grad is not None]
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        low = ranker(batch).float()
    torch.testing.assert_close(low, ranker(batch), atol=0.1, rtol=0.1)


@pytest.mark.parametrize("sequences", ["tokens", "cross_attention"])
@pytest.mark.parametrize("name", ABLE)
def test_both_ways_overfit_one_batch(spec: FeatureSpec, batch: Batch, name: str, sequences: str) -> None:
    ranker = build(spec, backbone=name, embedding_init_std=0.1, sequences=sequences, sparse_gradients=True)
    dense = torch.optim.Adam(dense_parameters(ranker), lr=0.01)
    sparse = torch.optim.SparseAdam(table_parameters(ranker), lr=0.05)
    for _ in range(40):
        loss = loss_of(ranker, batch)
        if loss < 0.15:
            break
        for optimizer in (dense, sparse):
            optimizer.zero_grad()
        loss.backward()
        for optimizer in (dense, sparse):
            optimizer.step()
    assert loss < 0.15


def test_the_backbone_sees_as_many_tokens_as_were_asked_for(spec: FeatureSpec, batch: Batch) -> None:
    ranker = build(spec, sequences="tokens", sequence_tokens=3)
    assert ranker.backbone.num_tokens == 4
    assert ranker.tokenizer(ranker.embed(batch)[0]).shape[1] == 1
    field = build(spec, backbone="mlp", sequences="tokens", tokenizer="field")
    assert field.backbone.num_tokens == len(field.embedding.slices) + 2 == 13
    attention = build(spec, sequences="cross_attention")
    assert attention.tokenizer(attention.embed(batch)[0]).shape[1] == attention.backbone.num_tokens == 4
    layers = [module for module in attention.modules() if isinstance(module, CrossAttention)]
    assert [layer.sequence_dim for layer in layers] == [16, 16]  # an event is an item and its category


@pytest.mark.parametrize("options", [VARIANTS[0], VARIANTS[3]])
def test_the_dense_part_exports_with_a_dynamic_batch(
    spec: FeatureSpec, dataset: Dataset, options: dict[str, Any]
) -> None:
    ranker = build(spec, **options).eval()
    first, *others = [next(Loader(dataset, "test", batch_size=rows).batches()) for rows in (3, 1, 7)]

    class Dense(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ranker = ranker

        def forward(self, embedded: Tensor, events: Tensor, lengths: Tensor) -> Tensor:
            return ranker.score(embedded, events, lengths)

    rows = torch.export.Dim("rows", min=1, max=4096)
    with torch.no_grad():
        inputs = ranker.embed(first)
        program = torch.export.export(Dense(), inputs, dynamic_shapes=tuple({0: rows} for _ in inputs)).module()
        for other in (first, *others):
            torch.testing.assert_close(program(*ranker.embed(other)), ranker(other), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("sequences", ["tokens", "cross_attention"])
def test_a_graph_without_breaks_equals_the_trimmed_forward(spec: FeatureSpec, batch: Batch, sequences: str) -> None:
    ranker = build(spec, sequences=sequences, embedding_init_std=0.5)
    compiled = torch.compile(ranker.score, fullgraph=True, backend="eager")
    for rows in (batch, cold(batch)):
        inputs = [tensor.detach() for tensor in ranker.embed(rows)]
        torch.testing.assert_close(compiled(*inputs), ranker(rows), atol=1e-5, rtol=1e-5)


# ---- budgets -----------------------------------------------------------------


@pytest.mark.parametrize("budget", [60_000, 150_000, 1_000_000])
@pytest.mark.parametrize("name", ABLE)
@pytest.mark.parametrize("sequences", ["tokens", "cross_attention"])
def test_a_budget_counts_what_reads_the_sequences(spec: FeatureSpec, name: str, sequences: str, budget: int) -> None:
    arguments: dict[str, Any] = {"backbone": name, "num_tokens": 8, "embedding_dim": 8, "sequences": sequences}
    size = width_for_budget(spec, dense_params=budget, **arguments)
    assert abs(count_dense(Ranker(spec, width=size, **arguments)) / budget - 1) <= 0.02


@pytest.mark.parametrize("name", ["mlp", "dcnv2", "masknet", "deepfm"])
def test_sequence_tokens_go_with_other_backbones_at_a_budget(spec: FeatureSpec, batch: Batch, name: str) -> None:
    arguments: dict[str, Any] = {
        "backbone": name,
        "num_tokens": 8,
        "embedding_dim": 8,
        "sequences": "tokens",
        "tokenizer": "chunk",
    }
    size = width_for_budget(spec, dense_params=100_000, **arguments)
    ranker = Ranker(spec, width=size, **arguments)
    assert abs(count_dense(ranker) / 100_000 - 1) <= 0.02
    assert ranker(batch).isfinite().all()


# ---- whole runs --------------------------------------------------------------


@pytest.mark.parametrize(
    "overrides",
    [("model.sequences=tokens", "model.sequence_tokens=1"), ("model.sequences=cross_attention",)],
    ids=["tokens", "attention"],
)
def test_a_run_trains_and_predicts(
    toy_folder: Path, dataset: Dataset, tmp_path: Path, overrides: tuple[str, ...]
) -> None:
    more = ("training.max_steps=6", "model.width=null", "model.dense_params=6K")
    run = train(tiny_recipe(toy_folder, *overrides, *more), folder=tmp_path / "run", quiet=True)
    assert run.result is not None
    assert run.result["dense_parameters"] == pytest.approx(6_000, rel=0.02)
    losses = [line["loss"] for line in run.history() if line["kind"] == "train"]
    assert len(losses) == 6
    assert losses[-1] < losses[0]
    rows = toy_frames()[0].filter(pl.col("time_ms") >= START + 8 * DAY)
    model = load_ranker(run)
    with torch.no_grad():
        expected = torch.cat([model(batch) for batch in Loader(dataset, "test", batch_size=100).batches()])
    logits = Predictor(run.folder, device="cpu").logits(Chunk(rows, "test"))
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)


# ---- mistakes ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sequences": "token"}, "sequences='token' is not one of pooled, tokens, cross_attention; did you mean"),
        (
            {"sequences": "cross_attention", "backbone": "mlp"},
            "backbone 'mlp' has no blocks that attend to events; those of unimixer, unimixer-lite, rankmixer",
        ),
        (
            {"sequences": "tokens", "sequence_tokens": 4},
            "num_tokens=4 leaves no token for the fields: sequences take 4; num_tokens must be at least 5, or",
        ),
        (
            {"sequences": "tokens", "tokenizer": "semantic"},
            r"num_tokens=2 does not fit the semantic .* \(2 of num_tokens=4 are those of sequences\)",
        ),
        ({"sequences": "tokens", "sequence_tokens": 0}, "sequence_tokens=0 must be greater than 0"),
        ({"sequences": "cross_attention", "sequence_dim": 0}, "sequence_dim=0 must be greater than 0"),
        ({"sequence_dim": 8}, "sequence_dim=8 has no use with sequences='pooled'"),
        ({"options": {"sequence_dim": 8}}, "options: sequence_dim is an argument of the Ranker itself"),
        ({"options": {"sequence_head_dim": 8}}, "sequence_head_dim=8 has no use without sequence_dim"),
    ],
)
def test_what_cannot_be_built_is_named(spec: FeatureSpec, options: dict[str, Any], message: str) -> None:
    for size in (None, 16):
        with pytest.raises(UnimixerError, match=message):
            build(spec, **{**options, "width": size})


@pytest.mark.parametrize("sequences", ["tokens", "cross_attention"])
def test_data_without_behaviour_is_named(spec: FeatureSpec, sequences: str) -> None:
    others = replace(spec, sequences=tuple(f for f in spec.sequences if f.domain != "behaviour"))
    with pytest.raises(UnimixerError, match=f"sequences='{sequences}': the data has no behaviour sequence; use sequen"):
        build(others, sequences=sequences)
    alone = replace(spec, ids=(), dense=(), sequences=tuple(f for f in spec.sequences if f.domain == "behaviour"))
    with pytest.raises(UnimixerError, match="no field is left beside the behaviour sequences; use sequences='pooled'"):
        build(alone, sequences=sequences)
