"""What a bundle was made with: written down, compared when it is opened, and refused with both sides."""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from export_cases import exported as written

from unimixer.bundles import ExportOptions, open_bundle
from unimixer.bundles.manifest import NAME, instructions, made_with, write_manifest
from unimixer.errors import UnimixerError
from unimixer.training.run import RunFolder

HERE = str(torch.__version__)
RELEASE = HERE.partition("+")[0]
MAJOR, MINOR = (int(number) for number in RELEASE.split(".")[:2])


@pytest.fixture(scope="session")
def exported(toy_run: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of either format that needs no compiler; tests must not change it."""
    place = tmp_path_factory.mktemp("bundles")
    written(toy_run.folder, place / "onnx", ExportOptions(external_data=True, largest=5))
    written(toy_run.folder, place / "pt2", ExportOptions(format="pt2", largest=5))
    return place


Change = Callable[[Path, dict[str, Any]], object]


@pytest.fixture
def opened(exported: Path, tmp_path: Path) -> Callable[[str, Change], object]:
    """Open a copy of a bundle that was changed by someone who wrote its manifest again."""

    def change_and_open(form: str, change: Change) -> object:
        folder = shutil.copytree(exported / form, tmp_path / "bundle", dirs_exist_ok=True)
        values = {k: v for k, v in json.loads((folder / NAME).read_text()).items() if k not in ("files", "version")}
        (folder / NAME).unlink()
        change(folder, values)
        write_manifest(folder, values)
        return open_bundle(folder, threads=1)

    return change_and_open


def torch_of(version: str) -> Change:
    return lambda _, m: m["exported"]["versions"].update(torch=version)


def compiled(**exported: Any) -> Change:
    """As a compiled bundle; it is refused, if at all, before its graph is looked at."""

    def change(_: Path, manifest: dict[str, Any]) -> None:
        manifest["graph"]["format"] = "aoti"
        own = {"processor": sorted(instructions())}
        manifest["exported"] = {**manifest["exported"], **own, **exported}

    return change


def test_the_manifest_says_what_the_graph_was_made_with(exported: Path) -> None:
    made = open_bundle(exported / "onnx").manifest["exported"]
    model = onnx.load(str(exported / "onnx" / "model.onnx"), load_external_data=False)
    assert made["opset"] == model.opset_import[0].version
    assert (made["system"], made["machine"]) == (platform.system(), platform.machine())
    assert made["python"] == platform.python_version()
    assert made["versions"]["torch"] == HERE
    assert {"unimixer", "onnx", "onnxruntime"} <= set(made["versions"])
    assert "processor" not in made  # the graph runs on any
    assert made_with("aoti", Path("none"))["processor"] == sorted(instructions())


def test_instructions_are_those_that_a_compiler_may_choose(tmp_path: Path) -> None:
    (tmp_path / "x86").write_text(
        "processor : 0\nflags\t\t: fpu sse2 ht avx2 avx512_vnni nopl amx_tile pni\n\nflags : x\n"
    )
    assert instructions(tmp_path / "x86") == {"sse2", "avx2", "avx512_vnni", "amx_tile", "pni"}
    (tmp_path / "arm").write_text("Features\t: fp asimd sve\n")
    assert instructions(tmp_path / "arm") == {"fp", "asimd", "sve"}
    assert instructions(tmp_path / "none") == {torch.backends.cpu.get_cpu_capability().lower()}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            compiled(versions={"torch": "1.9.1+cpu"}),
            f"compiled for torch 1.9.1+cpu, this is torch {HERE}; export the run again with this torch, or install "
            "torch 1.9.1+cpu",
        ),
        (
            compiled(machine="sparc"),
            f"compiled for {platform.system()} on sparc, this is {platform.system()} on {platform.machine()}; export "
            "the run again on this kind of machine",
        ),
        (compiled(system="Plan9"), f"compiled for Plan9 on {platform.machine()}, this is {platform.system()} on"),
        (compiled(processor=["avx2048", "sse"]), "compiled for a processor with avx2048, and this one has "),
    ],
)
def test_code_for_another_torch_or_processor_is_refused_with_both_sides(
    opened: Callable[[str, Change], object], change: Change, sentence: str
) -> None:
    with pytest.raises(UnimixerError) as refused:
        opened("onnx", change)
    assert sentence in str(refused.value)


def test_code_of_the_same_release_and_a_lesser_processor_gets_past_the_comparison(
    opened: Callable[[str, Change], object],
) -> None:
    fewer = sorted(instructions())[:1]
    with pytest.raises(UnimixerError, match=r"model\.onnx: not an archive of torch\.export"):
        opened("onnx", compiled(versions={"torch": f"{RELEASE}+other"}, processor=fewer))


def test_an_archive_of_a_later_torch_is_refused(opened: Callable[[str, Change], object]) -> None:
    later = f"{MAJOR}.{MINOR + 1}.0"
    sentence = rf"written by torch {later}, and this is torch .*; export the run again with this torch, or install"
    with pytest.raises(UnimixerError, match=sentence):
        opened("pt2", torch_of(later))


def test_an_archive_of_an_earlier_torch_shows_its_scores(
    opened: Callable[[str, Change], object], capsys: pytest.CaptureFixture[str]
) -> None:
    opened("pt2", torch_of(f"{MAJOR - 1}.3.1"))
    assert f"written by torch {MAJOR - 1}.3.1; with torch {HERE} its held-out requests have the same scores" in (
        capsys.readouterr().err
    )

    def stricter(folder: Path, manifest: dict[str, Any]) -> None:
        torch_of(f"{MAJOR - 1}.3.1")(folder, manifest)
        manifest["parity"]["tolerance"] = -1.0

    with pytest.raises(
        UnimixerError, match=r"a probability of its held-out requests moves by .*, more than -1; export"
    ):
        opened("pt2", stricter)


def test_an_archive_of_another_patch_opens_silently(
    opened: Callable[[str, Change], object], capsys: pytest.CaptureFixture[str]
) -> None:
    opened("pt2", torch_of(f"{MAJOR}.{MINOR}.99"))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("form", "change", "unknown"),
    [
        ("onnx", lambda _, m: m.pop("exported"), "opset"),
        ("pt2", lambda _, m: m["exported"].pop("versions"), "torch"),
        ("pt2", lambda _, m: m.update(exported=[1]), "torch"),
    ],
)
def test_a_bundle_that_does_not_say_what_it_was_made_with_is_opened_and_that_is_said(
    opened: Callable[[str, Change], object],
    capsys: pytest.CaptureFixture[str],
    form: str,
    change: Change,
    unknown: str,
) -> None:
    opened(form, change)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(f"does not say for which {unknown} it was made, so that is not checked; export the run again")


# ---- graphs that do not open ---------------------------------------------------------------------------------------


def graph(change: Callable[[onnx.ModelProto], object]) -> Change:
    def changed(folder: Path, _: dict[str, Any]) -> None:
        model = onnx.load(str(folder / "model.onnx"), load_external_data=False)
        change(model)
        (folder / "model.onnx").write_bytes(model.SerializeToString())

    return changed


def content(name: str, change: Callable[[bytes], bytes]) -> Change:
    def changed(folder: Path, _: dict[str, Any]) -> None:
        (folder / name).write_bytes(change((folder / name).read_bytes()))

    return changed


def external(model: onnx.ModelProto) -> onnx.StringStringEntryProto:
    entries = (entry for tensor in model.graph.initializer for entry in tensor.external_data)
    return next(entry for entry in entries if entry.key == "location")


def constant(model: onnx.ModelProto) -> None:
    """A weight inside a node's attribute, out of a file that lies outside."""
    tensor = onnx.TensorProto(name="hidden", data_type=1, dims=[1], data_location=1)
    tensor.external_data.add(key="location", value="../secret")
    model.graph.node.insert(0, onnx.helper.make_node("Constant", [], ["hidden"], value=tensor))


@pytest.mark.parametrize(
    ("form", "change", "sentence"),
    [
        ("onnx", graph(lambda m: setattr(m.opset_import[0], "version", 99)), r"in opset 99, and onnxruntime .* up to"),
        ("onnx", graph(lambda m: setattr(m, "ir_version", 99)), r"in IR version 99, and .* up to \d+;"),
        ("onnx", content("model.onnx", lambda b: b[: len(b) // 2]), r"model\.onnx: .*; export the run again"),
        ("onnx", content("model.onnx", lambda _: b"junk"), r"cannot open it \(Protobuf parsing failed"),
        ("onnx", content("model.onnx", lambda _: b"junk, location"), r"model\.onnx: not a graph of ONNX \("),
        ("onnx", content("model.onnx", lambda _: b""), r"cannot open it \(No graph was found"),
        ("onnx", graph(lambda m: setattr(m.graph.output[0], "name", "no")), r"model\.onnx: .*; export the run again"),
        ("onnx", content("model.onnx.data", lambda b: b[:8]), r"model\.onnx: .*; export the run again"),
        ("pt2", content("model.pt2", lambda b: b[: len(b) // 2]), r"not an archive of torch\.export"),
    ],
)  # fmt: skip
def test_a_damaged_graph_with_right_checksums_is_one_sentence(
    opened: Callable[[str, Change], object], form: str, change: Change, sentence: str
) -> None:
    with pytest.raises(UnimixerError, match=sentence) as refused:
        opened(form, change)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (graph(lambda m: setattr(external(m), "value", "other.data")), "other.data"),
        (graph(lambda m: setattr(external(m), "value", "../../etc/passwd")), "../../etc/passwd"),
        (graph(lambda m: setattr(external(m), "value", "/etc/passwd")), "/etc/passwd"),
        (graph(constant), "../secret"),
    ],
)
def test_weights_that_the_manifest_does_not_list_are_not_read(
    opened: Callable[[str, Change], object], change: Change, name: str
) -> None:
    with pytest.raises(UnimixerError, match=f"bundle: its file of weights '{name}' is not among its files; export the"):
        opened("onnx", change)


@pytest.mark.parametrize("name", ["model.onnx.data", "held_out.safetensors", "transform/transform.json"])
def test_a_file_that_is_read_must_be_listed(
    exported: Path, tmp_path: Path, opened: Callable[[str, Change], object], name: str
) -> None:
    """It lies in the folder, and no checksum tells whether it is the right one."""

    def hide(folder: Path, _: dict[str, Any]) -> None:
        (folder / name).rename(tmp_path / "hidden")

    with pytest.raises(UnimixerError, match=rf"its .* '{name}' is not among its files; export the run again"):
        opened("onnx", hide)
    shutil.copy(exported / "onnx" / name, tmp_path / "bundle" / name)
    with pytest.raises(UnimixerError, match=rf"its .* '{name}' is not among its files; export the run again"):
        open_bundle(tmp_path / "bundle")
