"""Tables as text."""

from __future__ import annotations

from unimixer.report.tables import Badge, TextTable, bullets


def test_a_table_has_one_cell_a_column_whatever_is_in_it() -> None:
    table = TextTable(["a", "b"], [["x|y", "1\n2"]])
    assert table.markdown() == "| a | b |\n| --- | ---: |\n| x\\|y | 1 2 |"


def test_a_badge_is_its_text_outside_of_pages() -> None:
    badge = Badge("ahead", "better", "p 0.001")
    assert TextTable(["verdict"], [[badge]]).markdown().endswith("| ahead |")
    assert (badge, badge.kind, badge.tip) == ("ahead", "better", "p 0.001")
    assert bullets(["a", badge]) == "- a\n- ahead"
