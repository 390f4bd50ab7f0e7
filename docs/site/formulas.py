"""Draw formulas as SVG with matplotlib, so that no page needs a script of another address."""

from __future__ import annotations

import html
import io
import re
from functools import cache
from zlib import crc32

_FORMULA = re.compile(
    r'<(?P<tag>span|div) class="arithmatex">\\(?P<open>[(\[])(?P<tex>.*?)\\[)\]]</(?P=tag)>', re.DOTALL
)
_UNKNOWN = (
    (r"\\[td]frac", r"\\frac"),
    (r"\\frac(\w)(\w)", r"\\frac{\1}{\2}"),
    (r"\\top", "T"),
    (r"\\[lr]Vert", r"\\Vert"),
    (r"\\bigotimes", r"\\otimes"),
    (r"\\(?:[bB]ig|textstyle|!)", ""),
)
"""Commands that matplotlib does not know, and what is drawn instead."""


def draw_formulas(page: str) -> str:
    """Replace the formulas of a page of HTML by pictures."""
    return _FORMULA.sub(_replace, page)


def _replace(found: re.Match[str]) -> str:
    tex, tag = " ".join(html.unescape(found["tex"]).split()), found["tag"]
    label = html.escape(tex, quote=True)
    drawn = formula_svg(tex) or f"<code>{html.escape(tex)}</code>"
    return f'<{tag} class="arithmatex" role="img" aria-label="{label}">{drawn}</{tag}>'


@cache
def formula_svg(tex: str) -> str | None:
    """Draw a formula in the color of the text; None if matplotlib cannot read it."""
    import matplotlib
    from matplotlib.mathtext import math_to_image

    known = tex
    for pattern, replacement in _UNKNOWN:
        known = re.sub(rf"{pattern}(?![a-z])", replacement, known)
    buffer = io.StringIO()
    try:
        with matplotlib.rc_context({"mathtext.fontset": "stix", "font.size": 12}):
            depth = math_to_image(f"${known}$", buffer, format="svg")
    except ValueError:
        return None
    svg = buffer.getvalue()
    svg = re.sub(
        r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg[svg.index("<svg") :], flags=re.DOTALL
    )
    svg = re.sub(r'<g id="patch_1">.*?</g>', "", svg, flags=re.DOTALL)  # the white ground
    name = f"f{crc32(tex.encode()):x}-"  # glyphs of several pictures on one page keep ids of their own
    svg = re.sub(r'(id="|href="#)', lambda found: found[0] + name, svg)
    return svg.replace("<svg", f'<svg style="vertical-align: {-depth:.1f}pt" fill="currentColor"', 1).strip()
