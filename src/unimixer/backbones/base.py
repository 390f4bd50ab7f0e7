"""What every backbone is: tokens in, tokens or one vector out, and one dial for its size."""

from __future__ import annotations

import inspect
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from unimixer.errors import check_shape


class Backbone(nn.Module):
    """Base of all backbones. A new one is one file with a subclass and one line in ``registry.py``.

    A subclass takes plain keyword arguments, ``num_tokens`` and ``token_dim`` among them, passes both up, implements
    :meth:`forward` and :meth:`dimensions`, and sets ``family`` and ``default_tokenizer``. One that flattens its tokens
    sets ``readout`` to ``"vector"`` and passes ``out_dim``.

    Shape:
        - tokens: ``(B, T, D)``
        - output: ``(B, T, D)`` where ``readout`` is ``"tokens"``, ``(B, out_dim)`` where it is ``"vector"``
    """

    family: ClassVar[str]
    """Kind of model, for reports: mixer, cross, mlp, ..."""
    default_tokenizer: ClassVar[Literal["chunk", "field"]]
    """``"chunk"``: the concatenated embedding cut into T pieces; ``"field"``: one token a field, as wide as it is."""
    readout: ClassVar[Literal["tokens", "vector"]] = "tokens"

    def __init__(self, *, num_tokens: int, token_dim: int, out_dim: int | None = None) -> None:
        super().__init__()
        self.num_tokens, self.token_dim = num_tokens, token_dim
        self.out_dim = token_dim if out_dim is None else out_dim

    def forward(self, tokens: Tensor) -> Tensor:
        """Transform tokens."""
        raise NotImplementedError

    def check_tokens(self, tokens: Tensor) -> None:
        """Raise unless tokens have the shape that this backbone was built for."""
        check_shape("tokens", tokens, (None, self.num_tokens, self.token_dim))

    @classmethod
    def dimensions(
        cls, size: float, *, num_tokens: int, token_dim: int | None = None, **options: Any
    ) -> dict[str, Any]:
        """The constructor's arguments that follow from one dial.

        Args:
            size: a width, as a real number; parameters grow smoothly with it although widths are whole numbers.
            num_tokens: T.
            token_dim: D where the tokenizer fixes it; the dial then sets hidden widths only.
            options: further arguments that the constructor will get; they win over what the dial would set.
        """
        raise NotImplementedError

    @classmethod
    def options(cls) -> dict[str, inspect.Parameter]:
        """The constructor's keyword arguments by name, inherited ones included."""
        found: dict[str, inspect.Parameter] = {}
        for ancestor in cls.__mro__:
            if "__init__" not in vars(ancestor):
                continue
            parameters = list(inspect.signature(vars(ancestor)["__init__"]).parameters.values())[1:]
            for parameter in parameters:
                if parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD):
                    found.setdefault(parameter.name, parameter)
            if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in parameters):
                break
        return found


def nearest_multiple(value: float, of: int) -> int:
    """The multiple of ``of`` nearest to ``value``, at least ``of`` itself.

    Example:
        >>> nearest_multiple(70.0, of=16)
        64
    """
    return max(1, round(value / of)) * of
