"""Pure functions, the mathematics; a tensor's name carries its axes."""

from unimixer.ops.constraints import cap_range, cayley, unit_rows
from unimixer.ops.generated import kronecker_multiply, permutation_sum
from unimixer.ops.layout import batch_first, batch_last
from unimixer.ops.norm import layer_norm, layer_norm_reference, rms_norm, rms_norm_reference
from unimixer.ops.per_token import per_token_ffn, per_token_ffn_reference, per_token_linear, swiglu
from unimixer.ops.sinkhorn import sinkhorn, sinkhorn_reference
from unimixer.ops.token_mixing import permutation_matrix, token_mixing, token_mixing_permutation
from unimixer.ops.unified import apply_weights, block_diagonal, unified_matrix
from unimixer.ops.unimixing import head_unimixing, unimixing, unimixing_matrix

__all__ = [
    "apply_weights",
    "batch_first",
    "batch_last",
    "block_diagonal",
    "cap_range",
    "cayley",
    "head_unimixing",
    "kronecker_multiply",
    "layer_norm",
    "layer_norm_reference",
    "per_token_ffn",
    "per_token_ffn_reference",
    "per_token_linear",
    "permutation_matrix",
    "permutation_sum",
    "rms_norm",
    "rms_norm_reference",
    "sinkhorn",
    "sinkhorn_reference",
    "swiglu",
    "token_mixing",
    "token_mixing_permutation",
    "unified_matrix",
    "unimixing",
    "unimixing_matrix",
    "unit_rows",
]
