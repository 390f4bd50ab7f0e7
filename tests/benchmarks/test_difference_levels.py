"""The table of false positives, on few simulated differences."""

from __future__ import annotations

from benchmarks.difference_levels import COLUMNS, row


def test_a_line_has_the_false_positives_of_both_and_the_width() -> None:
    cells = row(3, 3.0, 20_000)
    assert len(cells) == len(COLUMNS)
    assert cells[:2] == ["3", "3"]
    shares = [float(cell.removesuffix("%")) for cell in cells[2:]]
    for level, exact, approximate in zip((5, 1, 0.1), shares[:6:2], shares[1:6:2], strict=True):
        assert exact <= 1.2 * level < approximate
    assert 10 < shares[6] < 30
