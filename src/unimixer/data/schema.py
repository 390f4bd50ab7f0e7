"""The schema of a log: the meaning of its columns, typed, frozen, written in YAML, without any model choice."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, PositiveInt, SerializerFunctionWrapHandler, model_serializer, model_validator

from unimixer.data.count_settings import Count
from unimixer.data.file_settings import Files
from unimixer.data.label_settings import Label
from unimixer.data.split_settings import ColumnSplit, QuantileSplit, Split
from unimixer.data.time_format import check_form, check_zone
from unimixer.errors import nearest
from unimixer.settings import Settings, load_yaml, parse

Domain = Literal["user", "item", "behaviour", "context"]
Origin = Literal["impressions", "users", "items"]
ORIGIN_OF_DOMAIN: dict[str, Origin] = {"user": "users", "item": "items", "context": "impressions"}

PADDING_ID = 0
"""Row 0 of every embedding table: padding, or a value that is missing."""
OOV_ID = 1
"""Row 1 of every embedding table: a value that the vocabulary does not know."""
FIRST_ID = 2
"""First row that a known value can have."""
MAX_BUCKETS = 2**31 - 1 - FIRST_ID
"""Ids are 32-bit numbers, and so is the number of rows that bounds them."""


class Keys(Settings):
    """Columns of the impression log that name the user, the item and the time."""

    user: str | None = None
    """Column of the user's key; without it there is no UAUC and no history."""
    item: str | None = None
    time: str | None = None
    """Column of the event time; without it the order of the rows is the time."""
    time_format: str = "ms"
    """``s``, ``ms``, ``us``, ``ns`` for epochs, ``iso`` for ISO 8601, or a strptime format such as ``%y%m%d%H``."""
    timezone: str = "UTC"
    """Zone in which days and hours are counted, and in which times stand that carry no zone."""

    @model_validator(mode="after")
    def _time_is_understood(self) -> Keys:
        check_form(self.time_format)
        check_zone(self.timezone)
        return self


class Vocabulary(Settings):
    """The policy that maps values to rows of an embedding table."""

    policy: Literal["vocab", "hash"] = "vocab"
    min_count: PositiveInt = 1
    """Values seen fewer times in the training part become out-of-vocabulary."""
    max_size: PositiveInt | None = None
    """Keep only the most frequent values."""
    num_buckets: PositiveInt | None = Field(default=None, le=MAX_BUCKETS)
    """Number of hash buckets (``policy: hash``); ids are 32-bit numbers."""

    @model_validator(mode="after")
    def _buckets_go_with_hash(self) -> Vocabulary:
        if (self.policy == "hash") != (self.num_buckets is not None):
            raise ValueError("num_buckets goes with policy 'hash', and only with it")
        return self


