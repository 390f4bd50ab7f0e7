"""The run folder: never shared, complete, and readable after a kill."""

from __future__ import annotations

import errno
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tiny import tiny_recipe

from unimixer.bundles.manifest import read_manifest
from unimixer.data.dataset import Dataset
from unimixer.environment import commit, versions
from unimixer.errors import UnimixerError
from unimixer.training import run as training_run
from unimixer.training.config import Recipe
from unimixer.training.model import best_weights
from unimixer.training.run import RunFolder, environment, runs_folder
from unimixer.training.tensor_files import load_state, load_tensors


def run_in(folder: Path | None, dataset: Dataset) -> RunFolder:
    return RunFolder.create(folder, tiny_recipe(dataset.folder), dataset)


def test_a_new_folder_has_recipe_environment_and_transform(toy_dataset: Dataset, tmp_path: Path) -> None:
    run = run_in(tmp_path / "run", toy_dataset)
    assert run.recipe == tiny_recipe(toy_dataset.folder)
    assert run.environment["data"]["hash"] == toy_dataset.hash
    assert run.environment["seed"] == 0
    assert run.transform.spec == toy_dataset.transform.spec
    assert (run.result, run.history(), run.warm_start) == (None, [], None)


def test_an_existing_folder_is_refused_with_the_command_that_continues_it(toy_dataset: Dataset, tmp_path: Path) -> None:
    run_in(tmp_path / "run", toy_dataset)
    with pytest.raises(UnimixerError, match=rf"run exists; choose another --run, or .* --resume {tmp_path}/run$"):
        run_in(tmp_path / "run", toy_dataset)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "precious.txt").write_text("keep")
    with pytest.raises(UnimixerError, match=r"mine exists; choose another --run$"):
        run_in(tmp_path / "mine", toy_dataset)
    assert (tmp_path / "mine" / "precious.txt").read_text() == "keep"


