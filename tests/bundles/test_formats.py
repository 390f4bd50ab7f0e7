"""Every model as ONNX and as an archive of torch.export, run at any number of candidates and with empty sequences."""

from __future__ import annotations

import json
import pickle
import shutil
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from export_cases import KINDS, build, converted_once, toy_requests
from onnx import numpy_helper

from unimixer.backbones import BACKBONES
from unimixer.bundles.graph import RequestRanker, feed
from unimixer.bundles.onnx_file import write_onnx
from unimixer.bundles.precision import reduce
from unimixer.bundles.program import trace
from unimixer.bundles.pt2_file import check_no_pickle, write_aoti, write_pt2
from unimixer.bundles.runners import FILES, Runner, open_runner
from unimixer.data.dataset import Dataset
from unimixer.errors import MissingExtraError, UnimixerError
from unimixer.features.request import Request
from unimixer.ranker import Ranker


def worst(runner: Runner, graph: RequestRanker, ranker: Ranker, requests: list[Request]) -> float:
    """Largest difference of a probability; logits and probabilities must belong together."""
    found = 0.0
    for request in requests:
        logits, probabilities = runner(feed(graph.inputs, request))
        with torch.no_grad():
            expected = ranker(request.batch())
        assert logits.shape == probabilities.shape == (len(request), 2)
        assert logits.dtype == probabilities.dtype == np.float32
        np.testing.assert_allclose(torch.from_numpy(logits).sigmoid(), probabilities, atol=1e-6)
        found = max(found, float(np.abs(probabilities - expected.sigmoid().numpy()).max()))
    return found


ONE: dict[str, Any] = {"num_blocks": 1}


def shallow(kind: dict[str, Any]) -> dict[str, Any]:
    """The kind with one block: two have the same operations and take twice as long to convert."""
    blocks = "num_blocks" in BACKBONES[kind["backbone"]].options() and kind["backbone"] != "tokenmixer-large"
    return {**kind, "options": {**kind["options"], **ONE}} if blocks else kind


FEW = {
    **{name: shallow(KINDS[name]) for name in BACKBONES},
    "experts, dots": shallow({**KINDS["dots"], "options": {"token_dim": 16, "dots": True, "ffn": "topk-moe"}}),
    **{name: shallow(KINDS[name]) for name in ("rule and attention", "rule and FM")},
}
"""Kinds that differ in what is behind the tokens."""
ALL: dict[str, dict[str, Any]] = {
    "semantic, small transformer": {**KINDS["semantic"], **KINDS["small transformer"], "options": ONE},
    "random, narrow table": {**KINDS["random"], **KINDS["narrow table"], "options": ONE},
    "fields as they are": KINDS["fields as they are"],
    "fields through a layer, managed rows": {
        **KINDS["managed rows"],
        **KINDS["fields through a layer"],
        "options": {"token_dim": 44, **ONE},
    },
    "managed rows of histories as tokens": {**KINDS["managed rows of histories"], "options": ONE},
    "cross-attention": {**KINDS["cross-attention"], "options": ONE},
    "siamese cross-attention, flat read-out": {
        **KINDS["flat read-out"],
        "sequences": "cross_attention",
        "options": {**KINDS["siamese cross-attention"]["options"], **ONE},
    },
    "hyformer cross-attention": shallow(KINDS["hyformer cross-attention"]),
    "bare mixing": {**KINDS["bare mixing"], "options": {**KINDS["bare mixing"]["options"], **ONE}},
}
"""Kinds that differ in what makes the tokens or reads them: together, as far as one ranker has several."""
LONG = {
    *("tokenmixer-large", "rankelastor", "hiformer", "hhft", "dhen", "finalmlp", "masknet", "autoint"),
    *("random, narrow table", "fields through a layer, managed rows", "siamese cross-attention, flat read-out"),
}
"""Kinds whose operations the others have too: writing their files is left to the slow tests."""
CASES = [
    pytest.param(few, options, id=name, marks=[pytest.mark.slow] if name in LONG else [])
    for few, kinds in ((True, FEW), (False, ALL))
    for name, options in kinds.items()
]


@pytest.mark.parametrize(("few", "options"), CASES)
def test_every_model_runs_as_onnx_and_as_an_archive(
    few_with_histories: Dataset, few_features: Dataset, tmp_path: Path, few: bool, options: dict[str, Any]
) -> None:
    dataset = few_features if few else few_with_histories
    ranker = build(dataset.transform.spec, **options)
    layout, requests = toy_requests(dataset)
    graph = RequestRanker(ranker, layout)
    program = trace(graph)
    write_onnx(graph, program, tmp_path / "model.onnx")
    write_pt2(program, tmp_path / "model.pt2")
    for form in ("onnx", "pt2"):
        runner = open_runner(form, tmp_path / FILES[form], graph.inputs, 1)
        assert worst(runner, graph, ranker, requests) < 1e-5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "model.pt2"]


