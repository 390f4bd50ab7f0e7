"""The page names the test behind every promise."""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).parent


def test_every_promise_of_the_page_names_tests_that_there_are() -> None:
    page = (HERE.parents[1] / "docs" / "serving.md").read_text(encoding="utf-8")
    section = page.partition("### What the server promises")[2].partition("\n### ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")][2:]
    assert len(rows) >= 25
    for row in rows:
        named, checked = set(re.findall(r"`(test_\w+)`", row)), set[str]()
        for file, tests in re.findall(r"`((?:\w+/)*test_\w+\.py)`((?:[:,] `test_\w+`)*)", row):
            source = (HERE / file).read_text(encoding="utf-8")
            for name in re.findall(r"`(test_\w+)`", tests):
                assert f"def {name}(" in source, f"{file}: {name}"
                checked.add(name)
        assert (named, bool(re.search(r"`\S*test_\w+\.py`", row))) == (checked, True), row
