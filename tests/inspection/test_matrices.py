"""Learned matrices at other temperatures, and numbers of sharpness by hand."""

import math

import pytest
import torch

from unimixer.errors import UnimixerError
from unimixer.inspection.matrices import (
    distance,
    learned_mixings,
    max_pooled,
    moved_share,
    parse_temperatures,
    relative_change,
    row_entropy,
    sharpness,
)
from unimixer.mixing import (
    FullGlobal,
    IdentityLocal,
    PerHeadGlobal,
    TokenMixing,
    Unified,
    UniMixing,
    UniMixingLite,
    set_temperature,
)


@pytest.mark.parametrize(
    "mixing",
    [
        UniMixing(32, 4, num_heads=2),
        UniMixingLite(32, 4, num_heads=2, symmetric=False),
        UniMixingLite(32, 4, num_heads=2, init="random", gate=0.3, range_cap=2.0),
        UniMixing(32, 4, num_heads=2, constraint="permutations", num_permutations=3),
        UniMixing(32, 4, num_heads=2, constraint="kronecker", symmetric=False),
    ],
)
@pytest.mark.parametrize("tau", [1.0, 0.3, 0.05])
def test_matrices_at_a_temperature_are_those_of_a_model_with_that_temperature(mixing: UniMixing, tau: float) -> None:
    mixing.eval()
    before = mixing.temperature.clone()
    (layer,) = learned_mixings(mixing)
    between, inside = layer.between(tau), layer.inside(tau)
    assert torch.equal(mixing.temperature, before)
    set_temperature(mixing, tau)
    with torch.no_grad():
        expected = mixing.weights()
    set_temperature(mixing, before.item())
    assert torch.equal(between, expected[0])
    assert inside is not None
    assert torch.equal(inside, expected[1])


def test_a_permutation_is_sharp_and_the_average_is_flat() -> None:
    permutation, flat = torch.eye(4)[[2, 0, 3, 1]], torch.full((4, 4), 0.25)
    sharp = sharpness(permutation)
    assert (sharp.row_maximum, sharp.row_entropy, sharp.to_permutation, sharp.row_error) == (1, 0, 0, 0)
    assert sharp.to_flat == pytest.approx(math.sqrt(1 - 1 / 4))
    even = sharpness(torch.stack([flat, flat]))
    assert (even.row_maximum, even.to_flat, even.size) == (0.25, 0, 4)
    assert even.row_entropy == pytest.approx(1)
    assert even.to_permutation == pytest.approx(math.sqrt(1 - 1 / 4))


def test_the_nearest_permutation_is_found_even_where_rows_agree_on_a_column() -> None:
    matrix = torch.tensor([[0.6, 0.4], [0.9, 0.1]])  # both rows prefer column 0; the best assignment swaps
    expected = math.sqrt((0.6**2 + 0.6**2 + 0.1**2 + 0.1**2) / 2)
    assert sharpness(matrix).to_permutation == pytest.approx(expected)


def test_entropy_is_not_given_where_rows_are_no_distributions() -> None:
    assert row_entropy(torch.tensor([[0.5, -0.5], [1.0, 0.0]])) is None
    assert row_entropy(torch.tensor([[0.5, 0.9], [1.0, 0.0]])) is None
    assert sharpness(torch.tensor([[2.0, -1.0], [0.0, 1.0]])).row_entropy is None


def test_distances_by_hand() -> None:
    assert distance(torch.eye(2), torch.eye(2).flip(0)) == pytest.approx(math.sqrt(2))
    assert relative_change(2 * torch.eye(3), torch.eye(3)) == pytest.approx(1)


def test_the_moved_share_is_half_the_distance_of_rows() -> None:
    eye, flat = torch.eye(4), torch.full((4, 4), 0.25)
    assert (moved_share(eye, eye), moved_share(eye, eye.flip(0)), moved_share(eye, flat)) == (0, 1, 0.75)
    moved = eye.clone()
    moved[0] = torch.tensor([0.6, 0.4, 0.0, 0.0])
    assert moved_share(eye, moved) == pytest.approx(0.4 / 4)
    assert moved_share(eye, -eye) == 1  # signed matrices: never above one
    assert moved_share(torch.zeros(2, 2), torch.zeros(2, 2)) == 0


def test_only_square_learned_patterns_that_do_not_depend_on_tokens_are_learned_mixings() -> None:
    assert learned_mixings(TokenMixing(4, 8)) == []
    (layer,) = learned_mixings(Unified(IdentityLocal(4, 2), FullGlobal(4)))
    assert (layer.has_temperature, layer.temperature, layer.inside()) == (False, None, None)
    assert layer.between().shape == (4, 4)
    assert torch.equal(layer.raw(), layer.between())
    (free,) = learned_mixings(UniMixing(32, 4, num_heads=2, constraint="free"))
    assert not free.has_temperature
    torch.testing.assert_close(free.between(), free.raw())


def test_matrices_of_heads_are_one_matrix_between_the_heads_of_tokens() -> None:
    mixing = Unified(IdentityLocal(3, 8), PerHeadGlobal(3, num_heads=4))
    (layer,) = learned_mixings(mixing)
    between = layer.between()
    assert (between.shape, layer.block_size) == ((12, 12), 2)
    torch.testing.assert_close(torch.kron(between, torch.eye(2)), mixing.mixing_matrix())
    assert moved_share(between, -between) == pytest.approx(1)


def test_a_large_matrix_keeps_its_strongest_entries_when_it_is_drawn() -> None:
    matrix = torch.zeros(10, 10)
    matrix[9, 4], matrix[0, 0], matrix[1, 1] = -3.0, 0.5, 0.25
    small = max_pooled(matrix, 5)
    assert small.shape == (5, 5)
    assert (small[4, 2].item(), small[0, 0].item(), small.abs().sum().item()) == (-3.0, 0.5, 3.5)
    assert max_pooled(matrix, 10) is matrix
    assert max_pooled(torch.ones(7, 3), 4).shape == (4, 2)


@pytest.mark.parametrize("text", ["", "a", "1,0", "1,-0.1", "nan", "inf", ","])
def test_temperatures_must_be_positive_numbers(text: str) -> None:
    with pytest.raises(UnimixerError, match="must be numbers greater than 0 with commas between"):
        parse_temperatures(text)
