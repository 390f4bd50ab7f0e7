"""Compare runs: mean and spread over the seeds of each recipe."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from unimixer.errors import UnimixerError
from unimixer.training.run import RunFolder

METRICS = ("validation.auc", "validation.uauc", "test.auc", "test.uauc")
IGNORED_KEYS = (
    *("name", "dataset", "training.seed", "training.device", "training.num_workers", "training.threads"),
    *("training.log_every", "training.checkpoint_interval", "training.keep_checkpoints"),
    *("distributed.sharding", "distributed.tables", "distributed.dense", "distributed.timeout"),
)
"""Recipe keys in which runs of one row may differ; the hash of its content identifies a dataset."""


def finished_runs(folders: Iterable[Path]) -> list[RunFolder]:
    """Find all finished runs below some folders, without first stages of two-stage runs and trials of a search."""
    runs: dict[Path, RunFolder] = {}
    for folder in folders:
        if not folder.exists():
            raise UnimixerError(f"{folder}: no such folder; runs are made by: unimixer train")
        for path in sorted(folder.rglob("config.yaml")):
            run = RunFolder(path.parent)
            if run.result is not None and "test" in run.result and run.outer == run.folder:
                runs.setdefault(run.folder.resolve(), run)
    return list(runs.values())


def summarise_runs(folders: Iterable[Path]) -> list[dict[str, Any]]:
    """Make one row per recipe and task.

    Runs that differ in more than their seed, or in their data, are never averaged together: if they share a name, the
    differing keys are shown behind it. The last of several runs with one seed counts.
    """
    rows = []
    for name, runs in _groups(finished_runs(folders)):
        results = [run.result or {} for run in runs]
        for task in results[0]["test"]:
            row: dict[str, Any] = {
                "recipe": name,
                "task": task,
                "seeds": len(runs),
                "dense parameters": f"{results[0]['dense_parameters']:,}",
                "samples/s": f"{mean(r['samples_per_second'] for r in results):,.0f}",
            }
            for metric in METRICS:
                split, key = metric.split(".")
                values = [r[split][task][key] for r in results if r[split][task][key] is not None]
                row[f"{split} {key.upper()}"] = spread(values)
            rows.append(row)
    return rows


def spread(values: list[float]) -> str:
    """Format mean and standard deviation to the fourth decimal."""
    if not values:
        return "-"
    if len(values) == 1:
        return f"{values[0]:.4f}"
    return f"{mean(values):.4f} ± {stdev(values):.4f}"


def _groups(runs: list[RunFolder]) -> list[tuple[str, list[RunFolder]]]:
    """Group runs of one recipe on one data set, one per seed, under a name that distinguishes the groups."""
    settings: dict[str, dict[str, dict[str, str]]] = defaultdict(dict)
    groups: dict[tuple[str, str], dict[int, RunFolder]] = defaultdict(dict)
    for run in sorted(runs, key=lambda run: run.environment["created"]):
        recipe = run.recipe
        own = {key: value for key, value in flat(recipe.model_dump(mode="json")).items() if key not in IGNORED_KEYS}
        own["data"] = run.environment["data"]["hash"]
        settings[recipe.name][str(own)] = own
        groups[recipe.name, str(own)][recipe.training.seed] = run
    named = []
    for (name, key), seeds in groups.items():
        alike = settings[name].values()
        differing = {k: v for k, v in settings[name][key].items() if len({other.get(k) for other in alike}) > 1}
        label = " ".join([name, *(f"{k}={v}" for k, v in differing.items())])
        named.append((label, [seeds[seed] for seed in sorted(seeds)]))
    return sorted(named, key=lambda group: group[0])


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Flatten nested values to texts by dotted keys."""
    texts: dict[str, str] = {}
    for key, value in values.items():
        texts |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": str(value)}
    return texts
