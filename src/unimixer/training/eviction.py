"""Who has a row in tables with fewer rows than ids: ids are counted in training, TorchRec's policies choose."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from unimixer.errors import MissingExtraError, UnimixerError, unknown
from unimixer.features.batch import Batch
from unimixer.features.managed import EMPTY, ManagedIds
from unimixer.features.spec import FeatureSpec
from unimixer.ranker import Ranker
from unimixer.training.config import EvictionConfig, Recipe
from unimixer.training.distributed.plan import quietly
from unimixer.training.process_group import ALONE, World

if TYPE_CHECKING:
    from torchrec.modules.mc_modules import MCHEvictionPolicy

COUNTS, LAST = "counts", "last_access_iter"
"""What TorchRec's policies keep of an id: how often it was met, and the last step at which it was."""
_MET = ("met_ids", "met_counts", "met_last")


class Eviction(torch.optim.Optimizer):
    """Moves the rows of managed tables between ids, as an optimizer moves weights.

    Ids of a step are counted before it. When a decision is due, the counts of all processes are put together and a
    policy of TorchRec (managed collision hashing) compares ids that have a row with those that have none. An id that
    gets a row begins with a fresh vector and no optimizer state. Every process comes to the same decisions, so a run
    does not depend on how many there are, and tables may be cut in any way.

    Each process keeps the whole map: 32 bytes a managed row, and the ids met since the last decision.

    Args:
        model: with managed tables.
        recipe: resolved.
        sparse: the optimizer of the tables.
        world: the processes of the run.
    """

    def __init__(self, model: Ranker, recipe: Recipe, sparse: torch.optim.Optimizer, world: World) -> None:
        self.managed, self.tables = model.embedding.managed, model.embedding.tables
        self.sparse, self.world = sparse, world
        self.seed = recipe.training.seed
        self.configs = eviction_configs(recipe)
        self.policies = {table: policy_of(config) for table, config in self.configs.items()}
        self.now = 0
        # an optimizer wants parameters: these stand for maps, which are buffers of the model
        marks = [nn.Parameter(torch.zeros((), dtype=torch.int64), requires_grad=False) for _ in self.managed.tables]
        super().__init__(marks, {"lr": 0.0, "base_lr": 0.0})
        self.marks = dict(zip(self.managed.tables, marks, strict=True))
        for table, mark in self.marks.items():
            rows = len(self._map(table).rows)
            self.state[mark] = {COUNTS: torch.zeros(rows).long(), LAST: torch.zeros(rows).long(), **_nothing()}
        self._seen: dict[str, list[tuple[Tensor, ...]]] = {table: [] for table in self.managed.tables}

    @classmethod
    def of(cls, model: Ranker, recipe: Recipe, sparse: torch.optim.Optimizer, world: World = ALONE) -> Eviction | None:
        """The eviction of a model; None where it has no managed tables."""
        return cls(model, recipe, sparse, world) if model.embedding.managed.tables else None

    def meet(self, group: Sequence[Batch], step: int) -> None:
        """Count the ids of the batches of step number ``step``, from 0."""
        self.now = step + 1
        for table, seen in self._seen.items():
            ids, counts = torch.unique(ids_of(self.managed.spec, table, group), return_counts=True)
            seen.append((ids, counts, torch.full_like(ids, self.now)))

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Decide where it is time to."""
        for table, config in self.configs.items():
            if due(self.now, config.every):
                self._settle(table)
                met = self._everywhere(table, self.world.gather)
                self._decide(table, met)
                self.state[self.marks[table]].update(_nothing())

    def zero_grad(self, set_to_none: bool = True) -> None:
        """There are no gradients."""

    def collect(self) -> None:
        """Bring what was met on all processes to rank 0, which writes checkpoints; all of them call this."""
        for table, mark in self.marks.items():
            self._settle(table)
            met = self._everywhere(table, self.world.collect)
            self.state[mark].update(dict(zip(_MET, met, strict=True)) if self.world.leader else _nothing())

    def state_dict(self) -> dict[str, Any]:
        """What was met since the last decision is part of it."""
        for table in self._seen:
            self._settle(table)
        return super().state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore; what all processes had met together goes on with rank 0."""
        super().load_state_dict(state_dict)
        self._seen = {table: [] for table in self._seen}
        if not self.world.leader:
            for mark in self.marks.values():
                self.state[mark].update(_nothing())

    def _map(self, table: str) -> ManagedIds:
        found = self.managed.of(table)
        assert found is not None
        return found

    def _settle(self, table: str) -> None:
        """Put what this process has met together."""
        state = self.state[self.marks[table]]
        pieces = [tuple(state[name] for name in _MET), *self._seen[table]]
        state.update(dict(zip(_MET, merged(pieces), strict=True)))
        self._seen[table] = []

    def _everywhere(self, table: str, exchange: Callable[[Any], list[Any]]) -> tuple[Tensor, ...]:
        """What all processes have met."""
        own = self.state[self.marks[table]]
        pieces = exchange([own[name].numpy() for name in _MET])
        return (
            merged([tuple(map(torch.from_numpy, piece)) for piece in pieces]) if pieces else tuple(_nothing().values())
        )

    @torch.no_grad()
    def _decide(self, table: str, met: tuple[Tensor, ...]) -> None:
        state, held = self.state[self.marks[table]], self._map(table)
        old, rows = held.ids.cpu(), held.rows.cpu()
        ids, taken, order, hits = choose(self.policies[table], old, state, met, self.now)
        self._note(table, hits / max(int(met[1].sum()), 1), ids, old[taken])
        held.ids.copy_(ids)
        held.rows.copy_(rows[order])
        self._begin(table, rows[taken].sort().values)

    def _note(self, table: str, hits: float, ids: Tensor, before: Tensor) -> None:
        """Tell the log; admissions and evictions are those of all decisions since it was written."""
        held = self._map(table)
        known = {name.rpartition(".")[2]: float(value) for name, value in (held.statistics or {}).items()}
        found = {
            "hits": hits,
            "used": float((ids[:-1] != EMPTY).double().mean()),
            "admitted": known.get("admitted", 0.0) + len(before),
            "evicted": known.get("evicted", 0.0) + int((before != EMPTY).sum()),
        }
        held.statistics = {f"managed.{table}.{name}": torch.tensor(value) for name, value in found.items()}

    def _begin(self, table: str, rows: Tensor) -> None:
        """Draw rows anew and drop what their optimizer knows; a function of seed, table and step alone."""
        number = list(self.tables.num_embeddings).index(table)
        shape = (len(rows), self.tables.width[table])
        drawn = np.random.default_rng((self.seed, number, self.now, 1)).standard_normal(shape, dtype=np.float32)
        vectors = torch.from_numpy(drawn) * self.tables.init_std
        if self.world.distributed:
            from unimixer.training.distributed.storage import reset_rows

            reset_rows(self.tables, table, rows, vectors)  # type: ignore[arg-type]
            return
        weight = self.tables.of_width(self.tables.width[table]).weight
        at = (rows + self.tables.first_row(table)).to(weight.device)
        weight[at] = vectors.to(weight.device)
        for tensor in self.sparse.state[weight].values():
            if tensor.dim() and len(tensor) == len(weight):
                tensor[at] = 0