def test_without_a_compiler_one_sentence_says_so(toy_dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    layout, _ = toy_requests(toy_dataset)
    graph = RequestRanker(build(toy_dataset.transform.spec), layout)
    with pytest.raises(UnimixerError, match=r"aoti needs a C\+\+ compiler and none was found; install g\+\+"):
        write_aoti(graph, trace(graph), Path("nowhere"))


@pytest.fixture(scope="module")
def written(toy_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RequestRanker, Ranker]:
    """A written graph with tables worth shrinking, weights inside and beside."""
    folder, dataset = tmp_path_factory.mktemp("graph"), Dataset(toy_folder)
    ranker = build(dataset.transform.spec, sequence_encoder="target_attention", width=64, options=ONE)
    graph = RequestRanker(ranker, toy_requests(dataset)[0])
    program = trace(graph)
    with converted_once():
        for name, external in (("inside", False), ("beside", True)):
            (folder / name).mkdir()
            write_onnx(graph, program, folder / name / "model.onnx", external=external)
    return folder, graph, ranker


@pytest.mark.parametrize("place", ["inside", "beside"])
@pytest.mark.parametrize(("precision", "share", "tolerance"), [("float16", 0.75, 2e-3), ("int8", 0.6, 0.1)])
def test_smaller_weights_move_scores_a_little(
    written: tuple[Path, RequestRanker, Ranker],
    toy_dataset: Dataset,
    tmp_path: Path,
    place: str,
    precision: str,
    share: float,
    tolerance: float,
) -> None:
    folder, graph, ranker = written
    source, target = folder / place, tmp_path / "copy"
    shutil.copytree(source, target)
    reduce(target / "model.onnx", precision, external=place == "beside")
    assert {path.name for path in target.iterdir()} == {path.name for path in source.iterdir()}
    weights = [sum(numpy_helper.to_array(i).nbytes for i in _model(f).graph.initializer) for f in (target, source)]
    assert weights[0] < share * weights[1]
    runner = open_runner("onnx", target / "model.onnx", graph.inputs, 1)
    assert 0 < worst(runner, graph, ranker, toy_requests(toy_dataset)[1]) < tolerance


def _model(folder: Path) -> Any:
    return onnx.load(str(folder / "model.onnx"))


def test_half_precision_tables_are_read_as_they_are(
    written: tuple[Path, RequestRanker, Ranker], tmp_path: Path
) -> None:
    folder, graph, _ = written
    shutil.copytree(folder / "inside", tmp_path / "copy")
    reduce(tmp_path / "copy" / "model.onnx", "float16", external=False)
    model = _model(tmp_path / "copy")
    tables = {i.name for i in model.graph.initializer if list(i.dims) == list(_table(graph).shape)}
    assert tables
    assert {node.op_type for node in model.graph.node if tables & set(node.input)} == {"Gather"}


def _table(graph: RequestRanker) -> torch.Tensor:
    (packed,) = graph.user.tables.packed.values()
    return packed.weight


def test_an_archive_with_a_pickle_inside_is_refused(
    written: tuple[Path, RequestRanker, Ranker], tmp_path: Path
) -> None:
    program = trace(written[1])
    path = tmp_path / "model.pt2"
    torch.export.save(program, path)  # as torch writes it by itself, with example inputs
    with pytest.raises(UnimixerError, match="may be a pickle, and nothing is unpickled here"):
        check_no_pickle(path)
    write_pt2(program, path)
    check_no_pickle(path)
    assert program.example_inputs is not None
    _change(path, tmp_path / "changed.pt2")
    with pytest.raises(UnimixerError, match="may be a pickle"):
        open_runner("pt2", tmp_path / "changed.pt2", written[1].inputs, 1)
    (tmp_path / "text.pt2").write_text("nothing")
    with pytest.raises(UnimixerError, match=r"not an archive of torch\.export"):
        check_no_pickle(tmp_path / "text.pt2")


def _change(source: Path, target: Path) -> None:
    """Let one weight be a pickle that would run code."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for entry in old.infolist():
            content = old.read(entry)
            if entry.filename.endswith("weights_config.json"):
                config = json.loads(content)
                first = next(iter(config["config"].values()))
                first["use_pickle"] = True
                content = json.dumps(config).encode()
            elif entry.filename.endswith("weight_0"):
                content = pickle.dumps(print)
            new.writestr(entry, content)


def test_a_missing_package_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, toy_dataset: Dataset, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    graph = RequestRanker(build(toy_dataset.transform.spec), toy_requests(toy_dataset)[0])
    with pytest.raises(MissingExtraError, match=r"exporting to ONNX needs optional packages: .*unimixer\[serve\]"):
        write_onnx(graph, trace(graph), tmp_path / "model.onnx")
