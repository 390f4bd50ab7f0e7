"""Time whole backbones of two blocks, forward and backward, eager and compiled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.suite.base import Benchmark, Case, Product, Setting, Work
from benchmarks.suite.entries.per_token import compiled, ffn_products, trained
from unimixer.backbones import Backbone, build_backbone

NUM_BLOCKS = 2
Sizes = tuple[int, int, int, int]
"""Tokens, batch, width, hidden width."""


class Model(NamedTuple):
    """Describe a backbone to measure."""

    backbone: str
    products: Callable[[Sizes], tuple[Product, ...]]
    """The products of the FFNs of one block."""
    options: Mapping[str, Any]
    uses: Callable[[Case], int] = lambda case: 1
    """Uses of a weight for one sample: one, or one a token if tokens share it."""


def swiglu(sizes: Sizes) -> tuple[Product, ...]:
    """List the products of one per-token SwiGLU."""
    return ffn_products("swiglu", *sizes)


def gelu(sizes: Sizes) -> tuple[Product, ...]:
    """List the products of one per-token FFN with GELU."""
    return ffn_products("gelu", *sizes)


def twice(sizes: Sizes) -> tuple[Product, ...]:
    """List the products of one SwiGLU on mixed tokens and one on tokens."""
    return swiglu(sizes) * 2


def shared(sizes: Sizes) -> tuple[Product, ...]:
    """List the products of one FFN with GELU for all tokens."""
    tokens, batch, dim, hidden = sizes
    return ffn_products("gelu", 1, tokens * batch, dim, hidden)


MODELS = {
    "rankmixer-swiglu": Model("rankmixer", swiglu, {"ffn": "swiglu"}),
    "unimixer": Model("unimixer", swiglu, {}),
    "unimixer-lite": Model("unimixer-lite", swiglu, {"matrices": "blocks"}),
    "unimixer-lite-heads": Model("unimixer-lite", swiglu, {"matrices": "heads"}),
    "transformer": Model("transformer", shared, {}, uses=lambda case: int(case["T"])),
    "hetero-attention": Model("hetero-attention", gelu, {}),
    "tokenmixer-large": Model("tokenmixer-large", twice, {}),
}


def build(model: Model, case: Case) -> Backbone:
    """Build the backbone of a case."""
    options = dict(model.options)
    if model.backbone.startswith("unimixer") and options.get("matrices") != "heads":
        options["block_size"] = case.sizes.get("b")
    sizes = {"num_tokens": case["T"], "token_dim": case["D"], "expansion": case["expansion"]}
    return build_backbone(model.backbone, num_blocks=NUM_BLOCKS, **sizes, **options)


def inputs(case: Case, setting: Setting, *, model: Model) -> tuple[Backbone, Tensor]:
    """Make a backbone in training mode and tokens ``(B, T, D)``."""
    torch.manual_seed(0)
    return build(model, case).to(setting.device), setting.normal(case["batch"], case["T"], case["D"])


def work(case: Case, *, model: Model) -> Work:
    """Count six FLOPs a dense parameter and sample; the bare products are those of the FFNs alone."""
    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in build(model, case).parameters())
    sizes = (case["T"], case["batch"], case["D"], case["D"] * case["expansion"])
    flops = 6.0 * parameters * model.uses(case) * case["batch"]
    return Work(flops=flops, rows=case["batch"], products=model.products(sizes) * NUM_BLOCKS)


def cases(name: str) -> tuple[Case, ...]:
    """List two reference sizes, then growth by the tokens and the batch, and by the block if there is one."""
    sizes = [
        Case.of(D=64, T=16, expansion=4, batch=2048),
        Case.of(small=False, D=256, T=16, expansion=2, batch=2048),
        *(Case.of(small=False, D=64, T=tokens, expansion=4, batch=2048) for tokens in (8, 32)),
        *(Case.of(small=False, D=64, T=16, expansion=4, batch=batch) for batch in (512, 8192)),
    ]
    if name in ("unimixer", "unimixer-lite"):
        sizes += [Case.of(small=False, D=64, T=16, expansion=4, batch=2048, b=block) for block in (1, 2)]
        sizes += [Case.of(small=False, D=256, T=16, expansion=2, batch=2048, b=4)]
    return tuple(sizes)


BENCHMARKS = tuple(
    Benchmark(
        name=f"backbone-{name}",
        measures=f"{name}, {NUM_BLOCKS} blocks, forward and backward: against D, T and the batch",
        inputs=partial(inputs, model=model),
        implementations={
            "eager": lambda data: trained(*data),
            "compiled": lambda data: compiled(*data),
        },
        cases=cases(name),
        work=partial(work, model=model),
        # gradients of learned matrices, summed over the batch and taken back through Sinkhorn, have two digits in
        # float32: eager float32 is as far from float64
        tolerance=1e-2 if name.startswith("unimixer") else 1e-3,
    )
    for name, model in MODELS.items()
)
