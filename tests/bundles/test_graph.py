"""The user's part once, the candidates' N times: the same scores as the plain ranker, in every kind of model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from export_cases import KINDS, build, toy_requests
from hypothesis import given, settings
from hypothesis import strategies as st

from unimixer.bundles.encoders import list_means, list_of, mean_of_all, newest_first
from unimixer.bundles.graph import RequestRanker, feed, signature
from unimixer.bundles.onnx_file import write_onnx
from unimixer.bundles.program import trace
from unimixer.data.dataset import Dataset
from unimixer.errors import UnimixerError
from unimixer.features.events import pad_events
from unimixer.features.request import RequestLayout
from unimixer.features.sequence import owners
from unimixer.features.spec import DenseField, FeatureSpec, IdField
from unimixer.features.tokenizers import ChunkTokenizer

Lengths = st.lists(st.integers(0, 4), min_size=1, max_size=6)


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
def test_a_request_scores_as_the_batch_of_its_rows(toy_dataset: Dataset, options: dict[str, Any]) -> None:
    ranker = build(toy_dataset.transform.spec, **options)
    layout, requests = toy_requests(toy_dataset)
    graph = RequestRanker(ranker, layout)
    for request in requests:
        with torch.no_grad():
            logits, probabilities = graph(*feed(graph.inputs, request))
            expected = ranker(request.batch())
        torch.testing.assert_close(logits, expected, rtol=1e-5, atol=2e-6)
        torch.testing.assert_close(probabilities, expected.sigmoid(), rtol=0, atol=1e-6)
        assert len(request) == 1 or expected.std() > 1e-3 or torch.allclose(expected, expected[:1])


@pytest.mark.parametrize("name", ["unimixer-lite", "semantic", "target attention", "cross-attention"])
def test_without_a_part_of_the_user_every_column_is_the_candidates(toy_dataset: Dataset, name: str) -> None:
    """Where nothing belongs to the user, all columns are the candidates' and the scores stay."""
    spec = toy_dataset.transform.spec
    if name in ("target attention", "cross-attention"):
        with pytest.raises(UnimixerError, match="'clicks' is not the user's"):
            RequestRanker(build(spec, **KINDS[name]), RequestLayout(0, 0, ()))
        return
    ranker = build(spec, **KINDS[name])
    graph = RequestRanker(ranker, RequestLayout(0, 0, ()))
    _, requests = toy_requests(toy_dataset)
    batch = requests[0].batch()
    given = {
        **batch.inputs(),
        "candidates.sparse_ids": batch.sparse_ids,
        "candidates.dense_features": batch.dense_features,
    }
    with torch.no_grad():
        logits, _ = graph(*(given[found.name] for found in graph.inputs))
        torch.testing.assert_close(logits, ranker(batch), rtol=1e-5, atol=2e-6)


def test_the_tokenizer_reads_each_side_once(toy_dataset: Dataset) -> None:
    ranker = build(toy_dataset.transform.spec, num_tokens=6)
    layout, _ = toy_requests(toy_dataset)
    linear = RequestRanker(ranker, layout).tokenizer.linear
    assert linear.user_tokens
    assert linear.item_tokens
    assert sorted([*linear.user_tokens, *linear.item_tokens]) == list(range(6))
    assert isinstance(ranker.tokenizer, ChunkTokenizer)  # the ranker itself is left as it was
    ours = linear.user_weight.count_nonzero() + linear.item_weight.count_nonzero()
    every = ranker.tokenizer.linear.weight
    padding = every[-1, every.shape[1] - ranker.tokenizer.padding :].numel()
    assert ours == every.numel() - padding  # every product stands on exactly one side


def test_the_graph_shares_the_tables_and_leaves_the_ranker_alone(toy_dataset: Dataset) -> None:
    ranker = build(toy_dataset.transform.spec, backbone="fat", tokenizer="chunk", options={"token_dim": 16})
    layout, requests = toy_requests(toy_dataset)
    before = {name: tensor.clone() for name, tensor in ranker.state_dict().items()}
    graph = RequestRanker(ranker, layout)
    assert graph.user.tables is ranker.embedding.tables
    assert all(torch.equal(before[name], tensor) for name, tensor in ranker.state_dict().items())
    assert ranker(requests[0].batch()).shape == (24, 2)


