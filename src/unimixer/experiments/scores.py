"""Write the scores on the test part, from which models are compared user by user."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from unimixer.data.dataset import Store
from unimixer.data.loader import Loader
from unimixer.errors import UnimixerError
from unimixer.io import atomic_file
from unimixer.training.evaluation import EVALUATION_BATCH, task_columns, user_keys
from unimixer.training.model import load_ranker, pick_device
from unimixer.training.run import RunFolder


def scores_path(folder: Path, key: str) -> Path:
    """Return the file of the test logits of a row: float32 ``(n, tasks)``."""
    return folder / "scores" / f"{key}.npy"


def test_logits(run: RunFolder, store: Store) -> NDArray[np.float32]:
    """Compute the logits ``(n, tasks)`` of a run's best weights on the test part, in its order."""
    device, precision = pick_device(run.recipe.training.device), run.recipe.training.precision
    model = load_ranker(run, device=device)
    logits = []
    with torch.no_grad():
        for batch in Loader(store, "test", batch_size=EVALUATION_BATCH).batches():
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16"):
                logits.append(model(batch.to(device)).float().cpu())
    return torch.cat(logits).numpy()


def write_array(path: Path, values: NDArray[np.generic]) -> None:
    """Write one array atomically."""
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        np.save(file, values, allow_pickle=False)


def write_truth(folder: Path, store: Store, tasks: tuple[str, ...]) -> None:
    """Write the labels and users of the test part beside the scores, unless they exist.

    ``HASH-labels.npy`` is uint8 ``(n, tasks)``; ``HASH-users.npy`` is int64 ``(n,)`` with the keys by which UAUC
    groups; an impression without a user is a user of its own.
    """
    labels, users = (folder / "scores" / f"{store.hash}-{name}.npy" for name in ("labels", "users"))
    if labels.exists() and users.exists():
        _check(labels, store, tasks)
        return
    with_users = store.transform.schema.keys.user is not None
    columns, label_columns, keys, count = task_columns(store, tasks), [], [], 0
    for batch in Loader(store, "test", batch_size=EVALUATION_BATCH).batches():
        assert batch.labels is not None
        assert batch.users is not None
        label_columns.append(batch.labels[:, columns].to(torch.uint8))
        alone = -1 - torch.arange(count, count + len(batch))
        keys.append(user_keys(batch.users, count) if with_users else alone)
        count += len(batch)
    write_array(users, torch.cat(keys).to(torch.int64).numpy())
    write_array(labels, torch.cat(label_columns).numpy())


def _check(labels: Path, store: Store, tasks: tuple[str, ...]) -> None:
    expected, actual = (store.summary("test").rows, len(tasks)), np.load(labels, mmap_mode="r").shape
    if actual != expected:
        raise UnimixerError(f"{labels} has shape {actual}, expected {expected}: remove it, it is written again")
