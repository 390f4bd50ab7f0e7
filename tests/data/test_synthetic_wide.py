from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from unimixer.data.dataset import Dataset
from unimixer.data.prepare import prepare
from unimixer.data.raw.adapters.synthetic import load
from unimixer.data.synthetic import BLOCK_ROWS, WideWorld, World, WorldConfig, draw_world
from unimixer.data.synthetic.config import parse_pairs
from unimixer.errors import UnimixerError
from unimixer.features.fields import FieldSlice
from unimixer.features.tokenizers import ChunkTokenizer

SMALL: dict[str, Any] = {
    "num_rows": 3 * BLOCK_ROWS,
    "num_fields": 16,
    "num_ids": 8,
    "num_groups": 4,
    "interacting_pairs": 2,
    "num_users": 300,
    "num_items": 200,
    "num_pairs": 6,
    "num_triples": 4,
    "num_quads": 2,
}


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Worlds this small gain nothing from threads, and lose much where other work shares the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def small(**changes: Any) -> WideWorld:
    made = draw_world(WorldConfig(**{**SMALL, **changes}))
    assert isinstance(made, WideWorld)
    return made


def digest(tensors: list[Tensor]) -> str:
    content = hashlib.sha256()
    for tensor in tensors:
        content.update(tensor.contiguous().numpy().tobytes())
    return content.hexdigest()[:16]


@pytest.mark.parametrize(
    ("difficulty", "entities", "log", "means"),
    [
        ("easy", "032b99812060b493", "99ef169af02282b5", (33.19914, 350.62382, 47.79569, 21.01385, 0.3086127)),
        ("hard", "82620737b8eddd57", "961157e28099e1ae", (31.11739, 333.58293, 39.997, 19.33689, 0.3102460)),
    ],
)
def test_a_world_without_wide_settings_is_that_of_earlier_versions(
    difficulty: str, entities: str, log: str, means: tuple[float, ...]
) -> None:
    made = World(WorldConfig(num_rows=20_000, num_users=400, num_items=200, seed=5, difficulty=difficulty))
    tensors = [*made.users().values(), *made.items().values(), *made.snapshots()]
    real = [tensor for tensor in tensors if tensor.is_floating_point()]  # processors differ in the last digit
    assert digest([tensor for tensor in tensors if not tensor.is_floating_point()]) == entities
    blocks = list(made.impressions())
    drawn = [name for name in blocks[0] if not name.endswith("probability")]
    assert digest([block[name] for block in blocks for name in drawn]) == log
    real.append(torch.cat([block["click_probability"] for block in blocks]))
    assert [tensor.double().nanmean().item() for tensor in real] == pytest.approx(means)


def test_the_fields_are_shared_out_over_the_domains_and_cut_into_groups_in_their_order() -> None:
    made = small()
    assert [f.name for f in made.fields] == [
        *(f"user_{n}" for n in range(6)),
        *(f"item_{n}" for n in range(5)),
        *(f"context_{n}" for n in range(5)),
    ]
    assert made.groups[1] == ("user_4", "user_5", "item_0", "item_1")
    assert len(made.groups) == 4


def test_an_interaction_takes_its_fields_from_both_groups_of_one_joined_pair_and_the_pairs_take_turns() -> None:
    made = small(interacting_pairs="0-3,1-2")
    assert made.interacting_groups == ((0, 3), (1, 2))
    group_of = {name: number for number, names in enumerate(made.groups) for name in names}
    joined = Counter(tuple(sorted({group_of[name] for name in term})) for term in made.interactions)
    assert joined == {(0, 3): 6, (1, 2): 6}
    assert Counter(map(len, made.interactions)) == {2: 6, 3: 4, 4: 2}
    assert len(set(made.interactions)) == 12


def test_all_pairs_of_groups_interact_unless_fewer_are_asked_for() -> None:
    assert len(small(interacting_pairs=None).interacting_groups) == 6
    assert len(small(interacting_pairs=3).interacting_groups) == 3
    assert small(seed=1).interacting_groups != small(seed=2).interacting_groups
    assert small(num_groups=None, interacting_pairs=None).interacting_groups == ()


