"""Templates and assets: escaped, safe inside scripts, and part of the wheel."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from unimixer.errors import MissingExtraError
from unimixer.report import html
from unimixer.report.html import asset, data_url, render
from unimixer.report.tables import Badge, TextTable

ROOT = Path(__file__).parents[2]
SCRIPTS = ("plots.js", "study.js", "scaling.js", "inspection.js", "abtest.js")
ATTACK = "</script><script>alert('a & b')</script>"
TABLE = TextTable(["a"], [])
VALUES = {
    "title": "t",
    "patterns": ("a", "b"),
    "facts": [],
    "notes": [],
    "gates": TABLE,
    "values": {},
    "pictures": {},
    "captions": {},
    "sharpness": TABLE,
    "sharpness_caption": "",
    "attention": TABLE,
    "moved": [],
    "interactions": TABLE,
    "interaction_sentences": [],
    "interaction_caption": "",
    "ranks": TABLE,
    "bars": [],
    "rank_caption": "",
    "rows": 1,
    "split": "test",
}


@pytest.fixture
def fresh_environment() -> Iterator[None]:
    html._environment.cache_clear()
    yield
    html._environment.cache_clear()


def page(**changes: object) -> str:
    return render("inspection.html.j2", **{**VALUES, **changes})


def test_a_value_is_escaped_wherever_it_is_shown() -> None:
    table = TextTable([ATTACK], [[ATTACK], [Badge(ATTACK, "better", ATTACK)]], groups=[(ATTACK, 1)])
    text = page(title=ATTACK, facts=[(ATTACK, ATTACK)], notes=[ATTACK], ranks=table)
    assert "<script>alert" not in text
    assert text.count("&lt;/script&gt;&lt;script&gt;alert(&#39;a &amp; b&#39;)&lt;/script&gt;") == 10


def test_values_of_a_script_cannot_end_it_and_keep_their_order() -> None:
    values = {"z": ATTACK, "a": [1, None, 0.5]}
    text = page(values=values)
    assert "</script><script>alert" not in text
    content = re.search(r'<script type="application/json" id="values">(.*?)</script>', text, re.DOTALL)
    assert content is not None
    assert list(json.loads(content[1]).items()) == list(values.items())


def test_a_number_that_json_does_not_know_is_an_error() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        page(values={"a": float("nan")})


def test_a_value_that_the_page_needs_and_does_not_get_is_an_error() -> None:
    from jinja2 import UndefinedError

    with pytest.raises(UndefinedError, match="'title' is undefined"):
        render("page.html.j2", values={})


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_can_stand_inside_a_page(name: str) -> None:
    assert not re.search(r"</script|<!--|https?:", asset(name))


def test_a_download_holds_its_content() -> None:
    assert data_url(b"\x89PNG", "image/png") == "data:image/png;base64,iVBORw=="


@pytest.mark.usefixtures("fresh_environment")
def test_without_jinja2_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    expected = "an HTML page needs optional packages: pip install 'unimixer\\[report\\]'"
    with pytest.raises(MissingExtraError, match=expected):
        render("page.html.j2", title="t", values={})


def test_a_wheel_brings_templates_and_assets(tmp_path: Path) -> None:
    pytest.importorskip("setuptools")
    source, installed = tmp_path / "source", tmp_path / "installed"
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(ROOT / "src" / "unimixer" / "report", source / "src" / "unimixer" / "report", ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE", "src/unimixer/__init__.py", "src/unimixer/errors.py"):
        shutil.copy(ROOT / name, source / name)
    build = "from setuptools import build_meta; build_meta.build_wheel('dist')"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
    (wheel,) = (source / "dist").glob("*.whl")
    zipfile.ZipFile(wheel).extractall(installed)
    (installed / "unimixer" / "__init__.py").write_text("")  # the real one imports parts that this wheel leaves out
    use = "from unimixer.report.html import render; print(render('page.html.j2', title='installed', values=None))"
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    page = subprocess.run(
        [sys.executable, "-c", use], env=environment, cwd=tmp_path, check=True, capture_output=True, text=True
    ).stdout
    assert "<h1>installed</h1>" in page
    assert asset("page.css").strip() in page
    for name in (*SCRIPTS, "page.css"):
        assert (installed / "unimixer" / "report" / "assets" / name).exists()
    templates = {path.name for path in (installed / "unimixer" / "report" / "templates").iterdir()}
    assert templates == {path.name for path in (ROOT / "src" / "unimixer" / "report" / "templates").iterdir()}
