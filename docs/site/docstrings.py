"""Translate the roles of reStructuredText in docstrings to Markdown, for the reference of the API."""

from __future__ import annotations

import re
from typing import Any

import griffe

_MATH = re.compile(r"^( *)\.\. math::(.*(?:\n\1 +\S.*|\n *(?=\n\1 +\S))*)", re.MULTILINE)
_INLINE = re.compile(r":math:`([^`]+)`")
_EXAMPLE = re.compile(r"^Example:$", re.MULTILINE)
_ROLE = re.compile(r":(?:class|func|meth|mod|attr|data):`~?([^`]+)`")


def to_markdown(text: str) -> str:
    """Translate formulas to dollar signs and references to the last part of their name."""
    text = _MATH.sub(lambda found: f"{found[1]}$${' '.join(found[2].split())}$$", text)
    text = _EXAMPLE.sub("Examples:", text)  # the section's name in Markdown; under another, code is read as text
    text = _INLINE.sub(lambda found: f"${' '.join(found[1].split())}$", text)
    return _ROLE.sub(lambda found: f"`{found[1].rpartition('.')[2]}`", text)


class Docstrings(griffe.Extension):
    """Translate every docstring when its object is loaded."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Translate one docstring."""
        if obj.docstring is not None:
            obj.docstring.value = to_markdown(obj.docstring.value)
