"""Store raw rows of users and items and the events of users: SQLite and Redis."""

from pathlib import Path

from unimixer.serving.stores.base import PATIENCE_S, FeatureStore, is_redis
from unimixer.serving.stores.redis import RedisStore
from unimixer.serving.stores.sqlite import SQLiteStore

__all__ = ["open_store"]


def open_store(place: str, *, patience: float = PATIENCE_S) -> FeatureStore:
    """Open a SQLite file by its path, or Redis by its address (``redis://host:port/db``).

    Args:
        place: path or address.
        patience: seconds that a call waits for a lock of the file, or for an answer of Redis.

    Raises:
        UnimixerError: there is no store, or one of another format.
    """
    if is_redis(place):
        return RedisStore(place, patience=patience)
    return SQLiteStore(Path(place), patience=patience)
