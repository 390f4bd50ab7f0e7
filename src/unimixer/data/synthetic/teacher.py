"""The true logit: biases, interactions of two to four fields, and the interest in what was clicked before."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from unimixer.data.synthetic.config import TASKS, WorldConfig
from unimixer.data.synthetic.fields import WorldField, world_fields

TASK_CORRELATION = 0.6
"""Correlation of the interaction weights of a like with those of a click."""
INTEREST_FIELDS = {"category": 0.8, "topic": 0.4, "author_id": 0.35, "item_id": 0.2}
"""Weights with which an item's fields make up the vector that interest is about."""


@dataclass(frozen=True)
class Latents:
    """Latent vectors and biases of the fields of one domain.

    Shape:
        - table: ``(all ids, k)``, biases: ``(all ids, tasks)``, starts: ``(categorical fields, 1)``
        - frequency, phase, absent: ``(numeric fields, 1, k)``
    """

    table: Tensor
    biases: Tensor
    starts: Tensor
    frequency: Tensor
    phase: Tensor
    absent: Tensor

    def of(self, ids: Tensor, normals: Tensor) -> tuple[Tensor, Tensor]:
        """Return vectors ``(fields, B, k)`` and biases ``(B, tasks)`` of ids and normal scores, ``(fields, B)``."""
        rows = ids + self.starts
        known = F.embedding(rows, self.table)
        waves = math.sqrt(2) * torch.cos(normals[..., None] * self.frequency + self.phase)
        smooth = torch.where(waves.isnan(), self.absent, waves)
        bias = F.embedding(rows, self.biases).sum(0) + smooth[..., : len(TASKS)].sum(0)
        return torch.cat((known, smooth)), bias


@dataclass(frozen=True)
class Teacher:
    """The rules of a world, drawn once and fixed, except that the interactions turn slowly."""

    user: Latents
    item: Latents
    context: Latents
    interactions: tuple[tuple[tuple[int, ...], ...], ...]
    """Positions of the fields of every interaction: pairs, then triples, then quads."""
    weights: Tensor
    """``(2, interactions, k, tasks)``: at the start of the log, and a quarter turn later."""
    interest_weights: Tensor
    """``(k, tasks)``"""
    gains: Tensor
    """``(components, tasks)``"""
    intercepts: Tensor
    """``(tasks,)``"""
    drift: float

    def to(self, device: torch.device | str) -> Teacher:
        """Return the same rules on a device."""
        moved = {f.name: getattr(self, f.name) for f in fields(self)}
        for name, value in moved.items():
            if isinstance(value, Latents):
                moved[name] = Latents(**{f.name: getattr(value, f.name).to(device) for f in fields(value)})
            elif isinstance(value, Tensor):
                moved[name] = value.to(device)
        return Teacher(**moved)

    def components(self, inputs: dict[str, tuple[Tensor, Tensor]], affinity: Tensor, progress: float) -> Tensor:
        """Return the raw parts of the logit, ``(components, B, tasks)``.

        Args:
            inputs: Ids and normal scores of the fields, by domain.
            affinity: ``(B, k)``, elementwise product of the user's interest and the item's vector.
            progress: How much of the log has passed, 0 to 1.
        """
        domains = [getattr(self, domain).of(*inputs[domain]) for domain in ("user", "item", "context")]
        vectors = torch.cat([latents for latents, _ in domains])
        angle = self.drift * progress
        turned = math.cos(angle) * self.weights[0] + math.sin(angle) * self.weights[1]
        parts, used = [domains[0][1] + domains[1][1] + domains[2][1]], 0
        for terms in self.interactions:
            part = torch.zeros_like(parts[0])
            for term in terms:
                product = vectors[term[0]]
                for position in term[1:]:
                    product = product * vectors[position]
                part.addmm_(product, turned[used])
                used += 1
            parts.append(part)
        return torch.stack([*parts, affinity @ self.interest_weights])

    def probabilities(self, inputs: dict[str, tuple[Tensor, Tensor]], affinity: Tensor, progress: float) -> Tensor:
        """Return the true probabilities of click and like ``(B, tasks)``; a like needs a click, hence the product."""
        components = self.components(inputs, affinity, progress)
        return torch.sigmoid((components * self.gains[:, None]).sum(0) + self.intercepts).cumprod(1)

    def trimmed(self, step: Tensor) -> Teacher:
        """Return the same rules with moved intercepts."""
        return replace(self, intercepts=self.intercepts + step)

    def calibrated(self, components: Tensor, config: WorldConfig) -> Teacher:
        """The same rules with the gains and intercepts that give each part its share and each task its rate.

        Args:
            components: Parts of the logit of a sample, as :meth:`components` gives them.
            config: The shares and rates that are wanted.
        """
        gains, intercepts = calibrate(components, config)
        return replace(self, gains=gains, intercepts=intercepts)


