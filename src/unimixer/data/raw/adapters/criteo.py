"""Criteo display advertising: ``train.txt`` of the Kaggle challenge, 45.8 million impressions of a week.

Tab-separated without a header: the label, 13 counts, 26 categorical values that were hashed by the publisher. There is
no time column: the rows are in the order of time, so the split is by their position.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from pydantic import PositiveInt

from unimixer.data.file_settings import Files
from unimixer.data.label_settings import Label
from unimixer.data.raw.adapters.base import categorical, locate, parse_options
from unimixer.data.raw.folders import find_file
from unimixer.data.raw.readers import read_chunks
from unimixer.data.raw.tables import RawTables
from unimixer.data.schema import Feature, Schema, Vocabulary
from unimixer.data.split_settings import QuantileSplit
from unimixer.errors import UnimixerError
from unimixer.settings import Settings

SOURCE = "criteo"
FILES = ("train.txt", "train.txt.gz")
COUNTS = tuple(f"I{i}" for i in range(1, 14))
CATEGORIES = tuple(f"C{i}" for i in range(1, 27))
COLUMNS = ("label", *COUNTS, *CATEGORIES)


class Options(Settings):
    """Options for reading Criteo."""

    min_count: PositiveInt = 10
    """Values seen fewer times in the training part become out-of-vocabulary."""
    hash_buckets: PositiveInt | None = None
    """Hash every categorical column into this many rows, instead of counting its values."""
    validation: float = 0.8
    """Share of the rows before the validation part."""
    test: float = 0.9
    """Share of the rows before the test part."""


def load(raw: Path | None, **options: Any) -> RawTables:
    """Open Criteo; ``options`` are the fields of :class:`Options`."""
    chosen = parse_options(Options, SOURCE, options)
    if not chosen.validation < chosen.test:
        raise UnimixerError(f"{SOURCE}: validation={chosen.validation} must be less than test={chosen.test}")
    folder = locate(raw, FILES, "the Criteo training file", source=SOURCE)
    logs = [find_file(folder, FILES, "the Criteo training file")]
    if chosen.hash_buckets is None:
        vocabulary = Vocabulary(min_count=chosen.min_count)
    else:
        vocabulary = Vocabulary(policy="hash", num_buckets=chosen.hash_buckets)
    schema = Schema(
        name=SOURCE,
        files=Files(separator="\t", header=COLUMNS, quote=""),
        labels=(Label(name="click", source="label"),),
        split=QuantileSplit(validation=chosen.validation, test=chosen.test),
        features=(
            *(Feature(name=c, kind="numeric", domain="context", transform="log_standardise") for c in COUNTS),
            *(categorical(c, "context", vocabulary) for c in CATEGORIES),
        ),
    )
    return RawTables(schema, partial(read_chunks, logs, files=schema.files), files=tuple(logs))
