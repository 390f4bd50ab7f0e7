"""Streams with the samples last: the same numbers as the modules that they stand for, and which models have them."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from export_cases import KINDS, build, of_backbone, toy_requests
from torch import Tensor, nn

from unimixer.blocks import PerTokenFFN, PerTokenSwiGLU
from unimixer.blocks.norms import LayerNorm, RMSNorm
from unimixer.bundles.batch_last import (
    BatchLast,
    RowFFN,
    RowHeadMixing,
    RowMatrixMixing,
    RowNorm,
    RowPermutation,
    RowTokenizer,
    per_token_conv,
    use_batch_last,
)
from unimixer.bundles.graph import RequestRanker, feed
from unimixer.bundles.onnx_file import open_session, write_onnx
from unimixer.bundles.precision import reduce
from unimixer.bundles.program import trace
from unimixer.bundles.runners import open_runner
from unimixer.data.dataset import Dataset
from unimixer.features.request import RequestLayout
from unimixer.mixing import (
    HeadUniMixing,
    IdentityLocal,
    Permutation,
    TokenMixing,
    Unified,
    UniMixing,
    UniMixingLite,
    freeze,
)
from unimixer.ops import per_token_linear


def rows(x_BTD: Tensor) -> Tensor:
    return x_BTD.permute(1, 2, 0).contiguous()


def moved(module: nn.Module) -> Any:
    """The module with every number off its start."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return module.eval()