def test_the_true_probability_is_that_of_the_equation() -> None:
    made = small(drift=0.8, like_rate=0.05)
    rules, block = made._rules, made.block(2)
    users, items = made.users(), made.items()
    found, width = block["click_probability"], made.config.latent_dim
    for row in range(5):
        ids = []
        for field in made.fields:
            source = {"user": users, "item": items}.get(field.domain)
            owner = block[f"{field.domain}_id"][row] if source else row
            ids.append(int((source or block)[field.name][owner]))
        vectors = [rules.table[p, :width, i] for p, i in enumerate(ids)]
        angle = 0.8 * 2 / 3
        parts, weights = [sum(rules.table[p, width, i].item() for p, i in enumerate(ids))], iter(range(12))
        for terms in rules.interactions:
            parts.append(0.0)
            for term in terms:
                number = next(weights)
                weight = math.cos(angle) * rules.weights[0, number] + math.sin(angle) * rules.weights[1, number]
                parts[-1] += (torch.stack([vectors[p] for p in term]).prod(0) * weight[:, 0]).sum().item()
        logit = sum(part * gain for part, gain in zip(parts, rules.gains[:, 0].tolist(), strict=True))
        expected = 1 / (1 + math.exp(-logit - rules.intercepts[0].item()))
        assert found[row].item() == pytest.approx(expected, rel=1e-4)


def test_shares_spread_and_rates_are_the_given_ones() -> None:
    made = small(shares=(2, 3.5, 3, 1.5, 0), logit_std=1.5, num_rows=BLOCK_ROWS * 10, num_users=5_000, num_items=5_000)
    blocks = list(made.impressions())
    assert made.config.shares == pytest.approx((0.2, 0.35, 0.3, 0.15, 0))
    for task, rate in (("click", 0.3), ("like", 0.05)):
        probability = torch.cat([block[f"{task}_probability"] for block in blocks]).double()
        drawn = torch.cat([block[task] for block in blocks]).double()
        assert probability.mean().item() == pytest.approx(rate, rel=0.03)
        error = (drawn - probability).sum() / (probability * (1 - probability)).sum().sqrt()
        assert abs(error.item()) < 4.5
    logits = torch.cat([block["click_probability"] for block in blocks]).logit()
    assert logits.std().item() == pytest.approx(1.5, rel=0.03)


def test_any_block_is_drawn_by_itself_and_is_the_same_with_any_number_of_threads() -> None:
    made, again = small(), small()
    last = again.block(2)
    log = list(made.impressions())
    assert all(torch.equal(log[2][name], last[name]) for name in last)
    torch.set_num_threads(2)
    try:
        assert all(torch.equal(a[n], b[n]) for a, b in zip(log, again.impressions(), strict=True) for n in a)
    finally:
        torch.set_num_threads(1)
    assert not torch.equal(log[0]["click_probability"], log[1]["click_probability"])


def test_a_world_of_clicks_alone_has_the_clicks_of_the_world_with_likes() -> None:
    both, clicks = small().block(0), small(like_rate=0).block(0)
    assert set(both) - set(clicks) == {"like", "like_probability"}
    torch.testing.assert_close(both["click_probability"], clicks["click_probability"])
    assert [f"{label.name}" for label in load(**{**SMALL, "like_rate": 0}).schema.labels] == ["click"]
    narrow = World(WorldConfig(num_rows=9_000, num_users=50, num_items=50, like_rate=0))
    assert [("like" in block, bool(block["click_probability"].isfinite().all())) for block in narrow.impressions()] == [
        (False, True)
    ] * 2


def test_ids_are_flat_or_follow_a_power_law() -> None:
    generator = Generator().manual_seed(0)
    for exponent in (0.0, 1.0):
        counts = torch.bincount(small(id_exponent=exponent)._draw_ids("context", 50_000, generator).flatten())
        wanted = torch.arange(1, 9, dtype=torch.float64) ** -exponent
        expected = 250_000 * wanted / wanted.sum()
        assert ((counts - expected).abs() / expected.sqrt()).max() < 5