def choose(
    policy: MCHEvictionPolicy, ids: Tensor, state: dict[str, Tensor], met: tuple[Tensor, ...], now: int
) -> tuple[Tensor, Tensor, Tensor, int]:
    """Let a policy compare the ids that have a row with those that were met.

    Args:
        policy: TorchRec's.
        ids: of the map, ascending.
        state: counts and last steps of these ids; they are changed.
        met: ids, counts and last steps since the last decision.
        now: number of the step.

    Returns:
        The ids of the map from now on, the places in the old one whose rows go to others, the old place of every new
        one, and how many of the lookups had a row of their own.
    """
    unique, counts, last = met
    by_count = torch.argsort(counts, descending=True, stable=True)
    unique, counts = unique[by_count], counts[by_count]
    place = torch.searchsorted(ids[:-1], unique)
    known = ids[place] == unique
    names = [info.metadata_name for info in policy.metadata_info]
    taken, chosen = policy.update_metadata_and_generate_eviction_scores(
        now,
        len(ids),
        by_count,
        counts,
        known,
        place[known],
        {name: state[name] for name in names},
        {LAST: last.clone()} if LAST in names else {},
    )
    ids = ids.clone()
    ids[taken] = unique[~known][chosen]
    order = torch.argsort(ids, stable=True)  # stable: what is empty stays behind, and the shared row last
    for name in names:
        state[name].copy_(state[name][order])
    return ids[order], taken, order, int(counts[known].sum())


