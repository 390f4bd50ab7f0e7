"""``unimixer scale count``, ``run``, ``transfer`` and ``advise``."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Cli = Callable[..., Any]
SMALL = (
    *("--set", "model.num_tokens=4", "--set", "model.embedding_dim=4", "--set", "model.tower_hidden_dims=[8]"),
    *("--set", "training.num_workers=0", "--set", "training.device=cpu", "--batch-size", 128, "--max-steps", 2),
    *("--jobs", 1),
)
LITE = "unimixer-lite:num_blocks=1:matrices=blocks:rank=4:block_size=2:label=lite"


@pytest.mark.parametrize("verb", ["count", "run", "transfer", "advise"])
def test_the_help_of_every_verb_has_an_example(verb: str, cli: Cli) -> None:
    done = cli("scale", verb, "--help")
    assert done.code == 0
    assert "Example" in done.out
    assert f"unimixer scale {verb}" in " ".join(done.out.replace("│", " ").split())
    assert "--json" in done.out


def test_count_of_a_backbone_and_of_a_ranker(cli: Cli, toy_folder: Path) -> None:
    alone = cli("scale", "count", "rankmixer:num_blocks=3", "--params", "200K", "--num-tokens", 8, "--json").json
    (values,) = alone["models"].values()
    assert values["dense_parameters"] == pytest.approx(200_000, rel=0.02)
    assert values["flops_training"] == 3 * values["flops_forward"]
    assert values["memory_bytes"] is None
    whole = cli("scale", "count", "mlp,unimixer-lite", "--params", "200K", "--data", toy_folder, "--batch-size", 64)
    assert whole.code == 0
    for words in ("unimixer-lite, batches of 64", "Sinkhorn", "towers", "memory of a training step", "activations"):
        assert words in whole.out


def test_count_by_size_and_of_defaults(cli: Cli, toy_folder: Path) -> None:
    by_size = cli("scale", "count", "rankmixer", "--width", 64, "--json").json["models"]["rankmixer"]
    by_width = cli("scale", "count", "rankmixer:token_dim=64", "--json").json["models"]
    assert by_size == next(iter(by_width.values()))
    options = ("--width", 16, "--data", toy_folder, "--json")
    sized = cli("scale", "count", "rankmixer", *options).json["models"]["rankmixer"]
    assert sized["memory_bytes"]["total"] > sized["memory_bytes"]["activations"] > 0


@pytest.mark.slow
def test_a_sweep_from_dry_run_to_advice(cli: Cli, toy_folder: Path) -> None:
    asked = ("--data", toy_folder, "--models", LITE, "--sizes", "6K,24K,96K", "--seeds", 1)
    asked = (*asked, "--lr-grid", "1e-3,4e-3,16e-3", "--out", "sweep", *SMALL)
    large = cli("scale", "run", *asked, "--dry-run").error
    assert re.search(r"candidates=500: the test part of \S+ has (\d+) rows; take \1 or fewer", large)
    plan = cli("scale", "run", *asked, "--candidates", 50, "--dry-run")
    assert plan.code == 0
    assert "6 of 6 rows to compute in 1 process" in plan.out
    assert "lr = base (width / base width)^-0.75" in plan.out
    assert not Path("sweep").exists()

    done = cli("scale", "run", *asked, "--candidates", 50, "--json")
    assert done.code == 0
    assert done.json["failed"] == {}
    assert set(done.json["rates"]) == {"lite on toy"}
    again = cli("scale", "run", "sweep", "--jobs", 1, "--candidates", 0, "--json").json
    assert (again["computed"], again["existing"]) == (0, done.json["computed"])

    advice = cli("scale", "advise", "sweep", "--max-params", "50K", "--best-auc", 0.99, "--candidates", 50, "--json")
    if advice.code == 2:  # two steps on noise may well make larger models worse, which is refused in a sentence
        assert "larger models are worse here" in advice.json["error"]
        return
    for one in advice.json["advice"]:
        assert one["params"] == pytest.approx(50_000, rel=0.02) or one["limit"] == "larger is worse"
        assert one["costs"]["latency_ms"] > 0


def test_advice_from_a_file_of_points(cli: Cli, tmp_path: Path) -> None:
    lines = ["model,params,flops,metric,seed,latency_ms,auc,best_auc,seconds"]
    for model, a in (("rankmixer", 1.2), ("lite", 1.0)):
        for params in (250_000, 1_000_000, 4_000_000, 16_000_000):
            auc = 0.8 - a * params**-0.2
            lines.append(f"{model},{params},{2 * params},{auc},0,{params**0.5 / 500},{auc},0.8,{params / 1000}")
    path = tmp_path / "points.csv"
    path.write_text("\n".join(lines) + "\n")
    done = cli("scale", "advise", path, "--latency-ms", 4, "--qps", 100, "--cores", 8, "--train-hours", 2)
    assert done.code == 0
    for words in ("best: lite with ", "latency", "doubling params", "per MFLOP", "per ms", "100 requests a second"):
        assert words in done.out
    none = cli("scale", "advise", path, "--latency-ms", 0.01)
    assert "no model fits: even the smallest sizes that were trained are too expensive" in none.out


@pytest.mark.slow
def test_the_rule_of_transfer_is_put_to_the_test(cli: Cli, toy_folder: Path) -> None:
    asked = ("--data", toy_folder, "--models", "rankmixer", "--sizes", "6K,24K", "--lr-grid", "1e-3,2e-3,4e-3")
    done = cli("scale", "transfer", *asked, "--set", "training.monitor=is_click.log_loss", "--out", "rates", *SMALL)
    assert done.code == 0
    where = "rankmixer at 5,954 (width 8.7), is_click.log_loss on validation by rate: 0.001: 0."
    for words in (where, "loss at p=0.75", "what a rule loses"):
        assert words in done.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["count", "rankmixr"], "unknown backbone 'rankmixr'; did you mean 'rankmixer'?"),
        (["count", "mlp", "--params", "1M,2M"], "one number here; sizes in a row are for unimixer scale run"),
        (["count", "mlp", "--params", "1M", "--width", "64"], "give --params or --width, not both"),
        (["count", "mlp", "--set", "model.num_tokens=4"], "--set changes a recipe, which a backbone alone has not"),
        (["run"], "a sweep needs a folder: give --out FOLDER, or the folder of one that was begun"),
        (["run", "--out", "new"], "a sweep needs data: give --data DATASET"),
        (["run", "--out", "new", "--data", "s", "--models", "mlp"], "a sweep needs sizes: give --sizes 0.25M..64M"),
        (["run", "--out", "new", "--points", "3"], "--points 3 needs a range: --sizes 0.25M..64M"),
        (["run", "nowhere"], "nowhere is not a sweep (no sweep.yaml)"),
        (["advise", "none.csv", "--qps", "5"], "none.csv: no such file"),
        (["advise", "none.csv"], "advice needs a budget: --latency-ms, --qps, --train-hours or --max-params"),
    ],
)
def test_mistakes_are_one_sentence(arguments: list[str], message: str, cli: Cli) -> None:
    assert message in cli("scale", *arguments).error


def test_a_cluster_without_ray_names_the_extra(cli: Cli, toy_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    asked = ("--data", toy_folder, "--models", "mlp", "--sizes", "6K,24K", "--out", "sweep")
    assert "pip install 'unimixer[sweep]'" in cli("scale", "run", *asked, "--ray", "local").error
