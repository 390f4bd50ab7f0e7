"""Every token mixing in one stack, on worlds whose true probabilities are known.

python benchmarks/mixers.py --out studies/mixers

The script prepares the worlds, says how long the runs take, chooses a rate for each learned mixing on validation,
trains what the folder lacks and prints a table a world and a budget. Killed, it goes on with the same command;
``--steps 1800`` takes three times the rows of the study. The excess log loss is the mean cross entropy against the true
probability minus the entropy of that probability, so only the error of the model is left in it.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from unimixer.analysis.comparison import ComparisonReport, Line, Question, Table, compare_models
from unimixer.analysis.significance import MOST_RUNS, runs_needed
from unimixer.cli import script
from unimixer.cli.output import markdown
from unimixer.errors import UnimixerError
from unimixer.experiments import Machine, Study, plan_experiment
from unimixer.experiments.datasets import prepare_missing
from unimixer.experiments.experiment import Experiment, request_latencies
from unimixer.experiments.models import MIXING_LR
from unimixer.experiments.plan import load_study
from unimixer.experiments.results import load_rows
from unimixer.experiments.sizes import budget_words
from unimixer.io import atomic_file
from unimixer.progress import duration

STUDY = "mixers"
RESULTS = Path(__file__).parent / "results" / "mixers.csv"
METRIC, TASK = "excess_log_loss", "click"
KEYS = ("world", "budget", "rows", "mixing")
"""Columns that identify a recorded row."""
CANDIDATES = 500
COLUMNS = (
    "mixing",
    "excess log loss",
    "se",
    "against the base",
    "p",
    "rate of the mixing",
    "moved",
    "parameters",
    "FLOPs",
    "ms",
)
SHARPNESS = ("world", "mixing", "difference of AUC", "runs by AUC", "difference of excess", "runs by excess")


def standard_error(line: Line) -> float | None:
    """The error of a mean over seeds: of the test rows, which all runs share, and of the seeds."""
    errors = [row.get(f"test_{TASK}_{METRIC}_error") for row in line.chosen.finished.values()]
    known = [error for error in errors if error is not None]
    if not known or line.spread is None:
        return None
    return math.hypot(fmean(known), line.spread / math.sqrt(len(line.values)))


def values_of(line: Line, base: float | None, milliseconds: float | None) -> dict[str, Any]:
    """One line of the table as plain values."""
    row, moved = line.chosen.example, [r["moved"] for r in line.chosen.finished.values() if r.get("moved") is not None]
    difference = line.compared
    return {
        "rows": row["samples"],
        "mixing": line.chosen.variant,
        "seeds": len(line.values),
        "excess": line.mean,
        "se": standard_error(line),
        "seed_spread": stdev(line.values.values()) if len(line.values) > 1 else None,
        "difference": None if difference is None else difference.estimate,
        "low": None if difference is None else difference.low,
        "high": None if difference is None else difference.high,
        "relative": None if difference is None or not base else difference.estimate / base,
        "p": line.holm,
        "mixing_lr": line.chosen.rates.mixing or json.loads(row["options"]).get(MIXING_LR),
        "moved": fmean(moved) if moved else None,
        "parameters": row.get("dense_params"),
        "flops": row.get("flops_per_sample"),
        "ms": milliseconds,
    }


def cells(values: dict[str, Any]) -> list[str]:
    """One line of the table as text."""

    def text(name: str, form: str) -> str:
        return "-" if values[name] is None else format(values[name], form)

    return [
        values["mixing"],
        text("excess", ".5f"),
        text("se", ".5f"),
        text("relative", "+.1%"),
        text("p", ".3g"),
        text("mixing_lr", "g"),
        text("moved", ".0%"),
        text("parameters", ",d"),
        text("flops", ",d"),
        text("ms", ".2f"),
    ]


def tables(report: ComparisonReport, metric: str = METRIC) -> Iterator[Table]:
    """The tables of a metric, one a world and a budget."""
    for group in report.groups:
        table = report.table(group, TASK, metric)
        if table is not None:
            yield table


def sharpness(report: ComparisonReport) -> Iterator[tuple[str, list[str]]]:
    """How many runs of each model would decide its difference to the rule, by AUC on drawn labels and by excess."""
    for excess, auc in zip(tables(report), tables(report, "auc"), strict=True):
        for sharp, blunt in zip(excess.lines, auc.lines, strict=True):
            if sharp.compared is None or blunt.compared is None or sharp.compared.seeds < 2:
                continue
            cells = [sharp.chosen.variant]
            for line, table in ((blunt, auc), (sharp, excess)):
                assert line.compared is not None
                runs = runs_needed(line.compared, num_users=table.users)
                cells += [f"{line.compared.estimate:+.5f}", f"over {MOST_RUNS:,}" if runs is None else str(runs)]
            yield excess.group.words, cells


def chosen_models(study: Study, labels: Sequence[str]) -> tuple[Any, ...]:
    """The base of the study and the models with these labels."""
    models = {model.label: model for model in study.models}
    for label in labels:
        if label not in models:
            raise UnimixerError(f"the study has no mixing {label!r}; it has {', '.join(map(repr, models))}")
    return tuple(model for label, model in models.items() if label in (study.base, *labels))


def searched_rates(rows: Iterable[dict[str, Any]]) -> dict[tuple[str, str, str], list[str]]:
    """The excess of the first seed on the test rows at every rate of a search, by world, budget and mixing."""
    values: dict[tuple[str, str, str], list[str]] = {}
    for row in rows:
        if row["seed"] == 0 and row["mixing_lr"] is not None and row["status"] == "ok":
            value = f"{row['mixing_lr']:g}: {row[f'test_{TASK}_{METRIC}']:.4f}"
            mixing = (row["dataset"], budget_words(row["budget_kind"], row["budget"]), row["variant"])
            values.setdefault(mixing, []).append(f"**{value}**" if row["phase"] == "both" else value)
    return values


def measure(experiment: Experiment, skip: bool) -> dict[tuple[str, str, int], float]:
    """Milliseconds of a request of 500 candidates, by world, label and dense parameters."""
    return {} if skip else request_latencies(experiment.series, experiment.folder, candidates=CANDIDATES)


def points(table: Table) -> Iterator[dict[str, Any]]:
    """The runs of a table as points of a law over rows."""
    for line in table.lines:
        row = line.chosen.example
        named = {"dataset": table.group.dataset, "model": line.chosen.variant, "params": row["dense_params"]}
        for seed, value in line.values.items():
            yield {**named, "flops": row["flops_per_sample"], "rows": row["samples"], "seed": seed, "metric": value}


def write(rows: Sequence[dict[str, Any]], path: Path, keys: Sequence[str]) -> None:
    """Write rows among the recorded ones, in place of those with the same keys."""

    def key(row: dict[str, Any]) -> tuple[str, ...]:
        return tuple(str(row[name]) for name in keys)

    new, recorded = {key(row) for row in rows}, path.read_text(encoding="utf-8") if path.exists() else ""
    kept = [row for row in csv.DictReader(recorded.splitlines()) if key(row) not in new]
    with atomic_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(kept)
        writer.writerows({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw the difference to the rule by mixing, a panel a world and a budget, with the 95% interval."""
    from matplotlib.figure import Figure

    places = list(dict.fromkeys((row["world"], row["budget"]) for row in rows))
    height = 1.2 + 0.28 * max(sum((r["world"], r["budget"]) == place for r in rows) for place in places)
    figure = Figure(figsize=(4.6 * len(places) + 2.4, height), layout="constrained")
    for axis, place in zip(figure.subplots(1, len(places), squeeze=False)[0], places, strict=True):
        own = [r for r in rows if (r["world"], r["budget"]) == place and r["relative"] is not None]
        own.sort(key=lambda r: -r["relative"])
        for at, row in enumerate(own):
            base = row["difference"] / row["relative"] / 100
            low, high = row["low"] / base, row["high"] / base
            color = "tab:green" if high < 0 else "tab:red" if low > 0 else "tab:gray"
            axis.plot([low, high], [at, at], color=color)
            face = color if row["seeds"] > 1 else "white"  # one seed has no spread of seeds in its interval
            axis.plot([100 * row["relative"]], [at], "o", color=color, markerfacecolor=face)
        axis.axvline(0, color="black", linewidth=0.8)
        axis.set_yticks(range(len(own)), [row["mixing"] for row in own])
        axis.set(title=", ".join(place), xlabel="against the rule, %")
        axis.grid(axis="x", alpha=0.3)
    figure.supxlabel("hollow: one seed", fontsize="small")
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")


