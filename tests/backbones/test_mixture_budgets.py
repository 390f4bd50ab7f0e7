"""A dial that counts routers and experts: budgets are met with mixtures of experts too."""

import re
from typing import Any

import pytest

from unimixer.backbones import build_backbone, count_parameters, fit_budget
from unimixer.blocks import ReLUMoE, TopKMoE
from unimixer.errors import UnimixerError

MIXTURES: list[tuple[str, dict[str, Any]]] = [
    ("relu-moe", {}),
    ("relu-moe", {"num_experts": 16, "expert": "swiglu", "dtsi": False}),
    ("topk-moe", {}),
    ("topk-moe", {"shared_width": "full", "count_shared": False}),
]


@pytest.mark.parametrize("name", ["rankmixer", "unimixer", "unimixer-lite"])
@pytest.mark.parametrize(("ffn", "options"), MIXTURES)
def test_a_budget_is_met_within_two_percent(name: str, ffn: str, options: dict[str, Any]) -> None:
    for num_tokens, params in ((8, 5_000_000), (16, 300_000), (20, 1_000_000), (32, 300_000)):
        backbone = fit_budget(name, params=params, num_tokens=num_tokens, ffn=ffn, ffn_options=options)
        assert count_parameters(backbone) == pytest.approx(params, rel=0.02)
        assert any(isinstance(module, ReLUMoE | TopKMoE) for module in backbone.modules())
    narrow = fit_budget(name, params=500_000, num_tokens=16, token_dim=16, ffn=ffn, ffn_options=options)
    assert count_parameters(narrow) == pytest.approx(500_000, rel=0.02)
    assert narrow.token_dim == 16


def test_a_mixture_is_as_large_as_the_dense_model_of_the_same_dial() -> None:
    for size in (48.0, 64.0, 100.0):
        counts = []
        for ffn in ("gelu", "relu-moe"):
            cls = type(build_backbone("rankmixer"))
            options = {"num_tokens": 16, "ffn": ffn}
            counts.append(count_parameters(cls(**options, **cls.dimensions(size, **options))))
        assert counts[1] == pytest.approx(counts[0], rel=0.02)


def test_a_misspelt_option_of_the_ffn_is_answered_before_anything_is_built() -> None:
    message = "unknown option of ffn 'relu-moe': 'num_expert'; did you mean 'num_experts'?"
    for name in ("rankmixer", "unimixer"):
        with pytest.raises(UnimixerError, match=re.escape(message)):
            fit_budget(name, params=300_000, num_tokens=8, ffn="relu-moe", ffn_options={"num_expert": 4})
