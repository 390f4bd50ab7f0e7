"""Both mixtures of experts at a small size, for tests."""

from typing import Any

import pytest
import torch
from torch import Tensor

from unimixer.blocks import build_ffn

T, D, H, E = 3, 4, 14, 4  # 14 units in 4 experts: widths 4, 4, 3, 3
RELU: list[dict[str, Any]] = [
    {},
    {"expert": "swiglu", "bias": False},
    {"combine": "mean"},
    {"dtsi": False},
]
TOPK: list[dict[str, Any]] = [
    {},
    {"expert": "gelu", "bias": True, "gate": "all", "num_active": 2},
    {"count_shared": False, "num_active": 2},
    {"shared_width": "full", "router": "shared", "scale": 1.5},
    {"count_shared": False, "shared_width": "full", "num_active": 4},
]
KINDS = [*(("relu-moe", options) for options in RELU), *(("topk-moe", {"num_active": 3, **o}) for o in TOPK)]
EVERY = pytest.mark.parametrize(
    ("name", "options"), KINDS, ids=lambda v: v if isinstance(v, str) else "-".join(map(str, v))
)


def build(name: str, **options: Any) -> Any:
    torch.manual_seed(1)
    return build_ffn(name, T, D, H, {"num_experts": E, **options})


def rows(batch: int = 6, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(batch, T, D, generator=torch.Generator().manual_seed(2)).to(dtype)
