"""Find the recipes and studies that come with the package by their names."""

from __future__ import annotations

from pathlib import Path

from unimixer.errors import unknown

RECIPES = Path(__file__).parents[1] / "recipes"
"""Folder of the packaged recipes; ``studies`` inside it has the studies."""


def packaged_files(folder: str = "") -> dict[str, Path]:
    """Return the packaged files by name.

    Args:
        folder: empty for recipes, ``studies`` for studies.
    """
    return {path.stem: path for path in sorted((RECIPES / folder).glob("*.yaml"), key=lambda path: path.stem)}


def find_settings(path: Path | str, folder: str = "") -> Path:
    """Return the file that a text names: a path, or the name of a packaged file where no such path exists.

    A name has no ending and no folder, so a mistyped path is never taken for a name.

    Raises:
        UnimixerError: no packaged file has that name.
    """
    path = Path(path)
    if path.exists() or path.suffix or len(path.parts) != 1:
        return path
    known = packaged_files(folder)
    if path.name not in known:
        raise unknown("study" if folder else "recipe", path.name, known)
    return known[path.name]
