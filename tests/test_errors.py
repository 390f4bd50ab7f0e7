"""Errors: one sentence with the value, the rule and the way out."""

from __future__ import annotations

import pytest
import torch

from unimixer.errors import (
    MissingExtraError,
    UnimixerError,
    check_choice,
    check_divisible,
    check_positive,
    check_shape,
    nearest,
    unknown,
)


def test_a_misspelt_name_gets_the_nearest_one() -> None:
    assert nearest("unimixr", ["rankmixer", "unimixer", "mlp"]) == "; did you mean 'unimixer'?"
    assert str(unknown("model", "mpl", ["mlp", "dcnv2"])) == "unknown model 'mpl'; did you mean 'mlp'?"


def test_a_name_like_no_other_gets_the_list() -> None:
    assert nearest("zzz", ["b", "a", "b"]) == "; known: a, b"
    assert nearest("zzz", []) == ""


def test_a_long_list_of_names_is_cut() -> None:
    assert nearest("zzz", [f"column_{i:02}" for i in range(30)]).endswith("column_23 and 6 more")


def test_a_value_that_is_not_positive_is_named() -> None:
    check_positive(width=0.5)
    for value in (0, -1, float("nan")):
        with pytest.raises(UnimixerError, match=f"width={value} must be greater than 0"):
            check_positive(height=1, width=value)


def test_a_choice_that_does_not_exist_is_named_with_the_choices() -> None:
    check_choice("norm", "rms", ("rms", "layer"))
    with pytest.raises(UnimixerError, match=r"norm='layr' is not one of rms, layer; did you mean 'layer'\?"):
        check_choice("norm", "layr", ("rms", "layer"))


def test_an_indivisible_value_gets_the_nearest_valid_ones() -> None:
    check_divisible("token_dim", 768, by="num_heads", divisor=16)
    message = "token_dim=770 must be divisible by num_heads=16; the nearest valid token_dim is 768 or 784"
    with pytest.raises(UnimixerError, match=message):
        check_divisible("token_dim", 770, by="num_heads", divisor=16)
    with pytest.raises(UnimixerError, match=r"the nearest valid token_dim is 16$"):
        check_divisible("token_dim", 5, by="num_heads", divisor=16)


def test_a_wrong_shape_is_shown_beside_the_expected_one() -> None:
    check_shape("tokens", torch.zeros(2, 3), (None, 3))
    for shape in ((None, 4), (None, 3, 1)):
        with pytest.raises(UnimixerError, match=r"tokens has shape \(2, 3\), expected \(any, "):
            check_shape("tokens", torch.zeros(2, 3), shape)


def test_a_missing_extra_is_an_import_error_that_says_what_to_install() -> None:
    with pytest.raises(ImportError, match=r"plotting needs optional packages: pip install 'unimixer\[report\]'"):
        raise MissingExtraError("plotting", "report")
    assert issubclass(MissingExtraError, UnimixerError)
