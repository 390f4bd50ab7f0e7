"""All backbones by the names of their papers."""

from __future__ import annotations

import inspect
import re
from typing import Any

from unimixer.backbones.autoint import AutoInt
from unimixer.backbones.base import Backbone
from unimixer.backbones.dcnv2 import DCNv2
from unimixer.backbones.deepfm import DeepFM
from unimixer.backbones.dhen import DHEN
from unimixer.backbones.dlrm import DLRM
from unimixer.backbones.fat import FAT
from unimixer.backbones.finalmlp import FinalMLP
from unimixer.backbones.fm import FM
from unimixer.backbones.hetero_attention import HeteroAttention
from unimixer.backbones.hhft import HHFT
from unimixer.backbones.hiformer import HiFormer
from unimixer.backbones.hubmixer import HubMixer
from unimixer.backbones.hyformer import HyFormer
from unimixer.backbones.masknet import MaskNet
from unimixer.backbones.mlp import MLP
from unimixer.backbones.mtmixatt import MTmixAtt
from unimixer.backbones.rankelastor import RankElastor
from unimixer.backbones.rankmixer import RankMixer
from unimixer.backbones.token_mixer import TokenMixer
from unimixer.backbones.tokenmixer_large import TokenMixerLarge
from unimixer.backbones.transformer import Transformer
from unimixer.backbones.unidot import UniDot
from unimixer.backbones.unimixer import UniMixer, UniMixerLite
from unimixer.backbones.wukong import Wukong
from unimixer.errors import UnimixerError, unknown

BACKBONES: dict[str, type[Backbone]] = {
    "unimixer": UniMixer,
    "unimixer-lite": UniMixerLite,
    "rankmixer": RankMixer,
    "token-mixer": TokenMixer,
    "tokenmixer-large": TokenMixerLarge,
    "mtmixatt": MTmixAtt,
    "hubmixer": HubMixer,
    "hyformer": HyFormer,
    "transformer": Transformer,
    "hetero-attention": HeteroAttention,
    "hiformer": HiFormer,
    "fat": FAT,
    "hhft": HHFT,
    "dcnv2": DCNv2,
    "mlp": MLP,
    "fm": FM,
    "deepfm": DeepFM,
    "dlrm": DLRM,
    "finalmlp": FinalMLP,
    "masknet": MaskNet,
    "autoint": AutoInt,
    "wukong": Wukong,
    "unidot": UniDot,
    "dhen": DHEN,
    "rankelastor": RankElastor,
}


PAPER_NAMES = {"unimixing": "unimixer", "unimixing-lite": "unimixer-lite"}
"""Names in papers that are not those of the backbones."""


def backbone_name(text: str) -> str:
    """Return the name of a backbone in any case, with or without hyphens; an unknown one stays as it is.

    Example:
        >>> backbone_name("UniMixing-Lite"), backbone_name("RankMixer"), backbone_name("DCN-V2")
        ('unimixer-lite', 'rankmixer', 'dcnv2')
    """
    known = {_plain(name): name for name in BACKBONES} | {_plain(name): own for name, own in PAPER_NAMES.items()}
    return known.get(_plain(text), text)


def _plain(name: str) -> str:
    return re.sub(r"[-_ ]", "", name.lower())


def backbone_class(name: str) -> type[Backbone]:
    """Return the class of a name."""
    if (own := backbone_name(name)) not in BACKBONES:
        raise unknown("backbone", name, BACKBONES)
    return BACKBONES[own]


def check_options(name: str, options: dict[str, Any]) -> None:
    """Raise for an option that the backbone of this name does not have, or that is no switch where it has one."""
    known = backbone_class(name).options()
    for option, value in options.items():
        if option not in known:
            raise unknown(f"option of backbone {name!r}:", option, known)
        if isinstance(known[option].default, bool) and not isinstance(value, bool):  # every text would count as true
            raise UnimixerError(f"option of backbone {name!r}: {option}={value!r} is neither true nor false")


def build_backbone(name: str, **options: Any) -> Backbone:
    """Build a backbone from plain keyword arguments.

    Raises:
        UnimixerError: unknown name or option (with the nearest one), missing option, invalid value.

    Example:
        >>> import torch
        >>> build_backbone("rankmixer", num_tokens=4, token_dim=16)(torch.zeros(2, 4, 16)).shape
        torch.Size([2, 4, 16])
    """
    check_options(name, options)
    cls = backbone_class(name)
    for option, parameter in cls.options().items():
        if parameter.default is inspect.Parameter.empty and option not in options:
            raise UnimixerError(f"backbone {name!r} needs the option {option!r}")
    try:
        return cls(**options)
    except TypeError as error:
        raise UnimixerError(f"backbone {name!r}: an option has a value of the wrong type: {error}") from error
