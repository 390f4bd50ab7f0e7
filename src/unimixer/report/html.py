"""Render HTML pages that work without network, from the templates and assets of this folder."""

from __future__ import annotations

import base64
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from unimixer.errors import MissingExtraError

if TYPE_CHECKING:
    from jinja2 import Environment

PACKAGE = "unimixer.report"


def render(template: str, **values: Any) -> str:
    """Render a page from a template; every value is escaped.

    Args:
        template: file in ``templates``.
        values: values that the template uses; one that is missing raises an error.
    """
    return _environment().get_template(template).render(values)


def asset(name: str) -> str:
    """Read a style sheet or a script from ``assets``."""
    return files(PACKAGE).joinpath("assets", name).read_text(encoding="utf-8")


def plotly_script() -> str:
    """Read the script of plotly, which a page with plots contains."""
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        raise MissingExtraError("a page with plots", "report") from None
    return str(get_plotlyjs())


def data_url(content: bytes, media_type: str) -> str:
    """Encode a file as an address that holds the file itself.

    Example:
        >>> data_url(b"a,b", "text/csv")
        'data:text/csv;base64,YSxi'
    """
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"


@cache
def _environment() -> Environment:
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
        from markupsafe import Markup
    except ImportError:
        raise MissingExtraError("an HTML page", "report") from None
    environment = Environment(
        loader=PackageLoader(PACKAGE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False}  # the default also sorts keys
    environment.globals["asset"] = lambda name: Markup(asset(name))
    environment.globals["plotly_script"] = lambda: Markup(plotly_script())
    environment.filters["csv_url"] = lambda text: data_url(text.encode("utf-8"), "text/csv")
    environment.filters["png_url"] = lambda content: data_url(content, "image/png")
    return environment
