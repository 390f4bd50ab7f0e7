"""The rows of a rank under the row-sparse optimizers of one machine, where fbgemm has no fused rule for the device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class RowsOfRank(nn.Module):
    r"""Looks a rank's part of some tables up with row-sparse gradients, in the memory that TorchRec keeps it in.

    fbgemm fuses Adam with the backward pass on CUDA alone. On a CPU this stands in the place of TorchRec's kernel: the
    planner, the exchange of ids and vectors and the state dict stay TorchRec's, and what updates the rows is
    :class:`~unimixer.training.optimizers.RowSparseAdam`, on the rows that this rank owns.

    Args:
        kernel: TorchRec's kernel of tables of one width.

    Shape:
        - features: ids ``(V,)`` of the kernel's tables, one feature after the other; output: ``(V, width)``
    """

    def __init__(self, kernel: Any) -> None:
        super().__init__()
        self.kernel = kernel
        tables = kernel.config.embedding_tables
        width, engine = tables[0].local_cols, kernel.emb_module
        # one memory for both: what the optimizer writes here is what TorchRec's state dict shows
        packed = engine.weights_host.detach().view(-1, width)
        self.weight = nn.Parameter(packed)
        starts = [int(offset) // width for offset in engine.weights_offsets.tolist()]
        self.starts = dict(enumerate(starts))  # by feature

    @property
    def config(self) -> Any:
        """TorchRec's description of the tables."""
        return self.kernel.config

    def forward(self, features: Any) -> Tensor:
        ids, counts = features.values(), features.length_per_key()
        starts = [self.starts[feature] for feature in range(len(counts))]
        shift = torch.repeat_interleave(torch.tensor(starts), torch.tensor(counts))
        return F.embedding(ids.long() + shift, self.weight, sparse=True)

    def flush(self) -> None:
        """Nothing waits in a cache; TorchRec asks before it shows its state."""

    purge = flush

    def part(self, table: int) -> tuple[int, int]:
        """First row and number of rows of a table in ``weight``."""
        tables = self.kernel.config.embedding_tables
        before = sum(t.local_rows for t in tables[:table])
        return before, tables[table].local_rows
