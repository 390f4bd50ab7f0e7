"""``unimixer compare`` and ``unimixer ablate``."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from fake_ray import FakeRay

Cli = Callable[..., Any]

SMALL = (
    *("--params", "12K", "--seeds", "2", "--lr-grid", "1e-3", "--batch-size", "128", "--max-steps", "2", "--jobs", "1"),
    *("--set", "model.num_tokens=4", "--set", "model.embedding_dim=4", "--set", "training.device=cpu"),
)


def test_a_dry_run_says_what_it_would_cost_and_leaves_nothing(cli: Cli, toy_folder: Path, tmp_path: Path) -> None:
    models = "rankmixer,unimixer-lite:num_blocks=1:matrices=blocks:rank=4:block_size=2:label=lite"
    arguments = ("compare", "--data", toy_folder, "--models", models, *SMALL, "--out", "study", "--dry-run")
    done = cli(*arguments, "--json")
    assert done.code == 0
    values = done.json
    assert (values["rows"], values["to_compute"], values["processes"], values["left_out"]) == (4, 4, 1, {})
    assert [line["model"] for line in values["plan"]] == ["rankmixer", "lite"]
    for line in values["plan"]:
        assert line["budget"] == "12K parameters"
        assert line["dense parameters"] == pytest.approx(12_000, rel=0.02)
        assert line["samples/s"] > 0
        assert line["seconds"] == pytest.approx(2 * line["seconds a row"], rel=0.05)
    assert values["expected_seconds"] == pytest.approx(sum(line["seconds"] for line in values["plan"]), abs=1)
    assert not (tmp_path / "study").exists()


def test_compare_from_a_file_to_a_report_and_again_from_the_folder(cli: Cli, toy_folder: Path, tmp_path: Path) -> None:
    values = {
        "data": [str(toy_folder)],
        "models": ["rankmixer", {"backbone": "mlp", "label": "plain"}],
        "params": ["12K"],
        "seeds": 1,
        "dense_lr": ["1e-3"],
        "recipe": {"model.num_tokens": 4, "model.embedding_dim": 4, "training.max_steps": 2},
    }
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(values))
    done = cli("compare", "study.yaml", "--out", "out", "--jobs", "1")
    assert done.code == 0, done
    assert "2 of 2 rows to compute in 1 process, about " in done.out
    assert "2 rows computed, 0 were there" in done.out
    assert [line.partition(" ")[0] for line in done.err.splitlines()[:2]] == ["[1/2]", "[2/2]"]
    for name in ("report.md", "report.html", "rows.csv", "rows.parquet"):
        assert (tmp_path / "out" / name).stat().st_size > 0
    (tmp_path / "out" / "report.md").unlink()
    again = cli("compare", "out", "--jobs", "1", "--json").json
    assert (again["computed"], again["existing"]) == (0, 2)
    (tmp_path / "out" / "report.md").unlink()
    only = cli("compare", "out", "--report-only", "--base", "plain", "--metrics", "auc", "--json").json
    assert Path(only["report"]).exists()
    assert (tmp_path / "out" / "report.md").exists()
    other = cli("compare", "study.yaml", "--out", "out", "--lr-grid", "2e-3", "--jobs", "1")
    assert other.error == "out: the study began with dense_lr=0.001, not 0.002; choose another --out"


def test_without_what_draws_a_study_says_so_before_it_trains_and_leaves_rows_and_markdown(
    cli: Cli, toy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "plotly", None)
    models = ("--models", "mlp", "--params", "20K", "--seeds", "1", "--lr-grid", "1e-3", "--max-steps", "1")
    done = cli("compare", "--data", toy_folder, *models, "--jobs", "1", "--out", "a b", "--json")
    assert done.code == 0
    first, second = done.err.splitlines()
    assert first == (
        "no page and no pictures: plotly missing; rows and Markdown are written all the same; later: "
        "pip install 'unimixer[report]', then unimixer compare 'a b' --report-only"
    )
    assert second.startswith("[1/1] ")
    assert done.json["report"] == "a b/report.md"
    assert sorted(path.name for path in (tmp_path / "a b").iterdir() if "report" in path.name) == ["report.md"]
    assert len(list((tmp_path / "a b" / "rows").glob("*.json"))) == 1


def test_an_ablation_is_a_study_by_names(cli: Cli, toy_folder: Path, tmp_path: Path) -> None:
    arguments = ("--data", toy_folder, "--out", "a", "--groups", "pooling,depth", "--dry-run", "--seeds", "1")
    small = ("--set", "model.num_tokens=4", "--max-steps", "1", "--params", "30K", "--jobs", "1")
    done = cli("ablate", "--model", "rankmixer", *arguments, *small, "--json")
    assert [line["model"] for line in done.json["plan"]] == [
        *("rankmixer", "rankmixer: flatten read-out", "rankmixer: attention read-out"),
        *("rankmixer: 1 block", "rankmixer: 4 blocks", "rankmixer: 8 blocks"),
    ]
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("compare",), "a study needs a folder: give --out FOLDER, or the folder of one that was begun"),
        (("compare", "--out", "o"), "a study needs data: give --data DATASET, or a study (YAML) that has them"),
        (("compare", "--data", "x", "--models", "mlp", "--out", "o"), "study: a study needs a budget: --params 1M,4M"),
        (("compare", "none.yaml", "--out", "o"), "none.yaml: no such file"),
        (("compare", "--data", "x", "--models", "mpl", "--params", "1M", "--out", "o"), "unknown backbone 'mpl'"),
        (("compare", "--data", "x", "--models", "mlp", "--params", "1M", "--out", "o"), "x is not a prepared dataset"),
        (("compare", "o"), "or the folder of one that was begun (o is not)"),
        (
            ("compare", "--data", "x", "--models", "mlp", "--params", "20X", "--out", "o"),
            "params.0='20X': input should be a whole number, such as 800000, 800K or 1.5M",
        ),
        (("compare", "o", "--report-only"), "o is not a study (no study.yaml)"),
        (("ablate", "--data", "x", "--params", "1M"), "an ablation needs --data DATASET and --out FOLDER"),
        (("ablate", "--data", "x", "--out", "o", "--groups", "rang"), "unknown group 'rang'; did you mean 'rank'?"),
        (
            ("ablate", "--data", "x", "--out", "o", "--groups", "nothing"),
            "unknown group 'nothing'; known: basis, depth",
        ),
        (("ablate", "--data", "x", "--out", "o", "--groups", "rank,rank"), "names 'rank' twice; give each once"),
        (("compare", "--data", "x", "--models", "mlp", "--widths", "16,16", "--out", "o"), "names '16' twice"),
        (("compare", "--data", "x", "--models", "mlp", "--lr-grid", "1e-3,1e-3", "--out", "o"), "names '1e-3' twice"),
        (("scale", "run", "--data", "x", "--models", "mlp", "--sizes", "30K,30K", "--out", "o"), "30K is named twice"),
        (("replay-days", "r.yaml", "--data", "x", "--models", "daily,daily", "--out", "o"), "names 'daily' twice"),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_nothing(
    cli: Cli, arguments: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    assert message in cli(*arguments).error
    assert list(tmp_path.iterdir()) == []


def test_names_that_the_data_lack_and_data_given_twice_are_no_models_left_out(
    cli: Cli, toy_folder: Path, tmp_path: Path
) -> None:
    asked = ("ablate", "--data", toy_folder, "--model", "mlp", *SMALL, "--out", "study", "--without")
    assert "unknown feature, history or domain 'item_di'; did you mean 'item_id'?" in cli(*asked, "item_di").last_error
    copy = shutil.copytree(toy_folder, tmp_path / "copy")
    twice = ("compare", "--data", toy_folder, "--data", copy, "--models", "mlp", *SMALL, "--out", "study")
    assert cli(*twice).last_error.endswith(
        f"has the content of {toy_folder}: models would be trained twice; give it once"
    )
    assert not (tmp_path / "study").exists()


def test_compare_on_a_cluster_makes_the_rows_of_this_machine(
    cli: Cli, toy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ("compare", "--data", toy_folder, "--models", "rankmixer", *SMALL, "--seeds", "1")
    monkeypatch.setitem(sys.modules, "ray", None)
    assert "pip install 'unimixer[sweep]'" in cli(*asked, "--out", "none", "--ray", "local").error
    ray = FakeRay(cores=2)
    monkeypatch.setitem(sys.modules, "ray", ray)
    assert cli(*asked, "--out", "cluster", "--ray", "local", "--json").json["computed"] == 1
    assert ray.actors == []
    assert cli(*asked, "--out", "here", "--json").json["computed"] == 1
    rows = [json.loads(next((tmp_path / name / "rows").iterdir()).read_text()) for name in ("cluster", "here")]
    first, second = ({name: value for name, value in row.items() if "second" not in name} for row in rows)
    assert first == second
