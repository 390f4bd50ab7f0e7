"""The fitted transform: encode raw rows and make batches of them, for training, prediction and serving alike."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from unimixer.data.encoding.arrays import Array, Ragged, checksum, read_arrays, window_positions, write_arrays
from unimixer.data.encoding.counts import LogEnd
from unimixer.data.encoding.entities import MISSING_ROW, EntityTable
from unimixer.data.encoding.history import AFTER_THE_LOG, HistoryIndex
from unimixer.data.encoding.later_counts import load_log_end, save_log_end
from unimixer.data.encoding.layout import feature_spec, features_of, history_features, is_dense, is_id
from unimixer.data.encoding.numeric import NumericFit, check_range
from unimixer.data.encoding.rows import Rows
from unimixer.data.encoding.transform_files import file_name, history_file, read_history, read_texts
from unimixer.data.encoding.vocabulary import Vocabulary, never_boolean, texts_of
from unimixer.data.raw import values
from unimixer.data.raw.lists import as_lists, as_vectors, flat_texts
from unimixer.data.raw.tables import Chunk
from unimixer.data.raw.times import as_time
from unimixer.data.schema import Feature, Origin, Schema
from unimixer.errors import UnimixerError
from unimixer.features.batch import Batch
from unimixer.features.spec import FeatureSpec
from unimixer.io import link_file
from unimixer.settings import parse

FORMAT = 1


@dataclass(frozen=True)
class Transform:
    """A schema with everything that was learned from the training part.

    ``schema`` is resolved: every feature that does not read a history names its origin.
    """

    schema: Schema
    vocabularies: dict[str, Vocabulary]
    numerics: dict[str, NumericFit]
    users: EntityTable
    items: EntityTable
    histories: dict[str, HistoryIndex] = field(default_factory=dict)
    shadowed_columns: frozenset[str] = frozenset()
    """Columns that the log has although features read them from an entity table; the log's are left alone."""
    read_log_end: Callable[[], LogEnd] | None = None
    """Gives what the log has counted at its end, where the schema has counts and that is known."""

    # ---- layout ---------------------------------------------------------------------------------------------------

    def features(self, origin: Origin) -> list[Feature]:
        """Return the features of one raw table."""
        return features_of(self.schema, origin)

    def history_features(self) -> list[Feature]:
        """Return the features that read a history, in the order of the columns of ``history_ids``."""
        return history_features(self.schema)

    @cached_property
    def spec(self) -> FeatureSpec:
        """The shapes of the batches."""
        return feature_spec(self.schema, {name: v.num_embeddings for name, v in self.vocabularies.items()})

    @property
    def spec_groups(self) -> tuple[str, ...]:
        """Names of the sequence groups in the order of the schema."""
        return tuple(self.spec.groups)

    @cached_property
    def log_end(self) -> LogEnd | None:
        """What the log has counted at its end."""
        return None if self.read_log_end is None else self.read_log_end()

    def with_log_end(self, end: LogEnd | None) -> Transform:
        """Return the transform with what the log has counted at its end."""
        return replace(self, read_log_end=None if end is None else lambda: end)

    # ---- raw to encoded -------------------------------------------------------------------------------------------

    @cached_property
    def _never_boolean(self) -> frozenset[str]:
        return never_boolean(self.schema, self.vocabularies)

    def texts(self, feature: Feature, chunk: Chunk) -> pl.Series:
        """Return the canonical texts of an id feature."""
        if feature.transform == "bucketise":
            return self.numerics[feature.name].bucket(self.numerics[feature.name].read(feature, chunk))
        return texts_of(feature, chunk, self.schema.keys)

    def id_column(self, feature: Feature, chunk: Chunk) -> NDArray[np.int32]:
        """Return the row of the embedding table for each raw row."""
        return self.vocabularies[feature.table_name].lookup(self.texts(feature, chunk))

    def dense_columns(self, feature: Feature, chunk: Chunk) -> NDArray[np.float32]:
        """Return the numbers of a dense feature, (n, width)."""
        if feature.kind == "embedding":
            return as_vectors(chunk, feature)
        fit = self.numerics[feature.name]
        numbers = fit.apply(feature, fit.read(feature, chunk))
        check_range(chunk, feature.column, numbers)
        return numbers.astype(np.float32)[:, None]

    def list_column(self, feature: Feature, chunk: Chunk) -> Ragged:
        """Return the lists of embedding rows of a sequence feature."""
        lists = as_lists(chunk, feature)
        offsets = np.zeros(len(lists) + 1, dtype=np.int64)
        np.cumsum(lists.list.len().to_numpy(), out=offsets[1:])
        return Ragged(self.vocabularies[feature.table_name].lookup(flat_texts(lists)), offsets)

    def encode_table(
        self, origin: Origin, chunk: Chunk
    ) -> tuple[NDArray[np.int32], NDArray[np.float32], dict[str, Ragged]]:
        """Encode the features of one raw table: ids (n, F), dense (n, W) and lists."""
        n, features = chunk.frame.height, self.features(origin)
        for name in (f.column for f in features if f.name in self._never_boolean):
            values.refuse_booleans(chunk, values.column(chunk, name))
        ids = [self.id_column(f, chunk) for f in features if is_id(f)]
        dense = [self.dense_columns(f, chunk) for f in features if is_dense(f)]
        lists = {f.name: self.list_column(f, chunk) for f in features if f.kind == "sequence"}
        return (
            np.stack(ids, axis=1) if ids else np.empty((n, 0), dtype=np.int32),
            np.concatenate(dense, axis=1) if dense else np.empty((n, 0), dtype=np.float32),
            lists,
        )

    def history_columns(self, items: Chunk) -> NDArray[np.int32]:
        """Return the columns (n, C) that histories read of these items, in the order of :meth:`history_features`."""
        columns = [self.id_column(feature, items) for feature in self.history_features()]
        return np.stack(columns, axis=1) if columns else np.empty((items.frame.height, 0), dtype=np.int32)

    def entity_rows(self, table: EntityTable, key: str | None, chunk: Chunk) -> NDArray[np.int32]:
        """Return the entity row of every raw row."""
        if key is None:
            return np.full(chunk.frame.height, MISSING_ROW, dtype=np.int32)
        return table.index.lookup(values.key_column(chunk, key))

    def encode(self, chunk: Chunk, *, labels: bool, first_row: int | None = None) -> Rows:
        """Encode raw impressions.

        Args:
            chunk: raw rows.
            labels: read labels, weights and true probabilities too.
            first_row: rows of the log before these; it is their time where the schema names no time column, and rows
                without it come after the whole log.
        """
        schema, keys = self.schema, self.schema.keys
        users = self.entity_rows(self.users, keys.user, chunk)
        if keys.time is None and first_row is None:
            times = np.full(chunk.frame.height, AFTER_THE_LOG)
        else:
            times = as_time(chunk, keys, first_row)
        ids, dense, lists = self.encode_table("impressions", chunk)
        rows = Rows(
            users=users,
            items=self.entity_rows(self.items, keys.item, chunk),
            times=times,
            ids=ids,
            dense=dense,
            lists=lists,
            windows={name: history.windows(users, times) for name, history in self.histories.items()},
        )
        if not labels:
            return rows
        truths = [label.probability for label in schema.labels if label.probability is not None]
        return replace(
            rows,
            labels=np.stack([values.as_label(chunk, label) for label in schema.labels], axis=1),
            truth=np.stack([values.as_number(chunk, c) for c in truths], axis=1).astype(np.float32)
            if len(truths) == len(schema.labels)
            else None,
            weights=values.as_weight(chunk, schema.weight).astype(np.float32) if schema.weight else None,
        )

    # ---- encoded to batch -----------------------------------------------------------------------------------------

    def batch(self, rows: Rows) -> Batch:
        """Join encoded impressions with their users, items and histories into flat tensors."""
        groups: dict[str, tuple[NDArray[np.int32], NDArray[np.int64]]] = {}
        for name, history in self.histories.items():
            window = rows.windows[name]
            positions, offsets = window_positions(window[:, 0], window[:, 1])
            columns = [i for i, f in enumerate(self.history_features()) if f.history == name]
            groups[name] = self.items.history_ids[history.items_at(positions)][:, columns], offsets
        for table, owners in ((self.users, rows.users), (self.items, rows.items)):
            for name, ragged in table.lists.items():
                taken = ragged.take(owners)
                groups[name] = taken.values[:, None], taken.offsets
        for name, ragged in rows.lists.items():
            groups[name] = ragged.values[:, None], ragged.offsets
        order = [g for g in self.spec_groups if g in groups]
        ids = np.concatenate([self.users.ids[rows.users], self.items.ids[rows.items], rows.ids], axis=1)
        dense = np.concatenate([self.users.dense[rows.users], self.items.dense[rows.items], rows.dense], axis=1)
        return Batch(
            sparse_ids=_tensor(ids),
            dense_features=_tensor(dense),
            sequence_values={name: _tensor(groups[name][0]) for name in order},
            sequence_offsets={name: _tensor(groups[name][1]) for name in order},
            labels=None if rows.labels is None else _tensor(rows.labels.astype(np.float32)),
            weights=None if rows.weights is None else _tensor(rows.weights),
            users=_tensor(rows.users.astype(np.int64)),
        )

    def raw_batch(self, chunk: Chunk, *, labels: bool = False, first_row: int | None = None) -> Batch:
        """Make a batch of raw rows; rows of the log give exactly the tensors that training reads.

        Columns of users and items that stand in the rows win over the stored tables, which is how a new item brings
        its features; but not where the log had such a column too, and training read the table all the same.
        ``first_row`` is that of :meth:`encode`.
        """
        batch = self.batch(self.encode(chunk, labels=labels, first_row=first_row))
        ids, dense = batch.sparse_ids.numpy(), batch.dense_features.numpy()
        id_at = {f.name: i for i, f in enumerate(self.spec.ids)}
        starts = np.cumsum([0, *(f.width for f in self.spec.dense)])
        dense_at = {f.name: slice(starts[i], starts[i + 1]) for i, f in enumerate(self.spec.dense)}
        columns = set(chunk.frame.columns) - self.shadowed_columns
        for feature in (*self.features("users"), *self.features("items")):
            if feature.column not in columns:
                continue
            if feature.name in id_at:
                ids[:, id_at[feature.name]] = self.id_column(feature, chunk)
            elif feature.name in dense_at:
                dense[:, dense_at[feature.name]] = self.dense_columns(feature, chunk)
            else:
                ragged = self.list_column(feature, chunk)
                batch.sequence_values[feature.name] = _tensor(ragged.values[:, None])
                batch.sequence_offsets[feature.name] = _tensor(ragged.offsets)
        return batch

    # ---- files ----------------------------------------------------------------------------------------------------

    def save(self, folder: Path, *, before: Path | None = None) -> None:
        """Write the transform as Arrow files and one JSON file with their checksums.

        Args:
            folder: folder to make.
            before: a saved transform from which this one grew; the events that it has are linked and not written again.
        """
        folder.mkdir(parents=True)
        tables: dict[str, Any] = {"users.arrow": self.users.columns(), "items.arrow": self.items.columns()}
        for name, vocabulary in self.vocabularies.items():
            texts = vocabulary.texts.to_arrow()
            tables[file_name("vocabulary", name)] = {"text": texts.cast("large_string")}
        for name, history in self.histories.items():
            tables |= {history_file(name, number): columns for number, columns in enumerate(history.columns())}
        for name, columns in tables.items():
            if before is None or not name.startswith("history") or not link_file(before / name, folder / name):
                write_arrays(folder / name, columns)
        names = [*tables, *(save_log_end(folder, self.log_end) if self.log_end is not None else ())]
        meta = {
            "format": FORMAT,
            "schema": self.schema.model_dump(mode="json", exclude_none=True),
            "hash_buckets": {name: v.num_buckets for name, v in self.vocabularies.items()},
            "forms": {name: v.form for name, v in self.vocabularies.items()},
            "numerics": {name: vars(fit) for name, fit in self.numerics.items()},
            "doubled": sorted(self.shadowed_columns),
            "checksums": {name: checksum(folder / name) for name in names},
        }
        if self.log_end is not None:
            meta["counted_until"] = self.log_end.last
        if any(history.later for history in self.histories.values()):
            meta["segments"] = {name: len(history.later) for name, history in self.histories.items()}
        (folder / "transform.json").write_text(json.dumps(meta, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Transform:
        """Open a saved transform; its arrays stay on disk and are memory-mapped.

        Raises:
            UnimixerError: if a file is missing, of another format, or does not have its checksum.
        """
        path = folder / "transform.json"
        try:
            meta: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            form, checksums = meta["format"], meta["checksums"]
        except FileNotFoundError:
            raise UnimixerError(
                f"{path}: not found; {folder.parent} is not a dataset or run made by unimixer"
            ) from None
        except (ValueError, KeyError, TypeError) as error:
            raise UnimixerError(f"{path}: damaged ({error}); prepare the data again") from None
        if form != FORMAT:
            raise UnimixerError(f"{path}: format {form}, this version reads {FORMAT}; prepare the data again")
        for name, crc in checksums.items():
            if not (folder / name).exists() or checksum(folder / name) != crc:
                raise UnimixerError(f"{folder / name}: missing or damaged (checksum differs); prepare the data again")
        schema = parse(Schema, meta["schema"], where=str(path))
        forms = meta.get("forms", {})  # older files have none
        segments = meta.get("segments", {})
        users, last = EntityTable.from_columns(read_arrays(folder / "users.arrow")), meta.get("counted_until")
        return cls(
            schema=schema,
            vocabularies={
                name: Vocabulary(read_texts(folder / file_name("vocabulary", name)), buckets, forms.get(name, "text"))
                for name, buckets in meta["hash_buckets"].items()
            },
            numerics={
                name: NumericFit(**{**fit, "edges": tuple(fit["edges"])}) for name, fit in meta["numerics"].items()
            },
            users=users,
            items=EntityTable.from_columns(read_arrays(folder / "items.arrow")),
            histories={h.name: read_history(folder, h, segments.get(h.name, 0), len(users)) for h in schema.histories},
            shadowed_columns=frozenset(meta["doubled"]),
            read_log_end=None if last is None else partial(load_log_end, folder, schema, last),
        )


def _tensor(array: Array) -> torch.Tensor:
    """Make a tensor on the array's memory, or on a copy if that memory belongs to a file or a data frame."""
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))
