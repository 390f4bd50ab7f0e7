"""Several processes: are they equal to one, what does a rank hold, what does a step spend on talking.

    python benchmarks/distributed.py equality
    python benchmarks/distributed.py memory --rows 50000000
    python benchmarks/distributed.py dense
    python benchmarks/distributed.py step

All of them start processes on this machine through torchrun; cost_model.py computes what many GPUs would cost.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

RECIPE: dict[str, Any] = {
    "name": "many",
    "model": {
        "backbone": "unimixer-lite",
        "dense_params": "300K",
        "num_tokens": 8,
        "embedding_dim": 16,
        "options": {"num_blocks": 2},
    },
    "training": {"batch_size": 1024, "threads": 1, "device": "cpu", "log_every": 1, "max_steps": 60},
    "distributed": {"data_shards": 6},
}
RULES = {
    "SGD": {"dense": "sgd", "sparse": "sgd", "dense_lr": 0.1, "embedding_lr": 1.0},
    "Adam": {"dense": "adam", "sparse": "adam"},
    "Adam, row-wise Adagrad": {"dense": "adam", "sparse": "rowwise_adagrad", "embedding_lr": 0.01},
}


def torchrun(processes: int, *arguments: str, script: str = __file__) -> str:
    """Output of a script, by default this one, on some processes."""
    options = ["--standalone", f"--nproc-per-node={processes}"]
    command = [sys.executable, "-m", "torch.distributed.run", *options, script, *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return done.stdout


def table(columns: list[str], rows: list[list[object]]) -> None:
    for line in (columns, ["---"] * len(columns), *rows):
        print("| " + " | ".join(map(str, line)) + " |")


def make_dataset(folder: Path, rows: int) -> Path:
    from unimixer.api import prepare

    return prepare("synthetic", folder / "dataset", rows=rows, users=2_000, items=5_000).folder


# ---- equality ----


def equality(folder: Path, rows: int, form: str) -> None:
    """Curves and metrics of 1, 2 and 3 processes that begin with the same weights."""
    from safetensors.torch import load_file

    dataset = make_dataset(folder, rows)
    first = {**RECIPE, "dataset": str(dataset), "training": {**RECIPE["training"], "max_steps": 1}}
    child_train(first, folder / "start")
    measured = []
    for name, rule in RULES.items():
        distributed = {**RECIPE["distributed"], "dense": form}
        values = {**RECIPE, "dataset": str(dataset), "optimizer": rule, "distributed": distributed}
        runs = {n: folder / f"{name.replace(' ', '').replace(',', '-')}-{n}" for n in (1, 2, 3)}
        child_train(values, runs[1], folder / "start")
        for processes in (2, 3):
            jobs = [json.dumps(values), str(runs[processes]), str(folder / "start")]
            torchrun(processes, "child-train", *jobs)
        one, weights = losses(runs[1]), load_file(runs[1] / "best" / "model.safetensors")
        for processes in (2, 3):
            other = load_file(runs[processes] / "best" / "model.safetensors")
            curve = max(abs(a - b) for a, b in zip(one, losses(runs[processes]), strict=True))
            moved = max(float((weights[n] - other[n]).abs().max()) for n in weights if weights[n].numel())
            aucs = [result(runs[n])["test"]["click"]["auc"] for n in (1, processes)]
            measured.append([name, processes, len(one), f"{curve:.1e}", f"{moved:.1e}", *(f"{a:.7f}" for a in aucs)])
    columns = ["optimizers", "processes", "steps", "loss, largest difference", "weights, largest difference"]
    table([*columns, "test AUC of one", "of several"], measured)


def child_train(values: dict[str, Any], run: Path, start: Path | None = None) -> None:
    from unimixer.api import train

    train(values, folder=run, warm_start=start, quiet=True)


def losses(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["kind"] == "train"]


def result(run: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((run / "result.json").read_text())
    return values


# ---- memory ----


def memory(rows: int, width: int) -> None:
    """Resident memory of every rank that trains one large table."""
    measured = []
    for processes in (1, 2):
        for line in torchrun(processes, "child-memory", str(rows), str(width)).splitlines():
            values = json.loads(line)
            measured.append([processes, *(values[k] for k in ("rank", "owned", "before", "after", "grown", "step"))])
    measured.sort()
    print(f"table of {rows:,} rows x {width}, row-wise Adagrad: {rows * (width + 1) * 4 / 1e9:.2f} GB in all\n")
    columns = ["processes", "rank", "rows owned", "GB before the table", "GB in training", "GB grown by", "ms a step"]
    table(columns, measured)


def child_memory(rows: int, width: int) -> None:
    """One rank: make the table, train some steps of random ids on it, say what it holds."""
    import torch

    from unimixer.features.batch import Batch
    from unimixer.features.spec import FeatureSpec, IdField
    from unimixer.settings import parse
    from unimixer.training.config import Recipe
    from unimixer.training.distributed.strategy import ShardedStrategy
    from unimixer.training.model import build_ranker
    from unimixer.training.process_group import join_processes
    from unimixer.training.step import TrainStep

    spec = FeatureSpec(
        (IdField("id", "item", "big"), IdField("tab", "context", "small")),
        (),
        (),
        {"big": rows, "small": 8},
        ("click",),
    )
    model = {"backbone": "mlp", "num_tokens": 2, "embedding_dim": width, "width": 8}
    values = {"name": "big", "dataset": "none", "tasks": {"click": 1.0}, "model": model}
    values |= {"optimizer": {"sparse": "rowwise_adagrad"}, "distributed": {"sharding": "row_wise"}}
    recipe = parse(Recipe, values, where="benchmark")
    torch.set_num_threads(1)
    with join_processes(300) as processes:
        ranker = build_ranker(recipe.model, spec, table_device="meta").train()
        generator = torch.Generator().manual_seed(processes.rank)

        def batch() -> Batch:
            ids = torch.stack([torch.randint(rows, (4096,), generator=generator), torch.randint(8, (4096,))], 1).int()
            return Batch(ids, torch.empty(4096, 0), labels=torch.randint(0, 2, (4096, 1)).float())

        import torchrec  # noqa: F401  so that its own memory counts as there before

        before = resident()
        strategy = ShardedStrategy(processes)
        strategy.place(ranker, recipe, None, torch.device("cpu"))
        step = TrainStep(ranker, recipe, torch.tensor([0]), total_steps=30, checkpoints=Path(), strategy=strategy)
        for number in range(30):
            if number == 10:
                begin = time.perf_counter()
            step([batch()], number)
        seconds = (time.perf_counter() - begin) / 20
        after = resident()
        tables: Any = ranker.embedding.tables
        owned = sum(len(shard) for name, _, shard in tables.local_shards() if name == "big")
        said = {"rank": processes.rank, "owned": f"{owned:,}", "before": f"{before:.2f}", "after": f"{after:.2f}"}
        # one line at a time: both ranks write to one pipe
        os.write(
            1, (json.dumps({**said, "grown": f"{after - before:.2f}", "step": f"{seconds * 1e3:.1f}"}) + "\n").encode()
        )


def resident() -> float:
    """Resident memory of this process, in GB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e9


