"""The parts of a model's input: what tokens read, fields, groups, histories."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from unimixer.data.dataset import Dataset
from unimixer.data.loader import Loader
from unimixer.errors import UnimixerError
from unimixer.features.spec import FeatureSpec, IdField
from unimixer.features.tokenizers import TOKENIZERS, semantic_groups
from unimixer.inspection.interactions import second_differences
from unimixer.inspection.parts import input_parts, known_groups, token_columns, token_shares
from unimixer.ranker import Ranker

NAMES = ("gender", "country", "city", "item", "author")
SPEC = FeatureSpec(
    tuple(IdField(name, "user" if index < 3 else "item", name) for index, name in enumerate(NAMES)),
    (),
    (),
    dict.fromkeys(NAMES, 4),
    ("click",),
)


def ranker(spec: FeatureSpec = SPEC, **options: Any) -> Ranker:
    torch.manual_seed(0)
    options = {"backbone": "rankmixer", "embedding_dim": 4, "options": {"token_dim": 24}, **options}
    return Ranker(spec, **options).eval()


def test_a_field_that_a_cut_runs_through_is_in_two_parts_by_width() -> None:
    parts = input_parts(ranker(num_tokens=2), "tokens")  # 20 columns, cut in the middle of the third field
    assert [part.name for part in parts] == ["gender, country, city (50%)", "city (50%), item, author"]
    assert [part.columns for part in parts] == [tuple(range(10)), tuple(range(10, 20))]


def test_a_token_of_zeros_alone_is_no_part() -> None:
    assert len(input_parts(ranker(num_tokens=12), "tokens")) == 10  # 20 columns are ten pieces of two, then zeros


def test_a_random_order_of_fields_is_read_from_the_tokenizer() -> None:
    model = ranker(num_tokens=2, tokenizer="random")
    first, second = input_parts(model, "tokens")
    order = model.tokenizer.order.tolist()
    assert first.columns == tuple(sorted(order[:10]))
    assert second.columns == tuple(sorted(order[10:]))


def test_parts_of_the_semantic_tokenizer_are_its_groups_without_the_global_token() -> None:
    model = ranker(num_tokens=4, tokenizer="semantic")
    groups = semantic_groups(model.embedding.slices, 3)
    expected = [tuple(NAMES[index] for index in group) for group in groups]
    parts = input_parts(model, "tokens")
    assert [tuple(part.fields) for part in parts] == expected
    shares = token_shares(model, parts)
    assert torch.equal(shares[:, 0], torch.full((3,), 0.5))  # the global token reads every column once more
    assert torch.equal(shares[:, 1:], torch.eye(3) / 2)


def test_every_field_is_a_token_of_the_field_tokenizer() -> None:
    model = ranker(tokenizer="field", backbone="mlp", options=None)
    parts = input_parts(model, "tokens")
    assert [part.name for part in parts] == list(NAMES)
    assert parts == input_parts(model, "fields")
    assert torch.equal(token_shares(model, parts), torch.eye(5))


def test_groups_are_the_fields_that_the_model_reads() -> None:
    groups = [["gender", "city"], ["author", "unknown"], ["unknown"]]
    parts = input_parts(ranker(num_tokens=2), "groups", groups)
    assert [part.name for part in parts] == ["gender, city", "author", ""]
    assert [part.columns for part in parts] == [(0, 1, 2, 3, 8, 9, 10, 11), (16, 17, 18, 19), ()]
    torch.testing.assert_close(
        token_shares(ranker(num_tokens=2), parts), torch.tensor([[0.75, 0.25], [0.0, 1.0], [0.0, 0.0]])
    )
    with pytest.raises(UnimixerError, match="by='groups': the dataset names no groups of fields; choose tokens"):
        input_parts(ranker(num_tokens=2), "groups")


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_every_tokenizer_of_a_real_spec_gives_parts_that_cover_it(tokenizer: str, toy_dataset: Dataset) -> None:
    spec = toy_dataset.transform.spec
    model = ranker(spec, tokenizer=tokenizer, num_tokens=6, backbone="mlp", options={"token_dim": 4})
    parts = input_parts(model, "tokens")
    covered = sorted(column for part in parts for column in part.columns)
    assert covered == list(range(model.embedding.out_dim))
    shares = token_shares(model, parts)
    torch.testing.assert_close(shares.sum(1), torch.ones(len(parts)))
    batch = next(iter(Loader(toy_dataset, "validation", batch_size=8).batches()))
    with torch.no_grad():
        found = second_differences(model, model.embed(batch), parts)
    assert torch.equal(found, found.T)
    assert found.sum() > 0
    assert found.diagonal().sum() == 0


@pytest.mark.parametrize("sequences", ["tokens", "cross_attention"])
def test_a_history_that_the_stack_reads_is_a_part_of_its_own(sequences: str, toy_dataset: Dataset) -> None:
    options: dict[str, Any] = {"sequences": sequences, "num_tokens": 4, "backbone": "unimixer-lite"}
    model = ranker(toy_dataset.transform.spec, **options)
    parts = input_parts(model, "tokens")
    assert parts[-1].name == "clicked_items, clicked_categories"
    assert parts[-1].history == 0
    assert len(parts) == (3 if sequences == "tokens" else 5)
    expected = [0.0, 0.0, 0.5, 0.5] if sequences == "tokens" else [0.0] * 4
    assert token_shares(model, parts)[-1].tolist() == expected
    batch = next(iter(Loader(toy_dataset, "validation", batch_size=8, shuffle=True).batches()))
    with torch.no_grad():
        found = second_differences(model, model.embed(batch), parts)
    assert (found[-1, :-1] > 0).all()


def test_data_that_no_known_world_made_names_no_groups(toy_dataset: Dataset) -> None:
    assert known_groups(toy_dataset) is None


def test_columns_are_found_without_a_change_of_the_random_state() -> None:
    model = ranker(num_tokens=2)
    before = torch.get_rng_state()
    with torch.no_grad():
        assert len(token_columns(model.tokenizer, 20)) == 2
    assert torch.equal(torch.get_rng_state(), before)
    assert all(parameter.grad is None for parameter in model.parameters())
