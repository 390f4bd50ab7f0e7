from __future__ import annotations

import subprocess
import sys
import weakref
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from unimixer.data.synthetic import BLOCK_ROWS, World, WorldConfig, world
from unimixer.metrics import best_auc

Block = dict[str, Tensor]
SMALL = WorldConfig(num_rows=5 * BLOCK_ROWS, num_users=400, num_items=200)


def log_of(made: World) -> Block:
    blocks = list(made.impressions())
    return {name: torch.cat([block[name] for block in blocks]) for name in blocks[0]}


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Worlds this small gain nothing from threads, and lose much where other work shares the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def easy() -> World:
    return World(WorldConfig(num_rows=150_000))


@pytest.fixture(scope="module")
def easy_log(easy: World) -> Block:
    return log_of(easy)


def test_equal_seeds_give_equal_worlds_and_other_seeds_do_not() -> None:
    first, again = World(SMALL), World(SMALL)
    one, two = log_of(first), log_of(again)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert all(torch.equal(a, b) for a, b in zip(first.snapshots(), again.snapshots(), strict=True))
    other = log_of(World(WorldConfig(num_rows=5 * BLOCK_ROWS, num_users=400, num_items=200, seed=1)))
    assert not torch.equal(one["click_probability"], other["click_probability"])


def test_every_pass_over_the_impressions_is_the_same(easy: World, easy_log: Block) -> None:
    second = log_of(easy)
    assert all(torch.equal(second[name], easy_log[name]) for name in easy_log)


def test_a_longer_log_has_the_same_users_items_and_snapshots_but_not_the_same_first_rows() -> None:
    short, long = World(SMALL), World(WorldConfig(num_rows=9 * BLOCK_ROWS, num_users=400, num_items=200))
    for mine, theirs in ((short.users(), long.users()), (short.items(), long.items())):
        assert all(torch.equal(mine[name].nan_to_num(-1), theirs[name].nan_to_num(-1)) for name in mine)
    assert torch.equal(short.snapshots().values, long.snapshots().values)
    assert not torch.equal(next(short.impressions())["time"], next(long.impressions())["time"])


def test_blocks_have_the_asked_number_of_rows() -> None:
    made = World(WorldConfig(num_rows=2 * BLOCK_ROWS + 3, num_users=50, num_items=50))
    assert [len(block["click"]) for block in made.impressions()] == [BLOCK_ROWS, BLOCK_ROWS, 3]


