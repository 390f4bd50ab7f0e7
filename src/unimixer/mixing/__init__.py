"""Mixings of the paper's one form: a pattern inside blocks and a pattern between blocks."""

from unimixer.mixing.attention import SoftmaxAttention
from unimixer.mixing.base import Mixing
from unimixer.mixing.basis_linear import BasisLinear, materialised
from unimixer.mixing.constrained import Constrained, set_temperature
from unimixer.mixing.conversions import converted_state, expanded, from_rule
from unimixer.mixing.convolution import Convolution
from unimixer.mixing.factorization import AttentiveValues, FactorizationMixing, UnitValues
from unimixer.mixing.fixed import FixedGlobal, FixedLocal, fixed_mixing, frozen
from unimixer.mixing.full import FullMixing
from unimixer.mixing.global_patterns import CallableGlobal, FullGlobal, Global, GramMatrix, IdentityGlobal, Permutation
from unimixer.mixing.hardened import SparseGlobal, hardened, nearest_permutation
from unimixer.mixing.hold import constrained_once
from unimixer.mixing.learned import BasisLocal, DoublyStochasticLocal, LearnedGlobal, LowRankGlobal
from unimixer.mixing.lite import UniMixingLite
from unimixer.mixing.local_patterns import (
    BlockLinear,
    CompositeLinear,
    ConstantValues,
    IdentityLocal,
    Local,
    SharedLinear,
)
from unimixer.mixing.projections import Compression, RectangularGlobal
from unimixer.mixing.token_mixing import TokenMixing
from unimixer.mixing.unified import MatrixMixing, Unified
from unimixer.mixing.unimixing import UniMixing

__all__ = [
    "AttentiveValues",
    "BasisLinear",
    "BasisLocal",
    "BlockLinear",
    "CallableGlobal",
    "CompositeLinear",
    "Compression",
    "ConstantValues",
    "Constrained",
    "Convolution",
    "DoublyStochasticLocal",
    "FactorizationMixing",
    "FixedGlobal",
    "FixedLocal",
    "FullGlobal",
    "FullMixing",
    "Global",
    "GramMatrix",
    "IdentityGlobal",
    "IdentityLocal",
    "LearnedGlobal",
    "Local",
    "LowRankGlobal",
    "MatrixMixing",
    "Mixing",
    "Permutation",
    "RectangularGlobal",
    "SharedLinear",
    "SoftmaxAttention",
    "SparseGlobal",
    "TokenMixing",
    "UniMixing",
    "UniMixingLite",
    "Unified",
    "UnitValues",
    "constrained_once",
    "converted_state",
    "expanded",
    "fixed_mixing",
    "from_rule",
    "frozen",
    "hardened",
    "materialised",
    "nearest_permutation",
    "set_temperature",
]
