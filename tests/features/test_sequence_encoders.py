"""Sequence encoders by name: their options, and one sentence for an option that is wrong or has no effect."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from unimixer.data.dataset import Dataset
from unimixer.errors import UnimixerError
from unimixer.features.din import DIN
from unimixer.features.fields import FieldEmbedding
from unimixer.features.sequence_encoders import COMPARING, check_encoder, encoder_options


def test_every_encoder_takes_its_defaults() -> None:
    for name in COMPARING:
        check_encoder(name, encoder_options(name))
    assert encoder_options("din") == {"hidden_dims": (36,), "activation": "prelu"}
    assert encoder_options("mean") == {}


def test_options_of_a_recipe_reach_the_encoder(toy_dataset: Dataset) -> None:
    options = {"hidden_dims": [80, 40], "activation": "dice"}  # a list, as YAML has it
    module = FieldEmbedding(toy_dataset.transform.spec, sequence_encoder="din", sequence_options=options)
    (encoder,) = module.encoders
    assert isinstance(encoder, DIN)
    widths = [layer.out_features for layer in encoder.score if isinstance(layer, nn.Linear)]
    assert widths == [80, 40, 1]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mean", {"hidden_dims": [8]}, "sequence_encoder='mean' has no options; leave sequence_options out"),
        ("din", {"hiden_dims": [8]}, "unknown sequence_options of sequence_encoder 'din': 'hiden_dims'; did you mean"),
        ("din", {"hidden_dims": 8}, r"sequence_options: hidden_dims=8 has the wrong type; it must be like \(36,\)"),
        ("din", {"hidden_dims": [True]}, r"hidden_dims=\[True\] has the wrong type"),
        ("dien", {"aux_loss_weight": "1"}, "aux_loss_weight='1' has the wrong type; it must be like 1.0"),
        ("transformer", {"num_heads": 2.0}, "num_heads=2.0 has the wrong type; it must be like 2"),
        ("dine", {}, "sequence_encoder='dine' is not one of mean, target_attention, transformer, din, dien"),
    ],
)
def test_an_option_that_an_encoder_does_not_have_is_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UnimixerError, match=message):
        check_encoder(name, options)


def test_options_of_an_encoder_that_is_not_used_are_refused(toy_dataset: Dataset) -> None:
    options = {"sequence_encoder": "din", "sequence_options": {"activation": "dice"}}
    with pytest.raises(UnimixerError, match="sequence_options have no effect"):
        FieldEmbedding(toy_dataset.transform.spec, pool_behaviour=False, **options)
