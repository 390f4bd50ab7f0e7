"""A Ray cluster, joined or begun: the engine for work on many machines."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from unimixer.errors import MissingExtraError, UnimixerError

LOCAL = "local"


def ray_package(task: str) -> Any:
    """The package, imported when it is asked for and not before.

    Raises:
        MissingExtraError: Ray is not installed.
    """
    try:
        return import_module("ray")
    except ImportError:
        raise MissingExtraError(task, "sweep") from None


@contextmanager
def cluster(address: str, task: str, *, cores: int, gpus: int = 0) -> Iterator[Any]:
    """Join a cluster, or begin one; gives the package. A cluster that was joined before stays joined.

    Args:
        address: ``local`` begins a cluster on this machine, ``auto`` joins the one that it belongs to, anything else
            is the address of a head.
        task: what it is for, for the message.
        cores: of a cluster that begins here.
        gpus: of a cluster that begins here.

    Raises:
        MissingExtraError: Ray is not installed.
        UnimixerError: no cluster answers.
    """
    ray = ray_package(task)
    if ray.is_initialized():
        yield ray
        return
    try:
        if address == LOCAL:
            quiet = {"log_to_driver": False, "logging_level": "error", "include_dashboard": False}
            ray.init(num_cpus=cores, num_gpus=gpus or None, **quiet)
        else:
            ray.init(address=address, log_to_driver=False, logging_level="error")
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UnimixerError(
            f"--ray {address}: no cluster answers ({' '.join(str(error).split())[:200]}); start one with: "
            "ray start --head, or use --ray local; to join one that asks for a token, set RAY_AUTH_MODE=token"
        ) from None
    try:
        yield ray
    finally:
        ray.shutdown()
