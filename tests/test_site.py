"""The site is built without a warning, and reads well in a browser of any width, without a network."""

from __future__ import annotations

import importlib.util
import re
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from browser import Browser, needs_browser

from unimixer.cli import VERBS
from unimixer.training.config import Recipe

ROOT = Path(__file__).parents[1]
HOOKS = ROOT / "docs" / "site"
needs_mkdocs = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("mkdocs", "material", "mkdocstrings")),
    reason="MkDocs is not installed: pip install 'unimixer[docs]'",
)


def load(name: str) -> ModuleType:
    """A module of the site's generator."""
    spec = importlib.util.spec_from_file_location(f"site_{name}", HOOKS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_error_sentences_are_one_line_and_ask_nothing() -> None:
    """A value is shown in braces; a sentence has no full stop, since its parts are set apart by colon and semicolon."""
    by_file = load("errors").sentences(ROOT / "src" / "unimixer")
    assert "{path}: no such file{near_file(path)}" in by_file["settings/document.py"]
    assert "{name}={value} must be greater than 0" in by_file["errors.py"]
    sentences = [text for found in by_file.values() for text in found]
    assert len(sentences) > 700
    assert [text for text in sentences if "\n" in text] == []
    assert [text for text in sentences if text.rstrip().endswith(".") and not text.endswith("...")] == []
    asked = re.compile(r"\?(?!table=|prefix=|\})")  # not those of an address, or of an example in quotes
    assert [text for text in sentences if asked.search(text)] == []


@needs_mkdocs
def test_docstrings_become_markdown() -> None:
    to_markdown = load("docstrings").to_markdown
    formula = "    .. math:: A = B, \\qquad\n              C = D"
    text = f"Mixes.\n\n{formula}\n\n    See :class:`~unimixer.mixing.UniMixing`, :math:`x^2`."
    assert to_markdown(text) == "Mixes.\n\n    $$A = B, \\qquad C = D$$\n\n    See `UniMixing`, $x^2$."


def test_a_formula_is_a_picture_in_the_color_of_the_text() -> None:
    draw = load("formulas").draw_formulas
    drawn = draw(r'<p><span class="arithmatex">\(\tfrac{1}{2} \bar W\)</span></p>')
    assert drawn.startswith(r'<p><span class="arithmatex" role="img" aria-label="\tfrac{1}{2} \bar W"><svg')
    assert 'fill="currentColor"' in drawn
    assert "#ffffff" not in drawn
    assert "<code>" in draw(r'<span class="arithmatex">\(\unknown{1}\)</span>')  # shown as it is written


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site without the pages of classes and functions, built once; a warning is an error."""
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    folder = tmp_path_factory.mktemp("site")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNIMIXER_SITE_WITHOUT_API", "1")
        patch.setenv("NO_MKDOCS_2_WARNING", "1")
        patch.setattr(sys, "path", list(sys.path))
        build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder), strict=True))
    return folder


@needs_mkdocs
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_site_has_every_page_verb_and_key(site: Path) -> None:
    pages = {path.name for path in site.glob("*.html")}
    assert {f"{path.stem}.html" for path in (ROOT / "docs").glob("*.md")} <= pages
    verbs = (site / "reference" / "verbs.html").read_text()
    assert [verb for verb in VERBS if f">unimixer {verb}" not in verbs] == []
    recipe = (site / "reference" / "recipe.html").read_text()
    assert [key for key in Recipe.model_fields if f"<code>{key}</code>" not in recipe] == []
    assert re.search(r"<code>embedding_lr</code></td>\s*<td>number</td>\s*<td><code>0.001</code>", recipe)


class Quiet(SimpleHTTPRequestHandler):
    """A server of files that says nothing."""

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def address(site: Path) -> Iterator[str]:
    """The address of the site on this machine."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@needs_mkdocs
@needs_browser
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_pages_fit_a_desktop_and_a_phone_and_the_search_finds_without_a_network(address: str, tmp_path: Path) -> None:
    with Browser(tmp_path / "profile", loopback=True) as browser:
        for page in ("data.html", "index.html", "concepts.html"):
            browser.open(f"{address}/{page}")
            for width in (1280, 390):
                browser.look(width, 900)
                assert browser.run("document.documentElement.scrollWidth") <= width, (page, width)
                assert browser.run("document.querySelector('h1').getBoundingClientRect().width") > 150
        browser.look(1280, 900)
        found = browser.run("""new Promise(done => {
            const box = document.querySelector("input.md-search__input");
            box.focus();
            box.value = "temperature";
            box.dispatchEvent(new Event("keyup", {bubbles: true}));
            const look = left => {
                const links = [...document.querySelectorAll(".md-search-result__link")];
                if (links.length || !left) done(links.map(link => link.getAttribute("href")));
                else setTimeout(look, 100, left - 1);
            };
            look(100);
        })""")
        assert any("concepts.html" in link for link in found)
        assert browser.problems == []
        assert [url for url in browser.requests if not url.startswith((address, "data:", "blob:"))] == []
