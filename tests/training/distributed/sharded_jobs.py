"""Jobs on dense parameters that are cut over processes, beside the same model held whole."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from unimixer.blocks import after_step, pop_penalties, recompute_activations
from unimixer.data.dataset import Dataset
from unimixer.data.loader import Loader
from unimixer.features.batch import Batch
from unimixer.mixing import cached_constraints, set_temperature
from unimixer.ranker import TABLES, Ranker, dense_parameters
from unimixer.training.config import OptimizerConfig
from unimixer.training.distributed.dense import FSDPForward, shard_dense, whole_parameters
from unimixer.training.optimizers import build_optimizers
from unimixer.training.process_group import ProcessGroup, join_processes
from unimixer.training.sharded_tensors import is_sharded, local_part, reshard
from unimixer.training.strategy import DenseForward

CLIP = 1e-3
"""Far below any gradient's norm, so that clipping has something to do."""


def do_gradients(dataset: str, cases: dict[str, dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Of every model: how far gradients of parts are from those of the whole, and what this process holds."""
    with join_processes(60) as processes:
        opened = Dataset(Path(dataset))
        batches = Loader(
            opened, "train", batch_size=96, shards=processes.shards(processes.size), num_shards=processes.size
        )
        given = [batch for batch, _ in zip(batches.batches(), range(2), strict=False)]
        return {name: _case(opened, given, dict(case), processes) for name, case in cases.items()}


def _case(dataset: Dataset, batches: list[Batch], case: dict[str, Any], processes: ProcessGroup) -> dict[str, float]:
    torch.manual_seed(processes.rank)  # the parts must come of one model and not of a model a rank
    recompute = case.pop("recompute", False)
    plain = Ranker(dataset.transform.spec, num_tokens=8, embedding_dim=4, tower_hidden_dims=[8], **case).train()
    set_temperature(plain, 1.0)  # at a sharp one the gradients of mixings are rounding noise
    recompute_activations(plain.backbone, recompute)
    for tensor in [*plain.parameters(), *plain.buffers()]:
        torch.distributed.broadcast(tensor.detach(), 0)
    cut = copy.deepcopy(plain)
    if processes.rank:
        with torch.no_grad():
            for parameter in dense_parameters(cut):
                parameter.zero_()
    shard_dense(cut, processes=processes, device=torch.device("cpu"))
    with torch.no_grad():
        cut.eval()(batches[0])  # an evaluation before the step, after which something stays gathered
        cut.train()
    expected = _gradients(plain, batches, DenseForward(plain, plain.score), processes)
    found = _gradients(cut, batches, FSDPForward(cut, cut.score, processes), processes)
    reshard(cut)
    optimizer = build_optimizers(cut, OptimizerConfig())["dense"]
    optimizer.step()
    moments = [tensor for state in optimizer.state.values() for key, tensor in state.items() if key != "step"]
    assert expected.keys() == found.keys(), sorted(expected.keys() ^ found.keys())
    return {
        "difference": max(_difference(expected[name], found[name]) for name in expected),
        "own": sum(local_part(parameter).numel() for parameter in dense_parameters(cut)),
        "learned": sum(local_part(p).numel() for p in dense_parameters(cut) if p.grad is not None),
        "moments": sum(local_part(tensor).numel() for tensor in moments),
        "whole": sum(parameter.numel() for parameter in whole_parameters(cut)),
        "all": sum(parameter.numel() for parameter in dense_parameters(plain)),
    }


def _difference(expected: Tensor, found: Tensor) -> float:
    """Largest difference of a gradient, as a share of its largest number."""
    return float((expected - found).abs().max() / expected.abs().max().clamp(min=1e-12))


def _gradients(model: Ranker, batches: list[Batch], dense: DenseForward, processes: ProcessGroup) -> dict[str, Tensor]:
    """Gradients of a step over two batches, before and after they are clipped."""
    torch.manual_seed(0)
    with cached_constraints(model):
        for batch in batches:
            with dense.exchange(batch is batches[-1]):
                logits = dense(batch)
                losses = [logits, *model.pop_auxiliary_logits()]
                assert batch.labels is not None
                loss = sum(F.binary_cross_entropy_with_logits(one, batch.labels, reduction="sum") for one in losses)
                penalty = pop_penalties(model)
                assert isinstance(loss, Tensor)
                (loss if penalty is None else loss + penalty).backward()  # type: ignore[no-untyped-call]
            if (
                isinstance(dense, FSDPForward) and batch is not batches[-1]
            ):  # a step has one exchange, and this batch had none
                assert all(p.grad is None for p in dense_parameters(model) if is_sharded(p))
    dense.finish()
    if not isinstance(dense, FSDPForward):
        for parameter in dense_parameters(model):
            if parameter.grad is not None:
                parameter.grad = processes.total(parameter.grad)
    found = {name: whole(gradient).clone() for name, gradient in _dense_gradients(model)}
    dense.clip(CLIP)
    after_step(model, processes.total)
    return found | {f"{name}, clipped": whole(gradient) for name, gradient in _dense_gradients(model)}


def _dense_gradients(model: Ranker) -> list[tuple[str, Tensor]]:
    parameters = [(name, p) for name, p in model.named_parameters() if not name.startswith(TABLES)]
    return [(name, p.grad) for name, p in parameters if p.grad is not None]


def whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
