"""What stands around a mixing: per-token layers, norms, residual streams, the temperature's schedule."""

from unimixer.blocks.norms import RMSNorm, build_norm
from unimixer.blocks.per_token import PerTokenFFN, PerTokenLinear, PerTokenSwiGLU, build_ffn
from unimixer.blocks.residual import PostNorm, PreNorm, Siamese, UniMixerBlock, build_stream
from unimixer.blocks.temperature import constant_temperature, linear_temperature

__all__ = [
    "PerTokenFFN",
    "PerTokenLinear",
    "PerTokenSwiGLU",
    "PostNorm",
    "PreNorm",
    "RMSNorm",
    "Siamese",
    "UniMixerBlock",
    "build_ffn",
    "build_norm",
    "build_stream",
    "constant_temperature",
    "linear_temperature",
]
