"""The splits of the BARS benchmark (Zhu et al., SIGIR 2022): ``train.csv``, ``valid.csv`` and ``test.csv``.

Criteo_x1, Criteo_x4, Avazu_x1, Avazu_x4 and MovielensLatest_x1 were cut at random, TaobaoAd_x1 by time, KuaiVideo_x1
as the paper did that published it. The last two have no ``valid.csv``, and BARS itself validates on their test part;
here a share of the training rows validates, so that nothing is chosen on the rows that judge.

The visual vectors of KuaiVideo_x1, ``item_visual_emb_dim64.h5``, are read with ``embeddings=true``, which needs h5py.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import Field as Bounded
from pydantic import PositiveInt

from unimixer.data.label_settings import Label
from unimixer.data.raw.adapters.avazu import CONTEXT_FIELDS, DEVICE_FIELDS, PLACE_FIELDS
from unimixer.data.raw.adapters.base import Domain, calendar, categorical, locate, parse_options
from unimixer.data.raw.adapters.criteo import CATEGORIES, COUNTS
from unimixer.data.raw.folders import find_file
from unimixer.data.raw.readers import read_chunks
from unimixer.data.raw.tables import Chunk, RawTables
from unimixer.data.schema import SPLITS, Feature, Keys, Schema, Vocabulary
from unimixer.data.split_settings import ColumnSplit
from unimixer.errors import UnimixerError
from unimixer.progress import note
from unimixer.settings import Settings

PART = "part"
"""Column that names the part of a row; no published file has it."""
FILES = dict(zip(SPLITS, ("train.csv", "valid.csv", "test.csv"), strict=True))
VECTORS, VECTOR_WIDTH = "item_visual_emb_dim64.h5", 64
USER_FIELDS = (
    *("userid", "cms_segid", "cms_group_id", "final_gender_code", "age_level", "pvalue_level", "shopping_level"),
    *("occupation", "new_user_class_level"),
)
AD_FIELDS = ("adgroup_id", "cate_id", "campaign_id", "customer", "brand")


class Options(Settings):
    """Options for reading a split of BARS."""

    min_count: PositiveInt | None = None
    """Values seen fewer times in the training part become out-of-vocabulary (default: the threshold of BARS)."""
    validation: float | None = Bounded(default=None, gt=0, lt=1)
    """Share of the training rows that validate, for splits without ``valid.csv`` (default: 0.1)."""
    embeddings: bool | None = None
    """Read the visual vectors of the items (KuaiVideo_x1 alone)."""


@dataclass(frozen=True)
class Benchmark:
    """The columns of one split of BARS."""

    label: Label
    features: Callable[[Vocabulary], tuple[Feature, ...]]
    min_count: int
    keys: Keys = field(default_factory=Keys)
    has_validation: bool = True


def _fields(domain: Domain, names: Sequence[str]) -> Callable[[Vocabulary], tuple[Feature, ...]]:
    return lambda known: tuple(categorical(name, domain, known) for name in names)


def _criteo(transform: str) -> Callable[[Vocabulary], tuple[Feature, ...]]:
    counts = tuple(
        Feature.model_validate({"name": name, "kind": "numeric", "domain": "context", "transform": transform})
        for name in COUNTS
    )
    return lambda known: (*counts, *_fields("context", CATEGORIES)(known))


def _avazu_x4(known: Vocabulary) -> tuple[Feature, ...]:
    context = _fields("context", (*CONTEXT_FIELDS, *PLACE_FIELDS))
    return (*_fields("user", DEVICE_FIELDS)(known), *context(known), *calendar("time"))


def _sequence(name: str, table: str, known: Vocabulary, max_length: int) -> Feature:
    """Return a published history: values with ``^`` between them."""
    return Feature(
        name=name,
        kind="sequence",
        domain="context",
        table=table,
        vocabulary=known,
        separator="^",
        max_length=max_length,
    )


def _kuaivideo(known: Vocabulary) -> tuple[Feature, ...]:
    ids = (categorical("user_id", "user", known), categorical("item_id", "item", known))
    return (*ids, *(_sequence(name, "item_id", known, 100) for name in ("pos_items", "neg_items")))


def _taobaoad(known: Vocabulary) -> tuple[Feature, ...]:
    return (
        *_fields("user", USER_FIELDS)(known),
        *_fields("item", AD_FIELDS)(known),
        Feature(name="price", kind="numeric", domain="item", transform="log_standardise"),
        categorical("pid", "context", known),
        _sequence("cate_his", "cate_id", known, 50),
        _sequence("brand_his", "brand", known, 50),
        _sequence("btag_his", "btag_his", known, 50),
    )


BENCHMARKS = {
    "criteo-x1": Benchmark(Label(name="click", source="label"), _criteo("none"), min_count=1),
    "criteo-x4": Benchmark(Label(name="click", source="Label"), _criteo("log_standardise"), min_count=10),
    "avazu-x1": Benchmark(
        Label(name="click", source="label"), _fields("context", [f"feat_{i}" for i in range(1, 23)]), min_count=1
    ),
    "avazu-x4": Benchmark(
        Label(name="click"),
        _avazu_x4,
        min_count=2,
        keys=Keys(time="time", time_format="%y%m%d%H%M"),
    ),
    # its page does not say how a tag that was not assigned is written: 0 or -1
    "movielenslatest-x1": Benchmark(
        Label(name="tagged", source="label", threshold=1),
        lambda known: (categorical("user_id", "user", known), *_fields("item", ("item_id", "tag_id"))(known)),
        min_count=1,
        keys=Keys(user="user_id"),
    ),
    "kuaivideo-x1": Benchmark(
        Label(name="is_click"),
        _kuaivideo,
        min_count=10,
        keys=Keys(user="user_id", item="item_id"),
        has_validation=False,
    ),
    "taobaoad-x1": Benchmark(
        Label(name="clk"), _taobaoad, min_count=10, keys=Keys(user="userid", item="adgroup_id"), has_validation=False
    ),
}


def load(source: str, raw: Path | None, **options: Any) -> RawTables:
    """Open a split of BARS, a name in :data:`BENCHMARKS`; ``options`` are the fields of :class:`Options`."""
    chosen, benchmark = parse_options(Options, source, options), BENCHMARKS[source]
    if benchmark.has_validation and chosen.validation is not None:
        raise UnimixerError(f"{source}: validation={chosen.validation}, but its valid.csv validates; drop the option")
    folder = locate(raw, FILES["train"], f"train.csv and test.csv of {source}", source=source)
    present = [name for name in SPLITS if benchmark.has_validation or name != "validation"]
    files = {name: find_file(folder, FILES[name], f"the {name} part of {source}") for name in present}
    known = Vocabulary(min_count=chosen.min_count or benchmark.min_count)
    items, vectors = _visual(source, folder, embeddings=chosen.embeddings)
    schema = Schema(
        name=source,
        keys=benchmark.keys,
        labels=(benchmark.label,),
        split=ColumnSplit(column=PART, validation=None if benchmark.has_validation else chosen.validation or 0.1),
        features=(*benchmark.features(known), *vectors),
    )
    columns = [*schema.needed_columns(outcomes=True), *(feature.column for feature in benchmark.features(known))]
    published = dict.fromkeys("hour" if name == "time" else name for name in columns if name != PART)
    return RawTables(
        schema=schema,
        impressions=partial(_impressions, files, tuple(published)),
        items=items,
        files=tuple(files.values()),
    )


def _impressions(files: dict[str, Path], columns: tuple[str, ...]) -> Iterator[Chunk]:
    for part, path in files.items():
        for chunk in read_chunks([path], columns=columns):
            made = [pl.lit(part).alias(PART)]
            if "hour" in columns:  # Avazu: a time format needs minutes where there are hours
                made.append((pl.col("hour") + "00").alias("time"))
            yield Chunk(chunk.frame.with_columns(made), chunk.source, chunk.first_row)


def _visual(source: str, folder: Path, *, embeddings: bool | None) -> tuple[Chunk | None, tuple[Feature, ...]]:
    """Return the table of the items' visual vectors, and the feature that reads it, if they are asked for."""
    path = folder / VECTORS
    if source != "kuaivideo-x1":
        if embeddings is not None:
            raise UnimixerError(
                f"{source}: embeddings={embeddings}, but only kuaivideo-x1 has vectors; drop the option"
            )
        return None, ()
    if not embeddings:
        if path.exists() and embeddings is None:
            note(f"{path}: not read; embeddings=true reads the visual vectors of the items")
        return None, ()
    try:
        h5py: Any = importlib.import_module("h5py")
    except ModuleNotFoundError:
        raise UnimixerError(f"{path}: vectors in HDF5 need h5py, which is not installed: pip install h5py") from None
    if not path.is_file():
        raise UnimixerError(f"{path}: no such file; drop embeddings=true, or put the published file beside train.csv")
    with h5py.File(path) as stored:
        keys, values = stored["key"][:], stored["value"][:].astype("float32")
    vectors = pl.Series("visual", values, dtype=pl.Array(pl.Float32, VECTOR_WIDTH))
    items = Chunk(pl.DataFrame({"item_id": pl.Series(keys), "visual": vectors}), str(path))
    return items, (Feature(name="visual", kind="embedding", domain="item", width=VECTOR_WIDTH),)


load_criteo_x1 = partial(load, "criteo-x1")
load_criteo_x4 = partial(load, "criteo-x4")
load_avazu_x1 = partial(load, "avazu-x1")
load_avazu_x4 = partial(load, "avazu-x4")
load_movielenslatest_x1 = partial(load, "movielenslatest-x1")
load_kuaivideo_x1 = partial(load, "kuaivideo-x1")
load_taobaoad_x1 = partial(load, "taobaoad-x1")
