"""The base of all backbones: tokens in, tokens or one vector out, and one width from which all sizes follow."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from unimixer.blocks.auxiliary import Transient
from unimixer.errors import UnimixerError, check_positive, check_shape
from unimixer.mixing import Mixing

Output = Tensor | tuple[Tensor, Tensor]
"""The output of a backbone: tokens or a vector, and with a ``bypass_dim`` features beside them."""


class Backbone(Transient):
    r"""Base of all backbones. A new one is one file with a subclass and one line in ``registry.py``.

    A subclass takes plain keyword arguments, ``num_tokens`` and ``token_dim`` among them, passes both up, implements
    :meth:`forward` and :meth:`dimensions`, and sets ``family`` and ``default_tokenizer``. One with many arguments lists
    them in the dataclass ``Options``. One that flattens its tokens sets ``output_kind`` to ``"vector"`` and passes
    ``out_dim``. One that wants losses on intermediate tokens sets
    ``num_auxiliary`` and, in every forward, ``self.intermediates``: that many tensors ``(B, T, D)`` where
    ``self.records`` holds, None elsewhere. One whose blocks attend to events has the
    constructor's argument ``sequence_dim``, sets the attribute of that name and takes ``(tokens, events, event_mask)``.
    One that runs blocks itself, and not a stream of :func:`~unimixer.blocks.build_stream`, inherits
    :class:`~unimixer.blocks.Recomputing` as well and passes them through ``run``.

    .. math:: \text{tokens } (B, T, D) \;\to\; \text{tokens } (B, T, D) \text{ or a vector } (B, \text{out\_dim})

    Source: ours; the docstring of a backbone names its paper.

    Args:
        num_tokens: T.
        token_dim: D.
        out_dim: width of the output vector (default: D).

    Shape:
        - tokens: ``(B, T, D)``
        - output: ``(B, T, D)`` where ``output_kind`` is ``"tokens"``, ``(B, out_dim)`` where it is ``"vector"``; with a
          ``bypass_dim`` F a pair of this and features ``(B, F)``

    Example:
        >>> class Average(Backbone):
        ...     family, default_tokenizer, output_kind = "mlp", "chunk", "vector"
        ...
        ...     def forward(self, tokens: Tensor) -> Tensor:
        ...         self.check_tokens(tokens)
        ...         return tokens.mean(1)
        >>> import torch
        >>> Average(num_tokens=2, token_dim=3)(torch.zeros(4, 2, 3)).shape
        torch.Size([4, 3])
    """

    Options: ClassVar[Any] = None
    """A frozen dataclass of the constructor's keyword arguments; None where the constructor itself lists them."""
    family: ClassVar[str]
    """Kind of model, for reports: mixer, cross, mlp, ..."""
    default_tokenizer: ClassVar[Literal["chunk", "semantic", "field"]]
    """``"chunk"``: the concatenated embedding cut into T pieces; ``"semantic"``: groups of one domain and a global
    token; ``"field"``: one token a field, as wide as it is."""
    output_kind: ClassVar[Literal["tokens", "vector"]] = "tokens"
    local_pattern: ClassVar[str] = "none"
    """A description of the pattern inside blocks, for a backbone without a :class:`~unimixer.mixing.Mixing`."""
    global_pattern: ClassVar[str] = "none"
    """A description of the pattern between blocks, likewise."""
    variants: ClassVar[tuple[Mapping[str, Any], ...]] = ()
    """Options that make another model of this backbone, which has a line of its own in the table of models."""
    transient: ClassVar[tuple[str, ...]] = ("intermediates",)
    num_auxiliary: int = 0
    """Intermediate tokens that join the training loss, each through a tower of its own."""
    intermediates: list[Tensor] | None = None
    bypass_dim: int = 0
    """Features that go past the pooling to the towers; ``forward`` then gives the pair ``(output, features)``."""
    batch_last: ClassVar[bool] = False
    """Whether it gains by tokens whose samples are next to each other in memory, see ``ops.batch_last``."""
    sequence_dim: int | None = None
    """Width C of the events that blocks attend to; without it ``forward`` takes tokens alone."""

    def __init__(self, *, num_tokens: int, token_dim: int, out_dim: int | None = None) -> None:
        super().__init__()
        self.num_tokens, self.token_dim = num_tokens, token_dim
        self.out_dim = token_dim if out_dim is None else out_dim

    def forward(self, tokens: Tensor) -> Output:
        """Transform tokens."""
        raise NotImplementedError

    def patterns(self) -> tuple[str, str]:
        """Describe the patterns inside and between blocks: those of the mixings inside, in order of use."""
        mixings = list(_outermost(self))
        local = dict.fromkeys(mixing.local_pattern for mixing in mixings)
        between = dict.fromkeys(mixing.global_pattern for mixing in mixings)
        return "; ".join(local) or self.local_pattern, "; ".join(between) or self.global_pattern

    def check_tokens(self, tokens: Tensor) -> None:
        """Raise unless tokens have the shape that this backbone was built for."""
        check_shape("tokens", tokens, (None, self.num_tokens, self.token_dim))

    def check_events(self, events: Tensor | None, event_mask: Tensor | None) -> None:
        """Raise unless events ``(B, S, C)`` and their mask ``(B, S)`` are given where this backbone reads them."""
        if events is None and event_mask is None and self.sequence_dim is None:
            return
        if self.sequence_dim is None:
            raise UnimixerError("this backbone reads no events; build it with sequence_dim, or pass tokens alone")
        if events is None or event_mask is None:
            raise UnimixerError(f"sequence_dim={self.sequence_dim}: pass tokens, events and event_mask")
        check_shape("events", events, (None, None, self.sequence_dim))
        check_shape("event_mask", event_mask, (None, None))

    @classmethod
    def dimensions(
        cls, width: float, *, num_tokens: int, token_dim: int | None = None, **options: Any
    ) -> dict[str, Any]:
        """Return the constructor's arguments that follow from one width.

        Args:
            width: a real number; parameters grow smoothly with it although widths are whole numbers.
            num_tokens: T.
            token_dim: D where the tokenizer fixes it; ``width`` then sets hidden widths only.
            options: further arguments of the constructor; they take precedence over what follows from ``width``.
        """
        raise NotImplementedError

    @classmethod
    def formula(cls, **arguments: Any) -> int:
        """Return the number of parameters by the closed formula, from the constructor's arguments."""
        raise NotImplementedError

    @classmethod
    def options(cls) -> dict[str, inspect.Parameter]:
        """Return the constructor's keyword arguments by name."""
        constructor: Any = cls.Options or cls
        return dict(_parameters(constructor))


