"""From the vector E to tokens."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from unimixer.errors import UnimixerError
from unimixer.features.fields import DOMAINS, FieldSlice
from unimixer.features.tokenizers import (
    TOKENIZERS,
    ChunkTokenizer,
    FieldTokenizer,
    SemanticTokenizer,
    build_tokenizer,
    semantic_groups,
)

PIECES = (
    FieldSlice("a", "user", 2),
    FieldSlice("b", "user", 2),
    FieldSlice("c", "item", 3),
    FieldSlice("d", "behaviour", 2),
    FieldSlice("e", "context", 1),
)
WIDTH = 10


def embedded(rows: int = 3) -> Tensor:
    return torch.randn(rows, WIDTH, generator=torch.Generator().manual_seed(0))


# ---- chunk -------------------------------------------------------------------


def test_a_chunk_is_a_piece_of_the_vector_through_its_own_layer() -> None:
    tokenizer = ChunkTokenizer(PIECES, num_tokens=5, token_dim=4)
    x, weight, bias = embedded(), tokenizer.linear.weight, tokenizer.linear.bias
    assert bias is not None
    tokens = tokenizer(x)
    assert tokens.shape == (3, 5, 4)
    for t in range(5):
        torch.testing.assert_close(tokens[:, t], x[:, 2 * t : 2 * t + 2] @ weight[t] + bias[t])


def test_the_vector_is_padded_with_zeros_to_a_multiple_of_the_tokens() -> None:
    tokenizer = ChunkTokenizer(PIECES, num_tokens=4, token_dim=4)
    assert (tokenizer.piece_dim, tokenizer.padding) == (3, 2)
    x, weight, bias = embedded(), tokenizer.linear.weight, tokenizer.linear.bias
    assert bias is not None
    torch.testing.assert_close(tokenizer(x)[:, 3], x[:, 9:] @ weight[3, :1] + bias[3])


# ---- random ------------------------------------------------------------------


def random_tokenizer(seed: int | None = None) -> ChunkTokenizer:
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    tokenizer = build_tokenizer("random", PIECES, num_tokens=5, token_dim=4, generator=generator)
    assert isinstance(tokenizer, ChunkTokenizer)
    return tokenizer


def order(tokenizer: ChunkTokenizer) -> list[int]:
    assert tokenizer.order is not None
    return [int(column) for column in tokenizer.order]


def test_the_random_order_keeps_the_columns_of_a_field_together() -> None:
    columns = order(random_tokenizer(1))
    assert sorted(columns) == list(range(WIDTH))
    assert columns != sorted(columns)
    starts = [0, 2, 4, 7, 9, 10]
    for first, last in pairwise(starts):
        at = columns.index(first)
        assert columns[at : at + last - first] == list(range(first, last))


def test_the_random_order_does_not_depend_on_other_draws() -> None:
    first = order(random_tokenizer())
    torch.randn(100)
    torch.manual_seed(99)
    assert order(random_tokenizer()) == first
    assert order(random_tokenizer(1)) != order(random_tokenizer(2))


def test_the_random_order_is_part_of_the_weights() -> None:
    one, other = random_tokenizer(1), random_tokenizer(2)
    assert not torch.equal(one(embedded()), other(embedded()))
    other.load_state_dict(one.state_dict())
    assert torch.equal(one(embedded()), other(embedded()))
    assert "order" not in build_tokenizer("chunk", PIECES, num_tokens=5, token_dim=4).state_dict()


def test_the_random_tokenizer_is_the_chunk_tokenizer_on_another_order() -> None:
    random = random_tokenizer(1)
    chunk = ChunkTokenizer(PIECES, num_tokens=5, token_dim=4)
    chunk.linear.load_state_dict(random.linear.state_dict())
    assert torch.equal(random(embedded()), chunk(embedded()[:, order(random)]))


# ---- semantic ----------------------------------------------------------------


@given(
    st.lists(st.tuples(st.sampled_from(DOMAINS), st.integers(1, 8)), min_size=1, max_size=12),
    st.integers(1, 12),
)
def test_every_field_is_in_one_group_and_a_group_has_one_domain(fields: list[tuple[str, int]], groups: int) -> None:
    fields.sort(key=lambda field: DOMAINS.index(field[0]))
    slices = [FieldSlice(str(i), domain, width) for i, (domain, width) in enumerate(fields)]
    assume(len({p.domain for p in slices}) <= groups <= len(slices))
    found = semantic_groups(slices, groups)
    assert len(found) == groups
    assert [i for group in found for i in group] == list(range(len(slices)))
    assert all(len({slices[i].domain for i in group}) == 1 for group in found)


def test_wide_domains_get_more_groups() -> None:
    slices = [FieldSlice(f"u{i}", "user", 1) for i in range(4)] + [FieldSlice(f"i{i}", "item", 10) for i in range(4)]
    assert semantic_groups(slices, 5) == [[0, 1, 2, 3], [4], [5], [6], [7]]


def mlp(x: Tensor, first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> Tensor:
    return F.silu(x @ first[0] + first[1]) @ second[0] + second[1]


def test_a_semantic_token_is_an_mlp_of_its_group_after_a_global_one() -> None:
    tokenizer = SemanticTokenizer(PIECES, num_tokens=5, token_dim=4)
    x = embedded()
    tokens = tokenizer(x)
    assert tokens.shape == (3, 5, 4)
    torch.testing.assert_close(tokens[:, 0], tokenizer.global_token(x))
    hidden, output = tokenizer.hidden, tokenizer.output
    assert hidden.bias is not None
    assert output.bias is not None
    for t, (a, b) in enumerate([(0, 4), (4, 7), (7, 9), (9, 10)]):
        first = hidden.weight[t, : b - a], hidden.bias[t]
        expected = mlp(x[:, a:b], first, (output.weight[t], output.bias[t]))
        torch.testing.assert_close(tokens[:, t + 1], expected)


def test_each_group_starts_by_its_own_fan_in() -> None:
    torch.manual_seed(0)
    slices = [FieldSlice("u", "user", 4), FieldSlice("i", "item", 400)]
    hidden = SemanticTokenizer(slices, num_tokens=3, token_dim=64).hidden.weight
    for group, fan_in in ((0, 4), (1, 400)):
        torch.testing.assert_close(hidden[group].abs().max().item(), fan_in**-0.5, rtol=0.02, atol=0)


@pytest.mark.parametrize("num_tokens", [1, 4, 7])
def test_a_number_of_tokens_that_the_fields_do_not_fit_is_named(num_tokens: int) -> None:
    with pytest.raises(UnimixerError, match="with 4 domains and 5 fields it must lie between 5 and 6"):
        SemanticTokenizer(PIECES, num_tokens=num_tokens, token_dim=4)


# ---- field -------------------------------------------------------------------

EVEN = tuple(FieldSlice(name, "user", 5) for name in "ab")


def test_a_field_token_is_the_embedding_itself_where_it_is_as_wide() -> None:
    tokenizer = FieldTokenizer(EVEN, token_dim=5)
    x = embedded()
    assert torch.equal(tokenizer(x), torch.stack([x[:, :5], x[:, 5:]], dim=1))
    assert list(tokenizer.parameters()) == []


def test_a_field_token_goes_through_its_own_layer_where_it_is_not() -> None:
    tokenizer = FieldTokenizer(EVEN, token_dim=3)
    x, linear = embedded(), tokenizer.linear
    torch.testing.assert_close(tokenizer(x)[:, 1], x[:, 5:] @ linear.weight[1] + linear.bias[1])  # type: ignore[index]


def test_fields_of_several_widths_are_no_field_tokens() -> None:
    with pytest.raises(UnimixerError, match=r"needs fields of one width, found \[1, 2, 3\]; drop embedding_dims"):
        FieldTokenizer(PIECES, token_dim=4)


# ---- all ---------------------------------------------------------------------


@pytest.mark.parametrize("name", TOKENIZERS)
def test_every_tokenizer_takes_no_rows_and_rows_that_do_not_lie_together(name: str) -> None:
    slices = EVEN if name == "field" else PIECES
    num_tokens = 2 if name == "field" else 5
    tokenizer = build_tokenizer(name, slices, num_tokens=num_tokens, token_dim=4)
    assert tokenizer(embedded(0)).shape == (0, num_tokens, 4)
    x = embedded(4)
    torch.testing.assert_close(tokenizer(x.T.contiguous().T), tokenizer(x))


@pytest.mark.parametrize("name", TOKENIZERS)
def test_every_tokenizer_can_be_built_without_memory(name: str) -> None:
    with torch.device("meta"):
        tokenizer: nn.Module = build_tokenizer(name, EVEN if name == "field" else PIECES, num_tokens=5, token_dim=4)
    assert all(p.is_meta for p in tokenizer.parameters())


def test_an_unknown_tokenizer_gets_the_nearest_name() -> None:
    with pytest.raises(UnimixerError, match="tokenizer='chunks' is not one of chunk, semantic, random, field; did"):
        build_tokenizer("chunks", PIECES, num_tokens=5, token_dim=4)
