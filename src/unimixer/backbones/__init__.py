"""One stack for every published model, found by name."""

from unimixer.backbones.base import Backbone
from unimixer.backbones.budget import count_parameters, fit_budget, solve_size
from unimixer.backbones.dcnv2 import DCNv2
from unimixer.backbones.mlp import MLP
from unimixer.backbones.rankmixer import RankMixer
from unimixer.backbones.registry import BACKBONES, build_backbone
from unimixer.backbones.unimixer import UniMixer, UniMixerLite

__all__ = [
    "BACKBONES",
    "MLP",
    "Backbone",
    "DCNv2",
    "RankMixer",
    "UniMixer",
    "UniMixerLite",
    "build_backbone",
    "count_parameters",
    "fit_budget",
    "solve_size",
]
