"""The parts of a block around its mixing: per-token layers, mixtures of experts, norms, residual streams."""

from unimixer.blocks.auxiliary import (
    Auxiliary,
    Transient,
    after_step,
    forget_counts,
    pop_penalties,
    pop_statistics,
)
from unimixer.blocks.cross_attention import CrossAttention, EventAttention
from unimixer.blocks.cross_layer import CrossLayer
from unimixer.blocks.ffn import build_ffn, ffn_matrices, ffn_parameters, matched_hidden, sensible_ffn
from unimixer.blocks.initialization import small_ffn_init_, small_init_
from unimixer.blocks.label_chain import chain_links, joint_logits
from unimixer.blocks.mix_revert import MixRevert
from unimixer.blocks.moe.experts import PerTokenExperts, PerTokenRouter
from unimixer.blocks.moe.relu import ReLUMoE
from unimixer.blocks.moe.topk import TopKMoE
from unimixer.blocks.norms import RMSNorm, build_norm
from unimixer.blocks.pair_products import PairProducts
from unimixer.blocks.per_token import PerTokenFFN, PerTokenLinear, PerTokenSwiGLU
from unimixer.blocks.query_attention import QueryAttention, QueryStart
from unimixer.blocks.readout import POOLINGS, AttentionPooling, TaskTowers, build_pooling
from unimixer.blocks.recompute import Recomputing, recompute_activations
from unimixer.blocks.residual import PostNorm, PreNorm, Siamese, UniMixerBlock, build_stream
from unimixer.blocks.task_experts import TASK_HEADS, ExpertGate, PerTask, TaskExperts, build_task_experts

__all__ = [
    "POOLINGS",
    "TASK_HEADS",
    "AttentionPooling",
    "Auxiliary",
    "CrossAttention",
    "CrossLayer",
    "EventAttention",
    "ExpertGate",
    "MixRevert",
    "PairProducts",
    "PerTask",
    "PerTokenExperts",
    "PerTokenFFN",
    "PerTokenLinear",
    "PerTokenRouter",
    "PerTokenSwiGLU",
    "PostNorm",
    "PreNorm",
    "QueryAttention",
    "QueryStart",
    "RMSNorm",
    "ReLUMoE",
    "Recomputing",
    "Siamese",
    "TaskExperts",
    "TaskTowers",
    "TopKMoE",
    "Transient",
    "UniMixerBlock",
    "after_step",
    "build_ffn",
    "build_norm",
    "build_pooling",
    "build_stream",
    "build_task_experts",
    "chain_links",
    "ffn_matrices",
    "ffn_parameters",
    "forget_counts",
    "joint_logits",
    "matched_hidden",
    "pop_penalties",
    "pop_statistics",
    "recompute_activations",
    "sensible_ffn",
    "small_ffn_init_",
    "small_init_",
]
