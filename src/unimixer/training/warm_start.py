"""Start a run from the weights of another: rows of tables move to the ids with the same text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unimixer.blocks import PerTask
from unimixer.data.encoding.transform import Transform
from unimixer.data.schema import FIRST_ID
from unimixer.errors import UnimixerError
from unimixer.features.managed import EMPTY
from unimixer.mixing import check_same_meaning, converted_state
from unimixer.ranker import PACKED, TABLES, Ranker
from unimixer.training.config import Recipe
from unimixer.training.counterparts import Counterparts, Rows, check_features, refusal
from unimixer.training.model import best_weights, hollow_ranker
from unimixer.training.run import RunFolder
from unimixer.training.tensor_files import check_weights, load_tensors, stored_checksum

NONE_KEPT = "; no id is known any more: check that both logs write them alike"


class WarmStart:
    """The best weights of a run, for a model of other data or with other mixings.

    The weights of an id, a field or a task go to the same id, field or task. New ones keep their fresh weights. Weights
    of a standardized number follow its mean and spread, so that a raw value keeps its meaning.

    Args:
        source: the run.
        model: the model to start; it may be on ``meta``.
        transform: transform of the model's data.

    Raises:
        UnimixerError: if features differ, or the models differ in more than their mixings.
    """

    def __init__(self, source: RunFolder, model: Ranker, transform: Transform) -> None:
        self.folder = source.folder
        self.path, self.tensors = self._load(source)
        self.data = Counterparts(source.folder, source.transform, transform)
        self.source = hollow_ranker(source.recipe, self.data.there.spec)
        self.tasks = self.source.spec.labels, model.spec.labels
        self._check_layout(model)
        check_weights(self.path, self.tensors, self.source.state_dict())

    def _load(self, source: RunFolder) -> tuple[Path, dict[str, Tensor]]:
        """Read the weights; return also their file, for messages."""
        path = best_weights(source)
        return path, load_tensors(path)

    def state(self, model: Ranker) -> dict[str, Tensor]:
        """Compute the whole state of the model; its tensors on ``meta`` stay there.

        Raises:
            UnimixerError: naming the first tensor that does not fit.
        """
        own = model.state_dict()
        state = {name: tensor for name, tensor in self.tensors.items() if not name.startswith(TABLES)}
        self._move_maps(state)
        self._move_numbers(state, model)
        self._renumber(state, own, model)
        here = model.embedding
        for width in here.tables.packed:
            name = PACKED.format(width=width)
            state[name] = own[name].detach().clone()
            for table, first in here.tables.of_width(int(width)).first_row.items():
                if not state[name].is_meta:
                    self.fill(table, state[name][first : first + here.tables.num_embeddings[table]])
        try:
            check_same_meaning(self.source.backbone, model.backbone)
            return converted_state(state, model)
        except UnimixerError as error:
            raise self._other_model(str(error)) from None

    def _renumber(self, state: dict[str, Any], own: dict[str, Any], model: Ranker) -> None:
        """Let parts of the model that are numbered keep what belongs to their names."""
        there, here = self.source.embedding, model.embedding
        vectors = [f.name for f in there.spec.dense if f.width > 1], [f.name for f in here.spec.dense if f.width > 1]
        _by_name(state, own, "embedding.vectors", *vectors)
        _by_name(state, own, "embedding.managed.maps", there.managed.tables, here.managed.tables)
        if there.encoder_of.keys() == here.encoder_of.keys():
            _by_name(state, own, "embedding.encoders", list(there.encoder_of), list(here.encoder_of))
        for name, part in self.source.named_modules():
            if isinstance(part, PerTask) and len(part):
                _by_name(state, own, name, *self.tasks)

    def rows_of(self, table: str) -> Rows:
        """Return the rows of a table that the source and the model share."""
        managed = table in self.source.embedding.managed.tables
        return Rows.same(self.source.embedding.tables.num_embeddings[table]) if managed else self.data.rows[table]

    @torch.no_grad()
    def fill(self, table: str, part: Tensor, first: int = 0, column: int = 0) -> None:
        """Copy the rows that the source knows into a part of a table that begins at this row and column."""
        tables = self.source.embedding.tables
        rows = self.rows_of(table)
        mine = (rows.target >= first) & (rows.target < first + len(part))
        whole = self.tensors[PACKED.format(width=tables.width[table])]
        vectors = whole[rows.source[mine] + tables.first_row(table), column : column + part.shape[1]]
        part[(rows.target[mine] - first).to(part.device)] = vectors.to(part.device)

    def check_unchanged(self, facts: Mapping[str, Any]) -> None:
        """Raise if a run that started from this source is resumed after the source has been trained again."""
        same_run = facts.get("run") == str(self.folder.resolve())
        if same_run and facts.get("weights", self.weights) != self.weights:
            raise refusal(self.folder, "its best weights are not those that the run began with; begin another run")

    @property
    def weights(self) -> str:
        """The checksum of the best weights, which identifies them."""
        return stored_checksum(self.path)

    def facts(self) -> dict[str, Any]:
        """Return the facts that the run folder records."""
        counts = {
            table: {"kept": len(rows.target) - FIRST_ID, "new": rows.new, "lost": rows.lost}
            for table, rows in self.data.rows.items()
        }
        moved = {
            name: {"mean": [before.mean, after.mean], "std": [before.std, after.std]}
            for name, (before, after) in self.data.numbers.items()
        }
        there, here = self.tasks
        tasks = {"new": [t for t in here if t not in there], "lost": [t for t in there if t not in here]}
        facts = {"run": str(self.folder.resolve()), "weights": self.weights, "tables": counts, "numbers": moved}
        edges = {name: [list(fit.edges) for fit in pair] for name, pair in self.data.buckets.items()}
        return {**facts, "buckets": edges, "tasks": tasks}

    def lines(self) -> list[str]:
        """Format the facts as lines to print."""
        facts = self.facts()
        tables = {t: c for t, c in facts["tables"].items() if c["new"] or c["lost"]}
        lines = [
            f"  {table}: {c['kept']:,} rows kept, {c['new']:,} new, {c['lost']:,} lost{'' if c['kept'] else NONE_KEPT}"
            for table, c in tables.items()
        ]
        for name, moved in facts["numbers"].items():
            (mean, mean_now), (std, std_now) = moved["mean"], moved["std"]
            lines.append(
                f"  {name}: mean {mean:.4g} -> {mean_now:.4g}, spread {std:.4g} -> {std_now:.4g}; its weights follow"
            )
        for name in facts["buckets"]:
            lines.append(f"  {name}: its buckets have other edges; each begins as the old bucket around its middle")
        for task in facts["tasks"]["new"]:
            lines.append(f"  task {task}: new, its tower starts fresh")
        same = len(facts["tables"]) - len(tables)
        whole = f"all rows of {'all' if not tables else f'{same} other'} tables kept" if same else "rows by their ids"
        return [f"warm start from {self.folder}: {whole}", *lines]

    def _move_maps(self, state: dict[str, Tensor]) -> None:
        """Renumber the ids that own managed rows; a lost id gives its row back."""
        for number, (moved, order) in enumerate(self._moved_maps()):
            ids, rows = (f"embedding.managed.maps.{number}.{name}" for name in ("ids", "rows"))
            state[ids], state[rows] = moved[order], state[rows][order]

    def _moved_maps(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the renumbered ids of every map, and the order that sorts them."""
        for number, table in enumerate(self.source.embedding.managed.tables):
            becomes = torch.full((self.data.there.vocabularies[table].num_embeddings,), EMPTY)
            becomes[self.data.rows[table].source] = self.data.rows[table].target
            moved = self.tensors[f"embedding.managed.maps.{number}.ids"].clone()
            held = moved != EMPTY
            moved[held] = becomes[moved[held]]
            # empty entries go to the end, and the shared row stays last
            yield moved, torch.argsort(moved, stable=True)

    def _move_numbers(self, state: dict[str, Tensor], model: Ranker) -> None:
        """Order the weights of numbers by name and rescale them: (x s + m - m0) / s0 is the old number of x."""
        there, here = ([f.name for f in one.spec.dense if f.width == 1] for one in (self.source, model))
        weight, bias, missing = (f"embedding.numeric.{name}" for name in ("weight", "bias", "missing"))
        if not here:
            return
        for name in (weight, bias, missing):
            state[name] = state[name][[there.index(field) for field in here]].clone()
        for field, (before, after) in self.data.numbers.items():
            at = here.index(field)
            w, b = state[weight][at].double(), state[bias][at].double()
            state[weight][at] = w * (after.std / before.std)
            state[bias][at] = b + w * ((after.mean - before.mean) / before.std)

    def _check_layout(self, model: Ranker) -> None:
        """Raise unless both models have the same layout of fields."""
        there, here = self.source.embedding, model.embedding
        for table, width in there.tables.width.items():
            if here.tables.width[table] != width:
                raise self._other_model(
                    f"table {table!r} has width {width}, this model needs {here.tables.width[table]}"
                )
            managed = [one.tables.num_embeddings[table] if table in one.managed.tables else 0 for one in (there, here)]
            if managed[0] != managed[1]:
                a, b = (f"{rows:,} managed rows" if rows else "a row for every id" for rows in managed)
                raise self._other_model(f"table {table!r} has {a}, this model {b}")
        orders = [[field.name for field in one.slices] for one in (there, here)]
        if orders[0] != orders[1]:
            a, b = (", ".join(order) for order in orders)
            raise self._other_model(f"its fields have the order {a}, and here {b}")
        ordered = [[g.name for g in one.event_groups] for one in (there, here)]
        of = [one.spec.groups for one in (there, here)]
        whole = {*ordered[0], *there.encoder_of} & {*ordered[1], *here.encoder_of}
        compared = [{name: [(f.name, f.target) for f in groups[name]] for name in whole} for groups in of]
        if ordered[0] != ordered[1] or compared[0] != compared[1]:
            raise refusal(
                self.folder,
                "the features that read histories have another order there; give them the same order in the schema",
            )
        chains = [{one.spec.labels[a]: one.spec.labels[b] for a, b in one.links} for one in (self.source, model)]
        for task in set(self.tasks[0]) & set(self.tasks[1]):
            a, b = (f"given {chain[task]!r}" if task in chain else "of all rows" for chain in chains)
            if a != b:
                raise refusal(self.folder, f"its tower of {task!r} scores {a}, and here {b}; use the same model.chain")
        if not set(self.tasks[0]) & set(self.tasks[1]):
            a, b = (", ".join(names) for names in self.tasks)
            raise refusal(self.folder, f"it learned {a}, and this recipe learns {b}; name a task of both")

    def _other_model(self, reason: str) -> UnimixerError:
        return UnimixerError(
            f"{self.path}: {reason}: it belongs to another model or other data; "
            f"for a recipe whose sizes fit: unimixer convert {self.folder} --to unimixer-lite"
        )


