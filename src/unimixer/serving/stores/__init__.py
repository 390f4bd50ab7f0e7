"""Store raw rows of users and items, and events of users, in SQLite or Redis."""

from pathlib import Path

from unimixer.serving.stores.base import TIMEOUT_S, FeatureStore, is_redis
from unimixer.serving.stores.redis import RedisStore
from unimixer.serving.stores.sqlite import SQLiteStore

__all__ = ["open_store"]


def open_store(address: str, *, timeout: float = TIMEOUT_S) -> FeatureStore:
    """Open the feature store in a SQLite file or in Redis.

    Args:
        address: path of the file, or ``redis://host:port/db``.
        timeout: seconds that a call waits for a lock of the file, or for an answer of Redis.

    Raises:
        UnimixerError: there is no feature store, or its format is not supported.
    """
    if is_redis(address):
        return RedisStore(address, timeout=timeout)
    return SQLiteStore(Path(address), timeout=timeout)
