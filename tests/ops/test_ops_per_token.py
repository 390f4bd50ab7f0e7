import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from unimixer.ops import per_token_linear, rms_norm, swiglu


@given(batch=st.integers(1, 4), tokens=st.integers(1, 4), width=st.integers(1, 5), out=st.integers(1, 5))
def test_every_token_goes_through_its_own_map(batch: int, tokens: int, width: int, out: int) -> None:
    x = torch.randn(batch, tokens, width, dtype=torch.float64)
    weight, bias = torch.randn(tokens, width, out).double(), torch.randn(tokens, out).double()
    expected = torch.stack([x[:, t] @ weight[t] + bias[t] for t in range(tokens)], 1)
    torch.testing.assert_close(per_token_linear(x, weight, bias), expected)
    torch.testing.assert_close(per_token_linear(x, weight), expected - bias)


def test_swiglu_by_hand() -> None:
    # 3 * (2 * sigmoid(2))
    expected = 3 * 2 / (1 + math.exp(-2.0))
    torch.testing.assert_close(swiglu(torch.tensor(3.0), torch.tensor(2.0)), torch.tensor(expected))


def test_rms_norm_by_hand() -> None:
    # mean of squares of (1, 7) is 25
    normed = rms_norm(torch.tensor([1.0, 7.0]), torch.tensor([1.0, 2.0]), eps=0.0)
    torch.testing.assert_close(normed, torch.tensor([0.2, 2.8]))


def test_rms_norm_takes_its_statistics_in_float32() -> None:
    x = torch.full((4, 64), 300.0, dtype=torch.float16)  # 300**2 is over the range of float16
    normed = rms_norm(x, torch.ones(64))
    assert normed.dtype == torch.float16
    torch.testing.assert_close(normed, torch.ones_like(x))
