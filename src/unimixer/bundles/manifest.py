"""The table of contents of a bundle: its files with their checksums, and the machine that made it."""

from __future__ import annotations

import hashlib
import json
import platform
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import torch

from unimixer.environment import versions
from unimixer.errors import UnimixerError
from unimixer.io import BUNDLE, DELTA, check_kind, read_errors
from unimixer.progress import say

FORMAT = 2
NAME = "manifest.json"


def digest(path: Path) -> str:
    """Compute the SHA-256 of a file, read in pieces."""
    sha = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 22):
            sha.update(piece)
    return sha.hexdigest()


def version_of(values: Mapping[str, Any]) -> str:
    """Hash the content: the manifest without its version, and with it every file."""
    rest = {name: value for name, value in values.items() if name != "version"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write_manifest(folder: Path, values: Mapping[str, Any]) -> dict[str, Any]:
    """Write the manifest of all files of a folder; equal content has an equal version."""
    files = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": digest(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    manifest = {"format": FORMAT, **values, "files": files}
    manifest = {"format": FORMAT, "version": version_of(manifest), **manifest}
    save_manifest(folder, manifest)
    return manifest


def save_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write a whole manifest."""
    (folder / NAME).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


_MAKE = {
    BUNDLE: "unimixer export RUN, or from a delta: unimixer bundle apply BASE DELTA",
    DELTA: "unimixer export RUN --delta BASE",
}
"""How to make a folder of a kind."""


def read_manifest(folder: Path, kind: str = BUNDLE) -> dict[str, Any]:
    """Read a manifest and verify its format, its own hash, and the checksum of every file before anything is loaded.

    Raises:
        UnimixerError: a file is missing, truncated or changed.
    """
    check_kind(folder, kind, marker=NAME, make=_MAKE[kind])
    path = folder / NAME
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        form, version, files = manifest["format"], manifest["version"], manifest["files"]
        entries = {str(name): (int(entry["bytes"]), str(entry["sha256"])) for name, entry in files.items()}
    except OSError:
        with read_errors(path):
            raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UnimixerError(f"{path}: damaged ({error!r:.100}); export the run again") from None
    if form != FORMAT:
        raise UnimixerError(f"{path}: format {form}, this version reads {FORMAT}; export the run again")
    if version != version_of(manifest):
        raise UnimixerError(f"{path}: changed after it was written (its hash differs); export the run again")
    with read_errors(folder):
        for name, (size, expected) in entries.items():
            _check_file(folder, name, size, expected)
    return manifest


def file_of(folder: Path, name: str) -> Path:
    """Return the path of a file of a bundle.

    Raises:
        UnimixerError: if its name leads outside the folder.
    """
    parts = PurePosixPath(name).parts
    if not parts or ".." in parts or PurePosixPath(name).is_absolute():
        raise UnimixerError(f"{folder / NAME}: {name!r} is not a file inside the bundle; export the run again")
    return folder / name


def _check_file(folder: Path, name: str, size: int, expected: str) -> None:
    path = file_of(folder, name)
    if not path.is_file():
        raise UnimixerError(f"{path} is missing; export the run again")
    if (actual := path.stat().st_size) != size:
        raise UnimixerError(f"{path} has {actual} bytes, expected {size}: truncated or changed; export the run again")
    if digest(path) != expected:
        raise UnimixerError(f"{path}: changed after it was written (its checksum differs); export the run again")


AGAIN = "export the run again"
_NEEDED = {"onnx": ("opset",), "pt2": ("torch",), "aoti": ("torch", "machine", "processor")}
"""Facts that the check of a bundle needs, by format."""
_USED = re.compile(
    r"(sse|ssse|avx|amx|fma|bmi)\w*|pni|f16c|abm|movbe|popcnt|xop|tbm|adx|gfni|aes|vaes|v?pclmulqdq|sha_ni"
)
"""Flags of an x86 processor for instructions that a compiler may choose."""


def made_with(form: str, path: Path) -> dict[str, Any]:
    """Collect versions, system and processor as they are now, for the manifest of a graph file.

    The instructions of the processor are there for ``aoti`` alone: other graphs run on any, and bundles of equal
    content have an equal version.
    """
    packages = versions()
    facts: dict[str, Any] = {
        "versions": packages,
        "python": platform.python_version(),
        "system": platform.system(),
        "machine": platform.machine(),
    }
    if form == "aoti":
        facts["processor"] = sorted(instructions())
    if form == "onnx":
        import onnx
        import onnxruntime

        packages |= {"onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__}
        sets = onnx.load(str(path), load_external_data=False).opset_import
        facts["opset"] = next(one.version for one in sets if one.domain in ("", "ai.onnx"))
    return facts


def instructions(cpuinfo: Path = Path("/proc/cpuinfo")) -> set[str]:
    """List the extensions of the instruction set that code compiled for this processor may use."""
    text = cpuinfo.read_text(encoding="utf-8") if cpuinfo.exists() else ""
    line = re.search(r"^(flags|Features)\s*:(.*)$", text, flags=re.MULTILINE)
    if line is None:  # not Linux
        return {torch.backends.cpu.get_cpu_capability().lower()}
    return {flag for flag in line[2].split() if line[1] == "Features" or _USED.fullmatch(flag)}


def check_made_with(folder: Path, form: str, exported: Any) -> bool:
    """Check that this torch and this processor can run a bundle; say which facts are missing.

    Compiled code fits one release of torch, whose functions it calls, and a processor with all instructions of the one
    that it was compiled for: on others it fails without a message. An archive of
    ``torch.export`` is read by the torch that wrote it and by later ones, which may compute differently.

    Returns:
        Whether the held-out requests of the bundle must be scored again to prove that it is still right.

    Raises:
        UnimixerError: if the bundle was made for another torch or processor; the message names both sides.
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
    sides = tuple(f"{side['system']} on {side['machine']}" for side in ({**here, **made}, here))
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
    """Name the widest vectors of a processor, as a person would."""
    known = ("avx512f", "avx2", "avx", "sse4_2", "sve2", "sve", "asimd")
    return next((name for name in known if name in own), "/".join(sorted(own)[:3]) or "none of its kind")


def _record(exported: Any) -> dict[str, Any]:
    """Read the facts on how a bundle was made; values of an unexpected type are left out."""
    values = exported if isinstance(exported, Mapping) else {}
    packages = values.get("versions")
    facts = {name: values[name] for name in ("system", "machine") if isinstance(values.get(name), str)}
    if isinstance(values.get("opset"), int):
        facts["opset"] = values["opset"]
    if isinstance(values.get("processor"), list):
        facts["processor"] = [str(name) for name in values["processor"]]
    if isinstance(packages, Mapping) and re.match(r"\d+\.\d+", str(packages.get("torch"))):
        facts["torch"] = packages["torch"]
    return facts


def _minor(release: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", release)[:2])
