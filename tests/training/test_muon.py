"""Muon against torch's own, a naive loop and the singular value decomposition; which weights it moves."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from killed import train_killed
from tiny import assert_equal_tensors, tiny_recipe, tiny_values
from torch import nn

from unimixer.data.dataset import Dataset
from unimixer.errors import UnimixerError
from unimixer.ranker import Ranker, count_dense
from unimixer.training.config import OptimizerConfig
from unimixer.training.model import build_ranker, resolve, validate_recipe
from unimixer.training.muon import Muon, matrix_parameters, orthogonal
from unimixer.training.optimizers import build_optimizers
from unimixer.training.run import RunFolder
from unimixer.training.tensor_files import latest_checkpoint
from unimixer.training.train import resume, train

MUON = "optimizer.dense=muon"


def trained(weight: nn.Parameter, gradients: torch.Tensor, optimizer: torch.optim.Optimizer) -> torch.Tensor:
    """The weight after one step a gradient."""
    for gradient in gradients:
        weight.grad = gradient.clone()
        optimizer.step()
    return weight.detach()


@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (4, 4)])
def test_a_matrix_moves_as_under_the_optimizer_of_torch(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    start, gradients = torch.randn(shape), torch.randn(6, *shape)
    ends = []
    for build in (
        lambda w: Muon([w], lr=0.01, weight_decay=0.1),
        lambda w: torch.optim.Muon([w], lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
    ):
        weight = nn.Parameter(start.clone())
        ends.append(trained(weight, gradients, build(weight)))
    # torch iterates in bfloat16, which has three digits
    torch.testing.assert_close(ends[0] - start, ends[1] - start, rtol=0, atol=0.02 * 6 * 0.01 * 0.2 * 5**0.5)


def test_a_weight_of_tokens_moves_slice_by_slice_as_the_equations_say() -> None:
    torch.manual_seed(0)
    start, gradients = torch.randn(3, 2, 4, dtype=torch.float64), torch.randn(5, 3, 2, 4, dtype=torch.float64)
    weight = nn.Parameter(start.clone())
    found = trained(weight, gradients, Muon([weight], lr=0.1, weight_decay=0.5))
    for token in range(3):
        w, m = start[token].numpy().copy(), 0.0
        for g in gradients[:, token].numpy():
            m = 0.95 * m + 0.05 * g
            x = 0.95 * m + 0.05 * g
            x = x / math.sqrt((x**2).sum())
            for _ in range(5):
                a = x @ x.T
                x = 3.4445 * x - 4.775 * a @ x + 2.0315 * a @ a @ x
            w = w - 0.1 * 0.5 * w - 0.1 * 0.2 * math.sqrt(4) * x
        torch.testing.assert_close(found[token], torch.from_numpy(w), rtol=0, atol=1e-12)


def test_an_orthogonal_update_has_the_singular_vectors_of_the_gradient_and_values_near_one() -> None:
    torch.manual_seed(0)
    matrices = torch.randn(6, 8, 5, dtype=torch.float64)
    u, _, v = torch.linalg.svd(matrices, full_matrices=False)
    inside = u.mT @ orthogonal(matrices) @ v.mT
    values = inside.diagonal(dim1=-2, dim2=-1)
    assert float((inside - torch.diag_embed(values)).abs().max()) < 1e-12
    assert 0.6 < float(values.min()) <= float(values.max()) < 1.25
    assert torch.equal(orthogonal(torch.zeros(2, 3)), torch.zeros(2, 3))


def test_an_update_has_the_root_mean_square_of_adamw() -> None:
    """The one of arXiv:2502.16982 is 0.2 to 0.4 times the rate; with singular values of 0.7 to 1.2 it is near 0.2."""
    torch.manual_seed(0)
    for shape in ((16, 32, 64), (64, 64), (200, 20)):
        weight = nn.Parameter(torch.zeros(shape))
        moved = trained(weight, torch.randn(1, *shape), Muon([weight], lr=1.0))
        assert float(moved.square().mean().sqrt()) == pytest.approx(0.2, rel=0.2)


def newest(run: RunFolder) -> Path:
    checkpoint = latest_checkpoint(run.checkpoints)
    assert checkpoint is not None
    return checkpoint


def ranker(folder: Path, *overrides: str) -> Ranker:
    spec = Dataset(folder).transform.spec
    return build_ranker(resolve(tiny_recipe(folder, *overrides), spec).model, spec)


def test_matrices_are_linear_layers_without_gates_mixings_embedding_and_single_outputs(toy_folder: Path) -> None:
    model = ranker(toy_folder, "model.sequence_encoder=transformer")
    matrices = {*matrix_parameters(model)}
    names = [name for name, parameter in model.named_parameters() if parameter in matrices]
    assert names == [
        "backbone.stack.sublayers.1.up_gate.weight",
        "backbone.stack.sublayers.1.down.weight",
        "tokenizer.linear.weight",
        *(f"towers.towers.{task}.0.weight" for task in range(len(model.spec.labels))),
    ]


@pytest.mark.parametrize(
    ("backbone", "options", "matrices", "others"),
    [
        ("token-mixer", "{mixing: per-head}", ["up_gate.weight"], ["global_.weight", "norms.0.weight"]),
        ("rankmixer", "{ffn: topk-moe}", ["experts.up.weight", "experts.down"], ["router.linear.weight"]),
        ("hetero-attention", "{num_heads: 2}", ["query.weight", "local.weight"], ["up.bias"]),
        ("transformer", "{num_heads: 2}", ["query.weight", "output.weight"], []),
        ("rankelastor", "{}", [], ["global_.weight", "bias"]),
        ("hubmixer", "{num_hubs: 2, num_heads: 2}", ["up_gate.weight"], ["hubs", "read_gain"]),
    ],
)
def test_matrices_of_backbones(
    toy_folder: Path, backbone: str, options: str, matrices: list[str], others: list[str]
) -> None:
    model = ranker(toy_folder, f"model.backbone={backbone}", f"model.options={options}")
    moved = {*matrix_parameters(model)}
    for endings, expected in ((matrices, True), (others, False)):
        for ending in endings:
            ends = [p in moved for name, p in model.backbone.named_parameters() if name.endswith(ending)]
            assert ends, ending
            assert all(end is expected for end in ends), ending


def test_every_dense_parameter_belongs_to_one_optimizer(toy_folder: Path) -> None:
    model = ranker(toy_folder)
    config = OptimizerConfig(dense="muon", dense_lr=0.002, mixing_lr=0.05, weight_decay=0.1)
    optimizers = build_optimizers(model, config)
    assert list(optimizers) == ["dense", "muon", "sparse"]
    groups = [group for name in ("dense", "muon") for group in optimizers[name].param_groups]
    parameters = [parameter for group in groups for parameter in group["params"]]
    assert len({*parameters}) == len(parameters)
    assert sum(parameter.numel() for parameter in parameters) == count_dense(model)
    assert [(group["base_lr"], group["weight_decay"]) for group in groups] == [(0.002, 0.1), (0.05, 0.0), (0.002, 0.1)]


def test_a_killed_run_ends_in_the_same_bits(toy_folder: Path, tmp_path: Path) -> None:
    overrides = (MUON, "optimizer.mixing_lr=0.05", "optimizer.warmup_steps=2")
    run = train(tiny_recipe(toy_folder, *overrides), folder=tmp_path / "whole", quiet=True)
    train_killed(tiny_values(toy_folder, *overrides), tmp_path / "killed", "step", 5)
    resumed = resume(tmp_path / "killed", quiet=True)
    for folders in ([one.best_weights.parent for one in (run, resumed)], map(newest, (run, resumed))):
        assert_equal_tensors(*folders)


def test_it_learns(toy_folder: Path, tmp_path: Path) -> None:
    """Not better than Adam here, but far better than nothing."""
    run = train(tiny_recipe(toy_folder, MUON, "training.epochs=4"), folder=tmp_path / "run", quiet=True)
    losses = [line["loss"] for line in run.history() if line["kind"] == "train"]
    assert losses[-1] < losses[0] - 0.02


def test_a_model_without_linear_layers_refuses_it(toy_folder: Path) -> None:
    spec = Dataset(toy_folder).transform.spec
    recipe = tiny_recipe(toy_folder, MUON, "model.backbone=fm", "model.options={}", "model.tower_hidden_dims=[]")
    recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"width": None})})
    with pytest.raises(UnimixerError, match="muon: this model has no linear layers; use adamw"):
        validate_recipe(resolve(recipe, spec), spec)