def same(form: nn.Module, module: nn.Module, x_BTD: Tensor) -> None:
    with torch.no_grad():
        torch.testing.assert_close(form(rows(x_BTD)).permute(2, 0, 1), module(x_BTD), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("batch", [1, 2, 65])
@pytest.mark.parametrize("group", [1, 40, 4096])  # a token at a time, three of seven, all at once
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", [PerTokenFFN, PerTokenSwiGLU])
def test_an_ffn_in_groups_of_tokens(kind: Any, bias: bool, group: int, batch: int) -> None:
    ffn = moved(kind(num_tokens=7, token_dim=6, hidden_dim=11, bias=bias))
    form = RowFFN(ffn, group)
    width = 11 if kind is PerTokenFFN else 22
    assert len(form.groups) == -(-7 // max(1, group // width))
    same(form, ffn, torch.randn(batch, 7, 6))


@pytest.mark.parametrize("norm", [RMSNorm(6), LayerNorm(6)], ids=["rms", "layer"])
def test_norms(norm: Any) -> None:
    x = torch.randn(5, 3, 6)
    x[0] = 0  # only epsilon is under the root
    same(RowNorm(moved(norm)), norm, x)


@pytest.mark.parametrize("local", ["doubly_stochastic", "shared", "free"])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("kind", [UniMixing, UniMixingLite])
def test_mixing_by_matrices(kind: Any, symmetric: bool, local: str) -> None:
    mixing = moved(kind(length=4 * 8, block_size=2, num_heads=4, local=local, symmetric=symmetric))
    same(RowMatrixMixing(freeze(mixing)), mixing, torch.randn(5, 4, 8))


@pytest.mark.parametrize(
    "options",
    [
        {"gate": 0.3, "init": "random"},
        {"constraint": "permutations"},
        {"constraint": "kronecker"},
        {"constraint": "orthogonal", "symmetric": False},
    ],
    ids=str,
)
def test_mixing_by_matrices_of_other_constraints(options: dict[str, Any]) -> None:
    mixing = moved(UniMixing(length=4 * 8, block_size=2, num_heads=4, **options))
    same(RowMatrixMixing(freeze(mixing)), mixing, torch.randn(5, 4, 8))


def test_mixing_by_a_matrix_a_head() -> None:
    mixing = moved(HeadUniMixing(num_tokens=4, token_dim=8, num_heads=2, symmetric=False))
    same(RowHeadMixing(freeze(mixing)), mixing, torch.randn(5, 4, 8))


def test_mixing_by_a_permutation() -> None:
    rule = TokenMixing(num_tokens=4, token_dim=8)
    same(RowPermutation(rule), rule, torch.randn(5, 4, 8))
    numbers = Unified(IdentityLocal(32, 1), Permutation(torch.randperm(32)))
    same(RowPermutation(numbers), numbers, torch.randn(5, 4, 8))


def test_a_per_token_map_is_a_convolution_with_a_group_a_token() -> None:
    weight, bias, x = torch.randn(3, 4, 5), torch.randn(3, 5), torch.randn(6, 3, 4)
    for given in (bias, None):
        conv = per_token_conv(weight, given)
        found = conv(rows(x).flatten(0, 1).unsqueeze(0)).squeeze(0).unflatten(0, (3, 5))
        torch.testing.assert_close(found.permute(2, 0, 1), per_token_linear(x, weight, given))


WITH = {
    "unimixer-lite": of_backbone("unimixer-lite"),
    "unimixer": of_backbone("unimixer"),
    "a matrix a head": {"options": {"matrices": "heads"}},
    "rankmixer": of_backbone("rankmixer"),
    "siamese": {"pooling": "flatten", "options": {"residual": "siamese-official"}},
    "bare mixing": KINDS["bare mixing"],
    "pre": {"options": {"residual": "pre", "norm": "layer", "ffn": "gelu"}},
    "history as tokens": KINDS["history as tokens"],
    "random": {"tokenizer": "random", "options": {"num_blocks": 1}},
    "fields through a layer": KINDS["fields through a layer"],
    "semantic": KINDS["semantic"],
}
WHATEVER_THE_FEATURES = ("unimixer-lite", "unimixer", "a matrix a head", "rankmixer", "siamese", "bare mixing", "pre")
WITHOUT = ("transformer", "experts", "cross-attention", "siamese cross-attention", "dhen", "mlp")


@pytest.mark.parametrize("name", WITH)
def test_streams_that_have_the_form_score_as_the_ranker(
    toy_dataset: Dataset, few_features: Dataset, tmp_path: Path, name: str
) -> None:
    dataset, options = few_features if name in WHATEVER_THE_FEATURES else toy_dataset, WITH[name]
    ranker = build(dataset.transform.spec, **options)
    layout, requests = toy_requests(dataset)
    graph = RequestRanker(ranker, layout, batch_last=True)
    assert sum(isinstance(part, BatchLast) for part in graph.modules()) == 1
    assert not any(isinstance(part, BatchLast) for part in ranker.modules())  # the ranker is left as it was
    assert isinstance(graph.tokenizer, RowTokenizer) == (options.get("tokenizer") != "semantic")
    write_onnx(graph, trace(graph), tmp_path / "model.onnx")
    runner = open_runner("onnx", tmp_path / "model.onnx", graph.inputs, 1)
    for request in requests:
        with torch.no_grad():
            expected = ranker(request.batch())
            logits, _ = graph(*feed(graph.inputs, request))
        torch.testing.assert_close(logits, expected, rtol=1e-5, atol=3e-6)
        torch.testing.assert_close(
            torch.from_numpy(runner(feed(graph.inputs, request))[0]), expected, rtol=1e-5, atol=5e-6
        )


@pytest.mark.parametrize("name", WITHOUT)
def test_streams_without_the_form_stay_as_they_are(toy_dataset: Dataset, name: str) -> None:
    ranker = build(toy_dataset.transform.spec, **KINDS[name])
    layout, requests = toy_requests(toy_dataset)
    assert use_batch_last(RequestRanker(ranker, layout).ranker.backbone) == 0
    graph = RequestRanker(ranker, layout, batch_last=True)
    with torch.no_grad():
        torch.testing.assert_close(
            graph(*feed(graph.inputs, requests[0]))[0], ranker(requests[0].batch()), rtol=1e-5, atol=2e-6
        )


@pytest.mark.parametrize("layout", [RequestLayout(0, 0, ()), None], ids=["nothing", "a part"])
def test_tokens_come_samples_last_whatever_is_the_users(toy_dataset: Dataset, layout: RequestLayout | None) -> None:
    ranker = build(toy_dataset.transform.spec, num_tokens=6, options={"token_dim": 24, "num_heads": 6})
    mine, _ = toy_requests(toy_dataset)
    graphs = [RequestRanker(ranker, layout or mine, batch_last=last) for last in (False, True)]
    columns = sum(field.width for field in ranker.embedding.slices)
    theirs = graphs[0].tokenizer.linear.item_width
    user = torch.randn(1, columns - theirs) if theirs < columns else None
    items = torch.randn(5, theirs)
    with torch.no_grad():
        plain, last = (graph.tokenizer(user, items) for graph in graphs)
    torch.testing.assert_close(last, plain)
    assert last.permute(1, 2, 0).is_contiguous()


def test_blocks_of_a_graph_transpose_no_activations(few_features: Dataset, tmp_path: Path) -> None:
    """What is written has fewer transpositions than blocks, and every FFN product has its bias in it."""
    layout, _ = toy_requests(few_features)
    options = {"num_blocks": 6, "matrices": "blocks"}  # a matrix a head has two of its own
    graph = RequestRanker(build(few_features.transform.spec, options=options), layout, batch_last=True)
    write_onnx(graph, trace(graph), tmp_path / "model.onnx")
    nodes = onnx.load(str(tmp_path / "model.onnx")).graph.node
    count = Counter(node.op_type for node in nodes)
    assert count["Transpose"] < 6
    convolutions = [node for node in nodes if node.op_type == "Conv"]
    assert len(convolutions) == 6 * 3 + 1  # the tokenizer has one, whose bias comes with the user
    assert sum(len(node.input) == 3 for node in convolutions) == 6 * 3


def test_half_precision_weights_go_into_convolutions(toy_dataset: Dataset, tmp_path: Path) -> None:
    ranker = build(toy_dataset.transform.spec, width=64)
    layout, requests = toy_requests(toy_dataset)
    graph = RequestRanker(ranker, layout, batch_last=True)
    write_onnx(graph, trace(graph), tmp_path / "model.onnx")
    before = (tmp_path / "model.onnx").stat().st_size
    reduce(tmp_path / "model.onnx", "float16", external=False)
    assert (tmp_path / "model.onnx").stat().st_size < 0.75 * before
    runner = open_runner("onnx", tmp_path / "model.onnx", graph.inputs, 1)
    for request in requests:
        with torch.no_grad():
            expected = ranker(request.batch()).sigmoid()
        found = torch.from_numpy(runner(feed(graph.inputs, request))[1])
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-3)


def test_threads_of_a_session_rest_when_a_request_ends(toy_dataset: Dataset, tmp_path: Path) -> None:
    layout, requests = toy_requests(toy_dataset)
    graph = RequestRanker(build(toy_dataset.transform.spec), layout, batch_last=True)
    write_onnx(graph, trace(graph), tmp_path / "model.onnx")
    session = open_session(tmp_path / "model.onnx", 4)
    assert session.get_session_options().get_session_config_entry("session.force_spinning_stop") == "1"
    used = {found.name for found in session.get_inputs()}
    tensors = feed(graph.inputs, requests[0])
    given = {i.name: t.numpy() for i, t in zip(graph.inputs, tensors, strict=True) if i.name in used}
    spent = []
    for _ in range(5):
        session.run(None, given)
        before = time.process_time()
        time.sleep(0.1)
        spent.append(time.process_time() - before)
    assert min(spent) < 0.005  # busy threads took 0.02 to 0.08 s
