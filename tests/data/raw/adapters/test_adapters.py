"""The registry: names, options, own schema files."""

from __future__ import annotations

from pathlib import Path

import pytest

from unimixer.data.raw.adapters import ADAPTERS, open_raw
from unimixer.data.raw.published import PUBLISHED
from unimixer.errors import UnimixerError


def test_the_registered_names_are_these() -> None:
    assert sorted(ADAPTERS) == [
        *("avazu", "avazu-x1", "avazu-x4", "criteo", "criteo-x1", "criteo-x4", "kuairand-1k", "kuairand-27k"),
        *("kuairand-pure", "kuaivideo-x1", "movielens-100k", "movielens-1m", "movielenslatest-x1", "open-bandit"),
        *("synthetic", "taobao-ads", "taobaoad-x1", "yambda-500m", "yambda-50m", "yambda-5b"),
    ]


def test_every_published_data_set_is_read_by_an_adapter_and_all_but_the_synthetic_are_published() -> None:
    assert set(PUBLISHED) == set(ADAPTERS) - {"synthetic"}


def test_an_unknown_name_gives_the_nearest_one() -> None:
    with pytest.raises(UnimixerError, match=r"\(\.yaml\) 'movielens'; did you mean 'movielens-1m'"):
        open_raw("movielens")


@pytest.mark.parametrize("source", sorted(set(ADAPTERS) - {"synthetic"}))
def test_every_adapter_refuses_an_unknown_option_with_the_nearest_one(source: str, tmp_path: Path) -> None:
    with pytest.raises(UnimixerError, match=f"{source}: unknown option 'min_cout'; did you mean 'min_count'"):
        open_raw(source, tmp_path, min_cout=3)


@pytest.mark.parametrize("source", sorted(set(ADAPTERS) - {"synthetic"}))
def test_every_adapter_says_what_it_looked_for(source: str, tmp_path: Path) -> None:
    with pytest.raises(UnimixerError, match=f"{source} is read from a folder with .*, but none was given"):
        open_raw(source, None)
    with pytest.raises(UnimixerError, match=r"looked for .*, found an empty folder"):
        open_raw(source, tmp_path)


def test_an_option_of_the_wrong_type_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UnimixerError, match=r"avazu, option: min_count=0: input should be greater than 0"):
        open_raw("avazu", tmp_path, min_count=0)
    with pytest.raises(UnimixerError, match=r"avazu, option: user='me': input should be 'none'"):
        open_raw("avazu", tmp_path, user="me")
