"""``unimixer data``: raw files to an dataset."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from unimixer.cli.output import Json, Separator, emit, table, takes
from unimixer.data.dataset import dataset_path, open_dataset
from unimixer.data.describe import describe_dataset
from unimixer.data.extend import HOLD_OUT, open_days
from unimixer.data.extend import extend as append_days
from unimixer.data.prepare import prepare as write_dataset
from unimixer.data.raw.fetch import fetch as download
from unimixer.data.raw.infer import infer_schema
from unimixer.data.raw.origin import open_source
from unimixer.errors import UnimixerError
from unimixer.io import write_text
from unimixer.settings import override, read_changes

app = typer.Typer(
    help="Datasets: download a public log, infer a schema, prepare a log, extend and describe a dataset.",
    no_args_is_help=True,
)


@app.command("init")
def init(
    source: Annotated[
        Path, typer.Option("--from", help="Parquet or CSV with one impression a row: a file or a folder.")
    ],
    options: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="How CSV is read: separator, header, encoding, quote."),
    ] = None,
    separator: Separator = None,
    out: Annotated[Path | None, typer.Option("--out", help="Schema file to write (default: standard output).")] = None,
    as_json: Json = False,
) -> None:
    """Write a commented schema with inferred kinds, to read and correct.

    Example: unimixer data init --from log.parquet --out schema.yaml
    """
    csv_options = override({}, options or []) | ({} if separator is None else {"separator": separator})
    text = infer_schema(source, **csv_options)
    if out is not None:
        if out.exists():
            raise UnimixerError(f"{out} exists; choose another --out")
        write_text(out, text)

    def show() -> None:
        print(text if out is None else f"wrote {out}; read it, then: unimixer data prepare {out} --raw {source}")

    emit({"schema": text, "file": out}, as_json, show)


@dataclass(frozen=True)
class PrepareOptions:
    """Choose the raw data and the dataset to write."""

    source: Annotated[str, typer.Argument(metavar="SCHEMA|NAME", help="A schema file, or the name of a data set.")]
    options: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Options of the data set.")] = (
        None
    )
    raw: Annotated[Path | None, typer.Option("--raw", help="Folder or file with the raw data.")] = None
    out: Annotated[Path | None, typer.Option("--out", help="Dataset to make (default: datasets/NAME).")] = None
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing dataset.")] = False
    workers: Annotated[int, typer.Option("--workers", min=1, help="Processes; the dataset is the same.")] = 1
    ray: Annotated[
        str | None, typer.Option("--ray", help="Workers of a Ray cluster: local, auto, or the address of a head.")
    ] = None
    as_json: Json = False


@app.command("prepare")
@takes(PrepareOptions)
def prepare(options: PrepareOptions) -> None:
    """Fit vocabularies on the training part and write the dataset.

    Examples: unimixer data prepare kuairand-pure --raw KuaiRand-Pure · unimixer data prepare synthetic rows=1000000
    """
    started = time.perf_counter()
    changes = dict(override({}, read_changes(options.options or [], "option", "rows=1000")))
    tables, origin = open_source(options.source, options.raw, changes)
    target = options.out or dataset_path(tables.schema.name)
    dataset = write_dataset(
        tables, target, overwrite=options.overwrite, origin=origin, workers=options.workers, ray=options.ray
    )
    seconds = time.perf_counter() - started
    counts = {split: dataset.summary(split).rows for split in ("train", "validation", "test")}

    def show() -> None:
        rows = ", ".join(f"{count:,} {split}" for split, count in counts.items())
        print(f"{target}: {rows} rows in {seconds:.1f} s")
        for match in dataset.matches:
            print(match)

    facts = {"dataset": str(target), "hash": dataset.hash, "rows": counts, "seconds": round(seconds, 2)}
    emit({**facts, "matches": dataset.manifest["matches"]}, options.as_json, show)


@app.command("extend")
def extend(
    folder: Annotated[Path, typer.Argument(metavar="DATASET", help="A prepared dataset.")],
    raw: Annotated[Path, typer.Option("--raw", help="Folder or file with the raw data of the next day or days.")],
    hold_out: Annotated[
        float, typer.Option("--hold-out", help="Share of the new rows, the last ones, that validates and tests.")
    ] = HOLD_OUT,
    as_json: Json = False,
) -> None:
    """Append the next day to a dataset: new rows, grown vocabularies and histories; what was there stays as it is.

    Example: unimixer data extend datasets/mine --raw logs/2026-01-08
    """
    started = time.perf_counter()
    dataset = open_dataset(str(folder))
    before = dataset.transform.spec.tables
    tables, origin = open_days(dataset, raw)
    dataset = append_days(dataset.folder, tables, origin=origin, hold_out=hold_out)
    day, seconds = dataset.days[-1], round(time.perf_counter() - started, 2)
    rows = {split: summary["rows"] for split, summary in day["splits"].items()}
    new = {name: count - before[name] for name, count in dataset.transform.spec.tables.items()}

    def show() -> None:
        days = " to ".join(dict.fromkeys((day["first"], day["last"])))
        print(f"{dataset.folder}: {days} appended in {seconds:.1f} s: {sum(rows.values()):,} rows")
        print(", ".join(f"{dataset.summary(split).rows:,} {split}" for split in rows) + " rows in all")
        print("new rows of tables: " + (", ".join(f"{name} {n:,}" for name, n in new.items() if n) or "none"))

    facts = {"dataset": str(dataset.folder), "hash": dataset.hash, "first": day["first"], "last": day["last"]}
    emit({**facts, "rows": rows, "new_rows": new, "seconds": seconds}, as_json, show)


@app.command("describe")
def describe(
    folder: Annotated[Path, typer.Argument(metavar="DATASET", help="A prepared dataset.")],
    as_json: Json = False,
) -> None:
    """Show fields, cardinalities, unknown and missing rates, and label rates of every split.

    Example: unimixer data describe datasets/kuairand-pure
    """
    dataset = open_dataset(str(folder))
    facts = describe_dataset(dataset)

    def show() -> None:
        print(f"{facts['name']}  (content {facts['hash']})")
        _show_splits(facts)
        if facts["stream"]:
            print("stream: training draws rows without end; the training part here has only fitted the vocabularies")
        for match in dataset.matches:
            print(match)
        table("fields", list(FIELDS), [[field[key] for key in FIELDS.values()] for field in facts["fields"]], left=5)

    emit(facts, as_json, show)


FIELDS = {
    "field": "field",
    "kind": "kind",
    "domain": "domain",
    "table": "table",
    "form": "form",
    "rows of table": "num_embeddings",
    "missing (train)": "missing",
    "unknown (validation)": "unknown_validation",
    "unknown (test)": "unknown_test",
    "mean length": "mean_length",
}
"""Columns of the table of fields and the facts in them."""


def _show_splits(facts: dict[str, Any]) -> None:
    labels, best = facts["labels"], facts["best_auc"] or {}
    columns = ["split", "rows", "from", "to", *labels, *(f"best AUC {label}" for label in labels if best)]
    rows = []
    for split in facts["splits"]:
        rates = [f"{rate:.4f}" for rate in split["label_rates"]]
        reachable = best.get(split["split"], {})
        aucs = [f"{reachable[label]:.4f}" if label in reachable else "" for label in labels if best]
        rows.append([split["split"], f"{split['rows']:,}", split["from"], split["to"], *rates, *aucs])
    table("splits", columns, rows, left=1)


@app.command("fetch")
def fetch(
    name: Annotated[str, typer.Argument(help="A public data set, for example movielens-1m.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to put it in.")] = Path("data"),
    url: Annotated[str | None, typer.Option("--url", help="A mirror instead of the official address.")] = None,
    as_json: Json = False,
) -> None:
    """Download a public data set from its official address: resumed where it stopped, checked, unpacked.

    Example: unimixer data fetch movielens-1m --out data
    """
    folder = download(name, out, url=url)
    emit(
        {"folder": str(folder)},
        as_json,
        lambda: print(f"{folder}\nnext: unimixer data prepare {name} --raw {folder}", file=sys.stdout),
    )
