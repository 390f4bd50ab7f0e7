"""A study as the engine leaves it, with scores that were drawn instead of trained: quick, and the truth is known."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from unimixer.experiments.lr_search import Rates
from unimixer.experiments.plan import Study
from unimixer.experiments.results import result_columns, write_row, write_tables
from unimixer.io import write_text
from unimixer.metrics import MetricAccumulator
from unimixer.settings import dump_yaml

TASKS = ("click", "long_view")
RATES = (5e-4, 1e-3, 2e-3)
QUALITY = {"rankmixer": 1.0, "unimixer-lite, 4 blocks": 2.0, "dcnv2": 1.0, "mlp": 0.4}
"""How much of the truth the scores of a model know; models of equal quality are equal in expectation."""
MODELS = ("rankmixer", "unimixer-lite:num_blocks=4", "dcnv2", "mlp")


def fake_study(
    folder: Path,
    *,
    quality: Mapping[str, float] = QUALITY,
    models: Sequence[str] = MODELS,
    datasets: Sequence[str] = ("little-world",),
    params: Sequence[int] = (1_000_000,),
    seeds: int = 3,
    rates: Sequence[float] = RATES,
    mixing_rates: Sequence[float] = (),
    rows: int = 2_000,
    users: int = 250,
    without: Sequence[tuple[str, int]] = (),
    failed: Sequence[tuple[str, int]] = (),
) -> Path:
    """Write a plan, rows and scores; ``without`` and ``failed`` name a label and a seed at the chosen rate.

    ``mixing_rates`` are rates of the mixing that UniMixing-Lite chooses from; the last one is the best.
    """
    data = [
        {"path": f"datasets/{name}", "name": name, "hash": f"{number:08x}"} for number, name in enumerate(datasets, 1)
    ]
    plan = {"data": data, "models": models, "params": list(params), "seeds": seeds, "dense_lr": list(rates)}
    plan |= {"mixing_lr": list(mixing_rates)}
    study = Study.model_validate(plan)
    write_text(folder / "study.yaml", dump_yaml(study))
    for number, dataset in enumerate(study.data):
        _dataset(
            folder, study, dataset.name, dataset.hash, 10 + number, quality, (rows, users), set(without), set(failed)
        )
    write_tables(folder)
    return folder


def _dataset(
    folder: Path,
    study: Study,
    name: str,
    digest: str,
    seed: int,
    quality: Mapping[str, float],
    size: tuple[int, int],
    without: set[tuple[str, int]],
    failed: set[tuple[str, int]],
) -> None:
    rng = np.random.default_rng(seed)
    people = rng.integers(0, size[1], size[0])
    truth = rng.normal(size=(size[0], len(TASKS))) + 0.7 * rng.normal(size=size[1])[people, None]
    labels = (rng.random(truth.shape) < 1 / (1 + np.exp(-truth))).astype(np.uint8)
    (folder / "scores").mkdir(parents=True, exist_ok=True)
    np.save(folder / "scores" / f"{digest}-labels.npy", labels)
    np.save(folder / "scores" / f"{digest}-users.npy", people.astype(np.int64))
    chosen = study.dense_lr[len(study.dense_lr) // 2]
    for variant in study.models:
        for budget in study.params:
            share = quality[variant.label] * (1.15 if budget > 2_000_000 else 1.0)
            for training in range(study.seeds):
                grid = study.grid(variant, mixing=variant.backbone == "unimixer-lite")
                best = Rates(chosen, 1e-3, grid[-1].mixing)
                for rates in grid if training == 0 else (best,):
                    if rates == best and (variant.label, training) in without:
                        continue
                    mixing = "" if rates.mixing is None else f"-mixing{rates.mixing:g}"
                    key = f"{name}-{variant.backbone}-{budget}-lr{rates.dense:g}{mixing}-s{training}"
                    bad = rates == best and (variant.label, training) in failed
                    own = share * (1.0 if rates == best else 0.6)
                    logits = (own * truth + rng.normal(size=truth.shape) + 0.05 * rng.normal()).astype(np.float32) / 2
                    row = _facts(key, name, digest, variant, budget, training, rates)
                    if bad:
                        row |= {"status": "failed", "error": "UnimixerError: loss is nan at step 40 | <b>lower</b> it"}
                    else:
                        np.save(folder / "scores" / f"{key}.npy", logits)
                        row |= {"status": "ok", "error": None, "seconds": 40.0}
                        row |= {
                            "samples_per_second": 6e3 / len(variant.label) + 40 * training,
                            **_metrics(logits, labels, people),
                        }
                    write_row(folder, row)


def _facts(key: str, name: str, digest: str, variant: Any, budget: int, seed: int, rates: Rates) -> dict[str, Any]:
    return {
        "key": key,
        "dataset": name,
        "dataset_hash": digest,
        "variant": variant.label,
        "group": variant.group,
        "backbone": variant.backbone,
        "options": json.dumps(variant.options),
        "budget_kind": "params",
        "budget": budget,
        "dense_params": budget + 137,
        "table_params": 4_000_000,
        "flops_per_sample": 2 * budget + 99,
        "seed": seed,
        "dense_lr": rates.dense,
        "sparse_lr": rates.sparse,
        "mixing_lr": rates.mixing,
        "tasks": json.dumps(TASKS),
    }


def _metrics(logits: Any, labels: Any, people: Any) -> dict[str, Any]:
    accumulator = MetricAccumulator(TASKS)
    accumulator.update(logits, labels, people)
    found = {task: asdict(metrics) for task, metrics in accumulator.compute().items()}
    reachable = {"test": dict.fromkeys(TASKS, 0.78)}
    return result_columns({"validation": found, "test": found, "best_reachable_auc": reachable})
