"""The plan of a study: which models at which budgets on which data, with how many seeds, judged against whom."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field, PositiveFloat, PositiveInt

from unimixer.backbones.registry import check_options
from unimixer.errors import UnimixerError, unknown
from unimixer.io import write_text
from unimixer.settings import Settings, dump_yaml, load_yaml, parse, parse_scalar
from unimixer.training.config import Count, RecipeKeys

PLAN = "study.yaml"
JUDGED = ("auc", "uauc", "log_loss", "ne")
"""Metrics whose differences can be judged."""

OF_A_MODEL = (
    *("model.num_tokens", "model.tokenizer", "model.sequences", "model.sequence_tokens", "model.sequence_dim"),
    *("model.sequence_encoder", "model.pooling", "model.tower_hidden_dims"),
    *("temperature.schedule", "temperature.start", "temperature.end"),
    *(
        "optimizer.dense",
        "optimizer.weight_decay",
        "optimizer.sparse",
        "optimizer.mixing_lr",
        "optimizer.warmup_steps",
        "optimizer.decay",
    ),
    *("optimizer.clip_norm", "training.auxiliary_weight"),
)
"""Keys of a recipe that may differ between the models of a study; all others are the same for every model."""

_WORDS = {
    "num_blocks": "{} blocks",
    "num_basis": "{} basis matrices",
    "rank": "rank {}",
    "block_size": "block size {}",
    "residual": "{}-norm",
    "tokenizer": "{} tokenizer",
    "pooling": "{} read-out",
}
"""Options that read better in words than as ``key=value``."""


class Variant(Settings):
    """A model of a study: a backbone with options, and what of the recipe goes with it."""

    backbone: str
    label: str = ""
    """What people read (default: the backbone and its options)."""
    group: str = ""
    """The table of an ablation that it belongs to."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of the backbone."""
    recipe: RecipeKeys = Field(default_factory=dict)
    """Dotted keys of the recipe, for example ``model.pooling: flatten``."""
    size_of: str | None = None
    """Label of the model whose dial this one gets, so that its cost is free; by default it meets the budget itself."""

    def model_post_init(self, _context: Any) -> None:
        """Check names and give the label."""
        if "num_tokens" in self.options:
            raise UnimixerError(f"{self.backbone}: num_tokens is a key of the recipe: write model.num_tokens")
        check_options(self.backbone, self.options)
        for key in self.recipe:
            if key not in OF_A_MODEL:
                raise _fixed(self.backbone, key)
        if not self.label:
            object.__setattr__(self, "label", ", ".join([self.backbone, *_in_words(self)]))


def _fixed(backbone: str, key: str) -> UnimixerError:
    if "." not in key or key.partition(".")[0] not in ("model", "temperature", "optimizer", "training"):
        return unknown(f"key of model {backbone!r}:", key, OF_A_MODEL)
    return UnimixerError(
        f"{backbone}: {key} is the same for every model of a study; set it for all with --set {key}=..., "
        f"or choose one of {', '.join(OF_A_MODEL)}"
    )


def _in_words(variant: Variant) -> list[str]:
    words = []
    for key, value in {**variant.options, **variant.recipe}.items():
        name = key.rpartition(".")[2]
        text = _WORDS.get(name, f"{name} {{}}").format(value)
        words.append(text.removesuffix("s") if name == "num_blocks" and value == 1 else text)
    return words


def parse_variant(text: str) -> dict[str, Any]:
    """A model as written on the command line: ``BACKBONE[:OPTION=VALUE]...``.

    An option without a dot is the backbone's, one with a dot is a key of the recipe, and ``label`` names the model.

    Example:
        >>> parse_variant("unimixer-lite:num_blocks=4:model.pooling=flatten:label=deep")
        {'backbone': 'unimixer-lite', 'options': {'num_blocks': 4}, 'recipe': {'model.pooling': 'flatten'}, \
'label': 'deep'}
    """
    backbone, *settings = text.strip().split(":")
    found: dict[str, Any] = {"backbone": backbone, "options": {}, "recipe": {}}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key or not value:
            raise UnimixerError(
                f"model {text!r}: {setting!r} is not OPTION=VALUE; write for example unimixer-lite:num_blocks=4:rank=8"
            )
        place = found if key == "label" else found["recipe" if "." in key else "options"]
        if key in place:
            raise UnimixerError(f"model {text!r}: {key} is given twice; give it once")
        place[key] = value if key == "label" else parse_scalar(value, f"model {text!r}")
    return found


