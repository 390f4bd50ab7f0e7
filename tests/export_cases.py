"""What tests of exports share: requests of the small world and models of every kind."""

from __future__ import annotations

import hashlib
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import small_models
import torch
from torch.export import ExportedProgram

from unimixer.backbones import BACKBONES
from unimixer.bundles import Bundle, ExportOptions, export_run, write
from unimixer.bundles.graph import RequestRanker
from unimixer.bundles.program import trace
from unimixer.bundles.requests import missing, repeated, request_from, unknown, without_sequences
from unimixer.data.dataset import Dataset
from unimixer.data.encoding.layout import request_layout
from unimixer.data.loader import Loader
from unimixer.features.request import Request, RequestLayout
from unimixer.features.spec import FeatureSpec
from unimixer.ranker import Ranker

SMALL: dict[str, Any] = {"num_tokens": 4, "embedding_dim": 8, "width": 16, "tower_hidden_dims": (8,)}


def of_backbone(name: str) -> dict[str, Any]:
    """A small ranker on one backbone."""
    options = {"token_dim": 16, **small_models.SMALL.get(name, {})}
    return {"backbone": name, "tokenizer": "chunk", "width": None, "options": options}


def token_mixer(mixing: str) -> dict[str, Any]:
    """A small ranker on a stack of one mixing."""
    return {**of_backbone("token-mixer"), "options": {"token_dim": 16, "mixing": mixing}}


KINDS: dict[str, dict[str, Any]] = {
    **{name: of_backbone(name) for name in BACKBONES},
    "semantic": {"tokenizer": "semantic", "num_tokens": 8},
    "random": {"tokenizer": "random"},
    "fields as they are": {"tokenizer": "field", "backbone": "transformer"},
    "fields through a layer": {"tokenizer": "field", "options": {"token_dim": 44}},
    "target attention": {"sequence_encoder": "target_attention"},
    "small transformer": {"sequence_encoder": "transformer"},
    "DIN": {"sequence_encoder": "din", "sequence_options": {"hidden_dims": (6, 4), "activation": "dice"}},
    "DIEN": {"sequence_encoder": "dien"},
    "hard search": {
        "sequence_encoder": "dien",
        "sequence_search": {"clicks": {"kind": "hard", "field": "category", "top_k": 2}},
    },
    "soft search": {"sequence_encoder": "din", "sequence_search": {"clicks": {"kind": "soft", "top_k": 2}}},
    "narrow table": {"sequence_encoder": "target_attention", "embedding_dims": {"category": 4}},
    "history as tokens": {"sequences": "tokens"},
    "cross-attention": {"sequences": "cross_attention"},
    "siamese cross-attention": {
        "sequences": "cross_attention",
        "options": {"residual": "siamese", "sequence_head_dim": 4},
    },
    "hyformer cross-attention": {
        **of_backbone("hyformer"),
        "sequences": "cross_attention",
        "options": {"token_dim": 16, "mixing": "unimixing-lite"},
    },
    "experts": {**of_backbone("rankmixer"), "options": {"token_dim": 16, "ffn": "topk-moe"}},
    "rule and attention": token_mixer("rule+attention"),
    "rule and FM": token_mixer("rule+fm"),
    "dots": {**of_backbone("rankmixer"), "options": {"token_dim": 16, "dots": True}},
    "managed rows": {"managed_embeddings": {"item_id": 8, "category": 3}, "sequence_encoder": "target_attention"},
    "managed rows of histories": {"managed_embeddings": {"item_id": 8, "category": 3}, "sequences": "tokens"},
    "bare mixing": {
        "pooling": "attention",
        "tower_crosses": 2,
        "logit_clamp": 0.5,
        "embedding_dropout": 0.1,
        "options": {"residual": "bare-mixing", "expansion": 0.5},
    },
    "flat read-out": {"pooling": "flatten", "options": {"residual": "siamese"}},
    "experts of tasks": {"task_head": "ple", "task_head_options": {"expert_dims": [8]}},
    "chain of labels": {"task_head": "mmoe", "chain": {"long_view": "is_click"}},
}


def build(spec: FeatureSpec, **options: Any) -> Ranker:
    """A ranker with every number moved off its start, so that nothing is right by being zero."""
    torch.manual_seed(0)
    ranker = Ranker(spec, **{**SMALL, "embedding_init_std": 0.5, **options}).eval()
    with torch.no_grad():
        for parameter in ranker.parameters():
            if parameter.dim():
                parameter += 0.1 * torch.randn_like(parameter)
        for table, held in zip(ranker.embedding.managed.tables, ranker.embedding.managed.maps, strict=True):
            some = torch.randperm(spec.tables[table])[: len(held.rows) - 2]  # one row is empty, one is shared
            held.ids[: len(some)] = some.sort().values
            held.rows[:-1] = held.rows[:-1].flip(0)
    return ranker


def toy_requests(dataset: Dataset) -> tuple[RequestLayout, list[Request]]:
    """Real rows as requests of 24 candidates, and the corner cases at one, two and five."""
    layout = request_layout(dataset.transform.schema)
    batch = next(Loader(dataset, "test", batch_size=72, num_workers=0).batches())
    real = [request_from(batch, layout, row, row, row + 24) for row in (0, 24, 48)]
    corners = [change(repeated(real[0], 5)) for change in (without_sequences, unknown, missing)]
    corners += [change(repeated(real[1], 1)) for change in (without_sequences, unknown, missing)]
    return layout, [*real, repeated(real[2], 1), repeated(real[2], 2), repeated(real[1], 100), *corners]


_TRACES: dict[tuple[str, str], ExportedProgram] = {}
_CONVERTED: dict[int, Any] = {}
_CONVERT = torch.onnx.export


def _traced(graph: RequestRanker) -> ExportedProgram:
    digest = hashlib.sha256()
    for name, tensor in graph.state_dict().items():
        digest.update(name.encode() + tensor.numpy().tobytes())
    key = (digest.hexdigest(), f"{graph} {graph.inputs}")
    if key not in _TRACES:
        _TRACES[key] = trace(graph)
    return _TRACES[key]


def _converted(program: ExportedProgram, **options: Any) -> Any:
    if id(program) not in _CONVERTED:  # all programs live as long as the process
        _CONVERTED[id(program)] = _CONVERT(program, **options)
    return _CONVERTED[id(program)]


def exported(run: Path, out: Path, options: ExportOptions, **more: Any) -> Bundle:
    """A bundle as ``export_run`` writes it; a process traces the same graph once, and converts it to ONNX once.

    Files are written and checked against the model every time. Tests of the trace itself call ``export_run``.
    """
    with patch.object(write, "trace", _traced), converted_once():
        return export_run(run, out, options, **more)


def converted_once() -> AbstractContextManager[Any]:
    """Let a process convert a program to ONNX once."""
    return patch.object(torch.onnx, "export", _converted)
