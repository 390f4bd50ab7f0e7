"""All backbones beside each other: the patterns that they are made of, and what they cost."""

from __future__ import annotations

import inspect
from dataclasses import dataclass

import torch

from unimixer.backbones.base import Backbone
from unimixer.backbones.budget import count_parameters
from unimixer.backbones.flops import count_flops
from unimixer.backbones.registry import BACKBONES, backbone_class, build_backbone

NUM_TOKENS = 16
FIELD_DIM = 16
"""Width of a token where the backbone leaves it to the embedding tables."""


@dataclass(frozen=True)
class Overview:
    """One backbone at its default size."""

    name: str
    family: str
    local_pattern: str
    """What happens inside a block, in words: the local mixing of arXiv:2604.00590."""
    global_pattern: str
    """What happens between blocks."""
    tokenizer: str
    token_dim: int
    parameters: int
    flops: int
    """For one example, forward, see :func:`~unimixer.backbones.flops.count_flops`."""


def default_backbone(name: str) -> Backbone:
    """A backbone of its default size for 16 tokens, on the meta device: shapes without numbers.

    Example:
        >>> default_backbone("rankmixer").patterns()
        ('identity', 'fixed permutation')
    """
    cls = backbone_class(name)
    needs_width = cls.options()["token_dim"].default is inspect.Parameter.empty
    width = {"token_dim": FIELD_DIM} if needs_width or cls.default_tokenizer == "field" else {}
    with torch.device("meta"):
        return build_backbone(name, num_tokens=NUM_TOKENS, **width)


def overview(name: str) -> Overview:
    """One backbone at its default size.

    Example:
        >>> overview("rankmixer").parameters, overview("rankmixer").flops
        (1059328, 2097152)
    """
    cls, built = backbone_class(name), default_backbone(name)
    return Overview(
        name, cls.family, *built.patterns(), cls.default_tokenizer, built.token_dim, count_parameters(built),
        count_flops(built),
    )  # fmt: skip


def overviews() -> list[Overview]:
    """All backbones, in the order of the registry."""
    return [overview(name) for name in BACKBONES]
