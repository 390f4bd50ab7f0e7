"""The ranker: any backbone on any tokens, at any budget."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import pytest
import torch

from unimixer import models
from unimixer.backbones import BACKBONES
from unimixer.data.dataset import Dataset
from unimixer.data.loader import Loader
from unimixer.errors import UnimixerError
from unimixer.features.batch import Batch
from unimixer.features.sequence_encoders import SEQUENCE_ENCODERS
from unimixer.features.spec import FeatureSpec
from unimixer.features.tokenizers import TOKENIZERS
from unimixer.models import width_for_budget
from unimixer.ranker import Ranker, count_dense, dense_parameters, table_parameters

SMALL: dict[str, Any] = {"num_tokens": 4, "embedding_dim": 8, "width": 16, "tower_hidden_dims": (8,)}


@pytest.fixture(scope="module")
def dataset(toy_folder: Any) -> Dataset:
    return Dataset(toy_folder)


@pytest.fixture(scope="module")
def spec(dataset: Dataset) -> FeatureSpec:
    return dataset.transform.spec


@pytest.fixture(scope="module")
def batch(dataset: Dataset) -> Batch:
    return next(Loader(dataset, "train", batch_size=32, shuffle=True).batches())


def build(spec: FeatureSpec, seed: int = 0, **options: Any) -> Ranker:
    torch.manual_seed(seed)
    backbone = BACKBONES.get(options.get("backbone", "unimixer-lite"))
    by_domain = backbone is not None and backbone.default_tokenizer == "semantic"
    enough = {"num_tokens": 6} if by_domain else {}  # the global token and one for each domain
    return Ranker(spec, **{**SMALL, **enough, **options})


def variants() -> Iterator[Any]:
    for name in BACKBONES:
        # from zero, the layers below a projection have no gradient at first
        started = {"options": {"output_scale": 0.1}} if name == "unidot" else {}
        yield pytest.param({"backbone": name, **started}, id=name)
    for encoder in SEQUENCE_ENCODERS:
        yield pytest.param({"sequence_encoder": encoder}, id=encoder)
    for tokenizer in TOKENIZERS:
        num_tokens = 6 if tokenizer == "semantic" else 4
        yield pytest.param({"tokenizer": tokenizer, "num_tokens": num_tokens}, id=tokenizer)
    yield pytest.param({"pooling": "flatten"}, id="flatten")
    yield pytest.param({"pooling": "attention"}, id="attention")
    yield pytest.param({"tower_crosses": 2, "logit_clamp": 20.0}, id="crosses")
    yield pytest.param({"tower_hidden_dims": ()}, id="linear towers")
    yield pytest.param({"task_head": "mmoe"}, id="mmoe")
    yield pytest.param({"task_head": "ple", "task_head_options": {"expert_dims": [8]}}, id="ple")
    yield pytest.param({"chain": {"long_view": "is_click"}, "logit_clamp": 20.0}, id="chain")
    yield pytest.param({"embedding_dims": {"user_id": 4, "category": 2}}, id="widths")
    yield pytest.param({"backbone": "mlp", "tokenizer": "chunk"}, id="mlp on chunks")


VARIANTS = list(variants())


@pytest.mark.parametrize("options", VARIANTS)
def test_every_variant_scores_and_every_parameter_learns(
    spec: FeatureSpec, batch: Batch, options: dict[str, Any]
) -> None:
    ranker = build(spec, **options)
    logits = ranker(batch)
    assert logits.shape == (32, 2)
    assert batch.labels is not None
    torch.nn.functional.binary_cross_entropy_with_logits(logits, batch.labels).backward()
    for name, parameter in ranker.named_parameters():
        assert parameter.grad is not None, name
        gradient = parameter.grad.to_dense() if parameter.grad.is_sparse else parameter.grad
        assert gradient.isfinite().all(), name
        assert gradient.any(), name


@pytest.mark.parametrize("options", VARIANTS)
def test_a_row_scores_alike_alone_and_in_a_batch(spec: FeatureSpec, dataset: Dataset, options: dict[str, Any]) -> None:
    ranker = build(spec, **options).eval()
    with torch.no_grad():
        together = ranker(next(Loader(dataset, "test", batch_size=5).batches()))
        alone = [ranker(b) for b in islice(Loader(dataset, "test", batch_size=1).batches(), 5)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", VARIANTS)
def test_saved_weights_give_equal_logits_in_another_model(
    spec: FeatureSpec, batch: Batch, options: dict[str, Any]
) -> None:
    one = build(spec, **options).eval()
    other = build(spec, seed=1, **options).eval()
    with torch.no_grad():
        assert not torch.equal(one(batch), other(batch))
        other.load_state_dict(one.state_dict())
        assert torch.equal(one(batch), other(batch))


@pytest.mark.parametrize("name", BACKBONES)
def test_every_model_overfits_one_batch(spec: FeatureSpec, batch: Batch, name: str) -> None:
    ranker = build(spec, backbone=name, embedding_init_std=0.1, sparse_gradients=True)
    dense = torch.optim.Adam(dense_parameters(ranker), lr=0.01)
    sparse = torch.optim.SparseAdam(table_parameters(ranker), lr=0.05)
    assert batch.labels is not None
    for _ in range(60):
        loss = torch.nn.functional.binary_cross_entropy_with_logits(ranker(batch), batch.labels)
        if loss < 0.1:
            break
        for optimizer in (dense, sparse):
            optimizer.zero_grad()
        loss.backward()
        for optimizer in (dense, sparse):
            optimizer.step()
    assert loss < 0.1


def test_the_same_seed_gives_the_same_model(spec: FeatureSpec, batch: Batch) -> None:
    assert torch.equal(build(spec)(batch), build(spec)(batch))


# ---- parameters and budgets --------------------------------------------------


def test_dense_parameters_are_all_but_the_tables(spec: FeatureSpec) -> None:
    ranker = build(spec)
    tables = sum(p.numel() for p in table_parameters(ranker))
    assert tables == 8 * sum(spec.tables.values())
    assert count_dense(ranker) + tables == sum(p.numel() for p in ranker.parameters())
    assert {id(p) for p in dense_parameters(ranker)}.isdisjoint(id(p) for p in table_parameters(ranker))


BUDGETS = [(None, 400_000), *((tokenizer, 60_000) for tokenizer in TOKENIZERS)]


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize(("tokenizer", "budget"), BUDGETS)
def test_a_budget_is_met_within_2_percent(spec: FeatureSpec, name: str, tokenizer: str | None, budget: int) -> None:
    arguments: dict[str, Any] = {"backbone": name, "tokenizer": tokenizer, "num_tokens": 8, "embedding_dim": 8}
    if name in ("rankmixer", "token-mixer", "mtmixatt", "hyformer") and tokenizer == "field":
        arguments["options"] = {"token_dim": 13}  # T must divide D
    if name == "autoint" and budget < 100_000:
        budget *= 2  # its width grows a head at a time, which is more than 4% of a very small model
    if name == "unidot" and budget < 100_000:
        budget *= 2  # its products alone take 65,536 weights of the two towers
    size = width_for_budget(spec, dense_params=budget, **arguments)
    assert abs(count_dense(Ranker(spec, width=size, **arguments)) / budget - 1) <= 0.02


def test_a_budget_counts_given_options(spec: FeatureSpec) -> None:
    arguments: dict[str, Any] = {"backbone": "unimixer", "num_tokens": 4, "embedding_dim": 8}
    sizes = [
        width_for_budget(spec, dense_params=60_000, options={"num_blocks": blocks}, **arguments) for blocks in (1, 4)
    ]
    assert sizes[0] > 1.5 * sizes[1]


@pytest.mark.parametrize("name", ["unimixer", "unimixer-lite", "rankmixer"])
def test_options_of_the_backbone_are_kept_beside_a_size(spec: FeatureSpec, name: str) -> None:
    one, three = (count_dense(build(spec, backbone=name, options={"num_blocks": blocks})) for blocks in (1, 3))
    assert three > 1.5 * one
    wide = build(spec, backbone=name, options={"token_dim": 64})
    assert wide.backbone.token_dim == 64


def test_a_field_token_has_the_width_of_the_tables_unless_the_options_say_otherwise(spec: FeatureSpec) -> None:
    assert build(spec, backbone="mlp", width=None).backbone.token_dim == 8
    for size in (None, 16):
        ranker = build(spec, backbone="mlp", width=size, options={"token_dim": 5})
        assert ranker.backbone.token_dim == 5
        assert ranker.backbone.num_tokens == len(ranker.embedding.slices) == 13


def test_field_tokens_that_a_mixer_cannot_cut_are_named_and_may_be_wider(spec: FeatureSpec) -> None:
    with pytest.raises(UnimixerError, match="token_dim=8 must be divisible by num_tokens=13; the nearest valid"):
        build(spec, backbone="rankmixer", tokenizer="field")
    ranker = build(spec, backbone="rankmixer", tokenizer="field", options={"token_dim": 26})
    assert (ranker.backbone.num_tokens, ranker.backbone.token_dim) == (13, 26)


def test_a_budget_that_cannot_be_met_is_named(spec: FeatureSpec) -> None:
    with pytest.raises(UnimixerError, match="params=10 cannot be met within 2%; the smallest count"):
        width_for_budget(spec, dense_params=10, num_tokens=4, embedding_dim=8)
    with pytest.raises(UnimixerError, match="give width or dense_params, not both"):
        width_for_budget(spec, dense_params=10_000, width=3)


@pytest.mark.parametrize("name", BACKBONES)
def test_a_small_budget_is_met_or_what_the_error_says_meets_it(spec: FeatureSpec, name: str) -> None:
    for budget in (5_000, 50_000):
        arguments: dict[str, Any] = {"backbone": name, "num_tokens": 14}  # as many as semantic tokens can be here
        try:
            budgets = [(budget, width_for_budget(spec, dense_params=budget, **arguments), arguments)]
        except UnimixerError as error:
            take, _, change = str(error).partition("; take ")[2].partition(", or ")
            nearest = [int(count) for count in take.split(" or ")]
            budgets = [(n, width_for_budget(spec, dense_params=n, **arguments), arguments) for n in nearest]
            if "which reaches" in change:
                changed, _, reached = change.partition(", which reaches ")
                given = {**arguments, changed.partition("=")[0]: int(changed.partition("=")[2])}
                size = width_for_budget(spec, dense_params=budget, **given)
                assert count_dense(Ranker(spec, width=size, **given)) == int(reached.replace(",", ""))
                budgets.append((budget, size, given))
        for wanted, size, given in budgets:
            assert abs(count_dense(Ranker(spec, width=size, **given)) - wanted) <= 0.02 * wanted


def test_widths_that_round_to_the_same_sizes_are_built_once(spec: FeatureSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[Ranker] = []

    def count(ranker: Ranker) -> int:
        built.append(ranker)
        return count_dense(ranker)

    monkeypatch.setattr(models, "count_dense", count)
    with pytest.raises(UnimixerError, match="cannot be met within 2%"):
        width_for_budget(spec, dense_params=5_000, backbone="autoint", num_tokens=14)
    sizes = [repr((ranker.fixed_arguments, ranker.backbone_arguments)) for ranker in built]
    assert len(set(sizes)) == len(sizes) > 5


# ---- errors -------------------------------------------------------


def test_a_dropped_embedding_is_one_of_training_alone(spec: FeatureSpec, batch: Batch) -> None:
    plain, dropped = (build(spec, embedding_dropout=share) for share in (0.0, 0.5))
    assert torch.equal(plain.eval()(batch), dropped.eval()(batch))
    seen: list[torch.Tensor] = []
    dropped.tokenizer.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    embedded = dropped.embedding(batch)
    torch.manual_seed(1)
    dropped.train().score(embedded)
    kept = seen[0].detach() != 0
    assert 0.45 < float(kept.double().mean()) < 0.55
    torch.testing.assert_close(seen[0][kept], 2 * embedded[kept])  # the mean stays


def test_dropout_takes_events_too(spec: FeatureSpec, batch: Batch) -> None:
    ranker = build(spec, embedding_dropout=0.5, sequences="cross_attention", backbone="rankmixer")
    assert ranker.events is not None
    seen: list[Any] = []
    ranker.events.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    embedded, events, lengths = ranker.embed(batch)[:3]
    ranker.train().score(embedded, events, lengths)
    filled = events != 0
    assert 0.4 < float((seen[0][0][filled] == 0).double().mean()) < 0.6
    assert torch.equal(seen[0][1], lengths)


def test_clamped_logits_are_those_of_the_towers_up_to_a_bound(spec: FeatureSpec, batch: Batch) -> None:
    plain, clamped = build(spec).eval(), build(spec, logit_clamp=0.05).eval()
    logits = plain(batch).detach()
    assert float(logits.abs().max()) > 0.05
    assert torch.equal(clamped(batch), logits.clamp(-0.05, 0.05))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"logit_clamp": 0.0}, "logit_clamp=0.0 must be greater than 0"),
        ({"backbone": "unimixr"}, "unknown model 'unimixr'; did you mean 'unimixer'"),
        ({"pooling": "max"}, "pooling='max' is not one of mean, flatten, attention"),
        ({"tokenizer": "chunky"}, "tokenizer='chunky' is not one of chunk"),
        ({"options": {"num_block": 2}}, "option of backbone 'unimixer-lite': 'num_block'; did you mean 'num_blocks'"),
        ({"options": {"num_tokens": 2}}, "num_tokens is an argument of the Ranker itself"),
    ],
)
def test_an_unknown_name_gets_the_nearest_one(spec: FeatureSpec, options: dict[str, Any], message: str) -> None:
    for size in (None, 16):
        with pytest.raises(UnimixerError, match=message):
            build(spec, **{**options, "width": size})
