"""What a bundle was made with, and whether this machine can run it."""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from unimixer.environment import versions
from unimixer.errors import UnimixerError
from unimixer.progress import say

AGAIN = "export the run again"
_NEEDED = {"onnx": ("opset",), "pt2": ("torch",), "aoti": ("torch", "machine", "processor")}
"""What must be known of a bundle of each format before it can be checked."""
_USED = re.compile(
    r"(sse|ssse|avx|amx|fma|bmi)\w*|pni|f16c|abm|movbe|popcnt|xop|tbm|adx|gfni|aes|vaes|v?pclmulqdq|sha_ni"
)
"""Flags of an x86 processor that stand for instructions a compiler may choose."""


def made_with(form: str, path: Path) -> dict[str, Any]:
    """Versions, system and processor as they are now, for the manifest of a graph file.

    The instructions of the processor are there for ``aoti`` alone: other graphs run on any, and bundles of equal
    content have an equal version.
    """
    packages = versions()
    found: dict[str, Any] = {
        "versions": packages,
        "python": platform.python_version(),
        "system": platform.system(),
        "machine": platform.machine(),
    }
    if form == "aoti":
        found["processor"] = sorted(instructions())
    if form == "onnx":
        import onnx
        import onnxruntime

        packages |= {"onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__}
        sets = onnx.load(str(path), load_external_data=False).opset_import
        found["opset"] = next(one.version for one in sets if one.domain in ("", "ai.onnx"))
    return found


def instructions(cpuinfo: Path = Path("/proc/cpuinfo")) -> set[str]:
    """Extensions of its instruction set that code compiled for this processor may use."""
    text = cpuinfo.read_text(encoding="utf-8") if cpuinfo.exists() else ""
    line = re.search(r"^(flags|Features)\s*:(.*)$", text, flags=re.MULTILINE)
    if line is None:  # not Linux
        return {torch.backends.cpu.get_cpu_capability().lower()}
    return {flag for flag in line[2].split() if line[1] == "Features" or _USED.fullmatch(flag)}


def check_made_with(folder: Path, form: str, exported: Any) -> bool:
    """Compare what a bundle was made with with what is here; say what cannot be compared.

    Compiled code fits one release of torch, whose functions it calls, and a processor that has all instructions of
    the one that it was compiled for: with others it fails in ways that nobody can report. An archive of
    ``torch.export`` is read by the torch that wrote it and by later ones, which may compute differently.

    Returns:
        Whether the bundle must show that its held-out requests still have their scores.

    Raises:
        UnimixerError: if it was made for another torch or another processor, with both sides.
    """
    made = _record(exported)
    missing = [name for name in _NEEDED[form] if name not in made]
    if missing:
        say(f"{folder}: does not say for which {' and '.join(missing)} it was made, so that is not checked; {AGAIN}")
    torch_made, torch_here = str(made.get("torch", torch.__version__)), str(torch.__version__)
    if form == "aoti":
        if torch_made.partition("+")[0] != torch_here.partition("+")[0]:
            raise UnimixerError(
                f"{folder}: compiled for torch {torch_made}, this is torch {torch_here}; {AGAIN} with this torch, or "
                f"install torch {torch_made}"
            )
        _check_processor(folder, made)
    if form != "pt2":
        return False
    if _minor(torch_made) > _minor(torch_here):
        raise UnimixerError(
            f"{folder}: written by torch {torch_made}, and this is torch {torch_here}, which reads its own archives "
            f"and those of earlier versions; {AGAIN} with this torch, or install torch {torch_made}"
        )
    return _minor(torch_made) < _minor(torch_here)


def _check_processor(folder: Path, made: Mapping[str, Any]) -> None:
    here = {"system": platform.system(), "machine": platform.machine()}
    sides = tuple(f"{found['system']} on {found['machine']}" for found in ({**here, **made}, here))
    if sides[0] != sides[1]:
        raise UnimixerError(f"{folder}: compiled for {sides[0]}, this is {sides[1]}; {AGAIN} on this kind of machine")
    own = instructions()
    lacking = sorted(set(made.get("processor", ())) - own)
    if lacking:
        raise UnimixerError(
            f"{folder}: compiled for a processor with {', '.join(lacking)}, and this one has {_widest(own)} but not "
            f"{'that' if len(lacking) == 1 else 'those'}; {AGAIN} on this kind of machine, or use --format onnx"
        )


def _widest(own: set[str]) -> str:
    """The widest vectors that a processor has, as a person would name it."""
    known = ("avx512f", "avx2", "avx", "sse4_2", "sve2", "sve", "asimd")
    return next((name for name in known if name in own), "/".join(sorted(own)[:3]) or "none of its kind")


def _record(exported: Any) -> dict[str, Any]:
    """What is known of how a bundle was made; what has another form than it is written in is not."""
    values = exported if isinstance(exported, Mapping) else {}
    packages = values.get("versions")
    found = {name: values[name] for name in ("system", "machine") if isinstance(values.get(name), str)}
    if isinstance(values.get("opset"), int):
        found["opset"] = values["opset"]
    if isinstance(values.get("processor"), list):
        found["processor"] = [str(name) for name in values["processor"]]
    if isinstance(packages, Mapping) and re.match(r"\d+\.\d+", str(packages.get("torch"))):
        found["torch"] = packages["torch"]
    return found


def _minor(release: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", release)[:2])
