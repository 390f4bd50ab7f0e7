"""Writing a bundle: what changes the model is measured, what cannot be written is refused before any work."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from export_cases import exported
from tiny import tiny_recipe

from unimixer.bundles import ExportOptions, export_run, open_bundle
from unimixer.bundles.checks import TOLERANCE, Difference, check, differences
from unimixer.bundles.graph import RequestRanker
from unimixer.bundles.requests import made_batch
from unimixer.bundles.write import held_out_requests, vocabulary_hash
from unimixer.data.encoding.layout import request_layout
from unimixer.data.encoding.transform import Transform
from unimixer.errors import MissingExtraError, UnimixerError
from unimixer.training.run import RunFolder
from unimixer.training.train import train

SMALL: dict[str, Any] = {"largest": 20, "auc_rows": 300}


@pytest.mark.parametrize("form", ["permutation", "top-2"])
def test_hardening_says_what_it_costs(toy_run: RunFolder, tmp_path: Path, form: str) -> None:
    bundle = export_run(toy_run.folder, tmp_path / "hard", ExportOptions(harden=form, **SMALL))
    assert bundle.manifest["graph"]["harden"] == form
    assert bundle.parity() < 1e-5  # of the hardened model, which is the one that was exported
    for quality in bundle.manifest["quality"].values():
        assert quality["rows"] == 300
        assert 0 < quality["before"] < 1
        assert abs(quality["after"] - quality["before"]) < 0.2


@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_lower_precision_stays_within_its_tolerance(toy_run: RunFolder, tmp_path: Path, precision: str) -> None:
    bundle = exported(toy_run.folder, tmp_path / "small", ExportOptions(precision=precision, **SMALL))
    assert 0 < bundle.parity() <= TOLERANCE[precision]
    assert set(bundle.manifest["quality"]) == set(bundle.tasks)
    assert all(abs(q["after"] - q["before"]) < 0.1 for q in bundle.manifest["quality"].values())


def test_a_triton_folder_is_a_bundle_too(toy_run: RunFolder, tmp_path: Path) -> None:
    options = ExportOptions(layout="triton", external_data=True, **SMALL)
    bundle = exported(toy_run.folder, tmp_path / "ranker", options)
    assert {"1/model.onnx", "1/model.onnx.data", "config.pbtxt"} < set(bundle.manifest["files"])
    assert bundle.parity() < 1e-5
    text = (tmp_path / "ranker" / "config.pbtxt").read_text()
    assert text.startswith('backend: "onnxruntime"\nmax_batch_size: 0\ninput [')
    for found in bundle.inputs:
        assert f'name: "{found.name}"' in text
    assert text.count("input [") == len(bundle.inputs)
    assert 'name: "probabilities"\n    data_type: TYPE_FP32\n    dims: [-1, 2]' in text
    session = open_bundle(tmp_path / "ranker", kernels=False)._runner.session  # type: ignore[attr-defined]
    assert {i.name for i in session.get_inputs()} == {found.name for found in bundle.inputs}


def test_without_a_dataset_the_graph_is_checked_on_made_up_rows(toy_folder: Path, tmp_path: Path) -> None:
    dataset = shutil.copytree(toy_folder, tmp_path / "store")
    run = train(tiny_recipe(dataset, "training.max_steps=1"), folder=tmp_path / "run", quiet=True)
    shutil.rmtree(dataset)
    bundle = exported(run.folder, tmp_path / "bundle", ExportOptions(precision="float16", **SMALL))
    assert bundle.manifest["held_out"] == {"from": "made-up rows"}
    assert bundle.manifest["quality"] is None
    assert bundle.parity() <= TOLERANCE["float16"]
    with pytest.raises(UnimixerError, match="store"):
        export_run(run.folder, tmp_path / "other", ExportOptions(**SMALL), dataset=dataset)
    assert not (tmp_path / "other").exists()
    moved = exported(run.folder, tmp_path / "third", ExportOptions(**SMALL), dataset=toy_folder)
    assert moved.manifest["held_out"] == {"from": "test"}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"format": "pickle"}, "'pickle'.*onnx, pt2"),
        ({"precision": "float8"}, "'float8'.*float32, float16"),
        ({"layout": "torchserve"}, "'torchserve'.*triton"),
        ({"format": "pt2", "precision": "int8"}, "precision='int8' is for format 'onnx' alone, not 'pt2'"),
        ({"format": "pt2", "layout": "triton"}, "layout='triton' is for format 'onnx' alone"),
        ({"format": "pt2", "external_data": True}, "external_data=True is for format 'onnx' alone"),
        ({"harden": "soft"}, "form='soft' is not known; use 'permutation' or 'top-K'"),
        ({"largest": 0}, "largest"),
    ],
)
def test_what_does_not_fit_is_one_sentence_and_leaves_nothing(
    toy_run: RunFolder, tmp_path: Path, options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises((UnimixerError, ValueError), match=sentence):
        export_run(toy_run.folder, tmp_path / "bundle", ExportOptions(**options))
    assert list(tmp_path.iterdir()) == []


def test_a_model_without_learned_mixing_cannot_be_hardened(toy_folder: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(
        toy_folder, "model.backbone=rankmixer", "model.options={num_blocks: 1}", "training.max_steps=1"
    )
    run = train(recipe, folder=tmp_path / "run", quiet=True)
    with pytest.raises(UnimixerError, match="is a rankmixer: it has no learned mixing to harden"):
        export_run(run.folder, tmp_path / "bundle", ExportOptions(harden="permutation"))


def test_what_is_there_stays_unless_asked(toy_run: RunFolder, tmp_path: Path) -> None:
    first = exported(toy_run.folder, tmp_path / "bundle", ExportOptions(format="pt2", **SMALL))
    with pytest.raises(UnimixerError, match="exists"):
        export_run(toy_run.folder, tmp_path / "bundle", ExportOptions(**SMALL))
    assert open_bundle(tmp_path / "bundle").version == first.version
    second = exported(toy_run.folder, tmp_path / "bundle", ExportOptions(**SMALL), overwrite=True)
    assert open_bundle(tmp_path / "bundle").version == second.version != first.version


def test_only_a_bundle_is_replaced_by_one(toy_run: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"splits": {}}))
    with pytest.raises(UnimixerError, match="is a prepared dataset, not a bundle, so it is not replaced; choose"):
        export_run(toy_run.folder, tmp_path, overwrite=True)
    assert (tmp_path / "manifest.json").is_file()


def test_a_missing_package_is_named_before_any_work(
    toy_run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"unimixer\[serve\]"):
        export_run(toy_run.folder, tmp_path / "bundle")
    with pytest.raises(UnimixerError, match="is not a run folder"):
        export_run(tmp_path, tmp_path / "bundle", ExportOptions(format="pt2"))


def test_a_graph_with_other_scores_is_not_written(
    toy_run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = RequestRanker.forward

    def wrong(self: RequestRanker, *inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits, _ = plain(self, *inputs)
        return logits + 0.01, (logits + 0.01).sigmoid()

    monkeypatch.setattr(RequestRanker, "forward", wrong)
    with pytest.raises(UnimixerError, match=r"differs from the model by .* the tolerance is 1e-05; nothing was"):
        export_run(toy_run.folder, tmp_path / "bundle", ExportOptions(format="pt2", **SMALL))
    assert list(tmp_path.iterdir()) == []


def test_the_worst_kind_of_request_is_named() -> None:
    good, bad = Difference(1, 1, 0.0, 1e-7), Difference(1, 1, 0.1, 0.02)
    check({"held out": good}, 1e-5)
    with pytest.raises(UnimixerError, match=r"by 0\.02 in a probability \(empty sequences\), the tolerance is 1e-05"):
        check({"held out": good, "empty sequences": bad}, 1e-5)


def test_scores_that_are_no_numbers_are_infinitely_wrong(toy_run: RunFolder) -> None:
    layout = request_layout(toy_run.transform.schema)
    batch = made_batch(toy_run.transform.spec, 8, torch.Generator().manual_seed(0))
    requests = held_out_requests(batch, layout)

    def nothing(_: Any) -> Any:
        return np.full((len(requests[0]), 2), np.nan, np.float32), np.zeros((len(requests[0]), 2), np.float32)

    found = differences(nothing, lambda r: torch.zeros(len(r), 2), {"held out": requests[:1]})
    assert found["held out"].logit == float("inf")


def test_vocabularies_have_a_name(toy_run: RunFolder) -> None:
    transform = toy_run.transform
    assert vocabulary_hash(transform) == vocabulary_hash(Transform.load(toy_run.folder / "transform"))
