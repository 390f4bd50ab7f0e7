"""A delta: the bytes by which one bundle differs from another; the earlier bundle and the delta make the later one."""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from unimixer.bundles.file_changes import apply_changes, changes
from unimixer.bundles.manifest import file_of, read_manifest, save_manifest, write_manifest
from unimixer.bundles.write import DEFAULTS, ExportOptions, export_run
from unimixer.errors import UnimixerError
from unimixer.io import BUNDLE, DELTA, atomic_folder

CHANGES = "changes.safetensors"


def export_delta(
    run: Path | str,
    base: Path | str,
    out: Path | str,
    options: ExportOptions = DEFAULTS,
    *,
    dataset: Path | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Export a run, and keep what :func:`apply_delta` needs to make its bundle from an earlier one.

    Args:
        run: a run folder with best weights.
        base: the bundle that the delta follows.
        out: folder of the delta.
        options: the form of the bundle, which is that of the base.
        dataset: the dataset, if it moved since the training.
        overwrite: replace an earlier delta.

    Returns:
        The manifest: ``follows`` is the version of the base, ``base`` the sizes and checksums of its files, ``result``
        the manifest of the new bundle, ``changed`` the number of bytes that a file takes from the delta.

    Raises:
        UnimixerError: the base is damaged or of another form, or the run cannot be exported.
    """
    base, target = Path(base).resolve(), Path(out)  # a link is read once
    _check_out(target, base)
    _check_form(base, options)
    with (
        atomic_folder(target, overwrite=overwrite, kind=DELTA) as folder,
        TemporaryDirectory(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent) as place,
    ):
        bundle = export_run(run, Path(place) / "bundle", options, dataset=dataset)
        return write_delta(base, bundle.folder, folder)


def _check_out(out: Path, *read: Path) -> None:
    """Raise if a result would replace what it is made from."""
    if out.resolve() in read:
        raise UnimixerError(f"{out} is what the result is made from, and it stays as it is; choose another --out")


def _check_form(base: Path, options: ExportOptions) -> None:
    graph = read_manifest(base)["graph"]
    for name in ("format", "precision", "harden", "layout"):
        before, after = graph[name], getattr(options, name)
        if before != after:
            raise UnimixerError(
                f"{base} was exported with {name} {before}, and the delta with {name} {after}: files of two forms have "
                "few bytes in common; export the delta with the options of its base, or export a whole bundle"
            )


def write_delta(base: Path, bundle: Path, folder: Path) -> dict[str, Any]:
    """Write the difference of two bundles into an empty folder; returns its manifest."""
    before, after = read_manifest(base), read_manifest(bundle)
    tensors: dict[str, np.ndarray] = {}
    changed = {}
    for name, entry in after["files"].items():
        if before["files"].get(name) == entry:
            continue
        copies, literal = changes(base / name if name in before["files"] else None, bundle / name)
        tensors |= {f"{name}#copies": copies, f"{name}#bytes": literal}
        changed[name] = int(literal.nbytes)
    save_file(tensors, folder / CHANGES)
    facts = {"follows": before["version"], "base": before["files"], "result": after, "changed": changed}
    return write_manifest(folder, facts)


def apply_delta(base: Path | str, delta: Path | str, out: Path | str, *, overwrite: bool = False) -> dict[str, Any]:
    """Make the bundle that a delta leads to; it is equal to the bundle that was exported, file by file.

    The checksums of the base, of the delta and of the result are verified. Memory follows the delta, not the bundle.

    Args:
        base: the bundle that the delta follows.
        delta: what ``unimixer export RUN --delta BASE`` wrote.
        out: folder of the new bundle.
        overwrite: replace an earlier bundle.

    Returns:
        The manifest of the new bundle.

    Raises:
        UnimixerError: one of both is damaged, or the delta follows another bundle; nothing is left then.
    """
    base, delta, out = Path(base).resolve(), Path(delta), Path(out)  # a link is read once
    change, before = read_manifest(delta, DELTA), read_manifest(base)
    if change["follows"] != before["version"]:
        raise UnimixerError(
            f"{delta} follows the bundle of version {change['follows']}, and {base} has version {before['version']}; "
            "apply deltas in the order of their days, or take a whole bundle"
        )
    _check_out(out, base, delta.resolve())
    result = change["result"]
    with atomic_folder(out, overwrite=overwrite, kind=BUNDLE) as folder:
        for name, entry in result["files"].items():
            target = file_of(folder, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            if before["files"].get(name) == entry:
                shutil.copyfile(base / name, target)
            else:
                source = base / name if name in before["files"] else None
                _write(source, delta / CHANGES, name, target, int(entry["bytes"]))
        save_manifest(folder, result)
        read_manifest(folder)
    return dict(result)


def _write(source: Path | None, delta: Path, name: str, target: Path, size: int) -> None:
    try:
        with safe_open(delta, framework="np") as file, target.open("wb") as sink:
            apply_changes(source, file.get_tensor(f"{name}#copies"), file.get_tensor(f"{name}#bytes"), sink, size)
    except (SafetensorError, UnimixerError) as error:
        raise UnimixerError(f"{delta}: damaged at {name!r} ({error}); write the delta again") from None
