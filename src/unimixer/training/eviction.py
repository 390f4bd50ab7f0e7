"""Managed embedding tables with fewer rows than ids.

Training counts ids, and an eviction policy of TorchRec decides which ids own a row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from unimixer.environment import torchrec_command
from unimixer.errors import MissingExtraError, UnimixerError, unknown
from unimixer.features.batch import Batch
from unimixer.features.managed import EMPTY, ManagedIds
from unimixer.features.spec import FeatureSpec
from unimixer.ranker import Ranker
from unimixer.training.config import EvictionConfig, Recipe
from unimixer.training.process_group import SINGLE_PROCESS, ProcessGroup, quietly

if TYPE_CHECKING:
    from torchrec.modules.mc_modules import MCHEvictionPolicy

COUNTS, LAST = "counts", "last_access_iter"
"""What TorchRec's policies keep of an id: how often it was looked up, and the last step at which it was."""
_OBSERVED = ("met_ids", "met_counts", "met_last")
"""Names in the state of the ids that were observed since the last decision."""
Observed = tuple[Tensor, ...]
"""Ascending ids, their counts and their last steps."""


class Eviction(torch.optim.Optimizer):
    """Moves the rows of managed tables between ids, as an optimizer moves weights.

    Ids of a step are counted before it. When a decision is due, the counts of all processes are merged and a policy of
    TorchRec (managed collision hashing) compares ids that own a row with those that do not. An id that gets a row
    begins with a fresh vector and no optimizer state. Every process comes to the same decisions, so a run does not
    depend on the number of processes, nor on the sharding of the tables.

    Each process keeps the whole map: 32 bytes a managed row, and the ids observed since the last decision.

    Args:
        model: with managed tables.
        recipe: resolved.
        sparse: the optimizer of the tables.
        processes: the processes of the run.
    """

    def __init__(self, model: Ranker, recipe: Recipe, sparse: torch.optim.Optimizer, processes: ProcessGroup) -> None:
        self.managed, self.tables = model.embedding.managed, model.embedding.tables
        self.sparse, self.processes = sparse, processes
        self.seed = recipe.training.seed
        self.configs = eviction_configs(recipe)
        self.policies = {table: policy_of(config) for table, config in self.configs.items()}
        self.now = 0
        # an optimizer needs parameters: these stand for the maps, which are buffers of the model
        keys = [nn.Parameter(torch.zeros((), dtype=torch.int64), requires_grad=False) for _ in self.managed.tables]
        super().__init__(keys, {"lr": 0.0, "base_lr": 0.0})
        self.keys = dict(zip(self.managed.tables, keys, strict=True))
        for table, key in self.keys.items():
            rows = len(self._map(table).rows)
            self.state[key] = {COUNTS: torch.zeros(rows).long(), LAST: torch.zeros(rows).long(), **no_observations()}
        self._pending: dict[str, list[Observed]] = {table: [] for table in self.managed.tables}

    @classmethod
    def of(
        cls, model: Ranker, recipe: Recipe, sparse: torch.optim.Optimizer, processes: ProcessGroup = SINGLE_PROCESS
    ) -> Eviction | None:
        """Make the eviction of a model; None if it has no managed tables."""
        return cls(model, recipe, sparse, processes) if model.embedding.managed.tables else None

    def observe(self, batches: Sequence[Batch], step: int) -> None:
        """Count the ids of the batches of step number ``step``, from 0."""
        self.now = step + 1
        for table, pending in self._pending.items():
            ids, counts = torch.unique(ids_of(self.managed.spec, table, batches), return_counts=True)
            pending.append((ids, counts, torch.full_like(ids, self.now)))

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Decide for every table whose decision is due."""
        for table, config in self.configs.items():
            if due(self.now, config.eviction_interval):
                self._flush(table)
                observed = self._merge_processes(table, self.processes.gather)
                self._decide(table, observed)
                self.state[self.keys[table]].update(no_observations())

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Do nothing: there are no gradients."""

    def collect(self) -> None:
        """Merge the observations of all processes on rank 0, which writes checkpoints; all of them call this."""
        for table, key in self.keys.items():
            self._flush(table)
            observed = self._merge_processes(table, self.processes.collect)
            on_zero = self.processes.is_rank_zero
            self.state[key].update(dict(zip(_OBSERVED, observed, strict=True)) if on_zero else no_observations())

    def state_dict(self) -> dict[str, Any]:
        """Return the state, with the observations since the last decision."""
        for table in self._pending:
            self._flush(table)
        return super().state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state; rank 0 takes over the merged observations of all processes."""
        super().load_state_dict(state_dict)
        self._pending = {table: [] for table in self._pending}
        if not self.processes.is_rank_zero:
            for key in self.keys.values():
                self.state[key].update(no_observations())

    def _map(self, table: str) -> ManagedIds:
        ids = self.managed.of(table)
        assert ids is not None
        return ids

    def _flush(self, table: str) -> None:
        """Merge the pending observations of this process into the state."""
        state = self.state[self.keys[table]]
        observations = [tuple(state[name] for name in _OBSERVED), *self._pending[table]]
        state.update(dict(zip(_OBSERVED, merged(observations), strict=True)))
        self._pending[table] = []

    def _merge_processes(self, table: str, exchange: Callable[[Any], list[Any]]) -> Observed:
        """Merge the observations of all processes."""
        own = self.state[self.keys[table]]
        arrays = exchange([own[name].numpy() for name in _OBSERVED])
        if not arrays:
            return tuple(no_observations().values())
        return merged([tuple(map(torch.from_numpy, array)) for array in arrays])

    @torch.no_grad()
    def _decide(self, table: str, observed: Observed) -> None:
        state, owners = self.state[self.keys[table]], self._map(table)
        old, rows = owners.ids.cpu(), owners.rows.cpu()
        ids, taken, order, hits = choose(self.policies[table], old, state, observed, self.now)
        self._record(table, hits / max(int(observed[1].sum()), 1), ids, old[taken])
        owners.ids.copy_(ids)
        owners.rows.copy_(rows[order])
        self._reset_rows(table, rows[taken].sort().values)

    def _record(self, table: str, hits: float, ids: Tensor, evicted: Tensor) -> None:
        """Keep statistics for the log; admissions and evictions add up until it is written."""
        owners = self._map(table)
        previous = {name.rpartition(".")[2]: float(value) for name, value in (owners.statistics or {}).items()}
        statistics = {
            "hits": hits,
            "used": float((ids[:-1] != EMPTY).double().mean()),
            "admitted": previous.get("admitted", 0.0) + len(evicted),
            "evicted": previous.get("evicted", 0.0) + int((evicted != EMPTY).sum()),
        }
        owners.statistics = {f"managed.{table}.{name}": torch.tensor(value) for name, value in statistics.items()}

    def _reset_rows(self, table: str, rows: Tensor) -> None:
        """Draw rows anew and clear their optimizer state; a function of seed, table and step alone."""
        number = list(self.tables.num_embeddings).index(table)
        shape = (len(rows), self.tables.width[table])
        drawn = np.random.default_rng((self.seed, number, self.now, 1)).standard_normal(shape, dtype=np.float32)
        vectors = torch.from_numpy(drawn) * self.tables.init_std
        self.tables.reset_rows(table, rows, vectors, self.sparse)


def choose(
    policy: MCHEvictionPolicy, ids: Tensor, state: dict[str, Tensor], observed: Observed, now: int
) -> tuple[Tensor, Tensor, Tensor, int]:
    """Let a policy compare the ids that own a row with those that were observed.

    Args:
        policy: TorchRec's.
        ids: of the map, ascending.
        state: counts and last steps of these ids; updated in place.
        observed: ids, counts and last steps since the last decision.
        now: number of the step.

    Returns:
        The new ids of the map, the positions in the old map whose rows change owner, the old position of every new id,
        and the number of lookups whose id owned a row.
    """
    unique, counts, last = observed
    by_count = torch.argsort(counts, descending=True, stable=True)
    unique, counts = unique[by_count], counts[by_count]
    position = torch.searchsorted(ids[:-1], unique)
    known = ids[position] == unique
    names = [info.metadata_name for info in policy.metadata_info]
    taken, chosen = policy.update_metadata_and_generate_eviction_scores(
        now,
        len(ids),
        by_count,
        counts,
        known,
        position[known],
        {name: state[name] for name in names},
        {LAST: last.clone()} if LAST in names else {},
    )
    ids = ids.clone()
    ids[taken] = unique[~known][chosen]
    order = torch.argsort(ids, stable=True)  # stable: empty entries stay behind, and the shared row stays last
    for name in names:
        state[name].copy_(state[name][order])
    return ids[order], taken, order, int(counts[known].sum())


def due(step: int, interval: int) -> bool:
    """Tell whether a decision is due after a number of steps."""
    return step % interval == 0 or (step < interval and step & (step - 1) == 0)


def merged(observations: Sequence[Observed]) -> Observed:
    """Merge several observations: counts add up, the latest step wins."""
    ids, counts, last = (torch.cat(parts) for parts in zip(*observations, strict=True))
    unique, inverse = torch.unique(ids, return_inverse=True)
    total = torch.zeros_like(unique).index_add_(0, inverse, counts)
    return unique, total, torch.zeros_like(unique).scatter_reduce_(0, inverse, last, "amax", include_self=False)


def ids_of(spec: FeatureSpec, table: str, batches: Sequence[Batch]) -> Tensor:
    """Collect, on the CPU, all ids that batches look up in a table."""
    ids = [batch.sparse_ids[:, column] for batch in batches for column, f in enumerate(spec.ids) if f.table == table]
    for name, fields in spec.groups.items():
        columns = [column for column, f in enumerate(fields) if f.table == table]
        ids += [batch.sequence_values[name][:, column] for batch in batches for column in columns]
    return torch.cat(ids).long().cpu() if ids else torch.zeros(0, dtype=torch.long)


def policy_of(config: EvictionConfig) -> MCHEvictionPolicy:
    """Make TorchRec's policy.

    Raises:
        MissingExtraError: TorchRec is not installed.
    """
    try:
        with quietly():
            from torchrec.modules import mc_modules
    except ImportError as error:
        raise MissingExtraError("training tables with managed rows", "distributed", torchrec_command()) from error
    kinds: dict[str, Callable[[], MCHEvictionPolicy]] = {
        "lfu": mc_modules.LFU_EvictionPolicy,
        "lru": mc_modules.LRU_EvictionPolicy,
        "distance_lfu": mc_modules.DistanceLFU_EvictionPolicy,
    }
    return kinds[config.policy]()


def eviction_configs(recipe: Recipe) -> dict[str, EvictionConfig]:
    """Return the eviction of every managed table.

    Raises:
        UnimixerError: ``optimizer.eviction`` names a table without managed rows.
    """
    managed, configs = recipe.model.managed_embeddings, recipe.optimizer.eviction
    for table in configs:
        if table not in managed:
            raise unknown("managed table in optimizer.eviction", table, managed)
    return {table: configs.get(table, EvictionConfig()) for table in managed}


def check_managed(recipe: Recipe, spec: FeatureSpec) -> None:
    """Check the managed rows of a recipe.

    Raises:
        UnimixerError: for an unknown table, more rows than ids, an eviction of a table that has none.
        MissingExtraError: TorchRec is not installed.
    """
    for table, rows in recipe.model.managed_embeddings.items():
        if table in spec.tables and rows >= spec.tables[table]:
            raise UnimixerError(
                f"model.managed_embeddings: table {table!r} has {spec.tables[table]:,} ids and needs no {rows:,} "
                "managed rows; leave it out, every id has a row then"
            )
    for config in eviction_configs(recipe).values():
        policy_of(config)


def no_observations() -> dict[str, Tensor]:
    """Return the state of a table that was not looked up since the last decision."""
    return {name: torch.zeros(0, dtype=torch.long) for name in _OBSERVED}
