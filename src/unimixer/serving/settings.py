"""Define the settings of a server and read its keys."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt, SecretStr, model_validator

from unimixer.errors import UnimixerError
from unimixer.serving.stores.base import MARGIN, TIMEOUT_S
from unimixer.settings import Settings

API_KEY, ADMIN_KEY = "UNIMIXER_API_KEY", "UNIMIXER_ADMIN_KEY"
MIN_KEY = 16


class ServeSettings(Settings):
    """Hold the settings of a server, none of which belongs to the bundle."""

    bundle: Path
    """Folder of the bundle, or a link that a reload follows again."""
    store: str
    """Path of a SQLite file, or address of a Redis database."""
    host: str = "127.0.0.1"
    port: int = 8080
    """Port to listen on; 0 takes a free port, which the log names."""
    name: str = "ranker"
    """Name of the model in the open inference protocol."""
    threads: PositiveInt = 1
    """Threads per scored request."""
    concurrency: PositiveInt = 2
    """Number of requests that are scored at once."""
    queue: NonNegativeInt = 32
    """Largest number of waiting requests; more are refused with 429."""
    timeout: PositiveFloat = 2.0
    """Seconds from a request's arrival to its answer."""
    connections: PositiveInt = 1_000
    """Largest number of open connections; more are refused with 503."""
    idle: PositiveFloat = 5.0
    """Seconds that a connection may be silent before a request and between requests."""
    max_body: PositiveInt = 1 << 20
    """Largest number of bytes of a body."""
    max_candidates: PositiveInt = 2_000
    """Largest number of items of a request."""
    cached: PositiveInt = 200_000
    """Largest number of cached users, and of cached items."""
    keep_events: NonNegativeInt = MARGIN
    """Events per user and kind that the store keeps in addition to the longest history, see :class:`FeatureStore`."""
    experiments: tuple[Path, ...] = ()
    """Specifications of experiments whose arms are served."""
    events: str | None = None
    """Address of the database that takes exposures and outcomes."""
    positions: PositiveInt = 100
    """Largest number of items, in the order shown, of an exposure."""
    prediction_log: str | None = None
    """Folder of the prediction log, or address of a PostgreSQL database."""
    flush: PositiveFloat = 1.0
    """Seconds between two writes of the prediction log; a killed server loses the answers of at most this time."""
    log_rows: PositiveInt = 50_000
    """Largest number of answers that wait to be written; more are dropped, counted and reported."""
    grace: PositiveFloat = 10.0
    """Seconds that a stopping server gives to requests in flight, and then to the prediction log."""
    api_key: SecretStr | None = None
    """Key of ranking requests; without it, everyone may send them."""
    admin_key: SecretStr | None = None
    """Key of changes; without it, the server accepts no changes over HTTP."""

    @model_validator(mode="after")
    def _experiments_need_events(self) -> ServeSettings:
        if self.experiments and self.events is None:
            raise ValueError(
                "experiments: an experiment without a database of events has no exposures; give one with "
                "--database sqlite:///FILE or --database postgresql://user@host/db"
            )
        return self

    @property
    def store_timeout(self) -> float:
        """Seconds that a call waits for the store: at most a quarter of the time of a request."""
        return min(TIMEOUT_S, self.timeout / 4)


def read_key(variable: str, file: Path | None) -> SecretStr | None:
    """Read a key from a file or the environment; every user of a machine can read the command line.

    Raises:
        UnimixerError: the file cannot be read, or the key is too short or not printable ASCII.
    """
    if file is None:
        if variable not in os.environ:
            return None
        text = os.environ[variable].strip()
    else:
        try:
            text = file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UnimixerError(f"{file}: cannot read the key ({getattr(error, 'strerror', error)})") from None
    if not text:
        way_out = "write a key into the file" if file else "unset it to serve without a key"
        raise UnimixerError(
            f"the key in {file or variable} is blank; {way_out}, or make one with: openssl rand -hex 32"
        )
    if len(text) < MIN_KEY or not (text.isascii() and text.isprintable()):
        raise UnimixerError(
            f"the key in {file or variable} has {len(text)} characters; a key needs at least {MIN_KEY}, all printable "
            "ASCII; make one with: openssl rand -hex 32"
        )
    return SecretStr(text)
