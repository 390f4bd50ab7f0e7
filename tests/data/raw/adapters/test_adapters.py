"""The registry: names, options, own schema files."""

from __future__ import annotations

from pathlib import Path

import pytest

from unimixer.data.raw.adapters import ADAPTERS, open_raw
from unimixer.errors import UnimixerError


def test_the_registered_names_are_these() -> None:
    assert sorted(ADAPTERS) == ["avazu", "criteo", "kuairand-pure", "movielens-100k", "movielens-1m", "synthetic"]


def test_an_unknown_name_gives_the_nearest_one() -> None:
    with pytest.raises(UnimixerError, match=r"unknown data set 'movielens'; did you mean 'movielens-1m'.*\.yaml"):
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
