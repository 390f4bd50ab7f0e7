"""What is seen of a running backbone, and that nothing of the watching stays."""

import pytest
import torch
from torch import Tensor, nn

from unimixer.backbones import BACKBONES, Backbone, RankMixer, UniMixer, build_backbone
from unimixer.inspection.activations import WEIGHTS, AttentionMeter, places, watch
from unimixer.mixing import FullGlobal, IdentityLocal, SharedLinear, SoftmaxAttention, Unified


def hooks(module: nn.Module) -> int:
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in module.modules())


@pytest.mark.parametrize("name", list(BACKBONES))
def test_watching_changes_no_number_and_leaves_no_trace(name: str) -> None:
    backbone, tokens = build_backbone(name, num_tokens=4, token_dim=16).eval(), torch.randn(3, 4, 16)
    before = hooks(backbone)
    with torch.no_grad():
        expected = backbone(tokens)
        with watch(backbone) as seen:
            found = backbone(tokens)
        assert hooks(backbone) == before
        assert torch.equal(found, expected)
        count = len(seen)
        backbone(tokens)
    assert len(seen) == count
    assert (seen[0].place, seen[0].kind) == ("tokens in", "tokens")
    assert torch.equal(seen[0].value, tokens)
    assert all(value.shape[0] == 3 and value.dim() == (4 if kind == WEIGHTS else 3) for _, kind, value in seen)
    if backbone.output_kind == "tokens":
        assert seen[-1].place == "tokens out"
        assert torch.equal(seen[-1].value, expected)
        assert {"mixing", "norm"} <= {kind for _, kind, _ in seen}
    assert len({(place, kind) for place, kind, _ in seen}) == count


def test_a_forward_that_fails_leaves_no_hook_either() -> None:
    backbone = RankMixer(num_tokens=4, token_dim=16)
    with pytest.raises(ValueError, match="tokens has shape"), watch(backbone):
        backbone(torch.zeros(2, 4, 15))
    assert hooks(backbone) == 0


def test_the_sublayers_of_a_mixer_are_seen_in_order() -> None:
    backbone, tokens = RankMixer(num_tokens=4, token_dim=16, num_blocks=1).eval(), torch.randn(2, 4, 16)
    with torch.no_grad(), watch(backbone) as seen:
        backbone(tokens)
        mixing, ffn = backbone.stack.sublayers
        values = {place: value for place, _, value in seen}
    assert [(place, kind) for place, kind, _ in seen] == [
        ("tokens in", "tokens"),
        ("stack.sublayers.0", "mixing"),
        ("stack.norms.0", "norm"),
        ("stack.sublayers.1", "FFN"),
        ("stack.norms.1", "norm"),
        ("tokens out", "tokens"),
    ]
    assert torch.equal(values["stack.sublayers.0"], mixing(tokens))
    assert torch.equal(values["stack.sublayers.1"], ffn(values["stack.norms.0"]))


def test_a_siamese_stack_names_blocks_and_the_norms_of_both_streams() -> None:
    backbone = UniMixer(num_tokens=2, token_dim=8, num_blocks=1, residual="siamese", block_size=2)
    assert places(backbone) == {
        "stack.blocks.0": "block",
        "stack.blocks.0.mixing": "mixing",
        "stack.blocks.0.ffn": "FFN",
        "stack.blocks.0.norm": "norm",
        "stack.x_norms.0": "norm",
        "stack.y_norms.0": "norm",
        "stack.final_y_norm": "norm",
    }


class Strange(Backbone):
    """A backbone that mixes flattened tokens, twice by the same module, and attends."""

    family, default_tokenizer = "strange", "chunk"

    def __init__(self) -> None:
        super().__init__(num_tokens=3, token_dim=4)
        self.flat = Unified(IdentityLocal(12, 1), FullGlobal(12))
        self.attention = Unified(SharedLinear(3, 4, 4), SoftmaxAttention(SharedLinear(3, 4, 4), SharedLinear(3, 4, 4)))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.attention(self.flat(self.flat(tokens.flatten(1))).view_as(tokens))


def test_a_module_used_twice_is_told_apart_and_flat_tokens_get_their_shape() -> None:
    backbone, tokens = Strange().eval(), torch.randn(5, 3, 4)
    with torch.no_grad(), watch(backbone) as seen:
        out = backbone(tokens)
    assert [place for place, _, _ in seen] == ["tokens in", "flat", "flat (2)", "attention", "attention", "tokens out"]
    values = {(place, kind): value for place, kind, value in seen}
    assert values["flat", "mixing"].shape == (5, 3, 4)
    weights = values["attention", WEIGHTS]
    assert weights.shape == (5, 1, 3, 3)
    mixed = values["flat (2)", "mixing"] @ backbone.attention.local.weight
    torch.testing.assert_close(weights[:, 0] @ mixed, out)


def test_attention_is_averaged_over_samples_and_its_sharpness_is_not_that_of_the_mean() -> None:
    # half of the samples attend to block 0, the others to block 1: every row is sharp, the mean is flat
    sharp = torch.eye(2).unsqueeze(1).expand(2, 2, 2)[:, None]
    meter = AttentionMeter("here")
    for sample in sharp.split(1):
        meter.add(sample)
    found = meter.report()
    torch.testing.assert_close(found.mean, torch.full((1, 2, 2), 0.5))
    assert (found.row_maximum, found.row_entropy, found.rows) == (1.0, 0.0, 2)
    meter.add(torch.tensor([[[[3.0, -1.0], [0.0, 0.0]]]]))
    assert meter.report().row_entropy is None
