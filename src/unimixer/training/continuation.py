"""Go on from a run: its last weights and the state of its optimizers, for the same model on data that has grown."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unimixer.data.dataset import Dataset
from unimixer.data.encoding.transform import Transform
from unimixer.data.schema import FIRST_ID
from unimixer.errors import UnimixerError
from unimixer.io import write_text
from unimixer.ranker import PACKED, TABLES, Ranker, table_parameters
from unimixer.training.checkpoint import START, TrainState, write_checkpoint
from unimixer.training.config import OptimizerConfig, Recipe
from unimixer.training.consolidate import is_sharded_checkpoint, read_sharded_checkpoint
from unimixer.training.eviction import COUNTS, LAST, no_observations
from unimixer.training.model import build_ranker, with_tasks
from unimixer.training.optimizers import dense_groups
from unimixer.training.pretrained import read_pretrained, start_tables
from unimixer.training.run import RunFolder
from unimixer.training.tensor_files import latest_checkpoint, load_state, load_tensors, select_tensors
from unimixer.training.warm_start import WarmStart

DROPPED = "dropped-ids.csv"
"""The ids whose rows a continued run has dropped, because its data does not know them any more."""


class Continuation(WarmStart):
    """The last checkpoint of a finished run as the first checkpoint of another.

    Rows of tables and their optimizer state go to the ids with the same text. New rows have no optimizer state.

    Args:
        source: the run.
        model: the model to start; it may be on ``meta``.
        transform: transform of the model's data.
        recipe: of the new run, resolved.

    Raises:
        UnimixerError: the run is not finished, or the recipes have other optimizers or models.
    """

    def __init__(self, source: RunFolder, model: Ranker, transform: Transform, recipe: Recipe) -> None:
        self.recipe, self.theirs = recipe, source.recipe
        self.since = source.environment["data"]["hash"]
        super().__init__(source, model, transform)
        for key in ("dense", "sparse"):
            there, here = (getattr(one.optimizer, key) for one in (self.theirs, recipe))
            if there != here:
                raise UnimixerError(
                    f"{source.folder}: optimizer.{key} is {there} there and {here} in this recipe, so its state does "
                    "not fit; keep the optimizer, or start from the weights alone with --warm-start"
                )

    def _load(self, source: RunFolder) -> tuple[Path, dict[str, Tensor]]:
        checkpoint = latest_checkpoint(source.checkpoints)
        if source.result is None or checkpoint is None:
            unfinished = source.result is None
            way_out = (
                "finish it with: unimixer train --resume"
                if unfinished
                else "start from its best weights with --warm-start"
            )
            reason = "is not finished" if unfinished else "has no last checkpoint to continue from"
            raise UnimixerError(f"{source.folder} {reason}; {way_out} {source.folder}")
        state = load_state(checkpoint / "state.json")
        self.steps = state["step"] + state.get("earlier_steps", 0)
        self.last_step = state["step"]
        if is_sharded_checkpoint(checkpoint):
            weights, self.optimizers = read_sharded_checkpoint(checkpoint)
        else:
            weights = load_tensors(checkpoint / "model.safetensors")
            self.optimizers = load_tensors(checkpoint / "optimizer.safetensors")
        return checkpoint / "model.safetensors", weights

    def state(self, model: Ranker) -> dict[str, Tensor]:
        """Compute the whole state of the model; new rows are those of the model, or the mean of the rows kept."""
        state = super().state(model)
        if self.recipe.training.new_rows == "mean":
            tables = model.embedding.tables
            for table in set(tables.num_embeddings) - set(model.embedding.managed.tables):
                first = tables.first_row(table)
                part = state[PACKED.format(width=tables.width[table])][first : first + tables.num_embeddings[table]]
                kept = self.data.rows[table].target[FIRST_ID:]
                if len(kept) and not part.is_meta:
                    new = torch.ones(len(part), dtype=torch.bool)
                    new[kept], new[:FIRST_ID] = False, False
                    part[new] = part[kept].mean(0)
        return state

    def facts(self) -> dict[str, Any]:
        """Return the facts that the run folder records."""
        return {**super().facts(), "continued_at_step": self.steps, "since": self.since}

    def lines(self) -> list[str]:
        """Format the facts as lines to print."""
        first, *rest = super().lines()
        return [first.replace("warm start from", f"continued after step {self.steps:,} of"), *rest]

    # ---- the first checkpoint of the new run ------------------------------------------------------------------------

    def write(self, folder: Path) -> None:
        """Write the first checkpoint of the new run, and the ids whose rows are dropped, into its folder."""
        torch.manual_seed(self.recipe.training.seed)
        random.seed(self.recipe.training.seed)
        model = build_ranker(self.recipe.model, with_tasks(self.data.here.spec, tuple(self.recipe.tasks)))
        state = self.state(model)
        if self.recipe.pretrained:
            model.load_state_dict(state)
            tables = read_pretrained(self.recipe, self.data.here, model)
            start_tables([table.new(self.data.rows[table.name].target.numpy()) for table in tables], model)
            state = model.state_dict()
        position = asdict(TrainState(earlier_steps=self.steps))
        write_checkpoint(folder / "checkpoints" / START, state, self.optimizer_state(model), position)
        write_text(
            folder / DROPPED, "table,id\n" + "".join(f"{table},{_quoted(text)}\n" for table, text in self._dropped())
        )

    def _dropped(self) -> Iterable[tuple[str, str]]:
        """Yield the table and the text of every id that the new data does not know any more."""
        for table, rows in self.data.rows.items():
            texts = self.data.there.vocabularies[table].texts
            if not rows.lost or len(texts) == 0 or self.data.here.vocabularies[table].num_buckets:
                continue
            kept = set(self.data.here.vocabularies[table].texts)
            yield from ((table, text) for text in texts if text not in kept)

    def optimizer_state(self, model: Ranker) -> dict[str, Tensor]:
        """Move the state of all optimizers to the parameters and rows of the model."""
        origin = self._origins(model)
        ours, theirs = _numbers(model, self.recipe.optimizer), _numbers(self.source, self.theirs.optimizer)
        moved: dict[str, Tensor] = {}
        for kind in filter(theirs.__contains__, ours):  # a parameter that changes its optimizer begins anew
            states: dict[str, dict[str, Tensor]] = {}
            for key, tensor in select_tensors(self.optimizers, kind).items():
                old, name = key.split(".", 1)
                states.setdefault(theirs[kind][int(old)], {})[name] = tensor
            for number, parameter in enumerate(ours[kind]):
                state = states.get(origin.get(parameter, ""), {})
                move = self._row_mover(parameter, model) if kind == "sparse" else self._dense_mover(parameter, model)
                moved |= {f"{kind}.{number}.{name}": move(tensor) for name, tensor in state.items()}
        return moved | self._weighting_state() | self._eviction_state()

    def _weighting_state(self) -> dict[str, Tensor]:
        """Keep the learned weights of losses, unless the tasks or the rule that learns them have changed."""
        same = self.theirs.tasks == self.recipe.tasks and self.theirs.loss_weighting == self.recipe.loss_weighting
        names = [name for name in self.optimizers if name.startswith("loss_weighting.")]
        return {name: self.optimizers[name] for name in names} if same else {}

    def _origins(self, model: Ranker) -> dict[str, str]:
        """Return the name in the source of every parameter that has a counterpart there."""
        names: dict[str, Any] = {name: name for name in self.tensors if not name.startswith(TABLES)}
        self._renumber(names, dict.fromkeys(model.state_dict(), ""), model)
        tables = {name: name for name in self.source.state_dict() if name.startswith(TABLES)}
        return {**{name: origin for name, origin in names.items() if origin}, **tables}

    def _dense_mover(self, parameter: str, model: Ranker) -> Callable[[Tensor], Tensor]:
        """Return the function that moves a state; that of a number whose scale has changed begins anew."""
        if not parameter.startswith("embedding.numeric."):
            return lambda tensor: tensor
        there, here = ([f.name for f in one.spec.dense if f.width == 1] for one in (self.source, model))
        order = [there.index(name) for name in here]
        anew = [number for number, name in enumerate(here) if name in self.data.numbers]

        def move(tensor: Tensor) -> Tensor:
            if tensor.dim() == 0:
                return tensor
            ordered = tensor[order].clone()
            ordered[anew] = 0
            return ordered

        return move

    def _row_mover(self, parameter: str, model: Ranker) -> Callable[[Tensor], Tensor]:
        """Return the function that moves the rows of a state of packed tables."""
        there, here = self.source.embedding, model.embedding
        width = int(parameter.removeprefix(TABLES).split(".")[1])
        count = sum(rows for table, rows in here.tables.num_embeddings.items() if here.tables.width[table] == width)
        names = [table for table in here.tables.num_embeddings if here.tables.width[table] == width]
        rows = {table: self.rows_of(table) for table in names}
        source = torch.cat([rows[table].source + there.tables.first_row(table) for table in names])
        target = torch.cat([rows[table].target + here.tables.first_row(table) for table in names])

        def move(tensor: Tensor) -> Tensor:
            if tensor.dim() == 0:
                return tensor
            whole = tensor.new_zeros(count, *tensor.shape[1:])
            whole[target] = tensor[source]
            return whole

        return move

    def _eviction_state(self) -> dict[str, Tensor]:
        """Order the counts of managed ids as their maps are ordered now; the run begins at step 0 again."""
        moved = {}
        for number, (_, order) in enumerate(self._moved_maps()):
            for name in (COUNTS, LAST):
                tensor = self.optimizers[f"eviction.{number}.{name}"][order]
                moved[f"eviction.{number}.{name}"] = tensor - self.last_step if name == LAST else tensor
            moved |= {f"eviction.{number}.{name}": tensor for name, tensor in no_observations().items()}
        return moved


def rows_to_train(run: RunFolder, dataset: Dataset) -> Dataset:
    """Return the data that a run trains on: a continued run leaves out the rows that its source has trained on."""
    since = run.warm_start_facts.get("since")
    return dataset if since is None else dataset.since(since)


def _numbers(model: Ranker, config: OptimizerConfig) -> dict[str, list[str]]:
    """Return the names of the parameters in the order in which each optimizer numbers them."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    numbered = {
        kind: [names[parameter] for group in groups for parameter in group["params"]]
        for kind, groups in dense_groups(model, config).items()
    }
    return {**numbered, "sparse": [names[parameter] for parameter in table_parameters(model)]}


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if any(character in text for character in ',"\n\r') else text