def with_field_order_of(source: RunFolder, recipe: Recipe, transform: Transform) -> Recipe:
    """Put the fields of a resolved recipe into the order of the source, if the schema has another order."""
    there = source.transform
    check_features(source.folder, there.schema, transform.schema)
    theirs, ours = (
        [field.name for field in hollow_ranker(one, data.spec).embedding.slices]
        for one, data in ((source.recipe, there), (recipe, transform))
    )
    if recipe.model.field_order is not None or theirs == ours or sorted(theirs) != sorted(ours):
        return recipe
    return recipe.model_copy(update={"model": recipe.model.model_copy(update={"field_order": tuple(theirs)})})


def _by_name(
    state: dict[str, Any], own: dict[str, Any], prefix: str, there: Sequence[str], here: Sequence[str]
) -> None:
    """Renumber the weights of a list of modules by the names of its members; new members keep their fresh weights."""
    parts = {name: state.pop(name) for name in list(state) if name.startswith(f"{prefix}.")}
    for number, name in enumerate(here):
        new = f"{prefix}.{number}."
        if name not in there:
            state |= {key: tensor for key, tensor in own.items() if key.startswith(new)}
            continue
        old = f"{prefix}.{list(there).index(name)}."
        state |= {new + key.removeprefix(old): tensor for key, tensor in parts.items() if key.startswith(old)}
