"""Numbers to vectors, and a vector of its own where one is missing."""

from __future__ import annotations

import torch

from unimixer.features.numeric import NumericEmbedding, VectorProjection

NAN = float("nan")


def test_a_number_moves_along_its_direction_and_a_missing_one_has_its_own_vector() -> None:
    module = NumericEmbedding(2, 3)
    torch.nn.init.normal_(module.bias)
    torch.nn.init.normal_(module.missing)
    out = module(torch.tensor([[2.0, NAN], [NAN, 0.0]]))
    torch.testing.assert_close(out[0, 0], 2 * module.weight[0] + module.bias[0])
    torch.testing.assert_close(out[1, 1], module.bias[1])
    torch.testing.assert_close(out[0, 1], module.missing[1])
    torch.testing.assert_close(out[1, 0], module.missing[0])


def test_a_missing_number_gives_finite_gradients_to_its_own_vector_only() -> None:
    module = NumericEmbedding(1, 3)
    module(torch.tensor([[NAN]])).sum().backward()
    assert module.missing.grad is not None
    assert module.weight.grad is not None
    assert module.bias.grad is not None
    assert module.missing.grad.tolist() == [[1, 1, 1]]
    assert not module.weight.grad.any()
    assert not module.bias.grad.any()


def test_a_vector_is_projected_and_a_missing_one_has_its_own() -> None:
    module = VectorProjection(4, 3)
    torch.nn.init.normal_(module.missing)
    x = torch.randn(2, 4)
    x[1] = NAN
    out = module(x)
    torch.testing.assert_close(out[0], module.linear(x[0]))
    torch.testing.assert_close(out[1], module.missing)
    out.sum().backward()
    assert module.linear.weight.grad is not None
    torch.testing.assert_close(module.linear.weight.grad, x[:1].expand(3, 4))
