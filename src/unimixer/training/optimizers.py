"""Optimizers; those of embedding tables are row-sparse: a step costs what the batch touches, however many rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from unimixer.errors import UnimixerError
from unimixer.features.embedding import merge_rows
from unimixer.mixing import Constrained
from unimixer.ops import native
from unimixer.ranker import Ranker, dense_parameters, table_parameters
from unimixer.training.config import OptimizerConfig
from unimixer.training.muon import Muon, matrix_parameters

MIXING_EPS = 1e-15
"""Adam's eps for mixings with their own rate: their gradients are about 5e-9 at temperature 0.1."""


def build_optimizers(model: Ranker, config: OptimizerConfig) -> dict[str, torch.optim.Optimizer]:
    """Build the optimizers of the dense part and of the tables; ``base_lr`` of a group is the rate before its schedule.

    With ``dense: muon``, ``muon`` moves the matrices and ``dense`` is the AdamW of all other dense parameters. The
    tables of a single process give row-sparse gradients from now on, which their optimizer needs.
    """
    dense: torch.optim.Optimizer
    groups = dense_groups(model, config)
    rest, lr = _uniform_groups(groups["dense"]), config.dense_lr
    if config.dense in ("adamw", "muon"):
        dense = torch.optim.AdamW(rest, lr=lr, weight_decay=config.weight_decay, fused=True)
    elif config.dense == "adam":
        dense = torch.optim.Adam(rest, lr=lr, fused=True)
    else:
        dense = torch.optim.SGD([{k: v for k, v in g.items() if k != "eps"} for g in rest], lr=lr)
    optimizers: dict[str, torch.optim.Optimizer] = {"dense": dense}
    if "muon" in groups:
        optimizers["muon"] = Muon(groups["muon"], lr=lr, weight_decay=config.weight_decay)
    sparse = sharded_optimizer(model)
    if sparse is None:
        model.embedding.tables.use_sparse_gradients()
        sparse = SPARSE_RULES[config.sparse](table_parameters(model), lr=config.embedding_lr)
    optimizers["sparse"] = sparse
    for optimizer in optimizers.values():
        for group in optimizer.param_groups:
            group["base_lr"] = group["lr"]
    return optimizers


def sharded_optimizer(model: Ranker) -> torch.optim.Optimizer | None:
    """Return the optimizer that sharded tables bring along; None for the tables of a single process."""
    return getattr(model.embedding.tables, "optimizer", None)


def dense_groups(model: Ranker, config: OptimizerConfig) -> dict[str, list[dict[str, Any]]]:
    """Group the dense parameters by the optimizer that moves them.

    Those of learned mixings form a group where the recipe gives them their own rate.
    """
    matrices = matrix_parameters(model) if config.dense == "muon" else []
    groups: list[dict[str, Any]] = [{"params": [p for p in dense_parameters(model) if p not in {*matrices}]}]
    if config.mixing_lr is not None:
        mixing = mixing_parameters(model)
        if not mixing:
            raise UnimixerError(
                f"optimizer.mixing_lr={config.mixing_lr:g}: this model has no learned mixing; leave mixing_lr out"
            )
        own = {"lr": config.mixing_lr, "eps": MIXING_EPS, "weight_decay": 0.0}
        rest, learned = ([p for p in groups[0]["params"] if (p in mixing) is wanted] for wanted in (False, True))
        groups = [{"params": rest}, {"params": learned, **own}]
    return {"dense": groups, **({"muon": [{"params": matrices}]} if matrices else {})}


def mixing_parameters(model: nn.Module) -> set[nn.Parameter]:
    """Return the raw parameters of learned mixings."""
    parts = [part for part in model.modules() if isinstance(part, Constrained) or getattr(part, "learned", False)]
    return {parameter for part in parts for parameter in part.parameters(recurse=False)}


def _uniform_groups(groups: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Split groups by the type of their tensors: a fused update takes sharded or ordinary tensors, never both."""
    uniform = []
    for group in groups:
        kinds: dict[type, list[nn.Parameter]] = {}
        for parameter in group["params"]:
            kinds.setdefault(type(parameter.data), []).append(parameter)
        uniform += [{**group, "params": parameters} for parameters in kinds.values()] or [group]
    return uniform


class RowSparse(torch.optim.Optimizer):
    """Base class: merges the gradients of rows that a batch looked up several times, then updates these rows."""

    def __init__(self, params: Iterable[nn.Parameter], *, lr: float, **defaults: Any) -> None:
        super().__init__(params, {"lr": lr, **defaults})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update the rows that have a gradient."""
        loss = closure() if closure is not None else None
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                if not weight.grad.is_sparse:
                    raise UnimixerError(
                        f"{type(self).__name__} updates row-sparse gradients and got dense ones; build the ranker with "
                        "sparse_gradients=True, or take an optimizer of torch"
                    )
                rows, gradient = _merged(weight.grad)
                self._update(weight, rows, gradient, self.state[weight], group)
        return loss

    def _update(
        self, weight: Tensor, rows: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]
    ) -> None:
        raise AssertionError("a subclass defines the update")


