"""Bundles: written, checked and opened again, and refused where anything in them was changed."""

from __future__ import annotations

import json
import pickle
import shutil
import threading
import zipfile
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from export_cases import exported, toy_requests
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from tiny import tiny_recipe
from toy import toy_frames

from unimixer.bundles import ExportOptions, export_run, open_bundle
from unimixer.bundles.kernel_runner import KernelRunner
from unimixer.bundles.manifest import NAME, version_of, write_manifest
from unimixer.bundles.steps_file import STEPS
from unimixer.data.dataset import Dataset
from unimixer.data.raw.tables import Chunk
from unimixer.errors import UnimixerError
from unimixer.features.batch import Batch
from unimixer.features.request import Request
from unimixer.ops.native import scoring
from unimixer.predictor import Predictor
from unimixer.training.model import compiler, load_ranker
from unimixer.training.run import RunFolder
from unimixer.training.train import train

Change = Callable[[dict[str, Any]], None]
LOG = toy_frames()[0]
needs_kernels = pytest.mark.skipif(scoring.library() is None, reason="no C compiler builds the kernels here")
COMPILED = pytest.param(
    "aoti",
    marks=[
        pytest.mark.slow,
        pytest.mark.skipif(compiler() is None, reason="no C++ compiler: AOTInductor cannot run"),
    ],
)


@pytest.fixture(scope="session")
def runs(toy_run: RunFolder, toy_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], RunFolder]:
    """The run of each format, trained when first asked for; a compiled graph has target attention as well."""

    @cache
    def of(form: str) -> RunFolder:
        if form != "aoti":
            return toy_run
        recipe = tiny_recipe(toy_folder, "model.sequence_encoder=target_attention", "training.max_steps=2")
        return train(recipe, folder=tmp_path_factory.mktemp("attention") / "run", quiet=True)

    return of