def test_the_signature_names_every_tensor_and_leaves_out_empty_ones(toy_dataset: Dataset) -> None:
    layout, _ = toy_requests(toy_dataset)
    found = signature(toy_dataset.transform.spec, layout)
    assert [(tensor.name, tensor.rows) for tensor in found] == [
        ("user.sparse_ids", 1),
        ("user.dense_features", 1),
        ("candidates.sparse_ids", "candidates"),
        ("candidates.dense_features", "candidates"),
        ("interests.sequence_values", "interests.sequence_values.rows"),
        ("clicks.sequence_values", "clicks.sequence_values.rows"),
        ("words.sequence_values", "words.sequence_values.rows"),
        ("words.sequence_offsets", "candidates + 1"),
    ]
    bare = FeatureSpec((IdField("ad", "item", "ad"),), (), (), {"ad": 9}, ("click",))
    assert [tensor.name for tensor in signature(bare, RequestLayout(0, 0, ()))] == ["candidates.sparse_ids"]


def test_a_model_of_the_user_alone_has_no_request() -> None:
    spec = FeatureSpec((IdField("age", "user", "age"),), (DenseField("x", "user"),), (), {"age": 9}, ("click",))
    with pytest.raises(UnimixerError, match="nothing tells candidates apart"):
        RequestRanker(
            build(spec, num_tokens=2, options={"matrices": "blocks", "block_size": 4}), RequestLayout(1, 1, ())
        )


def test_a_model_that_cannot_be_traced_is_one_sentence(toy_dataset: Dataset) -> None:
    layout, _ = toy_requests(toy_dataset)
    graph = RequestRanker(build(toy_dataset.transform.spec), layout)
    graph.ranker.towers.forward = lambda hidden: hidden * float(hidden.sum())  # type: ignore[method-assign]
    with pytest.raises(UnimixerError, match=r"this UniMixerLite cannot be exported: .*; write its forward with"):
        trace(graph)


def test_an_exporter_that_fails_is_named_with_its_versions(
    monkeypatch: pytest.MonkeyPatch, toy_dataset: Dataset, tmp_path: Path
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("no form of aten.bmm")

    monkeypatch.setattr(torch.onnx, "export", fail)
    graph, program = RequestRanker(build(toy_dataset.transform.spec), toy_requests(toy_dataset)[0]), cast(Any, None)
    reason = (
        r"no form of aten.bmm; torch 2[\w.+]+ with onnxscript [\d.]+ writes no ONNX of it: update both, or choose pt2"
    )
    with pytest.raises(UnimixerError, match=f"this UniMixerLite cannot be exported: {reason}"):
        write_onnx(graph, program, tmp_path / "model.onnx", external=False)


@given(lengths=Lengths)
@settings(deadline=None, max_examples=30)
def test_ragged_forms_equal_their_references(lengths: list[int]) -> None:
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    count = int(offsets[-1])
    vectors = torch.randn(count, 3, generator=torch.Generator().manual_seed(count))
    assert torch.equal(list_of(offsets, count), owners(offsets, count))
    rows = torch.arange(count)
    bags = torch.nn.functional.embedding_bag(rows, vectors, offsets, mode="mean", include_last_offset=True)
    torch.testing.assert_close(list_means(vectors, offsets), bags if count else torch.zeros(len(lengths), 3))
    whole = torch.tensor([0, count])
    expected = vectors.mean(0, keepdim=True) if count else torch.zeros(1, 3)
    torch.testing.assert_close(mean_of_all(vectors), expected)
    for longest in (1, 3, 9):
        for ours, reference in zip(newest_first(vectors, longest), pad_events(vectors, whole, longest), strict=True):
            assert torch.equal(ours, reference)


def test_tensors_of_a_signature_are_contiguous(toy_dataset: Dataset) -> None:
    layout, requests = toy_requests(toy_dataset)
    inputs = signature(toy_dataset.transform.spec, layout)
    strided = replace(requests[0].candidates, sparse_ids=requests[0].candidates.sparse_ids.T.contiguous().T)
    tensors = feed(inputs, replace(requests[0], candidates=strided))
    assert all(tensor.is_contiguous() for tensor in tensors)
