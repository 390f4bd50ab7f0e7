"""Rankers as steps for C kernels: the numbers of the model, in every form that a model may have."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from export_cases import KINDS, build, of_backbone, toy_requests

from unimixer.bundles.bundle import id_limits
from unimixer.bundles.graph import Input, RequestRanker, feed
from unimixer.bundles.kernel_runner import KernelRunner
from unimixer.bundles.requests import repeated
from unimixer.bundles.steps import Steps, steps_of
from unimixer.data.dataset import Dataset
from unimixer.features.request import RequestLayout
from unimixer.ops import native
from unimixer.ops.native import scoring
from unimixer.ops.native.scoring import Form, Kind, Step

pytestmark = pytest.mark.skipif(scoring.library() is None, reason="no C compiler builds the kernels here")

FORMS: dict[str, dict[str, Any]] = {
    "matrices of blocks": {"options": {"matrices": "blocks"}},
    "pre": {"options": {"residual": "pre", "norm": "layer", "ffn": "gelu"}},
    "pre, rule": {**of_backbone("rankmixer"), "options": {"token_dim": 16, "residual": "pre"}},
    "bare mixing, plain": {**of_backbone("rankmixer"), "options": {"token_dim": 16, "residual": "bare-mixing"}},
    "siamese, rule": {**of_backbone("rankmixer"), "options": {"token_dim": 16, "residual": "siamese-official"}},
    "no hidden layer": {"tower_hidden_dims": ()},
    "two widths": {"embedding_dims": {"category": 4}},
    "wide": {**of_backbone("rankmixer"), "options": {"token_dim": 64, "hidden_dim": 75}},
}
WITH_STEPS = (
    "unimixer-lite",
    "unimixer",
    "rankmixer",
    "token-mixer",
    "flat read-out",
    "random",
    "fields through a layer",
)
WITHOUT = ("transformer", "semantic", "target attention", "history as tokens", "cross-attention", "experts", "dots")
WITHOUT += ("managed rows of histories", "bare mixing", "experts of tasks", "chain of labels")


def graph_of(dataset: Dataset, name: str) -> RequestRanker:
    layout, _ = toy_requests(dataset)
    return RequestRanker(build(dataset.transform.spec, **{**KINDS, **FORMS}[name]), layout, batch_last=True)


def runner_of(graph: RequestRanker, steps: Steps | None, threads: int = 1) -> KernelRunner:
    assert steps is not None
    tables = [graph.ranker.embedding.tables.of_width(width).weight.detach().numpy() for width in steps.tables]
    limits = {name: rows.tolist() for name, (rows, _) in id_limits(graph.spec, graph.layout).items()}
    return KernelRunner(steps, tables, graph.inputs, limits, threads)


@pytest.mark.parametrize("name", [*WITH_STEPS, *FORMS])
def test_steps_score_as_the_ranker(toy_dataset: Dataset, name: str) -> None:
    ranker, graph = build(toy_dataset.transform.spec, **{**KINDS, **FORMS}[name]), graph_of(toy_dataset, name)
    runner = runner_of(graph, steps_of(graph))
    for request in toy_requests(toy_dataset)[1]:
        with torch.no_grad():
            expected = ranker(request.batch())
        logits, probabilities = runner(feed(graph.inputs, request))
        torch.testing.assert_close(torch.from_numpy(logits), expected, rtol=1e-5, atol=5e-6)
        torch.testing.assert_close(torch.from_numpy(probabilities), expected.sigmoid(), rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", WITHOUT)
def test_a_model_with_another_part_has_no_steps(toy_dataset: Dataset, name: str) -> None:
    assert steps_of(graph_of(toy_dataset, name)) is None


def test_a_request_without_a_part_of_the_user(toy_dataset: Dataset) -> None:
    ranker = build(toy_dataset.transform.spec)
    graph = RequestRanker(ranker, RequestLayout(0, 0, ()), batch_last=True)
    batch = toy_requests(toy_dataset)[1][0].batch()
    given = batch.inputs() | {"candidates.sparse_ids": batch.sparse_ids}
    given |= {"candidates.dense_features": batch.dense_features}
    logits, _ = runner_of(graph, steps_of(graph))([given[one.name] for one in graph.inputs])
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(logits), ranker(batch), rtol=1e-5, atol=5e-6)


def test_activations_over_their_whole_range() -> None:
    """Of a model that gives a number x as x, GELU(x) and SiLU(x)."""
    forms = (Form.NONE, Form.GELU, Form.SILU)
    steps = (
        Step(Kind.VECTOR, to=0, out=1),
        *(Step(Kind.PRODUCT, to=1 + at, first=0, in_=1, out=1, form=form) for at, form in enumerate(forms)),
        Step(Kind.GIVE, first=1, out=3),
    )
    one, nothing, orders = np.ones(1, dtype=np.float32), np.zeros(0, dtype=np.float32), np.zeros(0, dtype=np.int64)
    whole = Steps((Step(Kind.GIVE, out=1),), steps, one, nothing, orders, ())
    numbers = Input("candidates.dense_features", "candidates", "float32", 1)
    x = torch.cat([torch.linspace(-30, 30, 6001), torch.tensor([float("nan"), -100.0, 100.0])]).unsqueeze(1)
    found = torch.from_numpy(KernelRunner(whole, [], [numbers], {}, 1)([x])[0])
    x = x.nan_to_num()
    expected = torch.cat([x, F.gelu(x.double()).float(), F.silu(x.double()).float()], dim=1)
    error = (found - expected).abs() / x.abs().clamp(min=1)
    assert error.max() < 3e-7


@pytest.mark.parametrize("count", [1, 47, 48, 49, 200])
def test_scores_do_not_depend_on_the_number_of_threads(toy_dataset: Dataset, count: int) -> None:
    graph = graph_of(toy_dataset, "rankmixer")
    tensors = feed(graph.inputs, repeated(toy_requests(toy_dataset)[1][0], count))
    one, three = (runner_of(graph, steps_of(graph), threads)(tensors) for threads in (1, 3))
    np.testing.assert_allclose(one, three, rtol=0, atol=1e-6)


def test_results_share_rows(toy_dataset: Dataset) -> None:
    """Memory does not grow with the number of blocks."""
    rows = []
    for blocks in (2, 6):
        options = {**of_backbone("rankmixer"), "options": {"token_dim": 16, "num_blocks": blocks}}
        graph = RequestRanker(
            build(toy_dataset.transform.spec, **options), toy_requests(toy_dataset)[0], batch_last=True
        )
        steps = steps_of(graph)
        assert steps is not None
        rows.append(max(step.to + step.out for step in steps.candidates))
    assert rows[0] == rows[1]


def spoiled(steps: Steps) -> Iterator[tuple[str, Steps]]:
    """Steps with one number out of its range, for every kind and field that is one of a place."""
    for kind in Kind:
        found = [index for index, step in enumerate(steps.candidates) if step.kind == kind]
        for name in ("to", "first", "weight", "bias", "source", "width", "out", "in_", "stride", "times"):
            if not found:
                continue
            own = list(steps.candidates)
            for value in (2**40, -2):
                own[found[0]] = replace(own[found[0]], **{name: value})
                yield f"{kind.name}.{name}={value}", replace(steps, candidates=tuple(own))


def test_steps_that_read_or_write_elsewhere_are_refused(toy_dataset: Dataset) -> None:
    graph = graph_of(toy_dataset, "pre")
    steps = steps_of(graph)
    assert steps is not None
    rows = runner_of(graph, steps)._rows
    for _, other in spoiled(steps):
        try:
            runner = runner_of(graph, other)
        except ValueError:
            continue
        assert runner._rows == rows  # a field that this kind of step does not read


def test_steps_without_a_result_are_refused(toy_dataset: Dataset) -> None:
    graph = graph_of(toy_dataset, "pre")
    steps = steps_of(graph)
    assert steps is not None
    with pytest.raises(ValueError, match="the last step alone gives the result"):
        runner_of(graph, replace(steps, candidates=steps.candidates[:-1]))
    with pytest.raises(ValueError, match="no steps"):
        runner_of(graph, replace(steps, candidates=steps.candidates[:0]))


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the narrow vectors are those of another processor")
@pytest.mark.parametrize("flags", [("-march=x86-64",), ("-march=x86-64-v3",)], ids=["sse", "avx2"])
def test_kernels_for_narrower_vectors(
    toy_dataset: Dataset, flags: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    graph = graph_of(toy_dataset, "matrices of blocks")
    tensors = feed(graph.inputs, toy_requests(toy_dataset)[1][0])
    expected = runner_of(graph, steps_of(graph))(tensors)
    monkeypatch.setattr(native, "FLAGS", ("-O1", *flags, "-fopenmp", "-shared", "-fPIC"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for cached in (native.library, scoring.library):
        cached.cache_clear()
    try:
        narrow = runner_of(graph, steps_of(graph))
        assert narrow._lanes < 48
        np.testing.assert_allclose(narrow(tensors), expected, rtol=1e-5, atol=5e-6)
    finally:
        for cached in (native.library, scoring.library):
            cached.cache_clear()
