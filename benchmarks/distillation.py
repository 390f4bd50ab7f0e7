"""A small ranker trained on hard labels, and the same one trained on the scores of a large ranker beside them.

python benchmarks/distillation.py ../shared/data/kuairand-pure-sample --out studies/distillation

The script prepares KuaiRand-Pure, trains the teacher, scores the whole log with it, prepares the log again with the
scores as soft labels, and trains the student with every weight and seed. Killed, it goes on with the same command.
"""

from __future__ import annotations

import argparse
import csv
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from scipy.stats import t

from unimixer import Predictor, Run, prepare, train
from unimixer.cli import script
from unimixer.cli.output import markdown
from unimixer.data.label_settings import Label
from unimixer.data.prepare import prepare as write_dataset
from unimixer.data.raw.origin import open_source
from unimixer.data.raw.tables import Chunk, RawTables
from unimixer.io import atomic_file
from unimixer.progress import progress_bar

RESULTS = Path(__file__).parent / "results" / "distillation.csv"
SOURCE, TEACHER = "kuairand-pure", "teacher"
COLUMNS = ("student", "validation AUC", "test AUC", "test AUC against hard labels", "95% interval", "p")


def with_scores(tables: RawTables, teacher: Path, task: str) -> RawTables:
    """The same log with the teacher's probability of the task as a soft label."""

    def impressions() -> Iterator[Chunk]:
        predictor = Predictor(teacher)
        for chunk in tables.impressions():
            scores = predictor.predict(chunk.frame)[task].alias(TEACHER)
            yield replace(chunk, frame=chunk.frame.with_columns(scores))

    labels = (*tables.schema.labels, Label(name=TEACHER, soft=True))
    schema = tables.schema.model_copy(update={"labels": labels})
    return RawTables(schema, impressions, tables.users, tables.items, tables.num_rows, files=tables.files)


def trained(folder: Path, recipe: dict[str, Any]) -> dict[str, Any]:
    """The result of a run, trained unless it is there."""
    run = Run(folder) if (folder / "config.yaml").exists() else None
    if run is None or run.result is None:
        run = train(recipe, folder=folder, quiet=True)
    assert run.result is not None
    return run.result


def compared(values: list[float], base: list[float]) -> tuple[str, str, str]:
    """The mean difference over paired seeds, its interval and the p-value of a t test."""
    differences = [one - other for one, other in zip(values, base, strict=True)]
    mean = fmean(differences)
    if len(differences) < 2:
        return f"{mean:+.5f}", "-", "-"
    error, freedom = stdev(differences) / math.sqrt(len(differences)), len(differences) - 1
    half = float(t.ppf(0.975, freedom)) * error
    p = 2 * float(t.sf(abs(mean) / max(error, 1e-12), freedom))
    return f"{mean:+.5f}", f"{mean - half:+.5f} to {mean + half:+.5f}", f"{p:.3g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("raw", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--task", default="is_click")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--weights", type=float, nargs="+", default=[0.5, 1.0])
    parser.add_argument("--teacher-params", default="800K")
    parser.add_argument("--student-params", default="50K")
    parser.add_argument("--max-steps", type=int, help="of every run, for a quick look")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--record", action="store_true", help="write benchmarks/results/distillation.csv")
    arguments = parser.parse_args()
    out, task = arguments.out, arguments.task
    shared: dict[str, Any] = {"tasks": {task: 1.0}, "optimizer": {"dense_lr": 2e-3}}
    training = {"batch_size": 512, "threads": arguments.threads, "max_steps": arguments.max_steps}
    if not (out / "log").exists():
        prepare(SOURCE, out / "log", raw=arguments.raw)
    teacher = {"backbone": "unimixer-lite", "dense_params": arguments.teacher_params}
    teacher["sequence_encoder"] = "target_attention"
    large = trained(
        out / "teacher",
        {"name": "teacher", "dataset": str(out / "log"), "model": teacher, "training": training, **shared},
    )
    if not (out / "scored").exists():
        tables, origin = open_source(SOURCE, arguments.raw, {})
        write_dataset(with_scores(tables, out / "teacher", task), out / "scored", origin=origin)
    aucs: dict[float, dict[str, list[float]]] = {}
    weights = [0.0, *arguments.weights]
    with progress_bar("students", len(weights) * arguments.seeds, unit="runs") as advance:
        for weight in weights:
            aucs[weight] = {"validation": [], "test": []}
            soft = {"soft_labels": {task: {"label": TEACHER, "weight": weight}}} if weight else {}
            for seed in range(arguments.seeds):
                recipe = {
                    "name": "student",
                    "dataset": str(out / "scored"),
                    "model": {"backbone": "unimixer-lite", "dense_params": arguments.student_params, "num_tokens": 8},
                    "training": {**training, "seed": seed},
                    **shared,
                    **soft,
                }
                result = trained(out / f"student-{weight:g}-seed{seed}", recipe)
                for split, values in aucs[weight].items():
                    values.append(result[split][task]["auc"])
                advance(1)
    reached = ", ".join(f"{large[split][task]['auc']:.4f} on {split}" for split in ("validation", "test"))
    print(f"teacher: {task} AUC {reached}")
    rows = []
    for weight, splits in aucs.items():
        name = f"scores of the teacher, weight {weight:g}" if weight else "hard labels"
        spread = [f"{fmean(v):.5f}" + (f" ± {stdev(v):.5f}" if len(v) > 1 else "") for v in splits.values()]
        against = compared(splits["test"], aucs[0.0]["test"]) if weight else ("", "", "")
        rows.append([name, *spread, *against])
    print(markdown(COLUMNS, rows))
    if arguments.record:
        with atomic_file(RESULTS) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows([COLUMNS, *rows])


if __name__ == "__main__":
    script(main)
