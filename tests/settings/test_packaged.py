"""Recipes and studies that come with the package are found by name, and every one is valid."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_runner import runner

from unimixer.cli import main
from unimixer.errors import UnimixerError
from unimixer.experiments import load_study
from unimixer.settings import find_settings, packaged_files
from unimixer.training.config import load_recipe


@pytest.mark.parametrize("name", packaged_files())
def test_a_packaged_recipe_is_named_as_its_file_and_its_first_line_has_a_command(name: str) -> None:
    assert load_recipe(name).name == name
    first = packaged_files()[name].read_text().splitlines()[0]
    assert first.startswith("# ")
    assert first.endswith(f"unimixer train {name}")


def test_a_packaged_recipe_trains_from_any_folder_with_overrides(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe("kuairand-unimixer-lite", ["training.seed=3"])
    assert (recipe.dataset, recipe.model.backbone, recipe.training.seed) == ("kuairand-pure", "unimixer-lite", 3)
    assert load_study("kuairand-pure").base == "rankmixer"


def test_a_file_of_the_same_name_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    Path("kuairand-dcnv2").write_text("name: mine\ndataset: d\nmodel: {backbone: mlp}\n")
    assert load_recipe("kuairand-dcnv2").name == "mine"


def test_an_unknown_name_lists_the_near_ones_of_its_kind() -> None:
    with pytest.raises(UnimixerError, match=r"^unknown recipe 'kuairand-dcn'; did you mean 'kuairand-dcnv2'\?$"):
        find_settings("kuairand-dcn")
    with pytest.raises(
        UnimixerError,
        match=r"^unknown study 'zzz'; known: avazu, criteo, kuairand-pure, kuairand-recipe, kuairand-wide-winners",
    ):
        find_settings("zzz", "studies")
    assert find_settings("kuairand-dcnv2.yaml") == Path("kuairand-dcnv2.yaml")  # a path is no name


def test_the_list_names_recipes_and_studies(capsys: pytest.CaptureFixture[str]) -> None:
    cli = runner(main, capsys)
    packaged = cli("config", "list", "--json").json["packaged"]
    files = {**packaged_files(), **packaged_files("studies")}
    assert {entry["name"]: entry["file"] for entry in packaged} == {name: str(path) for name, path in files.items()}
    assert all(entry["subject"] for entry in packaged)
    assert [entry["name"] for entry in packaged if entry["kind"] == "recipe"] == sorted(packaged_files())
    assert "DCNv2 on KuaiRand-Pure" in cli("config", "list").out
