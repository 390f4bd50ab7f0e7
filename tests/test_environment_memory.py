"""What a training process frees stays with it."""

import os
import subprocess
import sys

import pytest

SCRIPT = """
import resource, torch
from unimixer.environment import keep_freed_memory
kept = keep_freed_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.empty(12 * 2**20).fill_(1.0)   # 48 MB: above the 32 MB from which glibc maps
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
first = [faults() for _ in range(30)]
print(kept, sum(faults() for _ in range(10)))
"""


def measured(**environment: str) -> tuple[bool, int]:
    found = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    kept, faults = found.stdout.split()
    return kept == "True", int(faults)


@pytest.mark.skipif(sys.platform != "linux", reason="the C library of this system has no mallopt")
def test_large_tensors_reuse_their_pages() -> None:
    kept, faults = measured()
    if not kept:
        pytest.skip("this C library has no mallopt")
    assert faults < 1_000
    refused, faults = measured(UNIMIXER_KEEP_MEMORY="0")
    assert not refused
    assert faults > 50_000  # ten tensors of 12,288 pages