def due(step: int, every: int) -> bool:
    """Whether a decision is due after a number of steps."""
    return step % every == 0 or (step < every and step & (step - 1) == 0)


def merged(pieces: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """Ids, counts and last steps of several sets of ids as those of one."""
    ids, counts, last = (torch.cat(parts) for parts in zip(*pieces, strict=True))
    unique, inverse = torch.unique(ids, return_inverse=True)
    total = torch.zeros_like(unique).index_add_(0, inverse, counts)
    return unique, total, torch.zeros_like(unique).scatter_reduce_(0, inverse, last, "amax", include_self=False)


def ids_of(spec: FeatureSpec, table: str, group: Sequence[Batch]) -> Tensor:
    """All ids of a table that some batches look up, on the CPU."""
    found = [batch.ids[:, column] for batch in group for column, f in enumerate(spec.ids) if f.table == table]
    for name, fields in spec.groups.items():
        columns = [column for column, f in enumerate(fields) if f.table == table]
        found += [batch.values[name][:, column] for batch in group for column in columns]
    return torch.cat(found).long().cpu() if found else torch.zeros(0, dtype=torch.long)


def policy_of(config: EvictionConfig) -> MCHEvictionPolicy:
    """TorchRec's policy.

    Raises:
        MissingExtraError: TorchRec is not installed.
    """
    try:
        with quietly():
            from torchrec.modules import mc_modules
    except ImportError as error:
        raise MissingExtraError("training tables with managed rows", "distributed") from error
    kinds: dict[str, Callable[[], MCHEvictionPolicy]] = {
        "lfu": mc_modules.LFU_EvictionPolicy,
        "lru": mc_modules.LRU_EvictionPolicy,
        "distance_lfu": mc_modules.DistanceLFU_EvictionPolicy,
    }
    return kinds[config.policy]()


def eviction_configs(recipe: Recipe) -> dict[str, EvictionConfig]:
    """How the rows of every managed table move.

    Raises:
        UnimixerError: ``optimizer.eviction`` names a table without managed rows.
    """
    managed, given = recipe.model.managed_rows, recipe.optimizer.eviction
    for table in given:
        if table not in managed:
            raise unknown("managed table in optimizer.eviction", table, managed)
    return {table: given.get(table, EvictionConfig()) for table in managed}


def check_managed(recipe: Recipe, spec: FeatureSpec) -> None:
    """Raise where managed rows cannot be what the recipe says.

    Raises:
        UnimixerError: for an unknown table, more rows than ids, an eviction of a table that has none.
        MissingExtraError: TorchRec is not installed.
    """
    for table, rows in recipe.model.managed_rows.items():
        if table in spec.tables and rows >= spec.tables[table]:
            raise UnimixerError(
                f"model.managed_rows: table {table!r} has {spec.tables[table]:,} ids and needs no {rows:,} managed "
                "rows; leave it out, every id has a row then"
            )
    for config in eviction_configs(recipe).values():
        policy_of(config)


def _nothing() -> dict[str, Tensor]:
    return {name: torch.zeros(0, dtype=torch.long) for name in _MET}
