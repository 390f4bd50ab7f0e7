"""Memory that a training step frees stays with the process, so that the next step gets no fresh pages."""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGE_TENSOR = 2**30
"""Tensors up to 1 GB come from the heap."""
_KEPT = 2**31 - 1
"""Free bytes at the end of the heap that are not returned to the system; mallopt takes an int."""


@cache
def keep_freed_memory() -> bool:
    """Tell the C library to keep what is freed; once a process, and whether it did.

    glibc maps every tensor over 32 MB anew and unmaps it when it is freed, so that each use begins with zeroed pages:
    up to 40% of a step with large activations, eager or compiled (docs/performance.md). A process then holds the most
    that it ever needed. On other systems, and with ``UNIMIXER_KEEP_MEMORY=0``, nothing happens.
    """
    if sys.platform != "linux" or os.environ.get("UNIMIXER_KEEP_MEMORY", "1") == "0":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # another C library
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _LARGE_TENSOR)) and bool(mallopt(_M_TRIM_THRESHOLD, _KEPT))