class Feature(Settings):
    """One input of the model."""

    synonyms: ClassVar[Mapping[str, str]] = {
        "kind": "type dtype",
        "source": "column field",
        "separator": "sep delimiter",
        "max_length": "maxlen max_len",
        "vocabulary": "vocab",
        "vocabulary.max_size": "vocab_size",
        "vocabulary.num_buckets": "buckets hash_size",
        "width": "dim embedding_dim",
        "table": "shared share shared_with embedding_name",
        "missing": "na null na_values",
    }

    name: str
    kind: Literal["categorical", "numeric", "sequence", "embedding"]
    domain: Domain
    source: str | None = None
    """Column that it is read from (default: the name)."""
    origin: Origin | None = None
    """Table of that column (default: users for domain user, items for domain item, else impressions)."""
    table: str | None = None
    """Embedding table; features that name the same one share it (default: the name)."""
    vocabulary: Vocabulary = Vocabulary()
    transform: Literal["none", "log", "standardise", "log_standardise", "bucketise", "hour", "weekday"] = "none"
    """Numeric: log is sign(x) log(1 + |x|); bucketise turns quantiles into ids. Categorical: hour, weekday of time."""
    num_buckets: PositiveInt = 16
    """Number of quantile buckets (``transform: bucketise``)."""
    history: str | None = None
    """Sequence of the user's past items (a name in ``histories``); ``source`` is then a column of the items."""
    separator: str | None = Field(default=None, min_length=1)
    """Sequence column of text: what stands between two values."""
    max_length: PositiveInt = 50
    """Longest sequence that is kept."""
    keep: Literal["last", "first"] = "last"
    """The end of a list column that is kept where the list is longer than ``max_length``."""
    width: PositiveInt | None = None
    """Width of a pretrained vector (``kind: embedding``)."""
    missing: tuple[str, ...] = ("",)
    """Texts that mean a missing value."""

    @property
    def column(self) -> str:
        """The raw column."""
        return self.source or self.name

    @property
    def table_name(self) -> str:
        """The embedding table."""
        return self.table or self.name

    @model_validator(mode="after")
    def _consistent(self) -> Feature:
        numeric = ("log", "standardise", "log_standardise", "bucketise")
        allowed = {"numeric": ("none", *numeric), "categorical": ("none", "hour", "weekday")}.get(self.kind, ("none",))
        if self.transform not in allowed:
            raise ValueError(
                f"feature {self.name!r}: transform {self.transform!r} does not fit kind {self.kind!r}; "
                f"allowed: {', '.join(allowed)}"
            )
        if (self.kind == "embedding") != (self.width is not None):
            raise ValueError(f"feature {self.name!r}: width goes with kind 'embedding', and only with it")
        if self.history is not None and (self.kind != "sequence" or self.domain != "behaviour"):
            raise ValueError(f"feature {self.name!r}: history goes with kind 'sequence' and domain 'behaviour'")
        if self.keep != "last" and (self.kind != "sequence" or self.history is not None):
            raise ValueError(
                f"feature {self.name!r}: keep goes with a list column (kind 'sequence' without a history); "
                "a history keeps its last events"
            )
        if self.domain == "behaviour" and self.history is None:
            raise ValueError(f"feature {self.name!r}: domain 'behaviour' needs the name of a history")
        return self

    @model_serializer(mode="wrap")
    def _without_the_default(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out the usual end of lists, so that the files of older datasets keep their bytes."""
        values: dict[str, Any] = serialize(self)
        return {key: value for key, value in values.items() if (key, value) != ("keep", "last")}


class History(Settings):
    """The items that a user met before an impression, oldest first, strictly earlier than it."""

    name: str
    event: str | None = None
    """Column of the log that must be 1 for an impression to enter, or a label (default: every impression enters)."""
    snapshot: str | None = None
    """List column of the users table with item keys from before the log, oldest first."""
    separator: str | None = Field(default=None, min_length=1)
    """Snapshot of text: what stands between two item keys."""
    max_length: PositiveInt = 50


SPLITS = ("train", "validation", "test")


class Schema(Settings):
    """Everything that turns a raw log into tensors."""

    synonyms: ClassVar[Mapping[str, str]] = {
        "keys.user": "user user_id",
        "keys.item": "item item_id",
        "keys.time": "time timestamp",
        "keys.timezone": "tz",
        "labels": "target label tasks",
        "features": "columns fields",
        "weight": "sample_weight",
        "histories": "history",
    }
    name: str
    files: Files = Files()
    keys: Keys = Keys()
    labels: tuple[Label, ...]
    weight: str | None = None
    """Column of sample weights."""
    split: Split = QuantileSplit()
    histories: tuple[History, ...] = ()
    counts: tuple[Count, ...] = ()
    features: tuple[Feature, ...]

    @model_validator(mode="after")
    def _consistent(self) -> Schema:
        for what, names in (
            ("feature", [f.name for f in self.features]),
            ("label", [label.name for label in self.labels]),
            ("history", [h.name for h in self.histories]),
            ("count", [count.name for count in self.counts]),
        ):
            twice = {n for n in names if names.count(n) > 1}
            if twice:
                raise ValueError(f"{what} {min(twice)!r} is declared twice")
        if not self.labels or not self.features:
            raise ValueError("a schema needs at least one label and one feature")
        histories = [h.name for h in self.histories]
        for feature in self.features:
            if feature.kind == "sequence" and feature.history is None and feature.name in histories:
                raise ValueError(f"feature {feature.name!r} has the name of a history; rename one of them")
            if feature.history is not None and feature.history not in histories:
                raise ValueError(
                    f"feature {feature.name!r}: unknown history {feature.history!r}"
                    f"{nearest(feature.history, histories)}"
                )
        if self.histories and (self.keys.user is None or self.keys.item is None):
            raise ValueError("histories need keys.user and keys.item")
        self._check_counts()
        outcomes = {label.column for label in self.labels}
        for feature in self.features:
            if (
                feature.column in outcomes
                and feature.history is None
                and (feature.origin or "impressions") == "impressions"
            ):
                raise ValueError(
                    f"feature {feature.name!r} reads {feature.column!r}, which is a label: "
                    "an outcome is never a feature"
                )
        if isinstance(self.split, ColumnSplit):
            read = [feature.name for feature in self.features if feature.column == self.split.column]
            if read:
                raise ValueError(f"feature {read[0]!r} reads {self.split.column!r}, which names the parts of the split")
        sampled = [label.name for label in self.labels if label.negative_sampling_rate is not None]
        if len(sampled) > 1:
            raise ValueError(
                f"labels {sampled[0]!r} and {sampled[1]!r} both have negative_sampling_rate: rows are sampled by one "
                "label; leave it with the rarest"
            )
        events = {history.event: f"history {history.name!r}" for history in self.histories}
        events |= {count.event: f"count {count.name!r}" for count in self.counts}
        soft = next((label.name for label in self.labels if label.soft and label.name in events), None)
        if soft is not None:
            raise ValueError(
                f"{events[soft]}: event {soft!r} is a soft label, and a probability is not an event; "
                "name a label or a column of 0 and 1"
            )
        return self

    def _check_counts(self) -> None:
        """Refuse counts that no feature reads, that read each other, or whose rows have no day."""
        names, read = {count.name for count in self.counts}, {feature.column for feature in self.features}
        for count in self.counts:
            if count.name not in read:
                raise ValueError(
                    f"count {count.name!r} is read by no feature; declare one, such as {{name: {count.name}, "
                    "kind: numeric, domain: context, transform: bucketise}, or remove the count"
                )
            if names & {*count.by, count.event}:
                raise ValueError(f"count {count.name!r} reads another count; it can read columns of the log alone")
            if count.until == "day" and self.keys.time is None:
                raise ValueError(
                    f"count {count.name!r}: until: day needs keys.time, because rows without it have no day"
                )

    def needed_columns(self, *, outcomes: bool) -> list[str]:
        """Return the columns that a log must have; ``outcomes`` adds those that only training and evaluation read."""
        names = [self.keys.user, self.keys.item, self.keys.time]
        if outcomes:
            sources = {label.name: label.column for label in self.labels}
            events = [history.event for history in self.histories if history.event is not None]
            names += [self.weight, *sources.values(), *(label.probability for label in self.labels)]
            names += [self.split.column] if isinstance(self.split, ColumnSplit) else []
            events += [count.event for count in self.counts if count.event is not None]
            names += [sources.get(event, event) for event in events]
        made = {count.name for count in self.counts}  # later rows may bring them
        names += [feature.column for feature in self.features if feature.origin == "impressions"]
        return [name for name in dict.fromkeys(names) if name is not None and name not in made]

    def optional_columns(self) -> list[str]:
        """Return the columns that may be in the log or in a table of users or items."""
        names = [f.column for f in self.features] + [h.snapshot for h in self.histories if h.snapshot is not None]
        names += [column for count in self.counts for column in count.by]
        return list(dict.fromkeys(names))

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of all labels."""
        return tuple(label.name for label in self.labels)

    @property
    def sampled_label(self) -> Label | None:
        """The label by which rows are sampled."""
        return next((label for label in self.labels if label.negative_sampling_rate is not None), None)

    @property
    def soft_labels(self) -> tuple[str, ...]:
        """Names of the labels that are probabilities."""
        return tuple(label.name for label in self.labels if label.soft)

    @property
    def truths(self) -> dict[str, str]:
        """The soft label with the true probability of a label, for every label of which it is known."""
        soft = {label.column: label.name for label in self.labels if label.soft}
        true = {label.probability for label in self.labels}
        columns = {
            label.name: label.column if label.soft and label.column in true else label.probability
            for label in self.labels
        }
        return {name: soft[column] for name, column in columns.items() if column is not None and column in soft}


def load_schema(path: Path) -> Schema:
    """Read a schema file."""
    return parse(Schema, load_yaml(path), where=str(path))