def test_a_chunk_tokenizer_with_a_token_a_group_gives_each_token_the_fields_of_its_group(tmp_path: Path) -> None:
    dataset = prepare(load(**SMALL, validation_rows=100, test_rows=200), tmp_path / "wide")
    assert [dataset.summary(split).rows for split in ("train", "validation", "test")] == [24_276, 100, 200]
    spec = dataset.transform.spec
    names = [field.name for field in spec.ids]
    groups = dataset.manifest["world"]["groups"]
    assert [names[first : first + 4] for first in range(0, 16, 4)] == groups
    assert not spec.dense
    assert not spec.sequences
    tokenizer = ChunkTokenizer([FieldSlice(f.name, f.domain, 2) for f in spec.ids], num_tokens=4, token_dim=3)
    assert (tokenizer.piece_dim, tokenizer.padding) == (8, 0)


def test_the_manifest_keeps_what_is_true_of_the_world(tmp_path: Path) -> None:
    prepare(load(**SMALL), tmp_path / "wide")
    made, kept = small(), Dataset(tmp_path / "wide").manifest["world"]
    assert [tuple(pair) for pair in kept["interacting_groups"]] == list(made.interacting_groups)
    assert [tuple(names) for names in kept["interactions"]] == list(made.interactions)


def test_soft_labels_are_the_true_probabilities_to_the_last_bit(tmp_path: Path) -> None:
    dataset = prepare(load(**SMALL, soft_labels=True), tmp_path / "soft")
    schema = dataset.transform.schema
    assert schema.label_names == ("click", "like", "click_probability", "like_probability")
    assert schema.soft_labels == ("click_probability", "like_probability")
    assert schema.truths["click"] == "click_probability"
    labels, block = dataset.part("train", 0).labels, small().block(0)
    assert labels is not None
    for number, name in enumerate(schema.label_names):
        assert torch.equal(torch.tensor(labels[:BLOCK_ROWS, number]), block[name].float())
    with pytest.raises(UnimixerError, match="soft_labels='yes' must be true or false"):
        load(**SMALL, soft_labels="yes")


def test_pairs_of_groups_are_a_number_or_a_list() -> None:
    assert parse_pairs("5-0, 3-7", 8) == ((0, 5), (3, 7))
    assert parse_pairs([[3, 7], "0-5"], 8) == ((0, 5), (3, 7))
    assert parse_pairs(None, 16) == 120


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_fields": 301}, "num_fields=301 must lie between 3 and 300"),
        ({"num_groups": 5}, "num_groups=5 must be 2 or more and divide num_fields=16"),
        ({"num_groups": None}, "interacting_pairs needs groups of fields; give num_groups too"),
        ({"interacting_pairs": 7}, "interacting_pairs=7 must lie between 1 and 6, the pairs of 4 groups"),
        ({"interacting_pairs": "0-9"}, "interacting_pairs='0-9' must be a number, or pairs of different groups"),
        ({"num_pairs": 33}, "num_pairs=33: there are 32 different sets of 2 fields; lower num_pairs"),
        ({"num_pairs": -1}, "num_pairs=-1 must be 0 or more"),
        ({"shares": (1, 1, 1)}, r"shares=\(1, 1, 1\) must be 5 numbers, 0 or more"),
        ({"shares": (1, 1, 1, 1, 1)}, "a wide world has no history, so the share of the sequence must be 0; it is 0.2"),
        ({"test_rows": 3 * BLOCK_ROWS}, "test_rows=24576 must be 1 or more and leave training rows"),
        ({"days": 2}, "days=2 must be 3 or more"),
        ({"logit_std": 0}, "logit_std=0 must be a finite number greater than 0"),
        ({"num_fields": None}, "num_ids=8 needs a wide world; give num_fields too"),
    ],
)
def test_a_bad_setting_of_a_wide_world_is_refused_in_one_sentence(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UnimixerError, match=message):
        draw_world(WorldConfig(**{**SMALL, **values}))
