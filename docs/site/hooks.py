"""Hooks of the site: pages made from the code and from files outside docs, menus without gaps, formulas as pictures."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

sys.path.insert(0, str(Path(__file__).parent))

from formulas import draw_formulas
from reference import reference_pages

ROOT = Path(__file__).parents[2]
COPIED = {
    "index.md": "README.md",
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "security.md": "SECURITY.md",
}
"""Pages of the site that are files of the repository."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add generated and copied pages, and put a page that no menu has under "More"."""
    pages = {page: (ROOT / source).read_text(encoding="utf-8") for page, source in COPIED.items()}
    for uri, text in (pages | reference_pages(with_api="UNIMIXER_SITE_WITHOUT_API" not in os.environ)).items():
        files.append(File.generated(config, uri, content=inside_docs(text)))
    known = {file.src_uri for file in files}
    config.nav = [kept for entry in config.nav or [] if (kept := _existing(entry, known)) is not None]
    missing = sorted(uri for uri in known - set(_uris(config.nav)) if uri.endswith(".md"))
    if missing:
        config.nav.append({"More": missing})
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Keep links inside the site: one to a page of the repository leads to its copy, others lose their target."""
    copies = {source: page for page, source in COPIED.items()}

    def inside(found: re.Match[str]) -> str:
        page = copies.get(found[2])
        return f"[{found[1]}]({page})" if page else found[1]

    return re.sub(r"\[([^\]]+)\]\(\.\./([^)#]+)[^)]*\)", inside, markdown)


def on_page_content(html: str, **_: Any) -> str:
    """Draw the formulas of a page."""
    return draw_formulas(html)


def inside_docs(text: str) -> str:
    """Rewrite the links of a file at the root of the repository as those of a page in docs."""
    text = text.replace("](docs/", "](")
    return re.sub(r"\]\((?!https?:|#)([A-Z]+\.(?:md|cff))\)", r"](../\1)", text)


def _existing(entry: Any, known: set[str]) -> Any:
    """Return a part of the menu without pages that were not built, None if nothing is left."""
    if isinstance(entry, str):
        return entry if entry in known else None
    ((title, inside),) = entry.items()
    if isinstance(inside, str):
        return entry if inside in known else None
    kept = [part for one in inside if (part := _existing(one, known)) is not None]
    return {title: kept} if kept else None


def _uris(nav: Any) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    parts = nav.values() if isinstance(nav, dict) else nav
    return [uri for part in parts for uri in _uris(part)]