# ---- dense parameters, whole and cut ----


def dense(parameters: int, rows: int) -> None:
    """Resident memory of every rank that trains a wide backbone, whose dense parameters are alike or cut."""
    measured = []
    for form in ("ddp", "fsdp"):
        for line in torchrun(2, "child-dense", form, str(parameters), str(rows)).splitlines():
            values = json.loads(line)
            measured.append(
                [f"`{form}`", *(values[k] for k in ("rank", "held", "before", "after", "grown", "most", "step"))]
            )
    measured.sort()
    print(f"unimixer-lite of about {parameters:,} dense parameters, Adam, 2 processes, {rows} rows a process\n")
    columns = ["dense", "rank", "parameters held", "GB before the model", "GB in training", "GB grown by", "GB at most"]
    table([*columns, "ms a step"], measured)


def child_dense(form: str, parameters: int, rows: int) -> None:
    """One rank: train some steps of random ids on a wide backbone, say what it holds."""
    import torch
    import torchrec  # noqa: F401  so that its own memory counts as there before
    from torch.distributed.fsdp import fully_shard  # noqa: F401  likewise

    from unimixer.features.batch import Batch
    from unimixer.features.spec import FeatureSpec, IdField
    from unimixer.ranker import dense_parameters
    from unimixer.settings import parse
    from unimixer.training.config import Recipe
    from unimixer.training.distributed.strategy import ShardedStrategy
    from unimixer.training.model import build_ranker, resolve
    from unimixer.training.process_group import join_processes
    from unimixer.training.sharded_tensors import local_part
    from unimixer.training.step import TrainStep

    fields = tuple(IdField(f"id{number}", "item", f"table{number}") for number in range(16))
    spec = FeatureSpec(fields, (), (), {field.table: 100 for field in fields}, ("click",))
    model = {"backbone": "unimixer-lite", "num_tokens": 16, "dense_params": parameters, "options": {"num_blocks": 4}}
    values = {"name": "wide", "dataset": "none", "model": model, "distributed": {"dense": form, "sharding": "row_wise"}}
    recipe = resolve(parse(Recipe, values, where="benchmark"), spec)
    torch.set_num_threads(1)
    with join_processes(300) as processes:
        before = resident()
        ranker = build_ranker(recipe.model, spec, table_device="meta").train()
        strategy = ShardedStrategy(processes)
        strategy.place(ranker, recipe, None, torch.device("cpu"))
        step = TrainStep(ranker, recipe, torch.tensor([0]), total_steps=6, checkpoints=Path(), strategy=strategy)
        generator = torch.Generator().manual_seed(processes.rank)
        seconds = []
        for number in range(6):
            ids = torch.randint(100, (rows, 16), generator=generator, dtype=torch.int32)
            labels = torch.randint(2, (rows, 1), generator=generator).float()
            begin = time.perf_counter()
            step([Batch(ids, torch.empty(rows, 0), labels=labels)], number)
            seconds.append(time.perf_counter() - begin)
        give_back()
        after, most = resident(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
        held = sum(local_part(parameter).numel() for parameter in dense_parameters(ranker))
        said = {"rank": processes.rank, "held": f"{held:,}", "before": f"{before:.2f}", "after": f"{after:.2f}"}
        said |= {"grown": f"{after - before:.2f}", "most": f"{most:.2f}", "step": f"{sorted(seconds[2:])[2] * 1e3:.0f}"}
        os.write(1, (json.dumps(said) + "\n").encode())


def give_back() -> None:
    """Let the allocator hand freed pages to the system, so that what is resident is what is held."""
    with contextlib.suppress(OSError, AttributeError):  # not on every system
        ctypes.CDLL(None).malloc_trim(0)


# ---- a step ----


def step(folder: Path, rows: int) -> None:
    """What an exchange costs: two processes that train together beside two that train at the same time, each alone."""
    dataset = make_dataset(folder, rows)
    measured = []
    for batch_size in (512, 2048, 8192):
        alone = steps_of(dataset, folder / f"{batch_size}-alone", batch_size, together=False)
        both = steps_of(dataset, folder / f"{batch_size}-both", batch_size, together=True)
        measured.append(
            [
                *(batch_size, f"{alone * 1e3:.1f}", f"{both * 1e3:.1f}", f"{(both - alone) / both:.0%}"),
                *(f"{2 * batch_size / both:,.0f}", f"{batch_size / alone:,.0f}"),
            ]
        )
    columns = ["rows a process", "ms a step, apart", "ms a step, together", "share of exchanges"]
    table([*columns, "samples/s of two", "of one"], measured)


def steps_of(dataset: Path, run: Path, batch_size: int, *, together: bool) -> float:
    """Seconds a step of two processes, of the slower one."""
    processes = 2 if together else 1
    training = {**RECIPE["training"], "batch_size": batch_size * processes, "max_steps": 24}
    values = {**RECIPE, "dataset": str(dataset), "training": training, "distributed": {"data_shards": processes}}
    jobs = [(processes, json.dumps(values), str(run) + str(number)) for number in range(1 if together else 2)]
    with ThreadPoolExecutor(2) as pool:
        said = list(pool.map(lambda job: torchrun(job[0], "child-step", *job[1:]), jobs))
    return max(float(line) for text in said for line in text.splitlines())


def child_step(values: dict[str, Any], run: Path) -> None:
    """One rank: train, and say how long a step takes."""
    from unimixer.training import step as module

    seconds: list[float] = []
    plain = module.TrainStep.__call__

    def timed(self: Any, group: Any, number: int) -> Any:
        begin = time.perf_counter()
        outcome = plain(self, group, number)
        seconds.append(time.perf_counter() - begin)
        return outcome

    module.TrainStep.__call__ = timed  # type: ignore[method-assign]
    child_train(values, run)
    os.write(1, f"{sorted(seconds[8:])[len(seconds[8:]) // 2]}\n".encode())  # the first steps warm up


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    for name, rows in (("equality", 120_000), ("step", 300_000), ("memory", 50_000_000)):
        verb = verbs.add_parser(name)
        verb.add_argument("--rows", type=int, default=rows)
        verb.add_argument("--width", type=int, default=16)
    of_recipe = "distributed.dense of the recipe"
    verbs.choices["equality"].add_argument("--form", choices=("ddp", "fsdp"), default="ddp", help=of_recipe)
    verb = verbs.add_parser("dense")
    verb.add_argument("--parameters", type=int, default=60_000_000)
    verb.add_argument("--rows", type=int, default=64, help="rows a process")
    for name, count in (("child-train", 3), ("child-memory", 2), ("child-dense", 3), ("child-step", 2)):
        verbs.add_parser(name).add_argument("values", nargs=count)
    arguments = parser.parse_args()
    if arguments.verb == "child-train":
        child_train(json.loads(arguments.values[0]), Path(arguments.values[1]), Path(arguments.values[2]))
    elif arguments.verb == "child-memory":
        child_memory(*map(int, arguments.values))
    elif arguments.verb == "child-step":
        child_step(json.loads(arguments.values[0]), Path(arguments.values[1]))
    elif arguments.verb == "child-dense":
        child_dense(arguments.values[0], *map(int, arguments.values[1:]))
    elif arguments.verb == "dense":
        dense(arguments.parameters, arguments.rows)
    elif arguments.verb == "memory":
        memory(arguments.rows, arguments.width)
    else:
        with tempfile.TemporaryDirectory() as folder:
            if arguments.verb == "equality":
                equality(Path(folder), arguments.rows, arguments.form)
            else:
                step(Path(folder), arguments.rows)


if __name__ == "__main__":
    main()
