"""Sizes on the command line, and the depth of a model at a size."""

from __future__ import annotations

from itertools import pairwise

import pytest

from unimixer.backbones import BACKBONES
from unimixer.errors import UnimixerError
from unimixer.experiments.sizes import depth_option, parse_sizes, second_base_size, with_depth


def test_a_range_grows_by_one_factor_between_its_ends() -> None:
    assert parse_sizes("0.25M..64M") == [250_000, 1_000_000, 4_000_000, 16_000_000, 64_000_000]
    assert len(parse_sizes("1M..1.1M")) == 5
    found = parse_sizes("30K..2M", 7)
    assert (found[0], found[-1], len(found)) == (30_000, 2_000_000, 7)
    factors = [later / earlier for earlier, later in pairwise(found)]
    assert max(factors) == pytest.approx(min(factors), rel=0.02)


def test_a_list_is_sorted() -> None:
    assert parse_sizes("4M, 1M,250k") == [250_000, 1_000_000, 4_000_000]


@pytest.mark.parametrize(
    ("text", "points", "message"),
    [
        ("64M..1M", None, "a range goes from a smaller to a larger size"),
        ("4M,1M,1000K", None, "'4M,1M,1000K': 1M is named twice; give each once"),
        ("1M..4M..9M", None, "a range goes from a smaller to a larger size"),
        ("1M..4M", 1, "--points 1: a range has at least its two ends"),
        ("1M,4M", 3, r"--points 3 belongs to a range such as 0.25M..64M; '1M,4M' is a list"),
        ("1MB", None, "'1MB' is not a number of parameters such as 250K or 1.5M"),
        ("0..4M", None, "'0' is not a number of parameters"),
        ("..4M", None, "'' is not a number of parameters"),
    ],
)
def test_sizes_that_are_none_are_refused(text: str, points: int | None, message: str) -> None:
    with pytest.raises(UnimixerError, match=message):
        parse_sizes(text, points)


def test_depth_grows_with_the_budget_and_both_by_its_cube_root() -> None:
    def blocks(dial: str, times: int) -> int:
        return int(with_depth("rankmixer", {}, dial, budget=times * 1000, smallest=1000)["num_blocks"])

    assert [blocks("depth", times) for times in (1, 4, 16)] == [2, 8, 32]
    assert [blocks("both", times) for times in (1, 8, 64)] == [2, 4, 8]
    assert with_depth("rankmixer", {"ffn": "swiglu"}, "width", budget=9, smallest=1) == {"ffn": "swiglu"}
    assert with_depth("unimixer-lite", {"num_blocks": 1}, "both", budget=1, smallest=1)["num_blocks"] == 1


def test_every_backbone_has_a_depth_or_says_that_it_has_none() -> None:
    without = {name for name in BACKBONES if depth_option(name) is None}
    assert without == {"mlp", "fm", "deepfm", "dlrm", "finalmlp", "masknet"}
    with pytest.raises(UnimixerError, match=r"'mlp' has no number of blocks to grow; take --dial width"):
        with_depth("mlp", {}, "depth", budget=2, smallest=1)


def test_the_second_size_of_a_search_is_about_eight_times_the_smallest() -> None:
    assert second_base_size([250, 1000, 4000, 16000]) == 4000
    assert second_base_size([100, 110]) == 110
    with pytest.raises(UnimixerError, match="a search at two sizes needs two sizes"):
        second_base_size([100])
