"""The constraint on learned matrices: their set, the range of their raw values, the gate to a permutation."""

from __future__ import annotations

from dataclasses import dataclass, replace

from unimixer.errors import UnimixerError, check_choice, check_positive

CONSTRAINTS = {
    "sinkhorn": "doubly stochastic",
    "permutations": "doubly stochastic",
    "kronecker": "doubly stochastic",
    "unit-rows": "rows of unit norm",
    "orthogonal": "orthogonal",
    "free": "",
}
"""Constraints by name, and the property of their matrices in words."""
GENERATED = ("permutations", "kronecker")
"""Constraints of the matrix between blocks that a few numbers generate, without a raw matrix."""


@dataclass(frozen=True)
class Constraint:
    r"""The constraint on learned matrices.

    .. math:: W = (1 - a) P + a\, C(\tilde W), \qquad a = \sigma(g)

    with C one of :data:`CONSTRAINTS`, :math:`\tilde W` the raw matrix or its symmetric part, P the permutation to
    start from and g learned. Without a gate, :math:`W = C(\tilde W)`.

    Source: arXiv:2604.00590 has ``sinkhorn``; the other kinds, the gate and the cap are ours.

    Args:
        temperature: of doubly stochastic matrices; 1.0 is no temperature.
        symmetric: constrain to symmetric matrices.
        kind: one of :data:`CONSTRAINTS`.
        gate: None, or the share a of the learned matrix at the start.
        range_cap: largest difference of two entries of what Sinkhorn gets, :math:`\tilde W / \tau`; None for no cap.

    Example:
        >>> Constraint().words(), Constraint(kind="orthogonal", symmetric=False).doubly_stochastic
        ('doubly stochastic, symmetric', False)
    """

    temperature: float = 0.1
    symmetric: bool = True
    kind: str = "sinkhorn"
    gate: float | None = None
    range_cap: float | None = None

    def __post_init__(self) -> None:
        check_positive(temperature=self.temperature)
        check_choice("constraint", self.kind, list(CONSTRAINTS))
        signed = self.kind in ("unit-rows", "orthogonal")
        if signed and self.symmetric:
            raise UnimixerError(f"constraint={self.kind!r} gives no symmetric matrices; set symmetric: false")
        if self.gate is not None:
            if not 0 < self.gate < 1:
                raise UnimixerError(f"gate={self.gate:g} must lie between 0 and 1, such as 0.05")
            if signed:
                raise UnimixerError(
                    f"gate={self.gate:g}: a sum with a permutation is no longer {CONSTRAINTS[self.kind]}; leave gate "
                    "out, or choose the constraint 'sinkhorn', 'permutations', 'kronecker' or 'free'"
                )
        if self.range_cap is not None:
            check_positive(range_cap=self.range_cap)
            if self.kind != "sinkhorn":
                raise UnimixerError(
                    f"range_cap={self.range_cap:g} bounds what Sinkhorn gets, and constraint={self.kind!r} has no "
                    "Sinkhorn; leave range_cap out"
                )

    @property
    def doubly_stochastic(self) -> bool:
        """Whether rows and columns sum to one; only such matrices have a temperature."""
        return CONSTRAINTS[self.kind] == "doubly stochastic"

    @property
    def surrounds_permutation(self) -> bool:
        """Whether the constraint needs a permutation, whatever the raw values start from."""
        return self.gate is not None or self.kind in GENERATED

    @property
    def inside(self) -> Constraint:
        """The constraint on the matrices inside blocks: Sinkhorn where numbers generate the matrix between blocks."""
        return replace(self, kind="sinkhorn") if self.kind in GENERATED else self

    def words(self) -> str:
        """The constraint in words."""
        parts = [CONSTRAINTS[self.kind], "symmetric" if self.symmetric else ""]
        words = ", ".join(filter(None, parts)) or "unconstrained"
        return words if self.gate is None else f"{words}, gated"
