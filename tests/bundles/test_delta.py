"""Deltas: a base and what changed make the bundle that a whole export gives, to the last byte."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import polars as pl
import pytest
from export_cases import exported
from onnx import numpy_helper
from tiny import tiny_recipe
from toy import counting, day_tables, tables_of, toy_frames, toy_schema

from unimixer.bundles import ExportOptions, apply_delta, export_delta, open_bundle
from unimixer.bundles.delta import write_delta
from unimixer.data.extend import extend
from unimixer.data.prepare import prepare
from unimixer.errors import UnimixerError
from unimixer.training.model import load_ranker
from unimixer.training.run import RunFolder
from unimixer.training.train import train

LARGEST = 20
FORMS = {
    "onnx": ExportOptions(largest=LARGEST),
    "external": ExportOptions(largest=LARGEST, external_data=True),
    "float16": ExportOptions(largest=LARGEST, precision="float16", auc_rows=100),
    "pt2": ExportOptions(largest=LARGEST, format="pt2"),
}


@pytest.fixture(scope="module")
def next_run(toy_run: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run that goes on from the first one: some ids are new, some gone, and the others have other rows."""
    place = tmp_path_factory.mktemp("next")
    log, users, items = toy_frames(2_400, seed=1)
    renamed = pl.col("item_id").replace({"i7": "j7", "i9": "j9", "i11": "j11"})
    log = log.filter(pl.col("user_id") != "u5").with_columns(renamed)
    prepare(tables_of(toy_schema(), log, users, items.with_columns(renamed)), place / "data")
    recipe = tiny_recipe(place / "data", "training.max_steps=3")
    return train(recipe, folder=place / "run", start_from=toy_run.folder, quiet=True)


