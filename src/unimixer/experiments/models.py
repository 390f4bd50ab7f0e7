"""The models that an experiment compares: a backbone, its options, and the recipe keys that may differ."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, PositiveFloat

from unimixer.backbones.registry import backbone_name, check_options
from unimixer.errors import UnimixerError, unknown
from unimixer.settings import Settings, parse_scalar
from unimixer.training.config import RecipeKeys

MODEL_KEYS = (
    *("model.num_tokens", "model.tokenizer", "model.sequences", "model.sequence_tokens", "model.sequence_dim"),
    *(
        "model.sequence_encoder",
        "model.sequence_options",
        "model.sequence_search",
        "model.pooling",
        "model.tower_hidden_dims",
        "model.tower_crosses",
    ),
    *("model.embedding_dropout", "model.logit_clamp", "model.ignored_features"),
    *("model.task_head", "model.task_head_options", "model.chain"),
    *("temperature.schedule", "temperature.start", "temperature.end"),
    *(
        "optimizer.dense",
        "optimizer.weight_decay",
        "optimizer.sparse",
        "optimizer.embedding_lr",
        "optimizer.mixing_lr",
        "optimizer.warmup_steps",
        "optimizer.decay",
    ),
    *("optimizer.clip_norm", "averaging.kind", "averaging.decay", "averaging.start"),
    *("training.aux_loss_weight", "training.precision"),
    *("loss_weighting.kind", "loss_weighting.alpha", "loss_weighting.lr"),
)
"""Recipe keys that may differ between the models of an experiment; all others are the same for every model."""

EMBEDDING_LR = "optimizer.embedding_lr"
"""The key with which a model has its own rate of the embedding tables, which is then not searched."""
MIXING_LR = "optimizer.mixing_lr"
"""The same for learned mixings."""

_WORDS = {
    "num_blocks": "{} blocks",
    "num_basis": "{} basis matrices",
    "rank": "rank {}",
    "block_size": "block size {}",
    "residual": "{}-norm",
    "tokenizer": "{} tokenizer",
    "pooling": "{} pooling",
}
"""How a label writes these options; it writes the others as ``key value``."""


class Variant(Settings):
    """A model of an experiment: a backbone, its options, and its own values of some recipe keys."""

    backbone: Annotated[str, AfterValidator(backbone_name)]
    label: str = ""
    """The name in tables (default: the backbone and its options)."""
    group: str = ""
    """The table of an ablation that shows this model."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of the backbone."""
    recipe: RecipeKeys = Field(default_factory=dict)
    """Dotted keys of the recipe, for example ``model.pooling: flatten``."""
    mixing_lr: tuple[PositiveFloat, ...] = ()
    """Rates of its learned mixing to choose from, with the first seed (default: those of the plan)."""
    size_of: str | None = None
    """Label of the model whose width this one gets, whatever it then costs (default: its own, from the budget)."""

    def model_post_init(self, _context: Any) -> None:
        """Check the names and set the default label."""
        if "num_tokens" in self.options:
            raise UnimixerError(f"{self.backbone}: num_tokens is a key of the recipe: write model.num_tokens")
        check_options(self.backbone, self.options)
        for key in self.recipe:
            if key not in MODEL_KEYS:
                raise _shared_key(self.backbone, key)
        if self.mixing_lr and MIXING_LR in self.recipe:
            raise UnimixerError(f"{self.backbone}: mixing_lr has rates to choose from, {MIXING_LR} has one; give one")
        object.__setattr__(self, "mixing_lr", tuple(dict.fromkeys(self.mixing_lr)))
        if not self.label:
            object.__setattr__(self, "label", ", ".join([self.backbone, *_option_words(self)]))


def _shared_key(backbone: str, key: str) -> UnimixerError:
    if "." not in key or key.partition(".")[0] not in (
        "model",
        "temperature",
        "optimizer",
        "averaging",
        "loss_weighting",
        "training",
    ):
        return unknown(f"key of model {backbone!r}:", key, MODEL_KEYS)
    return UnimixerError(
        f"{backbone}: {key} is the same for every model of a study; set it for all with --set {key}=..., "
        f"or choose one of {', '.join(MODEL_KEYS)}"
    )


def _option_words(variant: Variant) -> list[str]:
    words = []
    for key, value in {**variant.options, **variant.recipe}.items():
        name = key.rpartition(".")[2]
        text = _WORDS.get(name, f"{name} {{}}").format(value)
        words.append(text.removesuffix("s") if name == "num_blocks" and value == 1 else text)
    return words


def parse_variant(text: str) -> dict[str, Any]:
    """Parse a model as the command line has it, ``BACKBONE[:OPTION=VALUE]...``, into the values of a :class:`Variant`.

    An option without a dot is the backbone's, one with a dot is a key of the recipe, and ``label`` names the model.

    Example:
        >>> parse_variant("unimixer-lite:num_blocks=4:model.pooling=flatten:label=deep")
        {'backbone': 'unimixer-lite', 'options': {'num_blocks': 4}, 'recipe': {'model.pooling': 'flatten'}, \
'label': 'deep'}
    """
    backbone, *settings = text.strip().split(":")
    values: dict[str, Any] = {"backbone": backbone, "options": {}, "recipe": {}}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key or not value:
            raise UnimixerError(
                f"model {text!r}: {setting!r} is not OPTION=VALUE; write for example unimixer-lite:num_blocks=4:rank=8"
            )
        target = values if key == "label" else values["recipe" if "." in key else "options"]
        if key in target:
            raise UnimixerError(f"model {text!r}: {key} is given twice; give it once")
        target[key] = value if key == "label" else parse_scalar(value, f"model {text!r}")
    return values


def _values(value: object) -> object:
    return parse_variant(value) if isinstance(value, str) else value


WrittenVariant = Annotated[Variant, BeforeValidator(_values)]
"""A model as plans have it: a mapping, or the short form."""


def label_of(base: str, variants: Sequence[Variant]) -> str:
    """Return the label of a base, which may be written as a label, a backbone, or as it is in the list of models."""
    labels = [variant.label for variant in variants]
    if base in labels:
        return base
    name = Variant.model_validate(parse_variant(base)).label if ":" in base else base
    backbone = backbone_name(name)
    matches = [v.label for v in variants if name == v.label or backbone == v.backbone]
    if len(matches) > 1:
        raise UnimixerError(f"base {base!r} could be any of: {' · '.join(matches)}; give the whole label")
    if not matches:
        raise unknown("base", base, labels)
    return matches[0]


def split_models(text: str) -> list[str]:
    """Split models at their commas, except at commas inside brackets, which belong to a value.

    Example:
        >>> split_models("rankmixer,mlp:hidden_dims=[64,32]")
        ['rankmixer', 'mlp:hidden_dims=[64,32]']
    """
    models = [part for part in re.split(r",(?![^\[]*\])", text) if part.strip()]
    if not models:
        raise UnimixerError(f"{text!r} names no model; name one or more, such as rankmixer,mlp")
    return models


def slug(text: str) -> str:
    """Turn a label into a name that files and shells take as it is.

    Example:
        >>> slug("unimixer-lite, 4 blocks")
        'unimixer-lite-4-blocks'
    """
    return re.sub(r"[^A-Za-z0-9.]+", "-", text)[:80].strip("-.") or "model"
