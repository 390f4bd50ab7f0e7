"""Create a backbone, or a whole ranker, by its name and its size."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, overload

import torch

from unimixer.backbones import BACKBONES, Backbone, build_backbone, fit_budget
from unimixer.backbones.budget import meet_budget, once_a_size, read_count, width_arguments
from unimixer.backbones.registry import backbone_class, backbone_name, check_options
from unimixer.errors import UnimixerError, unknown
from unimixer.features.spec import FeatureSpec
from unimixer.ranker import Ranker, RankerOptions, count_dense

NUM_TOKENS = 16
"""Tokens of a backbone that is created without a number of them."""


@overload
def create_model(
    name: str, spec: None = None, *, width: float | None = None, params: int | str | None = None, **options: Any
) -> Backbone: ...


@overload
def create_model(
    name: str, spec: FeatureSpec, *, width: float | None = None, params: int | str | None = None, **options: Any
) -> Ranker: ...


def create_model(
    name: str,
    spec: FeatureSpec | None = None,
    *,
    width: float | None = None,
    params: int | str | None = None,
    **options: Any,
) -> Backbone | Ranker:
    """Create a backbone by its name, or with the shapes of encoded data a whole ranker.

    Args:
        name: of a backbone, in any spelling: ``unimixer-lite``, ``UniMixing-Lite``, ``RankMixer``, ``DCN-V2``.
        spec: shapes of the encoded data, ``dataset.transform.spec``. Without it the model is the backbone alone, which
            takes tokens ``(B, T, D)``.
        width: the one width from which all sizes follow (default: the sizes of the options).
        params: instead of a width the number of parameters, met within 2%, such as ``1_000_000`` or ``"800K"``: those
            of the backbone, or the dense ones of the ranker.
        options: keyword arguments of the backbone, such as ``num_tokens`` (default: 16); or those of
            :class:`~unimixer.ranker.Ranker`, among which ``options`` has those of its backbone.

    Raises:
        UnimixerError: for an unknown name or option, sizes that do not fit, or a budget that no width meets.

    Example:
        >>> import torch, unimixer
        >>> model = unimixer.create_model("RankMixer", params="200K", num_tokens=8)
        >>> model(torch.randn(2, 8, model.token_dim)).shape == (2, 8, model.token_dim)
        True
    """
    budget = _budget(params, width)
    if spec is not None:
        return _ranker(name, spec, width, budget, options)
    if budget is not None:
        return fit_budget(name, params=budget, **{"num_tokens": NUM_TOKENS, **options})
    if width is None:
        return build_backbone(name, **options)
    check_options(name, options)
    return build_backbone(name, **width_arguments(name, width, **{"num_tokens": NUM_TOKENS, **options}))


def _ranker(name: str, spec: FeatureSpec, width: float | None, params: int | None, options: dict[str, Any]) -> Ranker:
    backbone = backbone_class(name)
    known = {field.name for field in fields(RankerOptions)} - {"backbone", "width"}
    for option in options:
        if option not in known and option in backbone.options():
            raise UnimixerError(
                f"{option} is an option of backbone {name!r}; for a whole ranker write options={{{option!r}: ...}}"
            )
        if option not in known:
            raise unknown("option of the Ranker", option, known)
    if params is not None:
        width = width_for_budget(spec, dense_params=params, backbone=name, **options)
    return Ranker(spec, backbone=name, width=width, **options)


def _budget(params: int | str | None, width: float | None) -> int | None:
    """Read a number of parameters."""
    if params is not None and width is not None:
        raise UnimixerError("give width or params, not both: the budget chooses the width")
    if params is None:
        return None
    count = read_count(params)
    if isinstance(count, bool) or not isinstance(count, int) or count <= 0:
        raise UnimixerError(f"params={params!r} is no number of parameters; write 1_000_000, '800K' or '1.5M'")
    return count


def width_for_budget(
    spec: FeatureSpec,
    *,
    dense_params: int,
    tolerance: float = 0.02,
    advise: bool = True,
    what: str = "params",
    **arguments: Any,
) -> float:
    """Find the width at which ``Ranker(spec, width=..., **arguments)`` has ``dense_params`` dense parameters.

    Args:
        spec: shapes of the encoded data.
        dense_params: the budget.
        tolerance: largest relative miss.
        advise: look for a change of the arguments if the budget cannot be met, which takes longer.
        what: name of the budget, for the message.
        arguments: of the ranker.

    Raises:
        UnimixerError: if no width comes within ``tolerance``, with a change of the arguments that does.
    """
    if arguments.get("width") is not None:
        raise UnimixerError("give width or dense_params, not both: the budget chooses the width")
    # tables do not count, so they are left tiny: only shapes matter on the meta device
    small = FeatureSpec(spec.ids, spec.dense, spec.sequences, dict.fromkeys(spec.tables, 2), spec.labels)
    arguments = {**arguments, "width": None, "managed_embeddings": None}

    def count(**arguments: Any) -> int:
        with torch.device("meta"):
            return count_dense(Ranker(small, **arguments))

    options, counted = changeable(arguments) if advise else {}, once_a_size(count, ranker_sizes(small))
    return meet_budget(counted, arguments, dense_params, tolerance=tolerance, what=what, changeable=options)


def ranker_sizes(spec: FeatureSpec) -> Callable[..., object]:
    """Return a function of a ranker's arguments that is equal for two widths where they make the same ranker."""
    # arguments of the backbone that no width changes, by the other arguments of the ranker
    fixed: dict[str, dict[str, Any]] = {}

    def sizes(*, width: float | None = None, **arguments: Any) -> object:
        if width is None:
            return arguments
        if (others := repr(arguments)) not in fixed:
            with torch.device("meta"):
                hollow = Ranker(spec, **{**arguments, "width": width, "managed_embeddings": None})
                fixed[others] = hollow.fixed_arguments
        name = backbone_name(arguments.get("backbone") or RankerOptions.backbone)
        return arguments, width_arguments(name, width, **fixed[others])

    return sizes


def changeable(arguments: Mapping[str, Any]) -> dict[str, int]:
    """List the arguments of a ranker that change its cost: fewer tokens, or narrower ones if every field is a token."""
    sizes = {name: int(arguments.get(name) or getattr(RankerOptions, name)) for name in ("num_tokens", "embedding_dim")}
    backbone = BACKBONES.get(backbone_name(arguments.get("backbone") or RankerOptions.backbone))
    by_field = (arguments.get("tokenizer") or (backbone and backbone.default_tokenizer)) == "field"
    return {name: value for name, value in sizes.items() if name != "num_tokens" or not by_field}