def draw_by_rows(path: Path) -> None:
    """Draw the recorded differences to the rule over rows, of each mixing with three lengths of a log in a world."""
    from matplotlib.figure import Figure

    with RESULTS.open(encoding="utf-8", newline="") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: int(row["rows"]))
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axis = figure.subplots()
    for world, mixing in dict.fromkeys((row["world"], row["mixing"]) for row in rows):
        own = [row for row in rows if (row["world"], row["mixing"]) == (world, mixing) and row["relative"]]
        if len(own) < 3:
            continue
        base = [float(row["difference"]) / float(row["relative"]) / 100 for row in own]
        ends = [[float(row[end]) / one for row, one in zip(own, base, strict=True)] for end in ("low", "high")]
        places = [int(row["rows"]) for row in own]
        (line,) = axis.plot(places, [100 * float(row["relative"]) for row in own], "o-", label=f"{world}: {mixing}")
        axis.fill_between(places, *ends, color=line.get_color(), alpha=0.15)
    if not axis.lines:
        raise UnimixerError(f"--picture-by-rows: no mixing has three lengths of a log in {RESULTS}")
    axis.axhline(0, color="black", linewidth=0.8)
    axis.set(xscale="log", xlabel="training rows, one pass", ylabel="excess log loss against the rule, %")
    axis.grid(alpha=0.3)
    axis.legend()
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--study", type=Path, default=STUDY)
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--only", nargs="+", metavar="MIXING", help="train the base and these mixings alone")
    parser.add_argument("--base", metavar="MIXING", help="what the others are compared with (default: the rule)")
    parser.add_argument("--dense-lr", type=float, nargs="+", help="rates to choose from (default: those of the study)")
    parser.add_argument("--mixing-lr", type=float, nargs="+", help="the same for the mixing")
    parser.add_argument("--steps", type=int, help="optimizer steps of a run (default: those of the study)")
    parser.add_argument("--flops", type=int, nargs="+", help="equal FLOPs a sample (default: equal width)")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--report-only", action="store_true", help="print the tables of the rows that are there")
    parser.add_argument("--no-latency", action="store_true", help="do not time requests")
    parser.add_argument("--picture", type=Path, help="PNG of the differences to the rule")
    parser.add_argument("--picture-by-rows", type=Path, help="PNG of the recorded differences to the rule over rows")
    parser.add_argument("--sharpness", action="store_true", help="print how many runs decide each difference")
    parser.add_argument("--rates", action="store_true", help="print what every rate of a search gave")
    parser.add_argument("--points", type=Path, help="CSV for unimixer scale fit, to which the runs are added")
    parser.add_argument("--record", action="store_true", help="write benchmarks/results/mixers.csv")
    arguments = parser.parse_args()
    if arguments.base and (arguments.record or arguments.picture):
        parser.error("--record and --picture hold differences to the base of the study; leave --base out")
    changes = {name: getattr(arguments, name) for name in ("seeds", "dense_lr", "mixing_lr")}
    study = load_study(arguments.study, {name: value for name, value in changes.items() if value is not None})
    if arguments.steps is not None:
        study = study.model_copy(update={"recipe": {**study.recipe, "training.max_steps": arguments.steps}})
    if arguments.flops is not None:
        study = study.model_copy(update={"widths": (), "flops": tuple(arguments.flops)})
    if arguments.base:
        chosen_models(study, [arguments.base])
        study = study.model_copy(update={"base": arguments.base})
    if arguments.only:
        study = study.model_copy(update={"models": chosen_models(study, arguments.only)})
    prepare_missing(study.data)
    experiment = plan_experiment(study, arguments.out, Machine(arguments.jobs, 1, None))
    print(f"{experiment.missing} of {experiment.total} runs to train, about {duration(round(experiment.seconds()))}")
    for name, reason in experiment.left_out.items():
        print(f"left out: {name}: {reason}")
    if not arguments.report_only:
        outcome = experiment.compute()
        for row in outcome.failed:
            print(f"failed: {row['key']}: {row['error']}")
    milliseconds = measure(experiment, arguments.no_latency)
    assert isinstance(experiment.plan, Study)
    rows = load_rows(arguments.out).to_dicts()
    metrics = (METRIC, "auc") if arguments.sharpness else (METRIC,)
    report = compare_models(rows, arguments.out, Question(experiment.plan.base, (TASK,), metrics))
    if arguments.sharpness:
        print(markdown(SHARPNESS, [[words, *cells] for words, cells in sharpness(report)]))
        return
    if arguments.rates:
        lines = [[*mixing, ", ".join(values)] for mixing, values in searched_rates(rows).items()]
        print(markdown(("world", "budget", "mixing", "rate of the mixing: excess log loss, first seed"), lines))
        return
    recorded: list[dict[str, Any]] = []
    runs: list[dict[str, Any]] = []
    for table in tables(report):
        base = next((line.mean for line in table.lines if line.chosen.variant == report.base), None)
        lines = []
        for line in table.lines:
            key = (table.group.dataset, line.chosen.variant, int(line.chosen.example["dense_params"]))
            lines.append(values_of(line, base, milliseconds.get(key)))
        print(f"\n{table.group.words}, {table.rows:,} test rows\n")
        print(markdown(COLUMNS, [cells(values) for values in lines]))
        runs += points(table)
        recorded += [{"world": table.group.dataset, "budget": table.group.budget_words, **values} for values in lines]
    if arguments.picture is not None and recorded:
        draw(recorded, arguments.picture)
    if arguments.record and recorded:
        write(recorded, RESULTS, KEYS)
    if arguments.points is not None and runs:
        write(runs, arguments.points, ("dataset", "model", "rows", "seed"))
    if arguments.picture_by_rows is not None:
        draw_by_rows(arguments.picture_by_rows)


if __name__ == "__main__":
    script(main)
