"""Sequence encoders by name, and their options."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from torch import nn

from unimixer.errors import UnimixerError, check_choice, unknown
from unimixer.features.dien import DIEN
from unimixer.features.din import DIN
from unimixer.features.sequence import SmallTransformer, TargetAttention

COMPARING: dict[str, type[nn.Module]] = {
    "target_attention": TargetAttention,
    "transformer": SmallTransformer,
    "din": DIN,
    "dien": DIEN,
}
"""Encoders that compare events with the candidate; each takes ``(width, matched, max_length=, **options)``."""
SEQUENCE_ENCODERS = ("mean", *COMPARING)
LISTWISE = (TargetAttention, DIEN)
"""Encoders that also read padded events, ``encode(padded, lengths, target)``: a search gives each candidate a list."""
SEARCHED = tuple(name for name, kind in COMPARING.items() if issubclass(kind, LISTWISE))


def check_encoder(name: str, options: Mapping[str, Any]) -> None:
    """Raise for an unknown encoder, an option that it does not have, or a value of another type than the default."""
    check_choice("sequence_encoder", name, SEQUENCE_ENCODERS)
    defaults = encoder_options(name)
    if options and not defaults:
        raise UnimixerError(f"sequence_encoder={name!r} has no options; leave sequence_options out")
    for option, value in options.items():
        if option not in defaults:
            raise unknown(f"sequence_options of sequence_encoder {name!r}:", option, defaults)
        if not _fits(value, defaults[option]):
            raise UnimixerError(
                f"sequence_options: {option}={value!r} has the wrong type; it must be like {defaults[option]!r}"
            )


def encoder_options(name: str) -> dict[str, Any]:
    """Return the options of an encoder with their defaults."""
    if name not in COMPARING:
        return {}
    parameters = inspect.signature(COMPARING[name]).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}


def build_encoder(name: str, width: int, matched: list[int], max_length: int, options: Mapping[str, Any]) -> nn.Module:
    """Build an encoder that compares events with the candidate.

    Args:
        name: a name in ``COMPARING``.
        width: of an event.
        matched: columns of an event that have a counterpart among the candidate's fields.
        max_length: of a sequence.
        options: further arguments, see :func:`check_encoder`.
    """
    return COMPARING[name](width, matched, max_length=max_length, **options)


def check_searched(searches: Collection[str], name: str, encoded: Collection[str]) -> None:
    """Raise for a search of a history whose found events no encoder reads, or one that reads no lists of a candidate.

    Args:
        searches: histories that are searched.
        name: of the sequence encoder.
        encoded: histories that it encodes.
    """
    if searches and name not in SEARCHED:
        raise UnimixerError(f"sequence_search goes with sequence_encoder {', '.join(SEARCHED)}, not with {name!r}")
    unread = [group for group in searches if group not in encoded]
    if unread:
        raise UnimixerError(
            f"sequence_search.{unread[0]} has no effect: the vector E does not compare this history with the "
            "candidate; leave it out"
        )


def _fits(value: object, default: object) -> bool:
    if isinstance(value, bool | str) or isinstance(default, str):
        return type(value) is type(default)
    if isinstance(default, tuple):
        return isinstance(value, Sequence) and all(_fits(one, default[0]) for one in value)
    return isinstance(value, int | float if isinstance(default, float) else int)
