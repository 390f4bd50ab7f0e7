"""What the server answers instead of scores: a status and one sentence, in one JSON shape."""

from __future__ import annotations

from typing import Any

import pydantic_core

from unimixer.errors import UnimixerError
from unimixer.serving.store import StoreUnavailableError


class RefusedError(UnimixerError):
    """A request that is not answered.

    Args:
        status: HTTP status.
        message: one sentence.
        retry_after: seconds after which another try may succeed.
    """

    def __init__(self, status: int, message: str, *, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status, self.retry_after = status, retry_after


def refusal(error: UnimixerError) -> RefusedError:
    """Any mistake as a refusal: a store that is down is ours (503), everything else is the caller's (422)."""
    if isinstance(error, RefusedError):
        return error
    if isinstance(error, StoreUnavailableError):
        return RefusedError(503, str(error), retry_after=1)
    return RefusedError(422, " ".join(str(error).split()))


def read_json(body: bytes) -> dict[str, Any]:
    """A JSON object.

    Raises:
        RefusedError: it is none; NaN and Infinity are no JSON.
    """
    try:
        # keys of items hardly repeat within a body: a cache of strings costs more than it saves
        found = pydantic_core.from_json(body, allow_inf_nan=False, cache_strings="none")
    except ValueError as error:
        raise RefusedError(400, f"the body is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise RefusedError(422, f"the body is a JSON {type(found).__name__}, expected an object")
    return found
