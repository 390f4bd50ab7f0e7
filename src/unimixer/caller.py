"""What belongs to the caller of a library: random states, threads and warning filters of the whole process."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def states_kept() -> Iterator[None]:
    """Give the caller back the states of ``random``, numpy and torch, torch's threads and the warning filters.

    A run draws from generators of its own seed. Without this, whoever draws after it, such as a random search, would
    draw the same after every run. Also a decorator.

    Example:
        >>> @states_kept()
        ... def reseeds() -> None:
        ...     random.seed(0)
        >>> before = random.getstate()
        >>> reseeds()
        >>> random.getstate() == before
        True
    """
    python, legacy, cpu, seed = random.getstate(), np.random.get_state(), torch.get_rng_state(), torch.initial_seed()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None  # type: ignore[no-untyped-call]
    threads = torch.get_num_threads()
    try:
        with warnings.catch_warnings():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)
        if cuda is None:
            torch.cuda.manual_seed_all(seed)  # what the generators of CUDA begin with when CUDA is first used
        else:
            torch.cuda.set_rng_state_all(cuda)
        torch.set_rng_state(cpu)
        torch.set_num_threads(threads)
