"""How a server is set up."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt, SecretStr

from unimixer.errors import UnimixerError
from unimixer.serving.stores.base import MARGIN, TIMEOUT_S
from unimixer.settings import Settings

API_KEY, ADMIN_KEY = "UNIMIXER_API_KEY", "UNIMIXER_ADMIN_KEY"
MIN_KEY = 16


class ServeSettings(Settings):
    """Everything that a server is told; nothing of it is in the bundle."""

    bundle: Path
    """Folder of the bundle, or a link to one that a swap reads again."""
    store: str
    """Path of the SQLite file, or address of Redis."""
    host: str = "127.0.0.1"
    port: int = 8080
    """0 takes a free port, which the log names."""
    name: str = "ranker"
    """Name of the model in the open inference protocol."""
    threads: PositiveInt = 1
    """Threads of one scoring."""
    concurrency: PositiveInt = 2
    """Requests that are scored at once."""
    queue: NonNegativeInt = 32
    """Requests that wait; more are refused with 429."""
    timeout: PositiveFloat = 2.0
    """Seconds from a request's arrival to its answer."""
    connections: PositiveInt = 1_000
    """Connections that are open at once; more are refused with 503."""
    idle: PositiveFloat = 5.0
    """Seconds that a connection may be silent before a request and between two."""
    max_body: PositiveInt = 1 << 20
    """Bytes of a body."""
    max_candidates: PositiveInt = 2_000
    cached: PositiveInt = 200_000
    """Encoded rows of users and of items that are kept."""
    keep_events: NonNegativeInt = MARGIN
    """Events of a user that the store keeps beyond the longest history, see :class:`FeatureStore`."""
    score_log: str | None = None
    """Folder of the score log, or address of a PostgreSQL database."""
    flush: PositiveFloat = 1.0
    """Seconds between two writes of the score log: the most that a killed server loses."""
    log_rows: PositiveInt = 50_000
    """Answers that wait to be written at most; more are dropped, counted and reported."""
    grace: PositiveFloat = 10.0
    """Seconds that requests in flight get when the server stops, and then the score log."""
    api_key: SecretStr | None = None
    admin_key: SecretStr | None = None
    """Without it, nothing can be changed over HTTP."""

    @property
    def store_timeout(self) -> float:
        """Seconds that a call waits for the store, as for another writer; the rest of a request's time is its own."""
        return min(TIMEOUT_S, self.timeout / 4)


def read_key(variable: str, file: Path | None) -> SecretStr | None:
    """A key from a file or from the environment; never from the command line, which every user of a machine can read.

    Raises:
        UnimixerError: the file cannot be read, or the key is too short.
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
        way_out = "write one into it" if file else "unset it to serve without a key"
        raise UnimixerError(f"the key in {file or variable} is blank; {way_out}, or make one: openssl rand -hex 32")
    if len(text) < MIN_KEY or not (text.isascii() and text.isprintable()):
        raise UnimixerError(
            f"the key in {file or variable} has {len(text)} characters; a key has at least {MIN_KEY}, all printable "
            "ASCII: openssl rand -hex 32"
        )
    return SecretStr(text)
