"""Features that a backbone sends past the stack to the towers: dot products of tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from test_backbones import D, T, small, tokens
from tiny import tiny_recipe
from torch import Tensor, nn

from unimixer.backbones import BACKBONES, Backbone, count_parameters
from unimixer.blocks import recompute_activations
from unimixer.data.dataset import Dataset
from unimixer.data.loader import Loader
from unimixer.models import width_for_budget
from unimixer.profiling.flops import count_flops
from unimixer.ranker import Ranker, count_dense
from unimixer.training.model import load_ranker
from unimixer.training.train import train

ABLE = [name for name, cls in BACKBONES.items() if "dots" in cls.options() and cls.default_tokenizer == "chunk"]
EACH = pytest.mark.parametrize("name", ABLE)


def test_token_mixers_have_the_option() -> None:
    assert set(ABLE) == {"unimixer", "unimixer-lite", "rankmixer", "token-mixer", "mtmixatt", "hubmixer", "hyformer"}


@EACH
def test_tokens_stay_and_products_come_beside_them(name: str) -> None:
    plain, dotted, x = small(name), small(name, dots=True), tokens(5)
    hidden, products = dotted(x)
    assert torch.equal(hidden, plain(x))
    assert dotted.bypass_dim == T * (T - 1)
    entering, leaving = (
        torch.stack([(y[:, i] * y[:, j]).sum(1) / D**0.5 for i in range(T) for j in range(i)], 1) for y in (x, hidden)
    )
    torch.testing.assert_close(products, torch.cat([entering, leaving], 1))
    assert BACKBONES[name].formula(num_tokens=T, token_dim=D, dots=True) == count_parameters(dotted)
    assert count_flops(dotted) == count_flops(plain) + 2 * 2 * T * T * D


@pytest.mark.parametrize("name", ["unimixer-lite", "hyformer"])  # one class of all computes them, around the stack
def test_exports_and_compiles(name: str) -> None:
    backbone = small(name, dots=True, num_blocks=1).eval()
    batch = torch.export.Dim("batch", min=1, max=4096)
    program = torch.export.export(backbone, (tokens(3),), dynamic_shapes=({0: batch},)).module()
    compiled = torch.compile(backbone, fullgraph=True, backend="aot_eager")
    for size in (2, 7):
        for form in (program, compiled):
            torch.testing.assert_close(form(tokens(size)), backbone(tokens(size)), atol=1e-5, rtol=1e-5)
    torch.compiler.reset()


@EACH
def test_recomputes(name: str) -> None:
    backbone, gradients = small(name, dots=True, num_blocks=1), []
    for enabled in (False, True):
        recompute_activations(backbone, enabled)
        backbone.zero_grad()
        sum(part.square().sum() for part in backbone(tokens(6))).backward()  # type: ignore[union-attr]
        gradients.append([p.grad for p in backbone.parameters()])
    assert all(map(torch.equal, *gradients))


class Constant(Backbone):
    """Gives zeros, and one feature past the pooling: the sum of all tokens."""

    family, default_tokenizer, bypass_dim = "test", "chunk", 1

    def __init__(self, *, num_tokens: int = 4, token_dim: int = 16) -> None:
        super().__init__(num_tokens=num_tokens, token_dim=token_dim)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(tokens), tokens.sum((1, 2)).unsqueeze(1)


@pytest.mark.parametrize("pooling", ["mean", "flatten"])
def test_towers_read_the_features_behind_the_pooled_tokens(
    toy_folder: Path, pooling: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BACKBONES, "constant", Constant)
    dataset = Dataset(toy_folder)
    ranker = Ranker(dataset.transform.spec, backbone="constant", num_tokens=4, pooling=pooling, tower_hidden_dims=())
    batch = next(Loader(dataset, "train", batch_size=8, num_workers=0).batches())
    sums = ranker.tokenizer(ranker.embedding(batch)).sum((1, 2))
    for index, tower in enumerate(ranker.towers.towers):
        last: Any = tower[-1]  # type: ignore[index]
        assert isinstance(last, nn.Linear)
        assert last.in_features == 16 * (4 if pooling == "flatten" else 1) + 1
        torch.testing.assert_close(ranker(batch)[:, index], sums * last.weight[0, -1] + last.bias)


def test_a_budget_counts_the_towers_of_the_features(toy_folder: Path) -> None:
    spec = Dataset(toy_folder).transform.spec
    arguments: dict[str, Any] = {"backbone": "token-mixer", "num_tokens": 8, "options": {"dots": True}}
    width = width_for_budget(spec, dense_params=60_000, **arguments)
    ranker = Ranker(spec, width=width, **arguments)
    assert count_dense(ranker) == pytest.approx(60_000, rel=0.02)
    plain = Ranker(spec, **{**arguments, "options": {}}, width=width)
    assert count_dense(ranker) - count_dense(plain) == 8 * 7 * 64 * len(spec.labels)


def test_a_run_trains_and_loads(toy_folder: Path, tmp_path: Path) -> None:
    model = ("model.backbone=token-mixer", "model.options={dots: true, num_blocks: 3}")
    run = train(tiny_recipe(toy_folder, *model), folder=tmp_path / "run", quiet=True)
    ranker = load_ranker(run)
    assert ranker.backbone.bypass_dim == 2  # two tokens: one pair before the stack, one behind it
    batch = next(Loader(Dataset(toy_folder), "test", batch_size=64, num_workers=0).batches())
    assert torch.isfinite(ranker.eval()(batch)).all()
