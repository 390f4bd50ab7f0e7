"""One stack for every published model, found by name."""

from unimixer.backbones.autoint import AutoInt
from unimixer.backbones.base import Backbone
from unimixer.backbones.budget import count_parameters, fit_budget, meet_budget, solve_width
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
from unimixer.backbones.registry import BACKBONES, build_backbone
from unimixer.backbones.token_mixer import TokenMixer
from unimixer.backbones.tokenmixer_large import TokenMixerLarge
from unimixer.backbones.transformer import Transformer
from unimixer.backbones.unidot import UniDot
from unimixer.backbones.unimixer import UniMixer, UniMixerLite
from unimixer.backbones.wukong import Wukong

__all__ = [
    "BACKBONES",
    "DHEN",
    "DLRM",
    "FAT",
    "FM",
    "HHFT",
    "MLP",
    "AutoInt",
    "Backbone",
    "DCNv2",
    "DeepFM",
    "FinalMLP",
    "HeteroAttention",
    "HiFormer",
    "HubMixer",
    "HyFormer",
    "MTmixAtt",
    "MaskNet",
    "RankElastor",
    "RankMixer",
    "TokenMixer",
    "TokenMixerLarge",
    "Transformer",
    "UniDot",
    "UniMixer",
    "UniMixerLite",
    "Wukong",
    "build_backbone",
    "count_parameters",
    "fit_budget",
    "meet_budget",
    "solve_width",
]
