"""Every form of learned mixing beside the paper's, by a name for tests."""

from __future__ import annotations

from typing import Any

from unimixer.mixing import MatrixMixing, UniMixing, UniMixingLite

T, D, B = 4, 16, 4
SIGNED = {"symmetric": False}
FORMS: dict[str, dict[str, Any]] = {
    "gated": {"gate": 0.3, "init": "random", "temperature": 0.6},
    "gated, low rank": {"rank": 6, "gate": 0.05, "init": "random", "temperature": 0.6},
    "gated, general": {"gate": 0.3, "init": "random", "temperature": 0.6, **SIGNED},
    "gated, shared": {"rank": 6, "gate": 0.3, "init": "random", "temperature": 0.6, "local": "shared"},
    "capped": {"range_cap": 2.0, "init": "random"},
    "capped, low rank": {"rank": 6, "range_cap": 2.0, "init": "random", **SIGNED},
    "gated and capped": {"gate": 0.5, "range_cap": 3.0, "init": "random"},
    "permutations": {"constraint": "permutations", "num_permutations": 5, "init": "random", "temperature": 0.6},
    "permutations, general": {"constraint": "permutations", "init": "random", "temperature": 0.6, **SIGNED},
    "permutations, gated": {"constraint": "permutations", "gate": 0.3, "temperature": 0.6},
    "kronecker": {"constraint": "kronecker", "init": "random", "temperature": 0.6},
    "kronecker, general": {"constraint": "kronecker", "init": "random", "temperature": 0.6, **SIGNED},
    "kronecker, gated": {"constraint": "kronecker", "gate": 0.3, "init": "random", "local": "free"},
    "unit rows": {"constraint": "unit-rows", **SIGNED},
    "unit rows, random": {"constraint": "unit-rows", "init": "random", **SIGNED},
    "unit rows, low rank": {"rank": 6, "constraint": "unit-rows", "init": "random", **SIGNED},
    "orthogonal": {"constraint": "orthogonal", **SIGNED},
    "orthogonal, random": {"constraint": "orthogonal", "init": "random", "init_scale": 0.3, **SIGNED},
    "orthogonal, low rank": {"rank": 6, "constraint": "orthogonal", **SIGNED},
    "free": {"constraint": "free", **SIGNED},
    "free, orthogonal": {"constraint": "free", "init": "orthogonal", **SIGNED},
    "free, random": {"constraint": "free", "init": "random", "init_scale": 0.25, **SIGNED},
    "free, gated": {"constraint": "free", "gate": 0.3, "init": "random", "init_scale": 0.25},
}


def build(form: str, **options: Any) -> MatrixMixing:
    options = {"num_heads": T, **FORMS[form], **options}
    return (UniMixingLite if options.get("rank") else UniMixing)(T * D, B, **options)
