"""Every verb: an example in its help, one JSON object where asked, one sentence where it refuses."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from own_process import unimixer
from tiny import tiny_values
from toy import toy_frames

from unimixer.cli import main
from unimixer.training.run import RunFolder
from unimixer.training.step import TrainStep

VERBS = (
    *("demo", "models", "train", "evaluate", "inspect", "predict", "runs", "doctor"),
    *("data init", "data prepare", "data describe", "data fetch", "config show", "config list"),
)
Cli = Callable[..., Any]


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_of_every_verb_has_an_example(verb: str, cli: Cli) -> None:
    done = cli(*verb.split(), "--help")
    assert done.code == 0
    assert "Example" in done.out
    assert f"unimixer {verb}" in " ".join(done.out.replace("│", " ").split())
    assert "--json" in done.out


@pytest.mark.parametrize("arguments", [[], ["data"], ["config"]])
def test_without_a_verb_the_help_is_shown(arguments: list[str], cli: Cli) -> None:
    assert "Usage: unimixer" in cli(*arguments).out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "No such command 'trian'. Did you mean 'train'? (see: unimixer --help)"),
        (["train", "--bogus"], "No such option: --bogus (see: unimixer train --help)"),
        (["predict", "RUN"], "Missing option '--input' (see: unimixer predict --help)"),
        (["data", "describe"], "Missing argument 'DATASET' (see: unimixer data describe --help)"),
        (["demo", "--rows", "many"], "Invalid value for '--rows':"),
        (["train"], "give a recipe to start a run, or --resume RUN to continue one"),
        (["train", "r.yaml"], "r.yaml: no such file"),
        (["train", "--resume", "nothing"], "nothing is not a run folder (no config.yaml)"),
        (["evaluate", "nothing"], "nothing is not a run folder (no config.yaml)"),
        (["predict", "nothing", "--input", "a.csv", "--output", "b.csv"], "nothing is not a run folder"),
        (
            ["predict", "nothing", "--input", "a.csv", "--output", "b.json"],
            "b.json: scores are written as Parquet or CSV",
        ),
        (["runs", "nothing"], "nothing: no such folder"),
        (["models", "unimixer-light"], "unknown model 'unimixer-light'; did you mean 'unimixer-lite'?"),
        (["config", "show", "nothing.yaml"], "nothing.yaml: no such file"),
        (["data", "prepare", "kuairand-pur"], "'kuairand-pur'"),
        (["data", "prepare", "synthetic", "rovs=3"], "unknown option 'rovs'; did you mean 'rows'?"),
        (["data", "prepare", "synthetic", "rows"], "option 'rows': expected key=value, for example rows=1000"),
        (["data", "describe", "nothing"], "datasets/nothing is not a prepared dataset"),
        (["data", "init", "--from", "nothing.csv"], "nothing.csv: no such"),
        (["data", "fetch", "nothing"], "nothing"),
    ],
)
def test_a_mistake_is_one_sentence_with_exit_code_2(arguments: list[str], message: str, cli: Cli) -> None:
    done = cli(*arguments)
    assert message in done.error
    assert done.out == ""
    assert message in cli(*arguments, "--json").json["error"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "training.batchsize=3",
            "override training.batchsize=3: unknown key 'training.batchsize'; did you mean 'batch_size'?",
        ),
        ("tasks.clik=1", "unknown task 'clik'; did you mean 'is_click'?"),
        ("model.backbone=unimixerr", "unknown model 'unimixerr'; did you mean 'unimixer'?"),
        ("model.options.rnak=3", "'rnak'; did you mean 'rank'?"),
        ("training.device=cuda:99", "device 'cuda:99': this machine"),
        ("training.monitor=click.auc", "did you mean 'is_click.auc'?"),
        ("seed", "override 'seed': expected key=value, for example training.seed=1"),
        ("dataset=nowhere", "datasets/nowhere is not a prepared dataset"),
    ],
)
def test_a_recipe_that_cannot_train_is_one_sentence_and_leaves_no_folder(
    override: str, message: str, cli: Cli, recipe: Path, tmp_path: Path
) -> None:
    assert message in cli("train", recipe, override, "--run", tmp_path / "run").error
    assert not (tmp_path / "run").exists()


def test_yaml_that_is_none_is_one_sentence(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("name: [tiny\ndataset: }")
    assert cli("train", "bad.yaml").error.startswith("bad.yaml, line 2: not valid YAML")
    (tmp_path / "bad.yaml").write_text("- a\n- b")
    assert "expected a mapping of keys to values, found list" in cli("config", "show", "bad.yaml").error
    (tmp_path / "bad.yaml").write_bytes(b"\xff\xfe")
    assert "not valid YAML" in cli("train", "bad.yaml").error


def test_a_file_that_may_not_be_read_is_one_sentence(cli: Cli, recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, *args: object, **kwargs: object) -> str:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert cli("train", recipe).error.startswith(f"{recipe}: permission denied; ask for the right to it")


def test_nan_in_training_ends_with_one_sentence_and_code_2(
    cli: Cli, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    original = TrainStep.__call__

    def broken(self: TrainStep, *args: Any) -> Any:
        with torch.no_grad():
            next(self.model.backbone.parameters()).fill_(float("nan"))
        return original(self, *args)

    monkeypatch.setattr(TrainStep, "__call__", broken)
    error = cli("train", recipe, "--run", "run").last_error
    assert error.startswith("step 1: the loss is not finite; the first module with an output that is not finite is 'ba")


def test_a_damaged_checkpoint_is_one_sentence(cli: Cli, toy_run: RunFolder, tmp_path: Path) -> None:
    shutil.copytree(toy_run.folder, tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    newest = sorted((tmp_path / "run" / "checkpoints").iterdir())[-1]
    (newest / "model.safetensors").write_bytes(b"\x00" * 64)
    error = cli("train", "--resume", "run").error
    assert "damaged (" in error
    assert f"remove run/checkpoints/{newest.name}, and --resume continues from the checkpoint before it" in error
    shutil.rmtree(newest)
    assert cli("train", "--resume", "run", "--json").json["test"] == (toy_run.result or {})["test"]


def test_ctrl_c_outside_training_is_one_line(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(**options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("unimixer.cli.doctor.diagnose", interrupted)
    assert cli("doctor") == (130, "", "error: interrupted\n")


def test_sigterm_outside_training_cleans_up_and_has_an_exit_code_of_its_own(
    cli: Cli, toy_run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr("unimixer.predictor.Predictor.scores", killed)
    toy_frames()[0].head(3).write_parquet(tmp_path / "rows.parquet")
    done = cli("predict", toy_run.folder, "--input", "rows.parquet", "--output", "scores.csv", "--json")
    assert done.code == 75
    assert done.err == "error: stopped by SIGTERM; run it again to begin anew\n"
    assert done.json == {"error": "stopped by SIGTERM; run it again to begin anew"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.parquet"]
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_want_of_memory_is_one_sentence_and_a_fault_of_the_program_is_a_traceback(
    cli: Cli, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(error: Exception) -> None:
        def step(*_: object) -> None:
            raise error

        monkeypatch.setattr(TrainStep, "__call__", step)

    fails(MemoryError("Unable to allocate 7.11 PiB for an array"))
    error = cli("train", recipe).last_error
    assert error.startswith("out of memory: 7.11 PiB were asked for; reduce the batch size")
    fails(RuntimeError("a bug"))
    with pytest.raises(RuntimeError, match="a bug"):
        main(["train", str(recipe)])


def test_a_full_disk_in_training_names_the_file_below_the_run_and_what_continues_it(cli: Cli, recipe: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        done = cli("train", recipe, "--run", "run")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert done.code == 2
    last = done.err.splitlines()[-1]
    assert last.startswith("error: run/best/model.safetensors: cannot write: the file grew over the allowed size")
    assert last.endswith("there is no checkpoint yet, begin anew with: unimixer train --resume run")
    assert not [path for path in Path("run").rglob("*") if path.suffix == ".tmp"]
    assert cli("train", "--resume", "run").code == 0


def test_a_closed_pipe_is_no_error(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(**options: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr("unimixer.cli.doctor.diagnose", closed)
    with pytest.raises(SystemExit) as ended:
        main(["doctor"])
    assert ended.value.code in (1, 141)


def test_the_main_path_runs_as_a_person_would_run_it(
    raw_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    program = Path(sys.executable).with_name("unimixer")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(tiny_values("toy", "training.max_steps=2")))

    def run(*arguments: object) -> Any:
        process = unimixer(*arguments, "--json", env=environment)
        out, err = process.communicate(120)
        assert process.returncode == 0, err
        return json.loads(out.splitlines()[-1])

    prepare = [program, "data", "prepare", raw_folder / "schema.yaml", "--raw", raw_folder, "--json"]
    done = subprocess.run(prepare, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["dataset"] == "datasets/toy"
    trained = run("train", "recipe.yaml", "training.seed=4")
    measured = run("evaluate", trained["run"])
    assert measured["tasks"] == trained["test"]
    rows = raw_folder / "impressions.parquet"
    written = run("predict", trained["run"], "--input", rows, "--output", "scores.csv", "--keep", "user_id")
    assert written["rows"] == pl.read_parquet(rows).height == pl.read_csv(tmp_path / "scores.csv").height
    assert Path(trained["run"]).name.endswith("-seed4")


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
        toy_frames()[0].tail(5).write_parquet(tmp_path / "rows.parquet")
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