@pytest.fixture(scope="module")
def base(toy_run: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The bundle of the first run in each form, written when first asked for; tests must not change it."""
    place = tmp_path_factory.mktemp("bases")

    def of(form: str) -> Path:
        if not (place / form).exists():
            exported(toy_run.folder, place / form, FORMS[form])
        return place / form

    return of


@pytest.fixture(scope="module")
def delta(base: Callable[[str], Path], next_run: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The delta between both runs in ONNX; tests must not change it."""
    folder = tmp_path_factory.mktemp("deltas") / "delta"
    export_delta(next_run.folder, base("onnx"), folder, FORMS["onnx"])
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def whole(next_run: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole export of the second run in ONNX; tests must not change it."""
    folder = tmp_path_factory.mktemp("whole") / "bundle"
    exported(next_run.folder, folder, FORMS["onnx"])
    return folder


def test_base_and_delta_are_the_whole_export(
    base: Callable[[str], Path], delta: Path, whole: Path, tmp_path: Path
) -> None:
    facts, before = json.loads((delta / "manifest.json").read_text()), contents(base("onnx"))
    assert facts["follows"] == open_bundle(base("onnx")).version
    assert facts["base"].keys() == before.keys() - {"manifest.json"}
    assert facts["result"] == json.loads((whole / "manifest.json").read_text())
    assert contents(delta).keys() == {"changes.safetensors", "manifest.json"}
    assert apply_delta(base("onnx"), delta, tmp_path / "made")["version"] == open_bundle(whole).version
    assert contents(tmp_path / "made") == contents(whole)
    assert contents(base("onnx")) == before
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


@pytest.mark.parametrize("form", sorted(FORMS.keys() - {"onnx"}))
def test_every_form_of_a_bundle_comes_out_as_it_was(
    base: Callable[[str], Path], next_run: RunFolder, tmp_path: Path, form: str
) -> None:
    exported(next_run.folder, tmp_path / "whole", FORMS[form])
    (tmp_path / "delta").mkdir()
    write_delta(base(form), tmp_path / "whole", tmp_path / "delta")
    apply_delta(base(form), tmp_path / "delta", tmp_path / "made")
    assert contents(tmp_path / "made") == contents(tmp_path / "whole")


def test_the_counts_at_the_end_of_the_next_day_are_in_the_delta(counting_run: RunFolder, tmp_path: Path) -> None:
    data = shutil.copytree(counting_run.folder.parent / "data", tmp_path / "data")
    exported(counting_run.folder, tmp_path / "base", FORMS["onnx"])
    extend(data, day_tables(4, 5, **counting()))
    run = train(tiny_recipe(data, "training.max_steps=2"), folder=tmp_path / "run", continued=counting_run.folder)
    exported(run.folder, tmp_path / "whole", FORMS["onnx"])
    export_delta(run.folder, tmp_path / "base", tmp_path / "delta", FORMS["onnx"])
    apply_delta(tmp_path / "base", tmp_path / "delta", tmp_path / "made")
    made = contents(tmp_path / "made")
    assert made == contents(tmp_path / "whole")
    assert made["transform/counts.arrow"] != contents(tmp_path / "base")["transform/counts.arrow"]
    assert made["transform/counts.arrow"] == (run.folder / "transform/counts.arrow").read_bytes()


def test_the_vector_of_every_id_follows_its_id(
    base: Callable[[str], Path], delta: Path, toy_run: RunFolder, next_run: RunFolder, tmp_path: Path
) -> None:
    apply_delta(base("onnx"), delta, tmp_path / "made")
    made, trained = open_bundle(tmp_path / "made"), load_ranker(next_run).embedding.tables
    graph = onnx.load(tmp_path / "made" / "model.onnx").graph
    packed = next(t for t in graph.initializer if t.name == "candidates.tables.packed.4.weight")
    weights = numpy_helper.to_array(packed)
    before, after = toy_run.transform.vocabularies["item_id"], made.transform.vocabularies["item_id"]
    old, new = before.texts.to_list(), after.texts.to_list()
    assert {"i7", "i11"} <= set(old) - set(new)
    assert {"j7", "j11"} <= set(new) - set(old)
    assert [text for text in old if text in new] != [text for text in new if text in old]
    for text in new:
        row = int(after.lookup(pl.Series([text]))[0])
        trained_row = int(next_run.transform.vocabularies["item_id"].lookup(pl.Series([text]))[0])
        first = trained.first_row("item_id")
        expected = trained.of_width(4).weight[first + trained_row].detach().numpy()
        assert np.array_equal(weights[first + row], expected)


def test_days_are_applied_one_after_the_other_and_a_base_is_left_to_go_back_to(
    base: Callable[[str], Path], delta: Path, tmp_path: Path
) -> None:
    (tmp_path / "current").symlink_to(base("onnx"))
    apply_delta(tmp_path / "current", delta, tmp_path / "second")
    (tmp_path / "back").mkdir()
    write_delta(tmp_path / "second", base("onnx"), tmp_path / "back")
    apply_delta(tmp_path / "second", tmp_path / "back", tmp_path / "third")
    assert contents(tmp_path / "third") == contents(base("onnx"))
    with pytest.raises(UnimixerError, match=r"follows the bundle of version .* in the order of their days"):
        apply_delta(base("onnx"), tmp_path / "back", tmp_path / "fourth")
    assert not (tmp_path / "fourth").exists()


def test_a_delta_of_another_form_is_refused_before_any_work(base: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(UnimixerError, match="with precision float32, and the delta with precision float16"):
        export_delta("no run", base("onnx"), tmp_path / "delta", FORMS["float16"])
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_and_a_delta_are_not_taken_for_each_other(base: Callable[[str], Path], delta: Path) -> None:
    with pytest.raises(
        UnimixerError, match=r"is a delta of a bundle, not a bundle; make one with: .* unimixer bundle apply"
    ):
        open_bundle(delta)
    with pytest.raises(UnimixerError, match="is a bundle, not a delta of a bundle; make one with: unimixer export"):
        apply_delta(base("onnx"), base("onnx"), delta.parent / "none")


def test_a_result_never_replaces_its_base(base: Callable[[str], Path], delta: Path, tmp_path: Path) -> None:
    first = shutil.copytree(base("onnx"), tmp_path / "first")
    (tmp_path / "current").symlink_to(first)
    before = contents(first)
    for out in (first, tmp_path / "current"):
        with pytest.raises(UnimixerError, match="is what the result is made from, and it stays as it is"):
            export_delta("no run", first, out, FORMS["onnx"], overwrite=True)
        with pytest.raises(UnimixerError, match="is what the result is made from, and it stays as it is"):
            apply_delta(first, delta, out, overwrite=True)
    assert contents(first) == before


def test_damage_is_refused_and_leaves_nothing(base: Callable[[str], Path], delta: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(delta, tmp_path / "broken")
    data = bytearray((broken / "changes.safetensors").read_bytes())
    data[-1] ^= 1
    (broken / "changes.safetensors").write_bytes(data)
    with pytest.raises(UnimixerError, match="changed after it was written"):
        apply_delta(base("onnx"), broken, tmp_path / "made")
    other = shutil.copytree(base("onnx"), tmp_path / "other")
    (other / "model.onnx").write_bytes(b"")
    with pytest.raises(UnimixerError, match="truncated or changed"):
        apply_delta(other, delta, tmp_path / "made")
    assert not (tmp_path / "made").exists()