def test_times_never_decrease_fill_the_days_and_follow_a_daily_wave(easy_log: Block) -> None:
    time = easy_log["time"]
    assert (time.diff() >= 0).all()
    days = (time[-1] - time[0]) / 86_400_000
    assert 13.9 < days <= 14
    hours = torch.bincount(easy_log["hour"], minlength=24)
    assert hours[20] > 3 * hours[8]
    assert torch.equal(easy_log["hour"], time // 3_600_000 % 24)


def test_the_rates_are_the_configured_ones(easy: World, easy_log: Block) -> None:
    for task, rate in (("click", easy.config.click_rate), ("like", easy.config.like_rate)):
        assert easy_log[f"{task}_probability"].double().mean().item() == pytest.approx(rate, rel=0.03)


@pytest.mark.parametrize("task", ["click", "like"])
def test_the_labels_are_drawn_from_the_true_probabilities(easy_log: Block, task: str) -> None:
    probability, label = easy_log[f"{task}_probability"].double(), easy_log[task].double()
    for rows in probability.argsort().chunk(20):
        p = probability[rows]
        error = (label[rows] - p).sum() / (p * (1 - p)).sum().sqrt()
        assert abs(error.item()) < 4.5


def test_a_like_needs_a_click(easy_log: Block) -> None:
    assert (easy_log["like"] <= easy_log["click"]).all()
    assert (easy_log["like_probability"] <= easy_log["click_probability"]).all()


def test_the_best_reachable_auc_of_the_easy_world_is_near_85_hundredths(easy: World) -> None:
    best = best_auc(easy.impressions(), ("click", "like"))
    assert 0.83 < best["click"] < 0.87
    assert 0.89 < best["like"] < 0.93


def test_what_one_hot_fields_explain_lies_well_below_the_best(easy: World, easy_log: Block) -> None:
    """Additive rates of every field's values, the best that a model without interactions can do."""
    train, test = slice(0, 120_000), slice(120_000, None)
    score = np.zeros(30_000)
    for field in easy.fields:
        if field.numeric:
            continue
        tables = {"user": easy.users(), "item": easy.items()}
        values = easy_log[field.name] if field.domain == "context" else None
        if values is None:
            values = tables[field.domain][field.name][easy_log[f"{field.domain}_id"]]
        ids, clicks = values.numpy(), easy_log["click"].numpy().astype(float)
        shown = np.bincount(ids[train], minlength=field.size)
        clicked = np.bincount(ids[train], clicks[train], minlength=field.size)
        rate = (clicked + 0.3 * 20) / (shown + 20)
        score += np.log(rate / (1 - rate))[ids[test]]
    rows = {"click": easy_log["click"][test], "click_probability": torch.from_numpy(score)}
    additive, best = (
        best_auc([rows], ["click"])["click"],
        best_auc([{k: v[test] for k, v in easy_log.items()}], ["click"]),
    )
    assert 0.6 < additive < best["click"] - 0.08


def test_a_late_label_cannot_change_an_earlier_probability(monkeypatch: pytest.MonkeyPatch) -> None:
    untouched = log_of(World(SMALL))["click_probability"]
    absorb, calls = world.absorb_clicks, iter(range(1_000_000))
    made = World(SMALL)

    def flip_in_block_two(interest: Tensor, users: Tensor, vectors: Tensor, clicks: Tensor) -> None:
        absorb(interest, users, vectors, ~clicks if next(calls) == 2 else clicks)

    monkeypatch.setattr(world, "absorb_clicks", flip_in_block_two)
    flipped = log_of(made)["click_probability"]
    same = [
        torch.equal(a, b) for a, b in zip(*(torch.split(log, BLOCK_ROWS) for log in (untouched, flipped)), strict=True)
    ]
    assert same == [True, True, True, False, False]


def test_interest_moves_towards_what_was_clicked_as_one_update_a_click_would() -> None:
    interest = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    item = torch.tensor([0.0, 2.0])
    users, clicks = torch.tensor([0, 0, 1]), torch.tensor([True, True, False])
    world.absorb_clicks(interest, users, item.expand(3, 2), clicks)
    kept = world.MEMORY
    once = kept * torch.tensor([1.0, 0.0]) + (1 - kept) * item
    torch.testing.assert_close(interest[0], kept * once + (1 - kept) * item)
    assert interest[1].tolist() == [0.0, 1.0]  # shown, and not clicked


def test_interest_is_the_same_to_the_last_bit_in_any_order_of_the_block() -> None:
    generator = torch.Generator().manual_seed(0)
    users = torch.randint(0, 30, (2_000,), generator=generator)
    vectors = torch.randn(2_000, 4, generator=generator)
    clicks = torch.rand(2_000, generator=generator) < 0.5
    order = torch.randperm(2_000, generator=generator)
    one, two = torch.zeros(30, 4), torch.zeros(30, 4)
    world.absorb_clicks(one, users, vectors, clicks)
    world.absorb_clicks(two, users[order], vectors[order], clicks[order])
    assert torch.equal(one, two)


@pytest.mark.parametrize("name", ["user_id", "item_id"])
def test_few_users_and_items_have_most_of_the_impressions(easy_log: Block, name: str) -> None:
    counts = torch.bincount(easy_log[name]).sort(descending=True).values.double()
    share = counts[: len(counts) // 10].sum() / counts.sum()
    assert 0.25 < share < 0.75
    assert counts[0] > 20 * counts.median()


def test_snapshots_are_items_and_some_users_have_none(easy: World) -> None:
    values, offsets = easy.snapshots()
    lengths = offsets.diff()
    assert len(lengths) == len(easy.users()["user_id"])
    assert (lengths == 0).any()
    assert lengths.max() == world.MAX_SNAPSHOT
    assert (values >= 0).all()
    assert (values < len(easy.items()["item_id"])).all()


def test_some_numbers_are_missing_in_their_share(easy: World) -> None:
    assert easy.users()["age"].isnan().double().mean().item() == pytest.approx(0.1, abs=0.02)
    assert easy.items()["duration_s"].isnan().double().mean().item() == pytest.approx(0.05, abs=0.03)
    assert not easy.users()["tenure_days"].isnan().any()
    assert (easy.items()["item_age_days"] > 0).all()


def test_memory_is_flat_because_no_block_outlives_its_turn() -> None:
    seen: list[weakref.ref[Tensor]] = []
    for block in World(SMALL).impressions():
        seen += [weakref.ref(tensor) for tensor in block.values()]
        del block
    assert sum(reference() is not None for reference in seen) <= len(seen) // 5


def test_a_world_of_one_user_and_one_item_still_stands() -> None:
    made = World(WorldConfig(num_rows=1_000, num_users=1, num_items=1, days=1))
    assert torch.isfinite(log_of(made)["like_probability"]).all()


def test_the_generator_needs_torch_alone() -> None:
    code = (
        "import sys, unimixer.data.synthetic;print([m for m in ('polars', 'pydantic', 'pyarrow') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
