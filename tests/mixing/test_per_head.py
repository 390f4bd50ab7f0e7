"""A free matrix between tokens for every head, against its formula."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_paper_table import SIZES, assert_row_holds
from torch import Tensor

from unimixer.errors import UnimixerError
from unimixer.mixing import IdentityLocal, PerHeadGlobal, Unified


@SIZES
@given(num_tokens=st.integers(1, 5), heads=st.integers(1, 4), head_dim=st.integers(1, 4))
def test_every_head_is_a_product_with_its_own_matrix(num_tokens: int, heads: int, head_dim: int) -> None:
    width = heads * head_dim
    mixing = Unified(IdentityLocal(num_tokens, width), PerHeadGlobal(num_tokens, heads))

    def textbook(x: Tensor) -> Tensor:
        rows = []
        for m in range(num_tokens):
            head_sums = []
            for h in range(heads):
                slices = [token[h * head_dim : (h + 1) * head_dim] for token in x]
                head_sums.append(sum(mixing.global_.weight[h, m, n] * s for n, s in enumerate(slices)))
            rows.append(torch.cat(head_sums))
        return torch.stack(rows)

    assert_row_holds(mixing, textbook, num_tokens, width)


def test_starts() -> None:
    orthogonal, zero, random = (
        PerHeadGlobal(5, 3, start).weight.detach() for start in ("orthogonal", "zero", "random")
    )
    torch.testing.assert_close(orthogonal @ orthogonal.mT, torch.eye(5).expand(3, 5, 5))
    assert not torch.equal(orthogonal[0], orthogonal[1])
    assert torch.equal(zero, torch.zeros(3, 5, 5))
    assert 0.3 < random.abs().max() <= 5**-0.5
    with pytest.raises(UnimixerError, match="init='rule' is not one of orthogonal, zero, random"):
        PerHeadGlobal(5, 3, "rule")
