"""Options of the embedding of all fields."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True, kw_only=True)
class EmbeddingOptions:
    """Options of the embedding of all fields.

    Example:
        >>> EmbeddingOptions(embedding_dim=8).sequence_encoder
        'mean'
    """

    embedding_dim: int = 16
    """Width of every field, unless ``embedding_dims`` names its table."""
    embedding_dims: Mapping[str, int] | None = None
    """Widths of single tables."""
    embedding_init_std: float = 0.01
    """Standard deviation of a new row."""
    sequence_encoder: str = "mean"
    """``mean``, ``target_attention``, ``transformer``, ``din`` or ``dien``; a sequence without a counterpart among the
    candidate's fields is pooled by its mean whatever the encoder."""
    sequence_options: Mapping[str, Any] | None = None
    """Keyword arguments of the sequence encoder."""
    sequence_search: Mapping[str, Mapping[str, Any]] | None = None
    """Searches of long histories, see :class:`~unimixer.features.search.HistorySearch`."""
    managed_embeddings: Mapping[str, int] | None = None
    """Rows of tables with fewer rows than ids, see :class:`~unimixer.features.managed.ManagedIds`."""
    field_order: Sequence[str] | None = None
    """Names of all fields of E in their order inside a domain (default: that of the spec)."""
    ignored_features: Sequence[str] = ()
    """Features, histories or domains that the model does not read."""
    table_device: torch.device | str | None = None
    """Device of the tables; on ``meta`` they take no memory."""
    sparse_gradients: bool = False
    """Row-sparse gradients of the tables, see :class:`~unimixer.features.embedding.EmbeddingTables`."""