def test_runs_of_the_same_second_get_folders_of_their_own(
    toy_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNIMIXER_RUNS", str(tmp_path / "runs"))
    folders = [run_in(None, toy_dataset).folder for _ in range(3)]
    assert len(set(folders)) == 3
    assert {folder.parent for folder in folders} == {runs_folder() / "tiny"}


def test_a_name_that_another_process_takes_meanwhile_is_left_to_it(
    toy_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNIMIXER_RUNS", str(tmp_path))
    taken: list[Path] = []

    def slow(recipe: Recipe, dataset: Dataset) -> dict[str, Any]:
        if not taken:
            (temporary,) = (tmp_path / "tiny").iterdir()
            taken.append(temporary.with_name(temporary.name[1:].split(".")[0]))
            taken[0].mkdir()
            (taken[0] / "config.yaml").write_text("theirs")
        return environment(recipe, dataset)

    monkeypatch.setattr(training_run, "environment", slow)
    run = run_in(None, toy_dataset)
    assert run.folder == taken[0].with_name(f"{taken[0].name}-2")
    assert (taken[0] / "config.yaml").read_text() == "theirs"
    assert len(list((tmp_path / "tiny").iterdir())) == 2


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnimixerError, match=r"is not a run folder \(no config\.yaml\); make one with: unimixer train"):
        RunFolder(tmp_path)


def test_a_folder_of_runs_names_the_last_one(tmp_path: Path) -> None:
    for name in ("20260102-seed1", "20260101-seed0"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").touch()
    with pytest.raises(UnimixerError, match=r"\(no config\.yaml\); the last one in it is .*20260102-seed1$"):
        RunFolder(tmp_path)


def test_lines_are_logged_and_a_half_one_is_passed_over(toy_dataset: Dataset, tmp_path: Path) -> None:
    run = run_in(tmp_path / "run", toy_dataset)
    for step in (1, 2, 3):
        run.log({"kind": "train", "step": step})
    run.log({"kind": "test", "step": 1})
    with (run.folder / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "tra')
    assert [line["step"] for line in run.history()] == [1, 2, 3, 1]
    run.forget_after(2)
    assert (run.folder / "metrics.jsonl").read_text().splitlines() == [
        '{"kind": "train", "step": 1}',
        '{"kind": "train", "step": 2}',
    ]


def test_a_run_trains_in_one_process_at_a_time(toy_dataset: Dataset, tmp_path: Path) -> None:
    run = run_in(tmp_path / "run", toy_dataset)
    with run.lock(), pytest.raises(UnimixerError, match="run is being trained by another process"):
        RunFolder(run.folder).lock().__enter__()
    with run.lock():
        pass


def test_a_stage_knows_the_run_that_it_is_a_part_of(toy_dataset: Dataset, tmp_path: Path) -> None:
    run = run_in(tmp_path / "run", toy_dataset)
    stage = run_in(run.folder / "warm-up", toy_dataset)
    assert (run.outer, stage.outer) == (run.folder, run.folder)


def test_the_environment_says_what_numbers_depend_on(toy_dataset: Dataset) -> None:
    facts = environment(tiny_recipe(toy_dataset.folder, "training.threads=2"), toy_dataset)
    assert facts["threads"] == 2
    assert facts["versions"]["torch"] == versions()["torch"] != "not installed"
    assert {"created", "command", "seed", "commit", "python", "platform", "device"} <= facts.keys()
    json.dumps(facts)


def test_the_commit_is_none_outside_a_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert commit() is None


def test_threads_create_runs_side_by_side(toy_dataset: Dataset, tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        runs = list(pool.map(lambda name: run_in(tmp_path / name, toy_dataset), "ab"))
    assert [run.folder.name for run in runs] == ["a", "b"]


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("environment.json", None, "environment.json: no such file"),
        ("environment.json", "{", "environment.json: damaged: not valid JSON (Expecting property name"),
        (
            "environment.json",
            "[1]",
            "environment.json: damaged: expected a JSON object, found list; restore the file from a copy",
        ),
        ("environment.json", "{}", "environment.json: has no 'commit': another version wrote it, or it was changed;"),
        (
            "environment.json",
            '{"commit": null, "versions": {}, "data": {}}',
            "environment.json: has no 'data.hash': another version wrote it, or it was changed; restore",
        ),
        ("result.json", "", "result.json: damaged: not valid JSON (Expecting value"),
        ("warm-start.json", "{}", "warm-start.json: has no 'run': another version wrote it"),
    ],
)
def test_a_file_of_a_run_that_is_not_whole_is_one_sentence(
    toy_dataset: Dataset, tmp_path: Path, name: str, content: str | None, sentence: str
) -> None:
    run = run_in(tmp_path / "run", toy_dataset)
    if content is None:
        (run.folder / name).unlink()
    else:
        (run.folder / name).write_text(content)
    with pytest.raises(UnimixerError) as refused:
        _ = [run.environment, run.result, run.warm_start]
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)


def denied(*_: object, **__: object) -> None:
    raise PermissionError(errno.EACCES, "Permission denied")


@pytest.mark.parametrize(
    ("method", "read", "name"),
    [
        ("is_file", lambda folder: RunFolder(folder), "run"),
        ("read_text", lambda folder: RunFolder(folder).environment, "run/environment.json"),
        ("read_bytes", lambda folder: RunFolder(folder).recipe, "run/config.yaml"),
        ("read_text", lambda folder: RunFolder(folder).transform, "run/transform"),
        ("open", lambda folder: load_tensors(folder / "w.safetensors"), "run/w.safetensors"),
        ("read_text", lambda folder: load_state(folder / "state.json"), "run/state.json"),
        ("read_text", lambda folder: read_manifest(folder / "best"), "run/best/manifest.json"),
    ],
)
def test_what_another_user_owns_is_called_that_and_not_missing(
    toy_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, read: Any, name: str
) -> None:
    run_in(tmp_path / "run", toy_dataset)
    (tmp_path / "run" / "best").mkdir()
    (tmp_path / "run" / "best" / "manifest.json").write_text("{}")
    monkeypatch.setattr(Path, method, denied)
    with pytest.raises(UnimixerError, match=rf"{name}: cannot read: permission denied; give this user the right to"):
        read(tmp_path / "run")


def test_a_finished_run_without_its_weights_is_not_told_to_go_on(toy_run: RunFolder, tmp_path: Path) -> None:
    copy = RunFolder(shutil.copytree(toy_run.folder, tmp_path / "run"))
    copy.best_weights.unlink()
    with pytest.raises(UnimixerError, match=r"model\.safetensors: missing, and the run is finished; train it again"):
        best_weights(copy)
