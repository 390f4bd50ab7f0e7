"""Mixings of the paper's one form: a pattern inside blocks and a pattern between blocks."""

from unimixer.mixing.base import Mixing
from unimixer.mixing.constrained import ConstrainedMixing, set_temperature
from unimixer.mixing.fixed import FixedMixing, frozen
from unimixer.mixing.lite import UniMixingLite
from unimixer.mixing.token_mixing import TokenMixing
from unimixer.mixing.unimixing import UniMixing

__all__ = [
    "ConstrainedMixing",
    "FixedMixing",
    "Mixing",
    "TokenMixing",
    "UniMixing",
    "UniMixingLite",
    "frozen",
    "set_temperature",
]
