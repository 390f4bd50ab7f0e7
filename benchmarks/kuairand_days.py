"""KuaiRand day by day: a model that goes on daily, one that is trained anew daily, and one that is never updated.

    python -m benchmarks.kuairand_days --raw FOLDER --out studies/days --seeds 3

The log is cut into its days. The first two are prepared, every other one is appended, and ``unimixer replay-days``
goes through them with both recipes. Killed, it goes on with the same command. Three seeds take about half an hour on
one core.
"""

from __future__ import annotations

import argparse
import shutil
from dataclasses import replace
from pathlib import Path

import polars as pl
import yaml

from benchmarks.daily_world import call
from unimixer.cli import script
from unimixer.data.prepare import prepare
from unimixer.data.raw.adapters import open_raw
from unimixer.data.split_settings import QuantileSplit

ZONE = "Asia/Shanghai"
SOURCE = "kuairand-pure"
RECIPES = ("unimixer-lite", "rankmixer")
FIRST_DAYS = 2


def cut(raw: Path, folder: Path) -> list[Path]:
    """Write one folder of raw files a day, in the layout of the data set; the first holds two days."""
    log = pl.concat([pl.read_csv(path, infer_schema=False) for path in sorted(raw.rglob("log_standard_*.csv"))])
    moments = pl.from_epoch(pl.col("time_ms").cast(pl.Int64), time_unit="ms").dt.replace_time_zone("UTC")
    log = log.with_columns(day=moments.dt.convert_time_zone(ZONE).dt.date())
    days = sorted(log.get_column("day").unique().to_list())
    first = days[FIRST_DAYS - 1]
    folders = []
    for day in days[FIRST_DAYS - 1 :]:
        day_folder = folder / str(day)
        day_folder.mkdir(parents=True, exist_ok=True)
        part = log.filter(pl.col("day") <= first if day == first else pl.col("day") == day)
        part.drop("day").write_csv(day_folder / f"log_standard_{day}_pure.csv")
        names = ["user_features_pure.csv", "video_features_basic_pure.csv"]
        for path in (*(next(raw.rglob(name)) for name in names), *raw.rglob("user_sequences_until_*.parquet")):
            if day == first or path.suffix == ".csv":  # what users watched before the log is known on the first day
                shutil.copy(path, day_folder / path.name)
        folders.append(day_folder)
    return folders


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--raw", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    chosen = parser.parse_args()
    dataset = chosen.out / "dataset"
    folders = cut(chosen.raw, chosen.out / "raw")
    if not dataset.exists():
        tables = open_raw(SOURCE, folders[0])
        schema = tables.schema.model_copy(update={"split": QuantileSplit()})  # two days are too few for three parts
        prepare(replace(tables, schema=schema), dataset, origin={"source": SOURCE, "options": {}})
    done = len(list((dataset / "days").glob("[0-9]*"))) if (dataset / "days").exists() else 0
    for folder in folders[1 + done :]:
        call("data", "extend", dataset, "--raw", folder)
    recipes = []
    for backbone in RECIPES:
        recipe = {
            "name": backbone,
            "dataset": str(dataset),
            "tasks": {"is_click": 1.0},
            "model": {"backbone": backbone, "dense_params": "200K"},
            "training": {"batch_size": 512},
        }
        recipes.append(chosen.out / f"{backbone}.yaml")
        recipes[-1].write_text(yaml.safe_dump(recipe))
    call("replay-days", *recipes, "--data", dataset, "--out", chosen.out / "replay", "--seeds", chosen.seeds)


if __name__ == "__main__":
    script(main)
