"""HyFormer against a second, naive implementation, and what its queries do."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from unimixer.backbones import HyFormer, build_backbone, count_parameters
from unimixer.backbones.hyformer import HyFormerOptions
from unimixer.blocks import QueryAttention
from unimixer.errors import UnimixerError

T, D, C, Q, H = 4, 8, 6, 2, 2


def model(**options: Any) -> HyFormer:
    """A small stack with every number moved off its start."""
    torch.manual_seed(0)
    sizes = {"num_tokens": T, "token_dim": D, "num_queries": Q, "attention_heads": H, "sequence_dim": C}
    built = HyFormer(**{**sizes, **options}).double()
    with torch.no_grad():
        for parameter in built.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return built


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, events and their mask; the last row has no events."""
    torch.manual_seed(1)
    mask = torch.arange(5) < torch.tensor([5, 2, 0]).unsqueeze(1)
    return torch.randn(3, T, D).double(), torch.randn(3, 5, C).double(), mask


def normed(x: Tensor, weight: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight


def swiglu(x: Tensor, up_gate: tuple[Tensor, Tensor], down: tuple[Tensor, Tensor]) -> Tensor:
    up, gate = (x @ up_gate[0] + up_gate[1]).chunk(2, -1)
    return (up * gate * torch.sigmoid(gate)) @ down[0] + down[1]


def naive(built: HyFormer, tokens: Tensor, events: Tensor, mask: Tensor) -> Tensor:
    """The equations, row by row, query by query, head by head."""
    p = {name: parameter.detach() for name, parameter in built.named_parameters()}
    rows = []
    for x, e, real in zip(tokens, events, mask, strict=True):
        x, e = x.clone(), e[real]
        x[:Q] += torch.stack([sum(p["start.weight"][q, t] * x[t] for t in range(T)) for q in range(Q)])  # type: ignore[misc]
        for layer in range(2):
            a, f = f"stack.sublayers.{3 * layer}.", f"stack.sublayers.{3 * layer + 2}."
            gains = [p[f"stack.norms.{3 * layer + i}.weight"] for i in range(3)]
            refined = normed(e, p[a + "refine.norm.weight"])
            up_gate = p[a + "refine.up_gate.weight"].T, p[a + "refine.up_gate.bias"]
            down = p[a + "refine.down.weight"].T, p[a + "refine.down.bias"]
            e = e + swiglu(refined, up_gate, down)
            seen, queries = normed(e, p[a + "norm.weight"]), normed(x, gains[0])[:Q] @ p[a + "query.weight"].T
            keys, values = seen @ p[a + "key.weight"].T, seen @ p[a + "value.weight"].T
            for q in range(Q):
                read = []
                for h in range(H):
                    columns = slice(h * D // H, (h + 1) * D // H)
                    logits = torch.stack([queries[q, columns] @ k[columns] for k in keys] or [torch.zeros(())])
                    weights = (logits / math.sqrt(D / H)).softmax(0)
                    read.append(
                        sum((w * v[columns] for w, v in zip(weights, values, strict=False)), x.new_zeros(D // H))
                    )
                x[q] = x[q] + torch.cat(read) @ p[a + "output.weight"].T
            mixed = normed(x, gains[1]).view(T, T, D // T).transpose(0, 1).reshape(T, D)
            x = x + mixed
            entering = normed(x, gains[2])
            x = x + torch.stack(
                [
                    swiglu(
                        entering[t],
                        (p[f + "up_gate.weight"][t], p[f + "up_gate.bias"][t]),
                        (p[f + "down.weight"][t], p[f + "down.bias"][t]),
                    )
                    for t in range(T)
                ]
            )
        rows.append(normed(x, p["stack.final_norm.weight"]))
    return torch.stack(rows)


def test_the_stack_is_that_of_the_equations() -> None:
    built = model()
    torch.testing.assert_close(built(*inputs()), naive(built, *inputs()), rtol=1e-9, atol=1e-9)


def test_one_history_may_serve_all_rows() -> None:
    """A request has one user and many candidates: the events then have one row."""
    built, (tokens, events, mask) = model(), inputs()
    shared = built(tokens, events[:1], mask[:1])
    torch.testing.assert_close(shared, built(tokens, events[:1].expand(3, -1, -1), mask[:1].expand(3, -1)))


def test_padding_and_its_events_change_nothing() -> None:
    built, (tokens, events, mask) = model(), inputs()
    longer = torch.cat([events, torch.randn(3, 4, C).double()], 1), F.pad(mask, (0, 4))
    torch.testing.assert_close(built(tokens, *longer), built(tokens, events, mask))


def test_without_events_the_queries_read_nothing() -> None:
    attention = QueryAttention(Q, D, C, num_heads=H)
    update = attention(torch.randn(2, T, D), torch.randn(2, 5, C), torch.tensor([[True] * 5, [False] * 5]))
    assert torch.equal(update[1], torch.zeros(T, D))
    assert torch.equal(update[:, Q:], torch.zeros(2, T - Q, D))
    assert bool(update[0, :Q].ne(0).all())


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"sequence_dim": None, "num_queries": None},
        {"sequence_hidden_dim": 0, "residual": "post"},
        {"mixing": "per-head"},
        {"mixing": "unimixing-lite", "mixing_options": {"temperature": 0.6, "init": "random"}},
        {"mixing": "unimixing-lite", "mixing_options": {"matrices": "blocks", "rank": 4}},
        {"ffn": "relu-moe", "dots": True},
    ],
    ids=str,
)
def test_parameters_are_those_of_the_formula(options: dict[str, Any]) -> None:
    arguments = {"num_tokens": T, "token_dim": D, "num_queries": Q, "sequence_dim": C, **options}
    assert count_parameters(HyFormer(**arguments)) == HyFormer.formula(**arguments)


def test_a_quarter_of_the_tokens_are_queries() -> None:
    assert [HyFormerOptions(num_tokens=tokens).queries for tokens in (2, 4, 16)] == [1, 1, 4]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_queries": 5}, "num_queries=5: queries are the first of the 4 tokens; take 1 to 4"),
        ({"residual": "siamese"}, "residual='siamese' is not one of pre, post"),
        ({"mixing": "unimixing"}, "mixing='unimixing' is not one of .*; did you mean 'unimixing-lite'"),
        (
            {"mixing": "unimixing-lite", "mixing_options": {"rnk": 4}},
            "key of mixing_options 'rnk'; did you mean 'rank'",
        ),
        ({"mixing": "unimixing-lite", "mixing_options": {"num_blocks": 4}}, "unknown key of mixing_options 'num_bl"),
        ({"mixing_options": {"rank": 4}}, "mixing_options have no use with mixing='rule'"),
        ({"sequence_head_dim": 4}, "heads of hyformer are D / attention_heads wide; leave it out"),
        ({"sequence_hidden_dim": 4}, "sequence_hidden_dim=4 has no use without sequence_dim"),
    ],
)
def test_a_mistake_is_one_sentence(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UnimixerError, match=message):
        build_backbone("hyformer", num_tokens=4, token_dim=16, **options)


def test_an_unknown_option_of_the_mixing_is_one_sentence_while_a_budget_is_met() -> None:
    with pytest.raises(UnimixerError, match="unknown key of mixing_options 'foo'"):
        HyFormer.formula(num_tokens=4, token_dim=16, mixing="unimixing-lite", mixing_options={"foo": 1})


def test_no_rows_are_no_rows() -> None:
    tokens, events, mask = inputs()
    assert model()(tokens[:0], events[:0], mask[:0]).shape == (0, T, D)
