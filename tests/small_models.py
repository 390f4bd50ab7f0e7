"""Every published backbone at a size for tests, by its name."""

from __future__ import annotations

from typing import Any

SMALL: dict[str, dict[str, Any]] = {
    "dcnv2": {"hidden_dims": (24, 12), "num_crosses": 2},
    "mlp": {"hidden_dims": (24, 12)},
    "fm": {"num_factors": 16},
    "deepfm": {"hidden_dims": (24, 12)},
    "dlrm": {"bottom_dims": (24,), "top_dims": (24, 12)},
    "finalmlp": {"first_dims": (24, 12), "second_dims": (16,), "gate_dims": (12,)},
    "masknet": {"block_dims": (24, 12)},
    "autoint": {"attention_dim": 16, "num_layers": 2},
    "wukong": {"num_factorized": 4, "num_linear": 4, "num_projections": 5, "hidden_dims": (24,), "head_dims": (12,)},
    "unidot": {
        "num_factorized": 4,
        "num_linear": 4,
        "num_projections": 5,
        "hidden_dims": (24,),
        "head_dims": (12,),
        "num_queries": 3,
        "output_scale": 0.1,  # from zero, the layers below a projection have no gradient at first
    },
    "dhen": {"num_outputs": 3, "dot_dims": (24,), "head_dims": (12,)},
    "rankelastor": {"expansion": 2.0},
}
"""Options beside the width; a backbone that is not here takes its own defaults."""
