"""Packed tables are separate tables: the same vectors, the same row-sparse gradients."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from unimixer.errors import UnimixerError
from unimixer.features.embedding import EmbeddingTables, PackedEmbedding, merge_rows

TABLES = {"a": 5, "b": 3, "c": 7}


def separate(packed: PackedEmbedding) -> dict[str, nn.Embedding]:
    """The same tables as modules of their own."""
    tables = {}
    for name, rows in TABLES.items():
        first = packed.first_row[name]
        weight = packed.weight[first : first + rows].detach().clone()
        tables[name] = nn.Embedding.from_pretrained(weight, freeze=False, sparse=True)
    return tables


@pytest.fixture
def packed() -> PackedEmbedding:
    torch.manual_seed(0)
    return PackedEmbedding(TABLES, 4, init_std=1.0, sparse_gradients=True)


def test_a_packed_lookup_is_a_lookup_in_each_table(packed: PackedEmbedding) -> None:
    ids = torch.tensor([[0, 2, 6], [4, 0, 0], [4, 1, 3]])
    shifts = torch.tensor([packed.first_row[name] for name in TABLES])
    tables = separate(packed)
    out = packed(ids + shifts)
    expected = torch.stack([tables[name](ids[:, i]) for i, name in enumerate(TABLES)], dim=1)
    assert torch.equal(out, expected)
    coefficients = torch.randn_like(out)
    (out * coefficients).sum().backward()
    (expected * coefficients).sum().backward()
    assert packed.weight.grad is not None
    assert packed.weight.grad.is_sparse
    for name, rows in TABLES.items():
        first = packed.first_row[name]
        gradient = tables[name].weight.grad
        assert gradient is not None
        torch.testing.assert_close(packed.weight.grad.to_dense()[first : first + rows], gradient.to_dense())


def test_a_gradient_holds_the_rows_that_the_batch_touches_and_no_others() -> None:
    packed = PackedEmbedding({"a": 1_000_000}, 2, sparse_gradients=True)
    packed(torch.tensor([7, 999_999, 7])).sum().backward()
    gradient = packed.weight.grad
    assert gradient is not None
    gradient = gradient.coalesce()
    assert gradient.indices().tolist() == [[7, 999_999]]
    assert gradient.values().tolist() == [[2, 2], [1, 1]]


def test_a_mean_is_what_a_loop_computes_and_an_empty_bag_is_zero(packed: PackedEmbedding) -> None:
    rows, offsets = torch.tensor([3, 3, 9, 0]), torch.tensor([0, 2, 2, 3, 4, 4])
    means = packed.mean(rows, offsets)
    for bag in range(5):
        values = packed.weight[rows[offsets[bag] : offsets[bag + 1]]]
        expected = values.mean(0) if len(values) else torch.zeros(4)
        torch.testing.assert_close(means[bag], expected)
    means.sum().backward()
    assert packed.weight.grad is not None
    assert packed.weight.grad.is_sparse


def test_no_values_at_all_give_zeros(packed: PackedEmbedding) -> None:
    assert torch.equal(
        packed.mean(torch.zeros(0, dtype=torch.long), torch.zeros(4, dtype=torch.long)), torch.zeros(3, 4)
    )


LOOKUPS = {
    "rows met by both": ([[0, 2], [14, 2], [7, 0]], [3, 3, 9, 2, 2, 2], [0, 2, 2, 5, 6, 6]),
    "no bags": ([[0, 2], [14, 2]], [], [0]),
    "empty bags": ([[1]], [], [0, 0, 0]),
    "no single rows": ([[], []], [1, 1, 4], [0, 1, 3]),
    "nothing": ([[], []], [], [0]),
}


@pytest.mark.parametrize("case", LOOKUPS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_joint_lookup_is_forward_and_mean_with_their_gradient(
    packed: PackedEmbedding, case: str, dtype: torch.dtype
) -> None:
    rows, bags, offsets = (torch.tensor(part, dtype=torch.long) for part in LOOKUPS[case])
    packed = packed.to(dtype)
    plain, joint = (packed(rows), packed.mean(bags, offsets)), packed.lookup(rows, bags, offsets)
    gradients = []
    for (vectors, means), generator in ((plain, torch.Generator()), (joint, torch.Generator())):
        assert torch.equal(vectors, plain[0])
        assert torch.equal(means, plain[1])
        generator.manual_seed(1)
        packed.zero_grad()
        loss = sum(
            (part * torch.randn(part.shape, generator=generator, dtype=dtype)).sum() for part in (vectors, means)
        )
        loss.backward()  # type: ignore[union-attr]
        gradients.append(packed.weight.grad)
    expected, merged = gradients
    assert expected is not None
    assert merged is not None
    torch.testing.assert_close(merged.to_dense(), expected.to_dense())
    assert merged._indices()[0].tolist() == sorted({*rows.flatten().tolist(), *bags.tolist()})  # each row once


def test_merged_rows_are_what_a_loop_adds_up() -> None:
    generator = torch.Generator().manual_seed(0)
    rows, source = (torch.randint(0, high, (500,), generator=generator) for high in (60, 40))
    gradients = torch.randn(40, 3, generator=generator, dtype=torch.float64)
    expected = torch.zeros(100, 3, dtype=torch.float64)
    for row, line in zip(rows.tolist(), source.tolist(), strict=True):
        expected[row] += gradients[line]
    merged = merge_rows(rows, source, gradients, num_rows=100)
    assert merged.is_coalesced()
    torch.testing.assert_close(merged.to_dense(), expected)
    assert torch.equal(merged.indices()[0], rows.unique())
    wide = merge_rows(rows + 2**40, source, gradients, num_rows=2**41)  # more rows than 32 bits count
    assert torch.equal(wide.indices(), merged.indices() + 2**40)
    assert torch.equal(wide.values(), merged.values())


def test_a_lookup_under_export_is_its_definition(packed: PackedEmbedding) -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.packed = packed

        def forward(self, rows: torch.Tensor, bags: torch.Tensor, offsets: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return self.packed.lookup(rows, bags, offsets)

    inputs = torch.tensor([[0, 2], [14, 2]]), torch.tensor([3, 3, 9]), torch.tensor([0, 2, 2, 3])
    program = torch.export.export(Both(), inputs)
    called = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert "aten.embedding.default" in called
    for got, expected in zip(program.module()(*inputs), packed.lookup(*inputs), strict=True):
        assert torch.equal(got, expected)


def test_tables_of_one_width_are_one_weight() -> None:
    tables = EmbeddingTables(TABLES, embedding_dim=4, embedding_dims={"b": 2})
    assert {name: tuple(p.shape) for name, p in tables.named_parameters()} == {
        "packed.2.weight": (3, 2),
        "packed.4.weight": (12, 4),
    }
    assert [tables.first_row(name) for name in TABLES] == [0, 0, 5]
    assert tables.of_width(2).embedding_dim == 2


def test_rows_start_with_the_spread_that_was_asked_for() -> None:
    torch.manual_seed(0)
    weight = PackedEmbedding({"a": 10_000}, 8, init_std=0.03).weight
    torch.testing.assert_close(weight.std().item(), 0.03, rtol=0.02, atol=0)
    assert weight[0].any()  # the row of missing values is a row like any other


def test_a_width_for_an_unknown_table_or_of_no_size_is_named() -> None:
    with pytest.raises(UnimixerError, match="unknown table in embedding_dims 'itme_id'; did you mean 'item_id'"):
        EmbeddingTables({"item_id": 3}, embedding_dim=4, embedding_dims={"itme_id": 2})
    with pytest.raises(UnimixerError, match=r"embedding_dims\['a'\]=0 must be greater than 0"):
        EmbeddingTables(TABLES, embedding_dim=4, embedding_dims={"a": 0})
    with pytest.raises(UnimixerError, match="embedding_dim=-1 must be greater than 0"):
        EmbeddingTables(TABLES, embedding_dim=-1)


def test_a_table_beyond_all_memory_is_one_sentence() -> None:
    with pytest.raises(UnimixerError, match=r"17,592,186,044,421 rows of 64 .* in 'item'; .*managed_embeddings"):
        PackedEmbedding({"tab": 5, "item": 2**44}, 64)
