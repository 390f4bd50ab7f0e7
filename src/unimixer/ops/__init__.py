"""Pure functions, the mathematics; a tensor's name carries its axes."""

from unimixer.ops.mixing import unimixing, unimixing_matrix
from unimixer.ops.per_token import per_token_linear, rms_norm, swiglu
from unimixer.ops.sinkhorn import sinkhorn, sinkhorn_reference
from unimixer.ops.token_mixing import permutation_matrix, token_mixing, token_mixing_permutation
from unimixer.ops.unified import block_diagonal, unified_matrix, weigh

__all__ = [
    "block_diagonal",
    "per_token_linear",
    "permutation_matrix",
    "rms_norm",
    "sinkhorn",
    "sinkhorn_reference",
    "swiglu",
    "token_mixing",
    "token_mixing_permutation",
    "unified_matrix",
    "unimixing",
    "unimixing_matrix",
    "weigh",
]
