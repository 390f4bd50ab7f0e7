"""One training run on a GPU: a Ranker on rows that a known rule labels, generated on the device, in bfloat16.

The rule is a product of user and item vectors, effects of items and contexts, and a linear part of numeric features.
Its own AUC on the held-out rows is the best that any model reaches. Every row is met once.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from kit import Rows
from torch import Tensor
from torch.nn import functional as F

from unimixer import Ranker
from unimixer.features import Batch, FeatureSpec
from unimixer.features.spec import DenseField, IdField
from unimixer.metrics import auc
from unimixer.ranker import count_dense, count_tables, dense_parameters, table_parameters

TABLES = {"user": 50_000, "item": 20_000, "hour": 24, "page": 1_000}
NUMERIC, RANK = 8, 8
COLUMNS = (
    *("model", "form", "rows", "batch", "dense_params", "table_params", "seconds", "rows_per_s"),
    *("auc", "best_auc", "first_loss", "last_loss", "peak_memory_mib"),
)


class World:
    """Rows without end, labelled by a rule that is drawn once."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.random = torch.Generator(device).manual_seed(0)
        self.user, self.item = self._normal(TABLES["user"], RANK), self._normal(TABLES["item"], RANK)
        self.effects = {name: self._normal(TABLES[name]) * 0.5 for name in ("item", "hour", "page")}
        self.slopes = self._normal(NUMERIC) * 0.3

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.random, device=self.device)

    def rows(self, count: int) -> tuple[Batch, Tensor]:
        """A batch with labels, and the logits of the rule."""
        uniform = torch.rand(count, len(TABLES), generator=self.random, device=self.device)
        sizes = torch.tensor(list(TABLES.values()), device=self.device)
        ids = (uniform.square() * sizes).long()  # low ids are frequent
        dense = self._normal(count, NUMERIC)
        user, item, hour, page = ids.unbind(1)
        logits = (self.user[user] * self.item[item]).sum(1) / RANK**0.5 + dense @ self.slopes - 1
        logits += self.effects["item"][item] + self.effects["hour"][hour] + self.effects["page"][page]
        clicks = torch.rand(count, generator=self.random, device=self.device) < logits.sigmoid()
        return Batch(sparse_ids=ids.int(), dense_features=dense, labels=clicks.float().unsqueeze(1)), logits


def spec() -> FeatureSpec:
    """The shapes of these rows."""
    domains = {"user": "user", "item": "item", "hour": "context", "page": "context"}
    ids = tuple(IdField(name, domains[name], name) for name in TABLES)
    dense = tuple(DenseField(f"number_{index}", "context") for index in range(NUMERIC))
    return FeatureSpec(ids=ids, dense=dense, sequences=(), tables=dict(TABLES), labels=("click",))


def train(name: str, form: str, total: int, batch: int, device: torch.device) -> dict[str, object]:
    """Train on ``total`` rows, then score rows that were not met."""
    torch.manual_seed(0)
    world, model = World(device), Ranker(spec(), backbone=name, sparse_gradients=True).to(device).train()
    score = torch.compile(model.score) if form == "compiled" else model.score
    on_gpu = device.type == "cuda"
    dense = torch.optim.Adam(dense_parameters(model), 1e-3, fused=on_gpu or None)
    sparse = torch.optim.SparseAdam(table_parameters(model), 1e-2)
    losses: list[Tensor] = []
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    steps, warm = total // batch, min(10, total // batch // 2)
    begin = time.perf_counter()
    for step in range(steps):
        if step == warm:  # the first steps load and compile
            if on_gpu:
                torch.cuda.synchronize()
            begin = time.perf_counter()
        rows, _ = world.rows(batch)
        with torch.autocast(device.type, torch.bfloat16):
            logits = score(*model.embed(rows)).float()
        assert rows.labels is not None
        loss = F.binary_cross_entropy_with_logits(logits, rows.labels)
        for optimizer in (dense, sparse):
            optimizer.zero_grad()
        loss.backward()
        for optimizer in (dense, sparse):
            optimizer.step()
        losses.append(loss.detach())
    if on_gpu:
        torch.cuda.synchronize()
    spent = time.perf_counter() - begin
    labels, scores, best = [], [], []
    model.eval()
    for _ in range(max(1, total // 10 // batch)):
        rows, rule = world.rows(batch)
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
            scores.append(model(rows).float().squeeze(1))
        assert rows.labels is not None
        labels.append(rows.labels.squeeze(1))
        best.append(rule)
    truth = torch.cat(labels).cpu()
    last = torch.stack(losses[-max(1, steps // 20) :]).mean()
    return {
        "rows": steps * batch,
        "batch": batch,
        "dense_params": count_dense(model),
        "table_params": count_tables(model),
        "seconds": spent,
        "rows_per_s": round((steps - warm) * batch / spent),
        "auc": auc(torch.cat(scores).cpu(), truth),
        "best_auc": auc(torch.cat(best).cpu(), truth),
        "first_loss": float(losses[0]),
        "last_loss": float(last),
        "peak_memory_mib": round(torch.cuda.max_memory_allocated() / 2**20) if on_gpu else "",
    }


def main(arguments: Sequence[str]) -> int:
    """Train every model in every form; 1 where a model learned less than half of what can be learned."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/gpu-training.csv"))
    parser.add_argument("--models", nargs="+", default=["unimixer-lite"])
    parser.add_argument("--forms", nargs="+", default=["eager", "compiled"], choices=["eager", "compiled"])
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--batch", type=int, default=4096)
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    rows = Rows(options.out, COLUMNS, device)
    rows.begin()
    learned = True
    for name in options.models:
        for form in options.forms:
            values = train(name, form, options.rows, options.batch, device)
            rows.add(model=name, form=form, **values)
            learned &= float(str(values["auc"])) - 0.5 > (float(str(values["best_auc"])) - 0.5) / 2
    return 0 if learned else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