def _merged(gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows with a gradient, each once, and their gradients; ascending rows are merged already."""
    rows, values = gradient._indices()[0], gradient._values()
    if not bool((rows[1:] > rows[:-1]).all()):
        gradient = merge_rows(rows, torch.arange(len(rows), device=rows.device), values, gradient.shape[0])
        rows, values = gradient._indices()[0], gradient._values()
    return rows, values


class RowSparseAdam(RowSparse):
    r"""Adam on the rows that a step looked up; the moments of other rows do not change ("lazy" Adam).

    .. math::
        m \leftarrow \beta_1 m + (1 - \beta_1) g, \quad v \leftarrow \beta_2 v + (1 - \beta_2) g^2, \quad
        w \leftarrow w - \eta \, \frac{m / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^t)} + \epsilon}

    with t the number of steps of the optimizer. Where a step looks up every row this is ``torch.optim.Adam``; elsewhere
    it is ``torch.optim.SparseAdam`` in fewer passes over the rows, except that SparseAdam adds :math:`\epsilon`
    before the second correction and this adds it after, as Adam does (the tests compare all three).
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        *,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        super().__init__(params, lr=lr, betas=betas, eps=eps)

    def begin(self, weight: Tensor) -> None:
        """Create the state of a weight."""
        self.state[weight].update(
            step=torch.tensor(0), exp_avg=torch.zeros_like(weight), exp_avg_sq=torch.zeros_like(weight)
        )

    def _update(
        self, weight: Tensor, rows: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]
    ) -> None:
        if not state:
            self.begin(weight)
        state["step"] += 1
        step, (beta1, beta2) = int(state["step"]), group["betas"]
        scale = (1 - beta2**step) ** 0.5
        rate, eps = group["lr"] * scale / (1 - beta1**step), group["eps"] * scale
        moments = state["exp_avg"], state["exp_avg_sq"]
        if native.fits(weight, *moments, gradient) and native.fits(rows, dtypes=(torch.int64,)):
            native.adam_rows(weight, moments, rows, gradient, (beta1, beta2), rate, eps)
            return
        first = state["exp_avg"].index_select(0, rows).lerp_(gradient, 1 - beta1)
        second = state["exp_avg_sq"].index_select(0, rows).mul_(beta2)
        second.addcmul_(gradient, gradient, value=1 - beta2)
        state["exp_avg"].index_copy_(0, rows, first)
        state["exp_avg_sq"].index_copy_(0, rows, second)
        weight.index_add_(0, rows, first.div_(second.sqrt_().add_(eps)), alpha=-rate)


class RowWiseAdagrad(RowSparse):
    r"""Adagrad with one accumulator a row, the mean of the squared gradient: 1 / width of the state of Adagrad.

    .. math::
        s_r \leftarrow s_r + \tfrac{1}{d} \lVert g_r \rVert^2, \qquad
        w_r \leftarrow w_r - \eta \, g_r / (\sqrt{s_r} + \epsilon)
    """

    def __init__(self, params: Iterable[nn.Parameter], *, lr: float = 1e-2, eps: float = 1e-8) -> None:
        super().__init__(params, lr=lr, eps=eps)

    def _update(
        self, weight: Tensor, rows: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]
    ) -> None:
        if not state:
            state["sum"] = torch.zeros(weight.shape[0], dtype=weight.dtype, device=weight.device)
        total = state["sum"].index_select(0, rows).add_(gradient.square().mean(1))
        state["sum"].index_copy_(0, rows, total)
        weight.index_add_(0, rows, gradient / total.sqrt_().add_(group["eps"]).unsqueeze(1), alpha=-group["lr"])


class RowSparseSGD(RowSparse):
    r"""Gradient descent on the rows that a step looked up.

    .. math:: w_r \leftarrow w_r - \eta \, g_r
    """

    def _update(
        self, weight: Tensor, rows: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]
    ) -> None:
        weight.index_add_(0, rows, gradient, alpha=-group["lr"])


SPARSE_RULES: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": RowSparseAdam,
    "rowwise_adagrad": RowWiseAdagrad,
    "sgd": RowSparseSGD,
}
"""Optimizers of embedding tables by their names in a recipe."""
