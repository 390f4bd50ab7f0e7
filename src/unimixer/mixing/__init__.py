"""Mixings in the paper's one form: a pattern inside blocks and a pattern between blocks."""

from unimixer.mixing.attention import SoftmaxAttention
from unimixer.mixing.base import Mixing
from unimixer.mixing.basis_linear import BasisLinear, materialize
from unimixer.mixing.constrained import Constrained, cached_constraints, set_temperature
from unimixer.mixing.constraint import CONSTRAINTS, Constraint
from unimixer.mixing.controls import no_mixing, random_orthogonal, random_permutation
from unimixer.mixing.conversions import check_same_meaning, converted_state, from_rule, to_full
from unimixer.mixing.factorization import AttentiveValues, FactorizationMixing, UnitValues
from unimixer.mixing.fixed import discretize, fixed_mixing, freeze
from unimixer.mixing.fixed_patterns import FixedGlobal, FixedLocal, SparseGlobal, nearest_permutation
from unimixer.mixing.generated import KroneckerGlobal, PermutationSum
from unimixer.mixing.global_patterns import CallableGlobal, FullGlobal, Global, GramMatrix, IdentityGlobal, Permutation
from unimixer.mixing.hubs import HubMixing
from unimixer.mixing.learned import BasisLocal, DoublyStochasticLocal, LearnedGlobal, LowRankGlobal
from unimixer.mixing.local_patterns import (
    BlockLinear,
    CompositeLinear,
    ConstantValues,
    IdentityLocal,
    Local,
    SharedLinear,
)
from unimixer.mixing.per_head import ConstrainedHeads, PerHeadGlobal
from unimixer.mixing.projections import Compression, Convolution, FullMixing, RectangularGlobal
from unimixer.mixing.sum import Sum
from unimixer.mixing.token_mixing import TokenMixing
from unimixer.mixing.unified import Discretizable, MatrixMixing, Unified
from unimixer.mixing.unimixing import HeadUniMixing, UniMixing, UniMixingLite

__all__ = [
    "CONSTRAINTS",
    "AttentiveValues",
    "BasisLinear",
    "BasisLocal",
    "BlockLinear",
    "CallableGlobal",
    "CompositeLinear",
    "Compression",
    "ConstantValues",
    "Constrained",
    "ConstrainedHeads",
    "Constraint",
    "Convolution",
    "Discretizable",
    "DoublyStochasticLocal",
    "FactorizationMixing",
    "FixedGlobal",
    "FixedLocal",
    "FullGlobal",
    "FullMixing",
    "Global",
    "GramMatrix",
    "HeadUniMixing",
    "HubMixing",
    "IdentityGlobal",
    "IdentityLocal",
    "KroneckerGlobal",
    "LearnedGlobal",
    "Local",
    "LowRankGlobal",
    "MatrixMixing",
    "Mixing",
    "PerHeadGlobal",
    "Permutation",
    "PermutationSum",
    "RectangularGlobal",
    "SharedLinear",
    "SoftmaxAttention",
    "SparseGlobal",
    "Sum",
    "TokenMixing",
    "UniMixing",
    "UniMixingLite",
    "Unified",
    "UnitValues",
    "cached_constraints",
    "check_same_meaning",
    "converted_state",
    "discretize",
    "fixed_mixing",
    "freeze",
    "from_rule",
    "materialize",
    "nearest_permutation",
    "no_mixing",
    "random_orthogonal",
    "random_permutation",
    "set_temperature",
    "to_full",
]