def calibrate(components: Tensor, config: WorldConfig) -> tuple[Tensor, Tensor]:
    """Return the gains ``(components, tasks)`` and intercepts ``(tasks,)`` for the shares, the spread and the rates."""
    spread = components.std(1).clamp(min=1e-6)  # a world of one item has no interest
    gains = torch.tensor(config.shares, dtype=components.dtype).sqrt()[:, None] / spread
    gains *= config.logit_std / (components * gains[:, None]).sum(0).std(0)
    logits = (components * gains[:, None]).sum(0).double()
    click = solve_intercept(logits[:, 0], torch.ones_like(logits[:, 0]), config.click_rate)
    like = solve_intercept(logits[:, 1], torch.sigmoid(logits[:, 0] + click), config.rates[1])
    return gains, torch.tensor([click, like])


def solve_intercept(logits: Tensor, weights: Tensor, rate: float) -> float:
    """Find b with ``mean(weights * sigmoid(logits + b)) = rate`` by bisection."""
    low, high = -60.0, 60.0
    for _ in range(60):
        middle = (low + high) / 2
        if float((weights * torch.sigmoid(logits + middle)).mean()) < rate:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def draw_teacher(config: WorldConfig, generator: Generator) -> Teacher:
    """Draw the rules of a world; they are not calibrated yet."""
    declared, width = world_fields(config), config.latent_dim
    ordered = [
        f
        for d in ("user", "item", "context")
        for n in (False, True)
        for f in declared
        if (f.domain, f.numeric) == (d, n)
    ]
    counts = (config.num_pairs, config.num_triples, config.num_quads)
    interactions = tuple(_draw_terms(ordered, count, order, config, generator) for order, count in enumerate(counts, 2))
    weights = draw_weights(sum(counts), width, generator)
    tilt = torch.randn(width, generator=generator).abs()
    return Teacher(
        **{
            domain: _draw_latents([f for f in ordered if f.domain == domain], width, generator)
            for domain in ("user", "item", "context")
        },
        interactions=interactions,
        weights=weights,
        interest_weights=torch.stack((torch.ones(width), tilt), -1),
        gains=torch.ones(len(config.shares), len(TASKS)),
        intercepts=torch.zeros(len(TASKS)),
        drift=config.total_drift,
    )


def draw_weights(count: int, width: int, generator: Generator) -> Tensor:
    """Draw weights of interactions ``(2, count, k, tasks)``: at the start of the log, and a quarter turn later."""
    click, own = (torch.randn(2, count, width, generator=generator) / width**0.5 for _ in TASKS)
    return torch.stack((click, TASK_CORRELATION * click + math.sqrt(1 - TASK_CORRELATION**2) * own), -1)


def draw_biases(count: int, generator: Generator) -> Tensor:
    """Draw biases of ids, ``(count, tasks)``."""
    bias = torch.randn(count, len(TASKS), generator=generator)
    bias[:, 1] = TASK_CORRELATION * bias[:, 0] + math.sqrt(1 - TASK_CORRELATION**2) * bias[:, 1]
    return bias


def _draw_latents(declared: list[WorldField], width: int, generator: Generator) -> Latents:
    sizes = [f.size for f in declared if not f.numeric]
    table = torch.randn(sum(sizes), width, generator=generator)
    bias = draw_biases(sum(sizes), generator)
    numeric = (sum(f.numeric for f in declared), 1, width)
    return Latents(
        table=unit_power(table),
        biases=bias,
        starts=torch.tensor([0, *sizes[:-1]]).cumsum(0)[:, None],
        frequency=torch.randn(numeric, generator=generator),
        phase=torch.rand(numeric, generator=generator) * math.tau,
        absent=unit_power(torch.randn(numeric, generator=generator)),
    )


def unit_power(vectors: Tensor) -> Tensor:
    """Scale rows to a mean square of 1."""
    return F.normalize(vectors, dim=-1) * math.sqrt(vectors.shape[-1])


def _draw_terms(
    declared: list[WorldField], count: int, order: int, config: WorldConfig, generator: Generator
) -> tuple[tuple[int, ...], ...]:
    """Draw different sets of fields from two or more domains."""
    allowed = [p for p, f in enumerate(declared) if f.size <= config.widest_interaction]
    terms: dict[tuple[int, ...], None] = {}
    while len(terms) < count:
        picked = torch.randperm(len(allowed), generator=generator)[:order].tolist()
        if len({declared[allowed[p]].domain for p in picked}) > 1:
            terms[tuple(sorted(allowed[p] for p in picked))] = None
    return tuple(terms)


def item_vectors(teacher: Teacher, config: WorldConfig, ids: Tensor) -> Tensor:
    """Return the unit vectors ``(items, k)`` of items for the interest, from ids ``(categorical fields, items)``."""
    names = [f.name for f in world_fields(config) if f.domain == "item" and not f.numeric]
    latents = F.embedding(ids + teacher.item.starts, teacher.item.table)
    mixed = torch.stack([weight * latents[names.index(name)] for name, weight in INTEREST_FIELDS.items()]).sum(0)
    return F.normalize(mixed - mixed.mean(0), dim=-1)
