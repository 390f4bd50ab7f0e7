from __future__ import annotations

import math
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from unimixer.data.synthetic import DIFFICULTIES, WorldConfig, WorldField, world_fields
from unimixer.data.synthetic.draws import START_MS, event_times, numbers, zipf
from unimixer.data.synthetic.teacher import draw_teacher, item_vectors, solve_intercept


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"difficulty": "eazy"}, "difficulty='eazy' is not one of .*; did you mean 'easy'"),
        ({"difficulty": 1.5}, "difficulty=1.5 must lie between 0 and 1, or be one of easy, medium, hard, extreme"),
        ({"difficulty": None}, "difficulty=None must lie between"),
        ({"num_rows": 0}, "num_rows=0 must be greater than 0"),
        ({"num_rows": 1e6}, r"num_rows=1000000.0 must be a whole number"),
        ({"num_items": "many"}, "num_items='many' must be a whole number"),
        ({"num_users": -3}, "num_users=-3 must be greater than 0"),
        ({"days": 0}, "days=0 must be greater than 0"),
        ({"seed": -1}, "seed=-1 must be 0 or more"),
        ({"like_rate": 0.4}, "like_rate=0.4 and click_rate=0.3 must lie between 0 and 1, like_rate below click_rate"),
        ({"click_rate": 1.0}, "click_rate=1.0 must lie"),
        ({"click_rate": "0.3"}, "click_rate='0.3' must be a number"),
        ({"drift": -0.1}, "drift=-0.1 must be a finite angle"),
        ({"drift": math.nan}, "drift=nan must be a finite angle"),
    ],
)
def test_a_bad_value_is_refused_in_one_sentence(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WorldConfig(**values)


def test_a_config_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        WorldConfig().seed = 1  # type: ignore[misc]


def test_the_dial_grows_everything() -> None:
    worlds = [WorldConfig(difficulty=name) for name in DIFFICULTIES]
    for name in ("latent_dim", "num_pairs", "num_triples", "num_quads", "widest_interaction", "total_drift"):
        sizes = [getattr(config, name) for config in worlds]
        assert sizes == sorted(set(sizes)), name
    ids = [sum(field.size for field in world_fields(config)) for config in worlds]
    assert ids == sorted(set(ids))
    for config in worlds:
        assert sum(config.shares) == pytest.approx(1)
    assert WorldConfig(difficulty=0).shares == WorldConfig(difficulty="easy").shares


def test_zipf_ranks_follow_the_power_law() -> None:
    for exponent in (0.7, 1.0, 1.3):
        ranks = zipf(400_000, 1_000, exponent, Generator().manual_seed(0))
        counts = torch.bincount(ranks, minlength=1_000).double()
        assert len(counts) == 1_000
        x = torch.arange(1, 1_002, dtype=torch.float64)
        edges = x.log() if exponent == 1 else x ** (1 - exponent) / (1 - exponent)
        expected = edges.diff() / (edges[-1] - edges[0]) * 400_000
        assert ((counts - expected).abs() / expected.sqrt()).max() < 5
        slope = (counts[10] / counts[500]).log() / math.log(501.5 / 11.5)
        assert slope.item() == pytest.approx(exponent, abs=0.1)


def test_zipf_over_one_value_is_that_value() -> None:
    assert set(zipf(100, 1, 0.7, Generator().manual_seed(0)).tolist()) == {0}


def test_numbers_are_log_normal_and_missing_in_their_share() -> None:
    drawn = numbers(50_000, WorldField("x", "item", log_mean=2, log_std=0.5, missing=0.2), Generator().manual_seed(0))
    known = drawn[~drawn.isnan()].log()
    assert len(known) / 50_000 == pytest.approx(0.8, abs=0.01)
    assert (known.mean().item(), known.std().item()) == pytest.approx((2, 0.5), abs=0.02)


def test_event_times_of_pieces_continue_each_other() -> None:
    generator = Generator().manual_seed(0)
    times = torch.cat([event_times(first, 1_000, 10_000, 3, generator) for first in range(0, 10_000, 1_000)])
    assert (times.diff() >= 0).all()
    assert START_MS <= times[0] < times[-1] < START_MS + 3 * 86_400_000


def draw_inputs(config: WorldConfig, rows: int) -> dict[str, tuple[Tensor, Tensor]]:
    generator, inputs = Generator().manual_seed(7), {}
    for domain in ("user", "item", "context"):
        declared = [f for f in world_fields(config) if f.domain == domain]
        ids = [torch.randint(0, f.size, (rows,), generator=generator) for f in declared if not f.numeric]
        normals = torch.randn(len(declared) - len(ids), rows, generator=generator)
        if len(normals):
            normals[0, ::3] = math.nan
        inputs[domain] = (torch.stack(ids), normals)
    return inputs


def test_interactions_are_weighted_products_of_latent_vectors() -> None:
    """Term by term, at half of the log, as the equation has it."""
    config = WorldConfig(difficulty=0.3, num_users=30, num_items=20, drift=0.8)
    teacher = draw_teacher(config, Generator().manual_seed(0))
    inputs, affinity = draw_inputs(config, 6), torch.randn(6, config.latent_dim)
    found = teacher.components(inputs, affinity, 0.5)
    vectors = torch.cat([getattr(teacher, d).of(*inputs[d])[0] for d in ("user", "item", "context")])
    turned = math.cos(0.4) * teacher.weights[0] + math.sin(0.4) * teacher.weights[1]
    weights = iter(turned)
    for order, (terms, part) in enumerate(zip(teacher.interactions, found[1:4], strict=True), 2):
        expected = torch.zeros(6, 2)
        for term in terms:
            assert len(set(term)) == order
            product = torch.stack([vectors[position] for position in term]).prod(0)
            expected += torch.einsum("bk,kt->bt", product, next(weights))
        torch.testing.assert_close(part, expected)
    torch.testing.assert_close(found[4], torch.einsum("bk,kt->bt", affinity, teacher.interest_weights))


def test_latent_vectors_have_power_one_and_a_missing_number_has_its_own() -> None:
    config = WorldConfig(num_users=30, num_items=20)
    teacher = draw_teacher(config, Generator().manual_seed(0))
    vectors, bias = teacher.user.of(*draw_inputs(config, 7)["user"])
    assert vectors.shape == (8, 7, config.latent_dim)
    assert bias.shape == (7, 2)
    torch.testing.assert_close(vectors[:6].square().mean(-1), torch.ones(6, 7))
    assert torch.equal(vectors[6, 0], vectors[6, 3])  # age is missing in every third row
    assert not torch.equal(vectors[6, 0], vectors[6, 1])


def test_calibration_gives_each_part_its_share_each_task_its_rate_and_the_logit_its_spread() -> None:
    config = WorldConfig()
    teacher = draw_teacher(config, Generator().manual_seed(0))
    components = torch.randn(5, 40_000, 2, generator=Generator().manual_seed(1)) * torch.rand(5, 1, 2) * 9
    made = teacher.calibrated(components, config)
    parts = components * made.gains[:, None]
    assert parts.sum(0).std(0).tolist() == pytest.approx([config.logit_std] * 2, rel=1e-3)
    shares = parts.var(1) / config.logit_std**2
    assert shares[:, 0].tolist() == pytest.approx(config.shares, abs=0.02)
    probability = torch.sigmoid(parts.sum(0) + made.intercepts).cumprod(1)
    assert probability.mean(0).tolist() == pytest.approx([0.3, 0.05], rel=1e-3)


def test_the_intercept_solves_for_the_rate() -> None:
    logits = torch.randn(1_000, dtype=torch.float64, generator=Generator().manual_seed(0)) * 3
    weights = torch.rand(1_000, dtype=torch.float64, generator=Generator().manual_seed(1))
    b = solve_intercept(logits, weights, 0.2)
    assert (weights * torch.sigmoid(logits + b)).mean().item() == pytest.approx(0.2, abs=1e-12)


def test_items_are_unit_vectors_for_the_interest() -> None:
    config = WorldConfig(num_users=30, num_items=20)
    teacher = draw_teacher(config, Generator().manual_seed(0))
    vectors = item_vectors(teacher, config, draw_inputs(config, 20)["item"][0])
    torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(20))