@cache
def _parameters(cls: type) -> Mapping[str, inspect.Parameter]:
    """Return the parameters of a constructor; a search for a width asks for them at every model that it counts."""
    return inspect.signature(cls).parameters


@dataclass(frozen=True, kw_only=True)
class FieldShape:
    """Sizes of tokens that are fields; both follow from the data."""

    num_tokens: int
    token_dim: int


class FieldBackbone(Backbone):
    """Base of backbones that read one token a field and give one vector; a subclass sets ``Options``."""

    Options: ClassVar[Any] = FieldShape
    default_tokenizer: ClassVar[Literal["chunk", "semantic", "field"]] = "field"
    output_kind: ClassVar[Literal["tokens", "vector"]] = "vector"


@dataclass(frozen=True, kw_only=True)
class StackShape:
    """Sizes of a stack of tokens."""

    num_tokens: int = 16
    token_dim: int = 64
    num_blocks: int = 2


class StackBackbone(Backbone):
    """Base of backbones that are a stack of blocks on tokens; a subclass sets ``Options`` and gives :meth:`build`."""

    Options: ClassVar[Any] = StackShape

    def __init__(self, **options: Any) -> None:
        chosen = self.Options(**options)
        super().__init__(num_tokens=chosen.num_tokens, token_dim=chosen.token_dim)
        check_positive(num_tokens=chosen.num_tokens, token_dim=chosen.token_dim, num_blocks=chosen.num_blocks)
        self.build(chosen)

    def build(self, options: Any) -> None:
        """Build the modules of the backbone."""
        raise NotImplementedError


def _outermost(module: nn.Module) -> Iterator[Mixing]:
    """Iterate over the mixings inside a module but for the parts of a mixing."""
    for child in module.children():
        if isinstance(child, Mixing):
            yield child
        else:
            yield from _outermost(child)


def nearest_multiple(value: float, of: int) -> int:
    """Return the multiple of ``of`` nearest to ``value``, at least ``of`` itself.

    Example:
        >>> nearest_multiple(70.0, of=16)
        64
    """
    return max(1, round(value / of)) * of
