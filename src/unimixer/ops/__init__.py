"""Pure functions, the mathematics; a tensor's name carries its axes."""

from unimixer.ops.constraints import cap_range, cayley, unit_rows
from unimixer.ops.generated import kronecker_multiply, permutation_sum
from unimixer.ops.layout import batch_first, batch_last, is_batch_last, operations_watched, plain
from unimixer.ops.mixed_norm import mixed_norm
from unimixer.ops.norm import Norm, layer_norm, layer_norm_reference, rms_norm, rms_norm_reference
from unimixer.ops.per_token import (
    normed_ffn,
    per_token_ffn,
    per_token_ffn_reference,
    per_token_linear,
    per_token_linear_last,
    swiglu,
)
from unimixer.ops.sinkhorn import sinkhorn, sinkhorn_reference
from unimixer.ops.token_mixing import permutation_matrix, token_mixing, token_mixing_permutation
from unimixer.ops.unified import apply_weights, block_diagonal, unified_matrix
from unimixer.ops.unimixing import head_unimixing, unimixing, unimixing_matrix

__all__ = [
    "Norm",
    "apply_weights",
    "batch_first",
    "batch_last",
    "block_diagonal",
    "cap_range",
    "cayley",
    "head_unimixing",
    "is_batch_last",
    "kronecker_multiply",
    "layer_norm",
    "layer_norm_reference",
    "mixed_norm",
    "normed_ffn",
    "operations_watched",
    "per_token_ffn",
    "per_token_ffn_reference",
    "per_token_linear",
    "per_token_linear_last",
    "permutation_matrix",
    "permutation_sum",
    "plain",
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
