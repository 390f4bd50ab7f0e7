"""``unimixer export``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from unimixer.bundles import ExportOptions, export_delta, export_run
from unimixer.cli.output import Data, Harden, Json, Run, emit, table, takes


@dataclass(frozen=True)
class BundleOptions:
    """Choose the run to export and the form of its bundle."""

    run: Run
    out: Annotated[Path, typer.Option("--out", help="Folder of the bundle, or of the delta.")]
    delta: Annotated[
        Path | None, typer.Option("--delta", help="Write what differs from this bundle, for unimixer bundle apply.")
    ] = None
    form: Annotated[str, typer.Option("--format", help="onnx, pt2 or aoti.")] = "onnx"
    harden: Harden = None
    precision: Annotated[str, typer.Option("--precision", help="float32, float16 or int8.")] = "float32"
    layout: Annotated[str | None, typer.Option("--layout", help="triton: also a model folder of Triton.")] = None
    external_data: Annotated[
        bool | None,
        typer.Option(
            "--external-data/--no-external-data", help="Weights beside the ONNX graph (default: from 1.5 GB)."
        ),
    ] = None
    data: Data = None
    auc_rows: Annotated[int, typer.Option("--auc-rows", help="Held-out rows for AUC before and after.")] = 20_000
    largest: Annotated[int, typer.Option("--largest", help="Candidates of the largest request of the check.")] = 2_000
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier bundle.")] = False
    as_json: Json = False


@takes(BundleOptions)
def export(options: BundleOptions) -> None:
    """Write a run as a bundle for serving: graph, weights, schema, vocabularies, checksums, held-out requests.

    The written graph is compared with the model before the bundle gets its name.

    Examples: unimixer export RUN --out bundle · unimixer export RUN --out small --precision int8 --harden top-4
    · unimixer export RUN --delta bundle --out delta
    """
    form = ExportOptions(
        options.form,
        options.harden,
        options.precision,
        options.layout,
        options.external_data,
        options.auc_rows,
        options.largest,
    )
    run, out, data, again = options.run, options.out, options.data, options.overwrite
    facts: dict[str, Any] = {}
    if options.delta is None:
        manifest = export_run(run, out, form, dataset=data, overwrite=again).manifest
    else:
        written = export_delta(run, options.delta, out, form, dataset=data, overwrite=again)
        manifest = written["result"]
        facts = {"follows": written["follows"], "delta_bytes": _bytes(written["files"]), "changed": written["changed"]}
    size, file = _bytes(manifest["files"]), manifest["graph"]["file"]
    graph = _bytes({name: entry for name, entry in manifest["files"].items() if name.startswith(file)})

    def show() -> None:
        parity = manifest["parity"]
        rows = [_case(kind, difference) for kind, difference in parity["cases"].items()]
        table(f"difference from the model, tolerance {parity['tolerance']:.0e}", CASES, rows)
        if manifest["quality"]:
            table("AUC before and after", QUALITY, [_quality(task, q) for task, q in manifest["quality"].items()])
        whole = f"version {manifest['version']}, {size / 1e6:.1f} MB, graph {graph / 1e6:.1f} MB ({options.form})"
        if facts:
            share = f"{facts['delta_bytes'] / 1e6:.1f} MB, {facts['delta_bytes'] / size:.1%} of the bundle"
            whole = f"{share}; {options.delta} and this delta make {whole}"
        print(f"{options.out}: {whole}")

    values = {key: manifest[key] for key in ("version", "tasks", "graph", "parity", "quality", "held_out")}
    values = {"out": str(options.out), "bytes": size, "graph_bytes": graph, **facts, **values}
    emit(values, options.as_json, show)


def _bytes(files: dict[str, Any]) -> int:
    return sum(entry["bytes"] for entry in files.values())


CASES = ("requests", "number", "candidates", "logit", "probability")
QUALITY = ("task", "before", "after", "change", "rows")


def _case(kind: str, case: dict[str, Any]) -> tuple[object, ...]:
    return kind, case["requests"], case["candidates"], f"{case['logit']:.1e}", f"{case['probability']:.1e}"


def _quality(task: str, auc: dict[str, Any]) -> tuple[object, ...]:
    before, after = auc["before"], auc["after"]
    return task, f"{before:.5f}", f"{after:.5f}", f"{after - before:+.5f}", f"{auc['rows']:,} of {auc['split']}"