def split_models(text: str) -> list[str]:
    """Models separated by commas; a comma inside brackets belongs to a value.

    Example:
        >>> split_models("rankmixer,mlp:hidden_dims=[64,32]")
        ['rankmixer', 'mlp:hidden_dims=[64,32]']
    """
    return [part for part in re.split(r",(?![^\[]*\])", text) if part.strip()]


def _variant(value: object) -> object:
    return parse_variant(value) if isinstance(value, str) else value


class StoreRef(Settings):
    """Prepared data of a study."""

    path: str
    name: str = ""
    hash: str = ""
    source: str = ""
    """Where there is no store yet: the data set (or schema file) that it is prepared from, see ``--raw``."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Options of that data set."""


def _store(value: object) -> object:
    return {"path": value} if isinstance(value, str) else value


class Study(Settings):
    """A study: every model at every budget on every store, with the same features, batches and steps."""

    synonyms: ClassVar[Mapping[str, str]] = {
        "dense_lr": "lr learning_rate lr_grid",
        "data": "store stores",
        "models": "model backbones",
        "params": "budget budgets",
        "judged_metrics": "metrics",
        "recipe": "training settings batch_size",
    }

    data: tuple[Annotated[StoreRef, BeforeValidator(_store)], ...] = Field(min_length=1)
    """Stores: paths, or names below ``$UNIMIXER_STORES``."""
    models: tuple[Annotated[Variant, BeforeValidator(_variant)], ...] = Field(min_length=1)
    """Mappings, or the short form ``backbone:option=value``."""
    params: tuple[Count, ...] = ()
    """Budgets in dense parameters, each met within 2%."""
    flops: tuple[Count, ...] = ()
    """Budgets in floating-point operations of a forward pass a sample, each met within 2%."""
    seeds: PositiveInt = 5
    """Runs a model, with seeds 0, 1, ..."""
    base: str = ""
    """Label of the model that the others are compared with (default: the first)."""
    dense_lr: tuple[PositiveFloat, ...] = Field(default=(1e-3, 2e-3, 4e-3), min_length=1)
    """Learning rates to choose from, on validation, with the first seed."""
    sparse_lr: tuple[PositiveFloat, ...] = Field(default=(1e-3,), min_length=1)
    """The same for the embedding tables; more than one makes a grid."""
    tasks: dict[str, PositiveFloat] = Field(default_factory=dict)
    """Labels to learn and their weights (default: every label of a store, weight 1)."""
    judged_tasks: tuple[str, ...] = ()
    """Tasks whose differences are judged (default: all). Fewer comparisons need less evidence each; choose them
    before looking."""
    judged_metrics: tuple[str, ...] = ()
    """Metrics whose differences are judged (default: AUC, UAUC, log loss and NE)."""
    recipe: RecipeKeys = Field(default_factory=dict)
    """Dotted keys of the recipe for every model, for example ``training.batch_size: 512``."""
    lenient: bool = False
    """Leave out a model that cannot be built at a budget, and say why, instead of refusing the study."""

    def model_post_init(self, _context: Any) -> None:
        """Check what concerns several fields."""
        if not self.params and not self.flops:
            raise UnimixerError("a study needs a budget: --params 1M,4M or --flops 2M")
        labels = [variant.label for variant in self.models]
        twice = next((label for label in labels if labels.count(label) > 1), None)
        if twice is not None:
            raise UnimixerError(f"two models are called {twice!r}; give one another name: BACKBONE:label=NAME")
        for metric in self.judged_metrics:
            if metric not in JUDGED:
                raise unknown("metric", metric, JUDGED)
        for field in ("params", "flops", "dense_lr", "sparse_lr"):
            object.__setattr__(self, field, tuple(dict.fromkeys(getattr(self, field))))
        object.__setattr__(self, "base", self._base(labels))
        backbones = {variant.label: variant.backbone for variant in self.models}
        for variant in self.models:
            alike = [label for label in labels if backbones[label] == variant.backbone and label != variant.label]
            if variant.size_of is not None and variant.size_of not in alike:
                raise unknown(f"model {variant.label!r}: size_of", variant.size_of, alike)
        fixed = {"training.seed", "optimizer.dense_lr", "optimizer.sparse_lr", "model.dense_params", "model.width"}
        taken = fixed | {"model.backbone", "model.options", "name", "store", "tasks"}
        for key in self.recipe:
            if key in taken:
                raise UnimixerError(f"--set {key}: a study sets it itself; see --seeds, --lr-grid, --params, --models")

    def _base(self, labels: Sequence[str]) -> str:
        if not self.base:
            return labels[0]
        if self.base in labels:
            return self.base
        # a base may be written as it was in the list of models
        as_model = Variant.model_validate(parse_variant(self.base)).label if ":" in self.base else self.base
        named = [v.label for v in self.models if as_model in (v.label, v.backbone)]
        if len(named) != 1:
            if named:
                raise UnimixerError(f"base {self.base!r} could be any of: {' · '.join(named)}; give the whole label")
            raise unknown("base", self.base, labels)
        return named[0]

    @property
    def grid(self) -> list[tuple[float, float]]:
        """Pairs of a dense and a sparse rate."""
        return [(dense, sparse) for dense in self.dense_lr for sparse in self.sparse_lr]

    @property
    def budgets(self) -> list[tuple[str, int]]:
        """Kind and size of every budget."""
        return [("params", n) for n in self.params] + [("flops", n) for n in self.flops]


