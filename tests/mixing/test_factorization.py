import re

import pytest
import torch
from torch import Tensor, nn

from unimixer.errors import UnimixerError
from unimixer.mixing import (
    AttentiveValues,
    Compression,
    ConstantValues,
    Convolution,
    FactorizationMixing,
    FullMixing,
    Mixing,
    UnitValues,
)

N, WIDTH, K, B = 4, 6, 3, 5


def tokens() -> Tensor:
    return torch.randn(B, N, WIDTH, dtype=torch.float64, requires_grad=True)


def gram(x: Tensor) -> Tensor:
    """All inner products of one example, one at a time."""
    return torch.stack([torch.stack([(x[i] * x[j]).sum() for j in range(len(x))]) for i in range(len(x))])


def agree(mixing: nn.Module, expected: Tensor, x: Tensor) -> None:
    """Equal outputs and equal gradients of the input."""
    output = mixing(x)
    torch.testing.assert_close(output, expected)
    weights = torch.randn_like(expected)
    (found,) = torch.autograd.grad((output * weights).sum(), x)
    (wanted,) = torch.autograd.grad((expected * weights).sum(), x)
    torch.testing.assert_close(found, wanted)


def test_optimised_fm_equals_all_inner_products_times_y() -> None:
    mixing, x = FactorizationMixing(N, WIDTH, K).double(), tokens()
    assert isinstance(mixing.local, ConstantValues)
    agree(mixing, torch.stack([gram(example) @ mixing.local.values for example in x]), x)


def test_full_fm_is_all_inner_products_and_has_no_parameters() -> None:
    mixing, x = FactorizationMixing(N, WIDTH), tokens()
    agree(mixing, torch.stack([gram(example) for example in x]), x)
    assert list(mixing.parameters()) == []
    assert mixing(x).shape == (B, N, N)


def test_attentive_fm_makes_y_from_the_compressed_input() -> None:
    values = AttentiveValues(N, WIDTH, K, num_compressed=2, hidden_dims=(7,))
    mixing, x = FactorizationMixing(N, WIDTH, K, values=values).double(), tokens()
    first, last = values.get_submodule("network.0"), values.get_submodule("network.2")
    assert isinstance(first, nn.Linear)
    assert isinstance(last, nn.Linear)
    expected = []
    for example in x:
        compressed = torch.cat([sum(values.compression[m, n] * example[n] for n in range(N)) for m in range(2)])
        hidden = (first.weight @ compressed + first.bias).clamp(min=0)
        y = (last.weight @ hidden + last.bias).view(N, K)
        expected.append(gram(example) @ y)
    agree(mixing, torch.stack(expected), x)


@pytest.mark.parametrize(
    "mixing",
    [
        FactorizationMixing(N, WIDTH, K),
        FactorizationMixing(N, WIDTH),
        FactorizationMixing(N, WIDTH, K, values=AttentiveValues(N, WIDTH, K, num_compressed=2)),
    ],
    ids=["optimised", "full", "attentive"],
)
def test_both_readings_of_the_unified_form_agree(mixing: FactorizationMixing) -> None:
    x = tokens().detach().float()
    weights = mixing.global_.weights(x)[:, 0]  # the Gram matrix weighs Y ...
    torch.testing.assert_close(mixing(x), weights @ mixing.local(x))
    product = (mixing.mixing_matrix(x) @ x.flatten(1).unsqueeze(-1)).squeeze(-1)  # ... or X^T Y multiplies X
    torch.testing.assert_close(mixing(x).flatten(1), product, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(mixing(x.flatten(1)), mixing(x).flatten(1))
    assert mixing.global_pattern == "Gram matrix X X^T"


def test_compression_sums_tokens_by_its_weights() -> None:
    mixing, x = Compression(N, WIDTH, K).double(), tokens()
    weight = mixing.get_parameter("global_.weight")
    assert weight.shape == (K, N)
    expected = torch.stack([torch.stack([sum(weight[m, n] * row[n] for n in range(N)) for m in range(K)]) for row in x])
    agree(mixing, expected, x)
    torch.testing.assert_close(mixing(x.flatten(1)), expected.flatten(1))
    torch.testing.assert_close(x.flatten(1) @ mixing.mixing_matrix().T, expected.flatten(1))
    assert mixing.local_pattern == "identity"


def test_compression_to_as_many_rows_keeps_the_shape() -> None:
    assert Compression(N, WIDTH, N)(torch.zeros(2, N, WIDTH)).shape == (2, N, WIDTH)


def test_full_mixing_is_one_matrix_of_the_flattened_tokens() -> None:
    mixing, x = FullMixing(N * WIDTH).double(), tokens()
    weight = mixing.get_parameter("global_.weight")
    expected = torch.stack(
        [torch.stack([(weight[m] * row.flatten()).sum() for m in range(N * WIDTH)]).view(N, WIDTH) for row in x]
    )
    agree(mixing, expected, x)
    torch.testing.assert_close(mixing.mixing_matrix(), weight)
    assert sum(p.numel() for p in mixing.parameters()) == (N * WIDTH) ** 2


def test_full_mixing_equals_the_general_definition() -> None:
    mixing, x = FullMixing(N * WIDTH), torch.randn(B, N * WIDTH)
    torch.testing.assert_close(mixing(x), super(FullMixing, mixing).mix(x))
    torch.testing.assert_close(mixing.mixing_matrix(), Mixing.mixing_matrix(mixing))


def test_convolution_sums_a_window_around_every_number() -> None:
    mixing, x = Convolution(N, WIDTH, kernel_size=3).double(), tokens()
    kernel = mixing.weight[0, 0]
    padded = torch.nn.functional.pad(x, (1, 1, 1, 1))
    expected = torch.stack(
        [
            torch.stack([(padded[:, t : t + 3, d : d + 3] * kernel).sum((1, 2)) for d in range(WIDTH)], -1)
            for t in range(N)
        ],
        1,
    )
    agree(mixing, expected, x)
    torch.testing.assert_close(x.flatten(1) @ mixing.mixing_matrix().T, expected.flatten(1))


def test_wrong_sizes_are_named() -> None:
    with pytest.raises(UnimixerError, match=r"kernel_size=4 must be odd.*nearest valid kernel_size is 3 or 5"):
        Convolution(N, WIDTH, kernel_size=4)
    with pytest.raises(UnimixerError, match=re.escape("expected (4, 6, 2)")):
        FactorizationMixing(N, WIDTH, 2, values=ConstantValues(N, WIDTH, K))
    with pytest.raises(UnimixerError, match="num_outputs=0 must be greater than 0"):
        Compression(N, WIDTH, 0)
    with pytest.raises(UnimixerError, match=r"tokens has shape \(2, 3, 6\), expected \(any, 4, 6\)"):
        Compression(N, WIDTH, K)(torch.zeros(2, 3, WIDTH))
    with pytest.raises(UnimixerError, match="num_compressed=0 must be greater than 0"):
        AttentiveValues(N, WIDTH, K, num_compressed=0)
    with pytest.raises(UnimixerError, match="depend on the embedding"):
        FactorizationMixing(N, WIDTH).mixing_matrix()


def test_unit_values_are_the_unit_matrix_of_every_example() -> None:
    values = UnitValues(N, WIDTH)(torch.zeros(2, N, WIDTH))
    assert torch.equal(values, torch.eye(N).expand(2, N, N))
