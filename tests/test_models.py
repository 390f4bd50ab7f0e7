"""A backbone or a whole ranker by name, at a width or a budget."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from unimixer import Ranker, UnimixerError, create_model
from unimixer.backbones import Backbone, RankMixer, UniMixerLite, count_parameters
from unimixer.features import Batch, DenseField, FeatureSpec, IdField
from unimixer.ranker import count_dense

SPEC = FeatureSpec(
    ids=(IdField("user", "user", "user"), IdField("item", "item", "item")),
    dense=(DenseField("price", "item"),),
    sequences=(),
    tables={"user": 5, "item": 7},
    labels=("click", "like"),
)


@pytest.mark.parametrize("name", ["rankmixer", "RankMixer", "Rank-Mixer"])
def test_any_spelling_of_a_name_gives_the_backbone(name: str) -> None:
    model = create_model(name, num_tokens=4, token_dim=8)
    assert type(model) is RankMixer
    assert model(torch.zeros(3, 4, 8)).shape == (3, 4, 8)


def test_a_width_sets_all_sizes_of_a_backbone() -> None:
    model = create_model("UniMixing-Lite", width=32, num_tokens=4, matrices="blocks", rank=4)
    assert type(model) is UniMixerLite
    assert (model.num_tokens, model.token_dim) == (4, 32)


@pytest.mark.parametrize("params", [30_000, "30K", "0.03M"])
def test_a_budget_is_met_within_two_percent(params: Any) -> None:
    model = create_model("rankmixer", params=params, num_tokens=4)
    assert isinstance(model, Backbone)
    assert abs(count_parameters(model) / 30_000 - 1) <= 0.02


def test_a_spec_gives_a_whole_ranker() -> None:
    model = create_model("MLP", SPEC, params="30K", embedding_dim=4)
    assert isinstance(model, Ranker)
    assert abs(count_dense(model) / 30_000 - 1) <= 0.02
    batch = Batch(torch.zeros(2, 2, dtype=torch.int32), torch.zeros(2, 1))
    assert model(batch).shape == (2, 2)
    small = create_model("mlp", SPEC, embedding_dim=4, options={"hidden_dims": (8,)})
    assert small.backbone.out_dim == 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "rankmixr"}, "unknown backbone 'rankmixr'; did you mean 'rankmixer'"),
        ({"name": "mlp", "width": 8, "params": 1}, "give width or params, not both"),
        ({"name": "mlp", "params": "many"}, "params='many' is no number of parameters; write 1_000_000, '800K'"),
        ({"name": "mlp", "params": 0}, "params=0 is no number of parameters"),
        ({"name": "rankmixer", "num_token": 4}, "unknown option of backbone 'rankmixer': 'num_token'; did you mean"),
        ({"name": "mlp", "spec": SPEC, "embeding_dim": 4}, "unknown option of the Ranker 'embeding_dim'; did you mean"),
        ({"name": "mlp", "spec": SPEC, "hidden_dims": (8,)}, "for a whole ranker write options={'hidden_dims': ...}"),
    ],
)
def test_a_mistake_is_one_sentence(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UnimixerError, match=message):
        create_model(**arguments)


def test_an_optimizer_of_torch_trains_every_parameter() -> None:
    torch.manual_seed(0)
    model = create_model("mlp", SPEC, embedding_dim=4, options={"hidden_dims": (8,)})
    batch = Batch(torch.tensor([[2, 3], [4, 6]], dtype=torch.int32), torch.tensor([[1.0], [float("nan")]]))
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    for _ in range(2):  # the missing value has no gradient in the first step, in which towers are small
        optimizer.zero_grad()
        torch.nn.functional.softplus(-model(batch)).mean().backward()
        optimizer.step()
    assert [name for name, parameter in model.named_parameters() if torch.equal(parameter, before[name])] == []


def test_row_sparse_gradients_are_asked_for_and_equal_the_dense_ones() -> None:
    batch = Batch(torch.tensor([[2, 3], [2, 6]], dtype=torch.int32), torch.tensor([[1.0], [2.0]]))
    found = []
    for sparse in (False, True):
        torch.manual_seed(0)
        model = create_model("mlp", SPEC, embedding_dim=4, sparse_gradients=sparse, options={"hidden_dims": (8,)})
        model(batch).sum().backward()
        gradient = model.embedding.tables.of_width(4).weight.grad
        assert gradient is not None
        assert gradient.is_sparse is sparse
        found.append(gradient.to_dense() if sparse else gradient)
    assert torch.equal(found[0], found[1])
    assert found[0].any(dim=1).sum() == 3  # user 2, items 3 and 6


def test_a_ranker_is_traced_as_one_graph() -> None:
    torch.manual_seed(0)
    model = create_model("mlp", SPEC, embedding_dim=4, options={"hidden_dims": (8,)})
    batch = Batch(torch.tensor([[2, 3], [2, 6]], dtype=torch.int32), torch.tensor([[1.0], [2.0]]))
    traced = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(traced(batch), model(batch))
