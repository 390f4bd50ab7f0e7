"""The fields and shapes of encoded data: the only part of a schema that a Ranker reads."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from unimixer.errors import UnimixerError, unknown


@dataclass(frozen=True)
class IdField:
    """A categorical feature: one column of ``Batch.sparse_ids``.

    Example:
        >>> IdField("clicked_item", domain="item", table="item_id").table
        'item_id'
    """

    name: str
    domain: str
    table: str


@dataclass(frozen=True)
class DenseField:
    """A numeric feature (width 1) or a pretrained vector: adjacent columns of ``dense_features``; NaN is missing.

    Example:
        >>> DenseField("price", domain="item").width
        1
    """

    name: str
    domain: str
    width: int = 1


@dataclass(frozen=True)
class SequenceField:
    """A variable number of ids: one column of ``Batch.sequence_values[group]``.

    Example:
        >>> SequenceField("past_items", "behaviour", "item_id", group="clicked", max_length=50, target="item_id").group
        'clicked'
    """

    name: str
    domain: str
    table: str
    group: str
    """Fields of one group have the same lengths (the same history) and share their offsets."""
    max_length: int
    target: str | None = None
    """The id field of the candidate that this sequence is compared with in target attention."""


@dataclass(frozen=True)
class FeatureSpec:
    """Order and tables of all fields; columns of the batch are in this order.

    Example:
        >>> ids = (IdField("user_id", "user", "user_id"), IdField("item_id", "item", "item_id"))
        >>> spec = FeatureSpec(ids, (DenseField("price", "item"),), (), {"user_id": 100, "item_id": 50}, ("click",))
        >>> spec.dense_width, FeatureSpec.from_json(spec.to_json()) == spec
        (1, True)
    """

    ids: tuple[IdField, ...]
    dense: tuple[DenseField, ...]
    sequences: tuple[SequenceField, ...]
    tables: dict[str, int]
    """Number of rows of every embedding table, padding and out-of-vocabulary rows included."""
    labels: tuple[str, ...]
    soft_labels: tuple[str, ...] = ()
    """Labels that are probabilities; the others are 0 or 1."""

    @property
    def groups(self) -> dict[str, tuple[SequenceField, ...]]:
        """Sequence fields by group, in order; the position in the tuple is the column of ``Batch.sequence_values``."""
        names = dict.fromkeys(field.group for field in self.sequences)
        return {name: tuple(f for f in self.sequences if f.group == name) for name in names}

    @property
    def dense_width(self) -> int:
        """Columns of ``Batch.dense_features``."""
        return sum(field.width for field in self.dense)

    @property
    def parts(self) -> dict[str, str]:
        """Domain of every part of the input: a feature that is no history, or a history with all its features."""
        fields = {f.name: f.domain for f in self.ids} | {f.name: f.domain for f in self.dense}
        return fields | {group: fields[0].domain for group, fields in self.groups.items()}

    def select(self, name: str) -> list[str]:
        """Return the parts that a name stands for: a feature, a history, or all of a domain.

        Raises:
            UnimixerError: for an unknown name, and for one feature of a history.
        """
        parts = self.parts
        chosen = [part for part, domain in parts.items() if name in (part, domain)]
        history = next((f.group for f in self.sequences if f.name == name), None)
        if not chosen and history is not None:
            raise UnimixerError(f"feature {name!r} is a column of the history {history!r}; name the history")
        if not chosen:
            raise unknown("feature, history or domain", name, {*parts, *parts.values()})
        return chosen

    def to_json(self) -> dict[str, Any]:
        """Return plain values, for the run folder and the bundle."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> FeatureSpec:
        """Invert :meth:`to_json`."""
        return cls(
            ids=tuple(IdField(**f) for f in values["ids"]),
            dense=tuple(DenseField(**f) for f in values["dense"]),
            sequences=tuple(SequenceField(**f) for f in values["sequences"]),
            tables=dict(values["tables"]),
            labels=tuple(values["labels"]),
            soft_labels=tuple(values.get("soft_labels", ())),  # older bundles have none
        )
