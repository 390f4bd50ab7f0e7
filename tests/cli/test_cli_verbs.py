"""What the verbs print and write."""

from __future__ import annotations

import json
import os
import shutil
import stat
import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import yaml
from toy import toy_frames, toy_tables

from unimixer.backbones import BACKBONES
from unimixer.cli import demo
from unimixer.data.coverage import Coverage
from unimixer.data.dataset import Dataset
from unimixer.data.prepare import prepare
from unimixer.data.raw.adapters import open_raw
from unimixer.settings import parse
from unimixer.training.config import Recipe, load_recipe
from unimixer.training.run import RunFolder

Cli = Callable[..., Any]
LOG = toy_frames()[0]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Raw rows to score."""
    path = tmp_path / "rows.parquet"
    LOG.tail(50).write_parquet(path)
    return path


# ---- config --------------------------------------------------------------------------------------------------------


def test_config_show_prints_what_loads_as_the_same_recipe(cli: Cli, recipe: Path, tmp_path: Path) -> None:
    done = cli("config", "show", recipe, "training.seed=7", "optimizer.dense_lr=1e-4")
    (tmp_path / "shown.yaml").write_text(done.out)
    expected = load_recipe(recipe, ["training.seed=7", "optimizer.dense_lr=1e-4"])
    assert load_recipe(tmp_path / "shown.yaml") == expected
    assert expected.optimizer.dense_lr == 1e-4
    assert yaml.safe_load(cli("config", "show", "shown.yaml").out) == yaml.safe_load(done.out)
    values = cli("config", "show", recipe, "training.seed=7", "optimizer.dense_lr=1e-4", "--json").json
    origins = values.pop("origins")
    assert parse(Recipe, values, where="json") == expected
    assert origins["training.seed"] == "override training.seed=7"
    assert origins["name"] == f"{recipe}, line 1"
    assert origins["training.epochs"] == "default"
    assert "  epochs: 1  # default\n" in done.out
    assert "  width: 8.0  # " in done.out
    assert "  seed: 7  # override training.seed=7\n" in done.out


def test_config_show_reads_a_run(cli: Cli, toy_run: RunFolder) -> None:
    assert yaml.safe_load(cli("config", "show", toy_run.folder).out) == toy_run.recipe.model_dump(mode="json")


# ---- models and doctor ---------------------------------------------------------------------------------------------


def test_models_lists_every_backbone(cli: Cli) -> None:
    names = [row["name"] for row in cli("models", "--json").json["models"]]
    assert [name for name in names if ":" not in name] == list(BACKBONES)
    assert all(name in cli("models").out for name in BACKBONES)


@pytest.mark.parametrize("name", list(BACKBONES))
def test_models_shows_the_options_of_one(name: str, cli: Cli) -> None:
    assert cli("models", name, "--json").json["options"].keys() == BACKBONES[name].options().keys()
    assert f"options of {name}" in cli("models", name).out


def test_doctor_works_without_optional_packages(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("matplotlib", "tensorboard"):
        monkeypatch.setitem(sys.modules, package, None)
    done = cli("doctor", "--json")
    assert done.code == 0
    assert done.json["extra [report]"] == "matplotlib missing: pip install 'unimixer[report]'"
    shown = " ".join(cli("doctor").out.split())
    assert "extra [report]" in shown
    assert "matplotlib missing: pip install 'unimixer[report]'" in shown
    assert "torch version" in cli("doctor", "--benchmark").out


# ---- train ---------------------------------------------------------------------------------------------------------


def test_train_prints_its_result_for_people_and_for_programs(cli: Cli, recipe: Path, tmp_path: Path) -> None:
    people = cli("train", recipe, "--run", "a")
    assert people.code == 0
    assert "is_click" in people.out
    assert "dense and" in people.out
    assert "validation" in people.err
    program = cli("train", recipe, "--run", "b", "--json").json
    assert program["run"] == "b"
    assert program == {"run": "b", **json.loads((tmp_path / "b" / "result.json").read_text())}


def test_train_takes_the_dataset_from_the_command_line(cli: Cli, recipe: Path, toy_folder: Path) -> None:
    recipe.write_text(recipe.read_text().replace(str(toy_folder), "nowhere"))
    assert cli("train", recipe, "--data", toy_folder, "--run", "a", "--json").json["steps"] == 1
    twice = cli("train", recipe, "dataset=other", "--data", toy_folder, "--run", "b").error
    assert twice == f"--data {toy_folder}: override dataset=other sets dataset too; give one of them"


def test_train_finds_a_dataset_by_its_name(
    cli: Cli, recipe: Path, toy_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNIMIXER_DATASETS", str(toy_folder.parent))
    assert cli("train", recipe, "--data", toy_folder.name, "--run", "a").code == 0
    assert RunFolder("a").recipe.dataset == str(toy_folder.resolve())


def test_an_existing_run_is_refused_and_a_finished_one_resumes_at_once(cli: Cli, recipe: Path) -> None:
    first = cli("train", recipe, "--run", "a", "--json").json
    assert cli("train", recipe, "--run", "a").error.endswith("continue it with: unimixer train --resume a")
    assert cli("train", "--resume", "a", "--json").json == first


def test_resume_takes_no_changes(cli: Cli, recipe: Path) -> None:
    for given in (recipe, "training.seed=1"):
        assert cli("train", given, "--resume", "a").error == (
            "a run continues with the recipe it began with: --resume takes no recipe or overrides "
            f"(given: {given}), no --run, --warm-start or --seeds"
        )
    assert "--resume takes no recipe or overrides, no --run" in cli("train", "--resume", "a", "--run", "b").error


def test_a_seed_that_is_given_twice_is_refused(cli: Cli, recipe: Path) -> None:
    found = cli("train", recipe, "training.seed=3", "--seeds", 2).error
    assert found == "--seeds 2: override training.seed=3 sets training.seed too; give one of them"


def test_a_warm_start_is_written_down(cli: Cli, recipe: Path, toy_run: RunFolder) -> None:
    assert cli("train", recipe, "--run", "a", "--warm-start", toy_run.folder).code == 0
    assert RunFolder("a").warm_start == toy_run.folder.resolve()
    assert "another model" in cli("train", recipe, "model.width=12", "--warm-start", toy_run.folder).error


# ---- evaluate and predict ------------------------------------------------------------------------------------------


def test_evaluate_measures_a_split_and_a_file(cli: Cli, toy_run: RunFolder, rows: Path, toy_folder: Path) -> None:
    for split in ("validation", "test"):
        values = cli("evaluate", toy_run.folder, "--split", split, "--json").json
        shares = Coverage.of_split(Dataset(toy_folder), split).shares()
        assert values == {"run": str(toy_run.folder), "on": split, "tasks": (toy_run.result or {})[split], **shares}
    assert cli("evaluate", toy_run.folder, "--input", rows, "--json").json["tasks"]["is_click"]["num_rows"] == 50
    assert "is_click" in cli("evaluate", toy_run.folder, "--data", toy_folder).out
    assert "unknown split 'tset'" in cli("evaluate", toy_run.folder, "--split", "tset").error


def test_scores_of_unknown_items_are_not_without_a_word(cli: Cli, toy_run: RunFolder) -> None:
    strange = LOG.tail(300).with_columns(pl.concat_str(pl.lit("x"), "item_id").alias("item_id"), tab=pl.lit("home"))
    strange.write_parquet("strange.parquet")
    usual = toy_run.environment["data"]["coverage"]["unknown"]["item_id"]
    said = f"warning: item_id: 100% of 300 rows unknown ({usual:.1%} in validation); are they written as in training?"
    predicted = cli("predict", toy_run.folder, "--input", "strange.parquet", "--output", "s.parquet", "--json")
    evaluated = cli("evaluate", toy_run.folder, "--input", "strange.parquet", "--json")
    for done in (predicted, evaluated):
        assert said in done.err.splitlines()
        assert "warning: price: missing in 100% of 300 rows" in done.err
        assert (done.json["unknown"]["item_id"], done.json["missing"]["price"]) == (1.0, 1.0)
        assert done.json["unknown"]["tab"] == 0.0
    assert "unknown values: " in cli("evaluate", toy_run.folder, "--input", "strange.parquet").out
    LOG.tail(300).write_parquet("usual.parquet")
    assert "warning" not in cli("predict", toy_run.folder, "--input", "usual.parquet", "--output", "u.csv").err


def test_evaluate_refuses_other_data(cli: Cli, toy_run: RunFolder, tmp_path: Path) -> None:
    prepare(toy_tables(seed=1), tmp_path / "other")
    assert "evaluate other data as raw rows, with --input" in cli("evaluate", toy_run.folder, "--data", "other").error


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_predict_writes_scores_in_the_order_of_the_rows(
    ending: str, cli: Cli, toy_run: RunFolder, rows: Path, tmp_path: Path
) -> None:
    arguments = ("predict", toy_run.folder, "--input", rows, "--output", f"s.{ending}", "--keep", "user_id")
    assert f"s.{ending}: 50 rows in" in cli(*arguments, "--keep", "item_id").out
    found = pl.read_parquet("s.parquet") if ending == "parquet" else pl.read_csv("s.csv")
    assert found.columns == ["user_id", "item_id", "is_click", "long_view"]
    assert found["user_id"].to_list() == LOG.tail(50)["user_id"].to_list()
    assert f"s.{ending} exists; choose another --output, or pass --overwrite" in cli(*arguments).error
    values = cli(*arguments, "--overwrite", "--json").json
    assert (values["rows"], values["tasks"]) == (50, ["is_click", "long_view"])


def test_predict_that_fails_leaves_no_file(cli: Cli, toy_run: RunFolder, rows: Path, tmp_path: Path) -> None:
    pl.read_parquet(rows).drop("item_id").write_parquet(tmp_path / "short.parquet")
    before = sorted(path.name for path in tmp_path.iterdir())
    error = cli("predict", toy_run.folder, "--input", "short.parquet", "--output", "s.csv").error
    assert error.startswith("short.parquet: missing column 'item_id'")
    arguments = ("predict", toy_run.folder, "--output", "s.csv", "--input")
    assert "no such file" in cli(*arguments, "none.csv").error
    assert "take its name; rename it" in cli(*arguments, rows, "--keep", "is_click").error
    assert "device 'cuda:99'" in cli(*arguments, rows, "--device", "cuda:99").error
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_predict_reads_a_folder_of_partitions_in_its_order(cli: Cli, toy_run: RunFolder, tmp_path: Path) -> None:
    for day in range(12):
        (tmp_path / "new" / f"day={day}").mkdir(parents=True)
        LOG.slice(10 * day, 10).write_parquet(tmp_path / "new" / f"day={day}" / "part-0.parquet")
    arguments = ("predict", toy_run.folder, "--overwrite", "--output", "s.parquet", "--input")
    assert cli(*arguments, "new", "--keep", "day", "--keep", "user_id", "--json").json["rows"] == 120
    found = pl.read_parquet("s.parquet")
    assert found["day"].to_list() == [str(row // 10) for row in range(120)]
    assert found["user_id"].to_list() == LOG.head(120)["user_id"].to_list()
    assert cli(*arguments, "new/day=3", "--keep", "day", "--json").json["rows"] == 10
    assert pl.read_parquet("s.parquet")["day"].unique().to_list() == ["3"]


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_predict_gives_no_rows_no_scores_in_the_right_columns(
    ending: str, cli: Cli, toy_run: RunFolder, tmp_path: Path
) -> None:
    empty = LOG.head(0)
    empty.write_parquet(tmp_path / "new.parquet") if ending == "parquet" else empty.write_csv(tmp_path / "new.csv")
    command = ("predict", toy_run.folder, "--input", f"new.{ending}", "--output", "s.parquet", "--keep", "user_id")
    assert cli(*command, "--json").json["rows"] == 0
    kept = empty.schema["user_id"] if ending == "parquet" else pl.String
    assert pl.read_parquet("s.parquet").schema == {"user_id": kept, "is_click": pl.Float32, "long_view": pl.Float32}
    assert "no rows, expected at least one" in cli("evaluate", toy_run.folder, "--input", f"new.{ending}").error


def test_predict_and_evaluate_take_a_separator(cli: Cli, toy_run: RunFolder, tmp_path: Path) -> None:
    LOG.tail(50).write_csv(tmp_path / "comma.csv")
    LOG.tail(50).write_csv(tmp_path / "semicolon.csv", separator=";")
    predict = ("predict", toy_run.folder, "--overwrite", "--output", "s.parquet", "--input")
    cli(*predict, "comma.csv")
    expected = pl.read_parquet("s.parquet")
    assert "the first line holds ';'" in cli(*predict, "semicolon.csv").error
    cli(*predict, "semicolon.csv", "--separator", ";")
    assert pl.read_parquet("s.parquet").equals(expected)
    evaluate = ("evaluate", toy_run.folder, "--json", "--input")
    separated = cli(*evaluate, "semicolon.csv", "--separator", ";").json["tasks"]
    assert separated == cli(*evaluate, "comma.csv").json["tasks"]


def test_predict_reads_only_what_it_needs(cli: Cli, toy_run: RunFolder, tmp_path: Path) -> None:
    odd = pa.array([Decimal(1)] * 50, pa.decimal256(60, 2))
    table = LOG.tail(50).drop("is_click").to_arrow().append_column("is_click", odd).append_column("odd", odd)
    parquet.write_table(table, tmp_path / "new.parquet")
    predict = ("predict", toy_run.folder, "--input", "new.parquet", "--output", "s.parquet", "--json")
    assert cli(*predict).json["rows"] == 50
    assert "new.parquet: column 'odd' of type decimal256" in cli(*predict, "--overwrite", "--keep", "odd").error


# ---- runs ----------------------------------------------------------------------------------------------------------


def test_runs_prints_mean_and_spread_over_seeds(cli: Cli, recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [cli("train", recipe, f"training.seed={seed}", "--json").json for seed in (0, 1)]
    aucs = [run["test"]["is_click"]["auc"] for run in found]
    mean, deviation = sum(aucs) / 2, abs(aucs[0] - aucs[1]) / 2**0.5
    row = cli("runs", "--json").json["rows"][0]
    assert (row["recipe"], row["seeds"], row["test AUC"]) == ("tiny", 2, f"{mean:.4f} ± {deviation:.4f}")
    assert f"{mean:.4f} ± {deviation:.4f}" in cli("runs", "runs/tiny").out
    table = cli("runs", "--markdown").out.splitlines()
    assert table[0].startswith("| recipe | task | seeds |")
    assert table[1].startswith("| --- | --- | ---: |")
    assert len(table) == 4
    assert cli("runs", "--markdown", "--json").json["rows"][0] == row
    shutil.move("runs", "elsewhere")
    monkeypatch.setenv("UNIMIXER_RUNS", "elsewhere")
    assert cli("runs", "--json").json["rows"][0] == row


# ---- data ----------------------------------------------------------------------------------------------------------


def test_data_prepare_says_what_it_wrote(cli: Cli, raw_folder: Path) -> None:
    arguments = ("data", "prepare", raw_folder / "schema.yaml", "--raw", raw_folder)
    first = cli(*arguments, "--out", "here", "--json").json
    assert first["hash"] == Dataset("here").hash
    assert "here exists" in cli(*arguments, "--out", "here").error
    assert "rows in" in cli(*arguments, "--out", "here", "--overwrite").out
    assert cli(*arguments, "--json").json["dataset"] == "datasets/toy"


def test_data_describe_shows_fields_and_splits(cli: Cli, toy_dataset: Dataset) -> None:
    facts = cli("data", "describe", toy_dataset.folder, "--json").json
    assert facts["hash"] == toy_dataset.hash
    shown = cli("data", "describe", toy_dataset.folder).out
    assert all(field["field"] in shown for field in facts["fields"])
    assert "best AUC" not in shown


def test_data_describe_shows_the_best_auc_of_a_simulated_world(cli: Cli) -> None:
    assert cli("data", "prepare", "synthetic", "rows=2000", "users=50", "items=50", "--out", "w").code == 0
    shown = cli("data", "describe", "w").out
    assert "best AUC click" in shown
    assert "best AUC like" in shown


def test_data_init_writes_a_schema_that_prepares(cli: Cli, raw_folder: Path, tmp_path: Path) -> None:
    log = raw_folder / "impressions.parquet"
    printed = cli("data", "init", "--from", log)
    assert yaml.safe_load(printed.out)["features"]
    assert "read it, then: unimixer data prepare s.yaml" in cli("data", "init", "--from", log, "--out", "s.yaml").out
    assert (tmp_path / "s.yaml").read_text() == printed.out.removesuffix("\n")
    assert "s.yaml exists; choose another --out" in cli("data", "init", "--from", log, "--out", "s.yaml").error
    values = cli("data", "init", "--from", log, "--json").json
    assert yaml.safe_load(values["schema"]) == yaml.safe_load(printed.out)


# ---- demo ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_demo_leaves_runs_a_table_and_a_picture(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ("demo", "--rows", "2000", "--params", "100K")
    first = cli(*arguments, "--json").json
    assert set(first["models"]) == {"unimixer-lite", "rankmixer", "mlp"}
    assert (tmp_path / "demo" / "demo.png").read_bytes().startswith(b"\x89PNG")
    assert len((tmp_path / "demo" / "demo.md").read_text().splitlines()) == 5
    assert "demo exists; choose another --out, or pass --overwrite" in cli(*arguments).error
    # without the report extra, on the same runs, there is no picture and nothing else is missing
    kept = (tmp_path / "demo").rename(tmp_path / "kept")
    (tmp_path / "demo").mkdir()
    monkeypatch.setattr("unimixer.cli.demo.prepare", lambda *_, **__: Dataset(kept / "dataset"))
    monkeypatch.setattr("unimixer.cli.demo.train", lambda *_, folder, **__: RunFolder(kept / "runs" / folder.name))
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    again = cli(*arguments, "--overwrite")
    assert "no picture: drawing needs optional packages: pip install 'unimixer[report]'" in again.err
    assert "picture: none" in again.out
    assert (tmp_path / "demo" / "demo.md").read_text() == (kept / "demo.md").read_text()


def test_a_small_demo_takes_fewer_tokens_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = prepare(open_raw("synthetic", None, rows=2_000), tmp_path / "store")
    shape = demo._shape(dataset, 50_000)
    assert shape == {"num_tokens": 8, "embedding_dim": 16}
    assert (
        capsys.readouterr().err
        == "     num_tokens=8, embedding_dim=16, with which every model meets 50,000 parameters\n"
    )
    assert demo._shape(dataset, 300_000) == {"num_tokens": 16, "embedding_dim": 16}
    assert capsys.readouterr().err == ""


def test_a_demo_that_no_shape_fits_names_the_next_budget_and_leaves_nothing(cli: Cli, tmp_path: Path) -> None:
    error = "--params 100: the models of the demo cannot all meet it within 2%; the next round budget that they do is"
    done = cli("demo", "--out", "demo", "--rows", "2000", "--params", "100")
    assert done.err.splitlines()[-1] == f"error: {error} --params 2000"
    assert not (tmp_path / "demo").exists()
    assert "dense_params='few'" in cli("demo", "--params", "few").error


def test_the_demo_never_replaces_what_it_did_not_make(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("years of work")
    error = cli("demo", "--out", "home", "--overwrite").error
    assert error == "home holds 'thesis.tex', which no demo made; choose another --out"
    assert (tmp_path / "home" / "thesis.tex").exists()


def test_convert_writes_a_recipe_that_trains_on(cli: Cli, recipe: Path) -> None:
    assert cli("train", recipe, "model.backbone=rankmixer", "model.options={}", "--run", "rule").code == 0
    done = cli("convert", "rule", "--to", "unimixer-lite", "--out", "lite.yaml", "--json")
    assert done.json["change"]["max_logit_difference"] < 1e-4
    assert done.json["next"] == "unimixer train lite.yaml --warm-start rule"
    assert (
        "lite.yaml exists; choose another --out"
        in cli("convert", "rule", "--to", "unimixer", "--out", "lite.yaml").error
    )
    assert cli("train", "lite.yaml", "--warm-start", "rule", "--run", "lite").code == 0
    assert "cannot be converted to 'fm'" in cli("convert", "rule", "--to", "fm").error


def test_evaluate_hardens_on_request(cli: Cli, toy_run: RunFolder) -> None:
    done = cli("evaluate", toy_run.folder, "--harden", "permutation", "--json")
    assert set(done.json["tasks"]) == {"test", "test, permutation"}
    assert "in the probability" in cli("evaluate", toy_run.folder, "--harden", "top-2").out
    assert "leave --input out" in cli("evaluate", toy_run.folder, "--harden", "top-2", "--input", "x.csv").error


# ---- files ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("umask", "options"),
    [
        (0o022, ["--external-data"]),
        (0o027, ["--format", "pt2"]),
        (0o077, ["--precision", "int8", "--layout", "triton"]),
    ],
)
def test_all_files_of_the_whole_way_have_the_mode_that_the_umask_gives(
    cli: Cli, raw_folder: Path, recipe: Path, tmp_path: Path, umask: int, options: list[str]
) -> None:
    before = os.umask(umask)
    try:
        place = tmp_path / "made"
        source = ["data", "prepare", raw_folder / "schema.yaml", "--raw", raw_folder, "--workers", "1"]
        os.umask(0o077 if umask == 0o022 else 0o022)  # the run does not take the modes of the dataset over
        assert cli(*source, "--out", "store").code == 0
        os.umask(umask)
        assert cli("train", recipe, "--data", "store", "--run", place / "run").code == 0
        assert cli("export", place / "run", "--out", place / "bundle", "--largest", 20, *options).code == 0
        assert cli("store", "build", place / "run", "--out", place / "features.sqlite").code == 0
        LOG.tail(5).write_parquet(tmp_path / "rows.parquet")
        assert cli("predict", place / "run", "--input", "rows.parquet", "--output", place / "scores.csv").code == 0
    finally:
        os.umask(before)
    wrong = {
        str(path.relative_to(tmp_path)): oct(stat.S_IMODE(path.stat().st_mode))
        for path in (place, *place.rglob("*"))
        if stat.S_IMODE(path.stat().st_mode) != (0o777 if path.is_dir() else 0o666) & ~umask
    }
    assert wrong == {}
    assert len([path for path in place.rglob("*") if path.suffix == ".safetensors"]) >= 4
