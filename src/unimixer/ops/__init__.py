"""Pure functions, the mathematics; a tensor's name carries its axes."""

from unimixer.ops.mixing import unimixing, unimixing_matrix
from unimixer.ops.per_token import per_token_linear, rms_norm, swiglu
from unimixer.ops.sinkhorn import sinkhorn, sinkhorn_reference
from unimixer.ops.token_mixing import permutation_matrix, token_mixing, token_mixing_permutation

__all__ = [
    "per_token_linear",
    "permutation_matrix",
    "rms_norm",
    "sinkhorn",
    "sinkhorn_reference",
    "swiglu",
    "token_mixing",
    "token_mixing_permutation",
    "unimixing",
    "unimixing_matrix",
]