@pytest.fixture(scope="session")
def folders(runs: Callable[[str], RunFolder], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A bundle of each format, written when first asked for; tests must not change it."""
    place = tmp_path_factory.mktemp("bundles")

    def of(form: str) -> Path:
        if not (place / form).exists():
            write = export_run if form == "aoti" else exported
            write(runs(form).folder, place / form, ExportOptions(format=form, largest=50))
        return place / form

    return of


@pytest.fixture
def bundle(folders: Callable[[str], Path], tmp_path: Path) -> Path:
    """A copy of the ONNX bundle."""
    return shutil.copytree(folders("onnx"), tmp_path / "bundle")


def rows_of(user: str, items: list[str]) -> pl.DataFrame:
    """Impressions that one user would see at one moment."""
    first = LOG.tail(1)
    rows = pl.concat([first] * len(items))
    return rows.with_columns(pl.lit(user).alias("user_id"), pl.Series("item_id", items))


@pytest.mark.parametrize("form", ["onnx", "pt2", COMPILED])
def test_a_bundle_scores_raw_rows_as_the_predictor_does(
    folders: Callable[[str], Path], runs: Callable[[str], RunFolder], form: str
) -> None:
    opened, run = open_bundle(folders(form), threads=1), runs(form)
    predictor, items = Predictor(run.folder, device="cpu"), [f"i{i}" for i in range(30)]
    for user, shown in (("u3", items), ("u0", items[:1]), ("nobody", ["i1", "nothing"]), ("u5", items * 40)):
        rows = rows_of(user, shown)
        request = Request.of(run.transform.raw_batch(Chunk(rows, "rows")), opened.layout)
        scores, expected = opened.score(request), predictor.scores(Chunk(rows, "rows")).to_numpy()
        assert scores.shape == (len(shown), 2)
        np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-5)
        np.testing.assert_allclose(scores, 1 / (1 + np.exp(-opened.logits(request))), rtol=0, atol=1e-6)


@pytest.mark.parametrize("form", ["onnx", "pt2", COMPILED])
def test_a_bundle_scores_requests_without_history_or_values_as_the_model_does(
    folders: Callable[[str], Path], runs: Callable[[str], RunFolder], toy_dataset: Dataset, form: str
) -> None:
    opened, model = open_bundle(folders(form), threads=1), load_ranker(runs(form))
    for request in toy_requests(toy_dataset)[1]:
        with torch.no_grad():
            expected = model(request.batch()).sigmoid()
        np.testing.assert_allclose(opened.score(request), expected, rtol=0, atol=1e-5)


@needs_kernels
def test_kernels_score_a_bundle_as_its_graph_does(bundle: Path) -> None:
    opened, graph = open_bundle(bundle, threads=1), open_bundle(bundle, threads=1, kernels=False)
    assert (opened.scored_by, graph.scored_by) == ("kernels", "onnx")
    for request, expected in opened.held_out():
        np.testing.assert_allclose(opened.score(request), graph.score(request), rtol=0, atol=2e-6)
        np.testing.assert_allclose(opened.logits(request), expected, rtol=1e-5, atol=1e-5)


@needs_kernels
def test_kernels_that_give_other_scores_are_not_used(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(KernelRunner, "__call__", lambda _, tensors: (np.zeros((64, 2)), np.zeros((64, 2))))
    assert open_bundle(bundle, threads=1).scored_by == "onnx"
    assert "by the C kernels of this machine a probability of its held-out requests moves by" in capsys.readouterr().err


@needs_kernels
def test_steps_that_do_not_fit_are_refused(bundle: Path) -> None:
    tensors, path = load_file(bundle / STEPS), bundle / STEPS
    with safe_open(path, framework="np") as file:
        facts = file.metadata()

    def written(facts: dict[str, str]) -> Path:
        save_file(tensors, path, metadata=facts)
        manifest = json.loads((bundle / NAME).read_text())
        (bundle / NAME).unlink()
        write_manifest(bundle, {k: v for k, v in manifest.items() if k not in ("format", "version", "files")})
        return bundle

    other = json.loads(facts["steps"]) | {"format": 99}
    assert open_bundle(written({"steps": json.dumps(other)})).scored_by == "onnx"
    tensors["candidates"][0, 1] = 2**40  # a row far beyond the others
    with pytest.raises(UnimixerError, match=r"steps\.safetensors: not the steps of this bundle \(.*\); export the run"):
        open_bundle(written(facts))


def test_a_bundle_without_kernels_is_scored_by_its_graph(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "library", lambda: None)
    assert open_bundle(bundle).scored_by == "onnx"


@pytest.mark.parametrize("form", ["onnx", "pt2", COMPILED])
def test_a_bundle_knows_what_it_is_and_proves_itself(folders: Callable[[str], Path], form: str) -> None:
    opened = open_bundle(folders(form), threads=1)
    assert (opened.format, opened.tasks) == (form, ("is_click", "long_view"))
    assert len(opened.version) == 16
    assert opened.manifest["held_out"] == {"from": "test"}
    assert len(opened.held_out()) >= 2
    assert opened.parity() < 1e-5
    cases = opened.manifest["parity"]["cases"]
    assert set(cases) == {
        "held out",
        "one and two candidates",
        "50 candidates",
        "empty sequences",
        "unknown ids",
        "missing values",
    }
    assert all(case["probability"] <= 1e-5 for case in cases.values())


def test_the_same_run_gives_the_same_version(
    folders: Callable[[str], Path], toy_run: RunFolder, tmp_path: Path
) -> None:
    again = export_run(toy_run.folder, tmp_path / "again", ExportOptions(largest=50))
    assert again.version == open_bundle(folders("onnx")).version


def test_an_onnx_bundle_unpickles_nothing(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("something was unpickled")

    for name in ("load", "loads", "Unpickler", "_Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    monkeypatch.setattr(torch, "load", refuse)
    opened = open_bundle(bundle)
    assert opened.parity() < 1e-5


def test_an_archive_is_loaded_without_the_unpickler(
    folders: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("something was unpickled")

    folder = folders("pt2")
    for name in ("load", "loads"):
        monkeypatch.setattr(pickle, name, refuse)
    monkeypatch.setattr(torch, "load", refuse)
    assert open_bundle(folder).parity() < 1e-5


def test_the_transform_of_a_bundle_has_vocabularies_and_no_tables(bundle: Path, toy_run: RunFolder) -> None:
    opened, rows = open_bundle(bundle), rows_of("u5", ["i1", "i2"])
    found, full = (
        Request.of(transform.raw_batch(Chunk(rows, "rows")), opened.layout)
        for transform in (opened.transform, toy_run.transform)
    )
    assert torch.equal(found.user.sparse_ids[:, 0], full.user.sparse_ids[:, 0])  # keys stand in the rows
    assert full.user.dense_features.isfinite().all()
    assert found.user.dense_features.isnan().all()
    assert sum(map(len, full.user.sequence_values.values())) > 0
    assert sum(map(len, found.user.sequence_values.values())) == 0
    assert np.isfinite(opened.score(found)).all()


def test_threads_score_at_once(bundle: Path) -> None:
    opened = open_bundle(bundle, threads=1)
    requests = [request for request, _ in opened.held_out()]
    expected, found = [opened.score(request) for request in requests], {}

    def work(number: int) -> None:
        found[number] = [opened.score(request) for request in requests * 5]

    workers = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(found) == 4
    assert all(np.array_equal(a, b) for scores in found.values() for a, b in zip(scores, expected * 5, strict=True))


def test_no_candidates_have_no_scores(bundle: Path) -> None:
    opened = open_bundle(bundle)
    user = opened.held_out()[0][0].user
    nobody = Batch(torch.zeros(0, 4, dtype=torch.int32), torch.zeros(0, 6), {}, {})
    assert opened.score(Request(user, nobody)).shape == (0, 2)


def _id(request: Request, value: int) -> Request:
    ids = request.candidates.sparse_ids.clone()
    ids[1, 0] = value
    return replace(request, candidates=replace(request.candidates, sparse_ids=ids))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda r: _id(r, 10**6),
            r"candidates\.sparse_ids, column 0: id 1000000 is out of range, its table has rows 0 to \d+",
        ),
        (lambda r: _id(r, -1), r"candidates\.sparse_ids, column 0: id -1 is out of range"),
        (lambda r: replace(r, user=r.candidates), "the request lacks"),
        (
            lambda r: replace(r, candidates=replace(r.candidates, dense_features=r.candidates.dense_features[:, 1:])),
            r"candidates\.dense_features is torch\.float32 of shape .*, expected torch\.float32 of shape",
        ),
        (
            lambda r: replace(r, candidates=replace(r.candidates, sparse_ids=r.candidates.sparse_ids.long())),
            r"candidates\.sparse_ids is torch\.int64",
        ),
        (
            lambda r: replace(
                r, user=replace(r.user, sequence_values={**r.user.sequence_values, "clicks": torch.ones(9, 2).int()})
            ),
            "clicks.sequence_values has 9 events, the model reads at most 5",
        ),
        (
            lambda r: replace(
                r,
                candidates=replace(
                    r.candidates, sequence_offsets={k: v.flip(0) for k, v in r.candidates.sequence_offsets.items()}
                ),
            ),
            r"words\.sequence_offsets must rise from 0 to the number of values",
        ),
    ],
)
def test_a_request_of_another_layout_is_one_sentence(
    folders: Callable[[str], Path], change: Callable[[Request], Request], sentence: str
) -> None:
    opened = open_bundle(folders("onnx"))
    with pytest.raises(UnimixerError, match=sentence):
        opened.score(change(opened.held_out()[0][0]))


def files_of(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_every_file_is_watched(bundle: Path) -> None:
    names = [name for name in files_of(bundle) if name != NAME]
    assert {"model.onnx", "held_out.safetensors"} < set(names)
    for name in names:
        path = bundle / name
        content = path.read_bytes()
        path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
        with pytest.raises(UnimixerError, match="changed after it was written"):
            open_bundle(bundle)
        path.write_bytes(content[:-1])
        with pytest.raises(UnimixerError, match="truncated or changed; export the run again"):
            open_bundle(bundle)
        path.unlink()
        with pytest.raises(UnimixerError, match=f"{name} is missing"):
            open_bundle(bundle)
        path.write_bytes(content)
    assert open_bundle(bundle).parity() < 1e-5


def _named(manifest: dict[str, Any], name: str) -> None:
    manifest["files"][name] = next(iter(manifest["files"].values()))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda m: m.update(format=1), "format 1, this version reads 2"),
        (lambda m: _named(m, "../model.onnx"), "'../model.onnx' is not a file inside the bundle"),
        (lambda m: _named(m, "/etc/passwd"), "'/etc/passwd' is not a file inside the bundle"),
        (lambda m: _named(m, ""), "'' is not a file inside the bundle"),
        (lambda m: m["graph"].update(file="../other.onnx"), "its graph '../other.onnx' is not among its files"),
        (lambda m: m["graph"].update(format="pickle"), "graph format 'pickle' is none of onnx, pt2, aoti"),
        (lambda m: m.pop("layout"), "its manifest lacks 'layout'"),
        (lambda m: m.pop("files"), "damaged"),
    ],
)
def test_a_manifest_that_leads_elsewhere_is_refused(bundle: Path, change: Change, sentence: str) -> None:
    manifest = json.loads((bundle / NAME).read_text())
    change(manifest)
    manifest["version"] = version_of(manifest)  # as someone would who knows how
    (bundle / NAME).write_text(json.dumps(manifest))
    with pytest.raises(UnimixerError, match=sentence):
        open_bundle(bundle)


def test_a_careless_change_of_the_manifest_is_noticed(bundle: Path) -> None:
    text = (bundle / NAME).read_text()
    (bundle / NAME).write_text(text.replace('"is_click"', '"is_clock"'))
    with pytest.raises(UnimixerError, match="its hash differs"):
        open_bundle(bundle)
    (bundle / NAME).write_text(text[: len(text) // 2])
    with pytest.raises(UnimixerError, match="damaged"):
        open_bundle(bundle)
    (bundle / NAME).unlink()
    with pytest.raises(UnimixerError, match=r"is not a bundle \(no manifest\.json\); make one with: unimixer export"):
        open_bundle(bundle)


def test_a_pickle_in_a_verified_archive_is_refused(folders: Callable[[str], Path], tmp_path: Path) -> None:
    folder = shutil.copytree(folders("pt2"), tmp_path / "bundle")
    values = {k: v for k, v in json.loads((folder / NAME).read_text()).items() if k not in ("files", "version")}
    (folder / NAME).unlink()
    with zipfile.ZipFile(folder / "model.pt2", "a") as archive:
        archive.writestr("model/data/weights/model.pt", pickle.dumps(print))
    write_manifest(folder, values)
    with pytest.raises(UnimixerError, match="may be a pickle, and nothing is unpickled here"):
        open_bundle(folder)