def load_study(path: Path, changes: Mapping[str, Any] | None = None) -> Study:
    """Read a study from YAML; ``changes`` replace whole keys."""
    return parse(Study, load_yaml(path).with_values(changes or {}, "the changes"), where=str(path))


def read_plan(folder: Path) -> Study:
    """The plan that a folder's rows belong to."""
    if not (folder / PLAN).exists():
        raise UnimixerError(f"{folder} is not a study (no {PLAN}); begin one with: unimixer compare --out {folder}")
    return load_study(folder / PLAN)


def write_plan(folder: Path, study: Study) -> Study:
    """Keep a plan, joined with what the folder holds already; return the whole.

    Raises:
        UnimixerError: where the folder was begun with other settings; the message names the first difference.
    """
    whole = study if not (folder / PLAN).exists() else joined(read_plan(folder), study, folder)
    write_text(folder / PLAN, dump_yaml(whole))
    return whole


def joined(old: Study, new: Study, folder: Path) -> Study:
    """Both plans as one: models, seeds, budgets and stores may come on top, all else must agree."""
    for field in ("dense_lr", "sparse_lr", "tasks", "recipe"):
        before, after = getattr(old, field), getattr(new, field)
        if before != after:
            raise UnimixerError(f"{folder}: {_difference(field, before, after)}; choose another --out")
    models = {variant.label: variant for variant in old.models}
    for variant in new.models:
        known = models.setdefault(variant.label, variant)
        if known.model_copy(update={"group": ""}) != variant.model_copy(update={"group": ""}):
            raise UnimixerError(
                f"{folder}: model {variant.label!r} was begun with "
                f"{_difference('other settings', known.model_dump(), variant.model_dump())}; give it another label"
            )
    stores = {store.hash or store.path: store for store in (*old.data, *new.data)}
    names = {store.path: store for store in old.data}
    for store in new.data:
        if store.path in names and names[store.path].hash != store.hash:
            raise UnimixerError(
                f"{folder}: data={store.path} has content {store.hash}, the study began with "
                f"{names[store.path].hash}; choose another --out"
            )
    return Study(
        data=tuple(stores.values()),
        models=tuple(models.values()),
        params=(*old.params, *new.params),
        flops=(*old.flops, *new.flops),
        seeds=max(old.seeds, new.seeds),
        base=new.base if "base" in new.model_fields_set else old.base,
        lenient=old.lenient or new.lenient,
        judged_tasks=new.judged_tasks or old.judged_tasks,
        judged_metrics=new.judged_metrics or old.judged_metrics,
        **{field: getattr(old, field) for field in ("dense_lr", "sparse_lr", "tasks", "recipe")},
    )


def _difference(name: str, before: Any, after: Any) -> str:
    """The first place where two settings differ."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        key = next(key for key in [*before, *after] if before.get(key) != after.get(key))
        return f"{name} {key}={before.get(key, 'default')}, not {after.get(key, 'default')}"
    show = [", ".join(map(str, value)) if isinstance(value, tuple) else value for value in (before, after)]
    return f"the study began with {name}={show[0]}, not {show[1]}"
