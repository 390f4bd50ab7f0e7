"""``unimixer inspect``: files, table, JSON, and one sentence where it refuses."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny import tiny_recipe

from unimixer.training.run import RunFolder
from unimixer.training.train import train

Cli = Callable[..., Any]
ALL = {"inspect.html", "inspect.json", "global.png", "local.png"}
ALL |= {"interactions.png", "effective-rank.png", "temperature.png"}


@pytest.fixture(scope="module")
def attention_run(toy_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    recipe = tiny_recipe(
        toy_folder,
        "model.backbone=transformer",
        "model.width=8",
        "model.options={num_blocks: 1, num_heads: 2}",
        "training.max_steps=1",
    )
    return train(recipe, folder=tmp_path_factory.mktemp("attention") / "run", quiet=True)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_inspect_writes_pictures_a_page_and_numbers(cli: Cli, toy_run: RunFolder, tmp_path: Path) -> None:
    done = cli("inspect", toy_run.folder, "--out", "look", "--rows", "50", "--temperatures", "1,0.2", "--json")
    assert names(tmp_path / "look") == ALL == set(done.json["files"])
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in (tmp_path / "look").glob("*.png"))
    kept = json.loads((tmp_path / "look" / "inspect.json").read_text())
    assert {**kept, "out": "look", "files": done.json["files"]} == done.json
    (mixing,) = kept["mixings"]
    assert [at["temperature"] for at in mixing["at"]] == [1.0, 0.2, 0.1]
    assert all(rank["rows"] == kept["rows"] == 50 for rank in kept["effective_rank"])
    for rank in kept["effective_rank"]:
        assert rank["share"] == rank["mean"] / min(rank["num_tokens"], rank["token_dim"])
    assert kept["flops"] > 0


def test_inspect_shows_a_short_table(cli: Cli, toy_run: RunFolder) -> None:
    done = cli("inspect", toy_run.folder, "--out", "look", "--rows", "50")
    assert done.code == 0
    for words in ("row maximum", "raw change", "effective rank", "tokens out", "page: look/inspect.html"):
        assert words in done.out
    assert "the start is drawn again with seed 0" in done.out
    assert re.search(r"^layer 1: \S+% of the weights between blocks moved; an output block draws on", done.out, re.M)


def test_interactions_of_tokens_and_of_fields_are_in_the_table_and_in_json(cli: Cli, toy_run: RunFolder) -> None:
    arguments = ("inspect", toy_run.folder, "--out", "look", "--rows", "50", "--interaction-rows", "40")
    tokens = cli(*arguments, "--json").json["interactions"]
    assert (tokens["by"], tokens["task"], tokens["rows"], tokens["truth"]) == ("tokens", "is_click", 40, None)
    assert [len(tokens[name]) for name in ("parts", "model", "matrices")] == [2, 2, 2]
    assert tokens["concentration"] == 1
    fields = cli(*arguments, "--overwrite", "--by", "fields", "--json").json["interactions"]
    assert [part["name"] for part in fields["parts"]][:3] == ["user_id", "age", "interests"]
    model = fields["model"]
    assert all(model[s][t] == model[t][s] >= 0 for s in range(13) for t in range(13))
    done = cli(*arguments, "--overwrite", "--by", "fields")
    assert "strongest interactions" in done.out
    assert "the strongest tenth of the pairs holds" in done.out
    assert cli(*arguments, "--overwrite", "--interaction-rows", "0", "--json").json["interactions"] is None


def test_groups_of_a_known_world_are_compared_with_the_truth(cli: Cli, toy_run: RunFolder, tmp_path: Path) -> None:
    shutil.copytree(toy_run.recipe.dataset, tmp_path / "data")
    manifest = json.loads((tmp_path / "data" / "manifest.json").read_text())
    groups = [["user_id", "age"], ["item_id", "category"], ["tab"], ["hour", "position"], ["words"]]
    manifest["world"] = {"groups": groups, "interacting_groups": [[0, 1], [2, 4]]}
    (tmp_path / "data" / "manifest.json").write_text(json.dumps(manifest))
    arguments = ("inspect", toy_run.folder, "--data", "data", "--out", "look", "--rows", "50")
    found = cli(*arguments, "--json").json["interactions"]
    assert (found["by"], found["truth"]) == ("groups", [[0, 1], [2, 4]])
    assert [part["name"] for part in found["parts"]] == [", ".join(group) for group in groups]
    assert set(found["recovery"]) == {"model", "matrices"}
    assert all(0 <= recovery["auc"] <= 1 for recovery in found["recovery"].values())
    assert found["recovery"]["model"]["chance"] == 0.2
    done = cli(*arguments, "--overwrite")
    assert "interactions in the model against the true pairs: AUC" in done.out
    assert "truly interact" in done.out


def test_what_is_there_is_replaced_only_if_asked_and_other_files_stay(
    cli: Cli, toy_run: RunFolder, attention_run: RunFolder, tmp_path: Path
) -> None:
    arguments = ("--rows", "20", "--out", "look")
    (tmp_path / "look").mkdir()
    (tmp_path / "look" / "thesis.tex").write_text("years of work")
    assert cli("inspect", toy_run.folder, *arguments).code == 0
    before = (tmp_path / "look" / "inspect.html").read_bytes()
    error = cli("inspect", toy_run.folder, *arguments).error
    assert error == "look/inspect.html exists; choose another --out, or pass --overwrite to replace it"
    assert (tmp_path / "look" / "inspect.html").read_bytes() == before
    assert cli("inspect", attention_run.folder, *arguments, "--overwrite").code == 0
    expected = {"thesis.tex", "inspect.html", "inspect.json", "interactions.png", "attention.png", "effective-rank.png"}
    assert names(tmp_path / "look") == expected
    assert "is a file, expected a folder" in cli("inspect", toy_run.folder, "--out", "look/thesis.tex").error


def test_a_model_without_learned_mixing_still_has_ranks_and_attention(cli: Cli, attention_run: RunFolder) -> None:
    done = cli("inspect", attention_run.folder, "--out", "look", "--rows", "30")
    assert "transformer has no learned mixing matrices" in done.out
    assert "row maximum" in done.out
    values = cli("inspect", attention_run.folder, "--out", "look", "--rows", "30", "--overwrite", "--json").json
    assert values["mixings"] == []
    (attention,) = values["attention"]
    assert (attention["heads"], attention["blocks"], attention["rows"]) == (2, 2, 30)
    assert 0.5 <= attention["row_maximum"] <= 1
    assert {rank["kind"] for rank in values["effective_rank"]} == {"tokens", "mixing", "FFN", "norm"}


def test_a_dataset_gets_no_files_of_an_inspection(cli: Cli, toy_run: RunFolder, toy_folder: Path) -> None:
    error = cli("inspect", toy_run.folder, "--out", toy_folder).error
    assert error == f"{toy_folder} is a prepared dataset, which gets no other files; choose another --out"


def test_the_default_folder_is_inside_the_run(cli: Cli, toy_run: RunFolder, tmp_path: Path) -> None:
    shutil.copytree(toy_run.folder, tmp_path / "run")
    assert cli("inspect", "run", "--rows", "10").code == 0
    assert names(tmp_path / "run" / "inspection") == ALL


def test_without_matplotlib_the_page_and_the_numbers_are_written(
    cli: Cli, toy_run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    done = cli("inspect", toy_run.folder, "--out", "look", "--rows", "10")
    assert "no pictures: drawing needs optional packages: pip install 'unimixer[report]'" in done.err
    assert names(tmp_path / "look") == {"inspect.html", "inspect.json"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rows", "0"], "rows=0 must be greater than 0"),
        (["--interaction-rows", "-1"], "interaction_rows=-1 must be 0 or more"),
        (["--by", "columns"], "by='columns' is not one of tokens, fields, groups"),
        (["--by", "groups"], "by='groups': the dataset names no groups of fields; choose tokens or fields"),
        (["--split", "valid"], "unknown split 'valid'"),
        (["--temperatures", "1,zero"], "temperatures='1,zero' must be numbers greater than 0"),
        (["--data", "/nowhere"], "if it moved, give its folder with --data"),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_nothing(
    arguments: list[str], message: str, cli: Cli, toy_run: RunFolder, tmp_path: Path
) -> None:
    assert message in cli("inspect", toy_run.folder, "--out", "look", *arguments).error
    assert names(tmp_path) == set()


def test_a_run_without_best_weights_or_dataset_says_what_to_do(cli: Cli, toy_run: RunFolder, tmp_path: Path) -> None:
    shutil.copytree(toy_run.folder, tmp_path / "run")
    config = (tmp_path / "run" / "config.yaml").read_text()
    dataset = toy_run.recipe.dataset
    (tmp_path / "run" / "config.yaml").write_text(config.replace(dataset, "/gone"))
    error = cli("inspect", "run").error
    assert error.startswith("run was trained on the dataset /gone, and /gone holds no dataset (no manifest.json)")
    assert cli("inspect", "run", "--data", dataset, "--rows", "10").code == 0
    shutil.rmtree(tmp_path / "run" / "best")
    assert "model.safetensors: missing, and the run is finished" in cli("inspect", "run", "--out", "x").error
    (tmp_path / "run" / "result.json").unlink()
    assert "has no best weights yet; continue it with" in cli("inspect", "run", "--out", "x").error
    assert "nothing is not a run folder" in cli("inspect", "nothing").error
