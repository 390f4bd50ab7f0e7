"""Train a ranker in a bare loop of torch, measure it, save it and load it again.

    python examples/own_loop.py --out own --rows 50000

The data are a synthetic world; with ``--dataset`` any dataset that ``unimixer data prepare`` wrote.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from unimixer import Ranker, create_model, prepare
from unimixer.data.dataset import Dataset
from unimixer.data.loader import Loader
from unimixer.features import FeatureSpec
from unimixer.metrics import MetricAccumulator, TaskMetrics


def make(spec: FeatureSpec, backbone: str) -> Ranker:
    """Create the ranker; a saved one has the same arguments."""
    return create_model(backbone, spec, params="60K", num_tokens=4, embedding_dim=8)


def train(ranker: Ranker, loader: Loader, epochs: int) -> None:
    """Take a step for every batch."""
    optimizer = torch.optim.Adam(ranker.parameters(), lr=0.005)
    ranker.train()
    for epoch in range(epochs):
        total = 0.0
        for batch in loader:
            loss = F.binary_cross_entropy_with_logits(ranker(batch), batch.labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
        print(f"epoch {epoch}: loss {total / len(loader):.4f}")


def measure(ranker: Ranker, loader: Loader) -> dict[str, TaskMetrics]:
    """Measure all tasks over a split."""
    metrics = MetricAccumulator(ranker.spec.labels, with_users=True)
    ranker.eval()
    with torch.no_grad():
        for batch in loader:
            metrics.update(ranker(batch), batch.labels, batch.users)
    return metrics.compute()


def main() -> None:
    """Train, measure, save, load."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("own"))
    parser.add_argument("--dataset", type=Path, help="a prepared dataset (default: make a synthetic world)")
    parser.add_argument("--rows", type=int, default=50_000, help="of the synthetic world")
    parser.add_argument("--backbone", default="rankmixer")
    parser.add_argument("--epochs", type=int, default=1)
    arguments = parser.parse_args()
    if arguments.dataset is None:
        dataset = prepare("synthetic", arguments.out / "dataset", rows=arguments.rows, users=500, items=200)
    else:
        dataset = Dataset(arguments.dataset)
    spec = dataset.transform.spec
    torch.manual_seed(0)
    ranker = make(spec, arguments.backbone)
    train(ranker, Loader(dataset, "train", batch_size=256, shuffle=True), arguments.epochs)
    validation = Loader(dataset, "validation", batch_size=1024)
    measured = measure(ranker, validation)
    for task, values in measured.items():
        print(f"{task}: AUC {values.auc:.4f}, log loss {values.log_loss:.4f}")

    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "spec.json").write_text(json.dumps(spec.to_json()), encoding="utf-8")
    save_file(ranker.state_dict(), arguments.out / "ranker.safetensors")
    again = FeatureSpec.from_json(json.loads((arguments.out / "spec.json").read_text(encoding="utf-8")))
    loaded = make(again, arguments.backbone)
    loaded.load_state_dict(load_file(arguments.out / "ranker.safetensors"))
    same = all(values.auc == measured[task].auc for task, values in measure(loaded, validation).items())
    print(f"the loaded ranker measures the same: {same}")


if __name__ == "__main__":
    main()
