"""torch, torchrec and fbgemm are built for each other: one release of each fits, and no other."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

from unimixer.errors import MissingExtraError, UnimixerError

FBGEMM = ("fbgemm-gpu-cpu", "fbgemm-gpu")
"""The CPU build and the CUDA build are two distributions of one package."""


def check_triple(installed: Mapping[str, str] | None = None) -> None:
    """Raise unless torch 2.(X+5) stands beside torchrec 1.X and fbgemm 1.X.

    Args:
        installed: versions by distribution, instead of those of this environment.

    Raises:
        MissingExtraError: torchrec or fbgemm is not installed.
        UnimixerError: the three do not fit; the message says which releases would.
    """
    found = installed_versions() if installed is None else dict(installed)
    fbgemm = next((found[name] for name in FBGEMM if name in found), None)
    expected = expected_minor(found["torch"])
    release = f"1.{expected[1]}.0"
    if "torchrec" not in found or fbgemm is None:
        raise MissingExtraError(
            f"training on several processes (and then: pip install --no-deps torchrec=={release})", "distributed"
        )
    wrong = [f"{n} {v}" for n, v in (("torchrec", found["torchrec"]), ("fbgemm", fbgemm)) if _minor(v) != expected]
    if wrong:
        raise UnimixerError(
            f"torch {found['torch']} does not go with {' and '.join(wrong)}: torch 2.(X+5) needs torchrec 1.X and "
            f"fbgemm 1.X; pip install fbgemm-gpu-cpu=={release}, then pip install --no-deps torchrec=={release}"
        )


def installed_versions() -> dict[str, str]:
    """Versions of the triple's distributions, without those that are not installed."""
    found = {}
    for name in ("torch", "torchrec", *FBGEMM):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def expected_minor(torch: str) -> tuple[int, int]:
    """Release of torchrec and fbgemm that was built for a torch."""
    major, minor = _minor(torch)
    return major - 1, minor - 5


def _minor(text: str) -> tuple[int, int]:
    major, minor = text.split("+")[0].split(".")[:2]
    return int(major), int(minor)
