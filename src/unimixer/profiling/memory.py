"""Memory of a training step: estimated from shapes alone, and measured on a step that runs."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks

from unimixer.blocks import pop_penalties
from unimixer.features.batch import Batch
from unimixer.mixing import cached_constraints
from unimixer.profiling.flops import hollow_copy
from unimixer.ranker import Ranker, dense_parameters, table_parameters
from unimixer.training.config import OptimizerConfig
from unimixer.training.muon import matrix_parameters
from unimixer.training.optimizers import build_optimizers
from unimixer.training.step import task_loss

INDEX_BYTES = 8
"""Of a row's number in a row-sparse gradient."""


@dataclass(frozen=True)
class Memory:
    """Bytes of a training step, by what holds them.

    Args:
        parameters: dense ones and embedding tables.
        gradients: of the dense parameters, and of the rows of tables that the batch meets.
        optimizer: what the optimizers remember.
        activations: what forward keeps for backward; a tensor that several operations keep counts once, parameters
            and the batch itself do not count.
    """

    parameters: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        """All of it; what operations take and give back while they run comes on top."""
        return sum(asdict(self).values())


def estimate_memory(
    ranker: Ranker, batch: Batch, optimizer: OptimizerConfig | None = None, *, precision: str = "float32"
) -> Memory:
    r"""Estimate the bytes of a training step from shapes; nothing is computed and no memory is taken.

    .. math:: 4 P + 4 (P_d + R\,(w + 2)) + 4 (2 P_d + S) + A

    with P parameters, :math:`P_d` dense ones (a matrix that Muon moves counts once in :math:`2 P_d`), R rows met of
    width w (at most as many as are looked up), S the state of the tables (2 numbers a parameter for ``adam``, 1 a row
    for ``rowwise_adagrad``), and A the activations, by following the shapes of a forward pass with the batch as large
    as it is: layouts, and with them what is kept, depend on its size. A model that reads events inside the stack or
    searches histories looks at numbers; a copy of it runs.

    Args:
        ranker: may be on the meta device, unless it reads events.
        batch: its shapes count; labels are not needed.
        optimizer: as in the recipe.
        precision: as in the recipe.
    """
    config = optimizer or OptimizerConfig()
    dense = dense_parameters(ranker)
    tables = table_parameters(ranker)
    state = sum(2 * t.numel() if config.sparse == "adam" else t.shape[0] for t in tables)
    numbers = sum(p.numel() for p in dense)
    single = sum(p.numel() for p in matrix_parameters(ranker)) if config.dense == "muon" else 0
    return Memory(
        parameters=sum(p.numel() * p.element_size() for p in ranker.parameters()),
        gradients=4 * numbers + sum(rows * (4 * width + INDEX_BYTES) for rows, width in _rows_met(ranker, batch)),
        optimizer=4 * (2 * numbers - single + state),
        activations=_activations(ranker, batch, precision),
    )


def measure_memory(
    ranker: Ranker, batch: Batch, optimizer: OptimizerConfig | None = None, *, precision: str = "float32"
) -> Memory:
    """Measure the bytes of the tensors of a step that runs, on a copy of the model."""
    model = copy.deepcopy(ranker).train()
    optimizers = build_optimizers(model, optimizer or OptimizerConfig())
    with _kept(model, batch) as kept, cached_constraints(model):
        _loss(model, batch, precision).backward()  # type: ignore[no-untyped-call]
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    for one in optimizers.values():
        one.step()
    states = [v for one in optimizers.values() for s in one.state.values() for v in s.values() if torch.is_tensor(v)]
    return Memory(
        parameters=_bytes(model.parameters()),
        gradients=sum(_bytes([g._indices(), g._values()] if g.is_sparse else [g]) for g in gradients),
        optimizer=_bytes(states),
        activations=sum(kept.values()),
    )


def _activations(ranker: Ranker, batch: Batch, precision: str) -> int:
    hollow = not ranker.embedding.reads_numbers
    with FakeTensorMode() if hollow else nullcontext():
        if hollow:
            batch = batch.map(lambda tensor: torch.empty(tensor.shape, dtype=tensor.dtype))
        model = (hollow_copy(ranker) if hollow else copy.deepcopy(ranker)).train()
        with _kept(model, batch) as kept, cached_constraints(model):
            loss = _loss(model, batch, precision)  # the graph lives until here, so no storage is counted twice
            del loss
    return sum(kept.values())


def _loss(model: Ranker, batch: Batch, precision: str) -> Tensor:
    """What a training step differentiates, with a weight of one for every task."""
    rows, tasks = len(batch), len(model.spec.labels)
    labels = torch.zeros(rows, tasks)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bfloat16"):
        scored = [model.score(*model.embed(batch)).float()]
    losses = [
        task_loss(logits.float(), labels, torch.ones(tasks), batch.weights, float(rows))
        for logits in [*scored, *model.pop_auxiliary_logits()]
    ]
    penalty = pop_penalties(model)
    return torch.stack([*losses, *([] if penalty is None else [penalty])]).sum()


@contextmanager
def _kept(model: Ranker, batch: Batch) -> Iterator[dict[int, int]]:
    """Bytes of every storage that forward keeps for backward inside, by its address."""
    known = [*model.parameters(), *model.buffers(), *batch.inputs().values()]
    ours = {_address(tensor) for tensor in known}
    kept: dict[int, int] = {}
    alive: list[Tensor] = []  # an address that is free would be taken by the next tensor

    def pack(tensor: Tensor) -> Tensor:
        if _address(tensor) not in ours:
            kept[_address(tensor)] = tensor.untyped_storage().nbytes()
            alive.append(tensor.detach())
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        yield kept


def _address(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _rows_met(ranker: Ranker, batch: Batch) -> Iterator[tuple[int, int]]:
    """Rows of every packed table that a batch can meet at most, and their width."""
    embedding, spec = ranker.embedding, ranker.spec
    batch = embedding.search(batch)
    looked_up = [(field.table, len(batch)) for field in spec.ids]
    looked_up += [(field.table, batch.sequence_values[field.group].shape[0]) for field in spec.sequences]
    for table, rows in embedding.tables.num_embeddings.items():
        lookups = sum(count for name, count in looked_up if name == table)
        yield min(rows, lookups), embedding.tables.width[table]


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
