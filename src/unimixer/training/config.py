"""The recipe: everything that decides a training run, as one small YAML file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
)

from unimixer.backbones.budget import read_count
from unimixer.backbones.registry import backbone_name
from unimixer.errors import UnimixerError
from unimixer.metrics import metric_names
from unimixer.settings import Change, Document, Settings, find_settings, load_yaml, models_in, override, parse
from unimixer.training.averaging_config import AveragingConfig
from unimixer.training.loss_weighting import LossWeightingConfig


def _count(value: object) -> object:
    count = read_count(value)
    if isinstance(count, str) and not count.isdigit():
        raise ValueError("input should be a whole number, such as 800000, 800K or 1.5M")
    return count


Count = Annotated[PositiveInt, BeforeValidator(_count)]


class ModelConfig(Settings):
    """Arguments of the Ranker; none depends on the data or the machine."""

    renamed: ClassVar[Mapping[str, str]] = {
        "managed_rows": "managed_embeddings",
        "size": "width",
        "readout": "pooling",
    }
    backbone: Annotated[str, AfterValidator(backbone_name)] = "unimixer-lite"
    dense_params: Count | None = None
    """Dense-parameter budget that chooses the width (within 2%)."""
    width: PositiveFloat | None = None
    """The backbone's width, instead of a budget."""
    num_tokens: PositiveInt = 16
    tokenizer: Literal["chunk", "semantic", "random", "field"] | None = None
    embedding_dim: PositiveInt = 16
    embedding_dims: dict[str, PositiveInt] = Field(default_factory=dict)
    embedding_init_std: PositiveFloat = 0.01
    managed_embeddings: dict[str, Count] = Field(default_factory=dict)
    """Rows of the tables that have fewer rows than ids: the most frequent ids own a row, all others share one."""
    sequence_encoder: Literal["mean", "target_attention", "transformer", "din", "dien"] = "mean"
    sequence_options: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of the sequence encoder."""
    sequence_search: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Searches of long histories by history, ``HISTORY: {kind: hard, field: FIELD, top_k: 50}`` or ``{kind: soft}``."""
    sequences: Literal["pooled", "tokens", "cross_attention"] = "pooled"
    """Where behavior sequences enter: the vector of all fields, tokens of their own, or every block by attention."""
    sequence_tokens: PositiveInt = 2
    """Tokens per sequence, for ``tokens``."""
    sequence_dim: PositiveInt | None = None
    """Width of an event inside the stack (default: the widest event as embedded)."""
    pooling: Literal["mean", "flatten", "attention"] = "mean"
    """The mean of the output tokens, all of them flattened, or their mean by learned attention."""
    tower_hidden_dims: tuple[PositiveInt, ...] = (64,)
    tower_crosses: NonNegativeInt = 0
    """Cross layers of DCN V2 on the pooled output, below the towers."""
    task_head: Literal["shared_bottom", "mmoe", "ple"] = "shared_bottom"
    """Between the pooled output and the towers: nothing, or experts that several tasks mix by gates of their own."""
    task_head_options: dict[str, Any] = Field(default_factory=dict)
    """mmoe: num_experts, expert_dims. ple: num_experts (a task), num_shared_experts, num_levels, expert_dims."""
    chain: dict[str, str] = Field(default_factory=dict)
    """Labels that happen only after another one, ``like: click``: p(like) is p(click) times p(like given click)."""
    embedding_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the numbers of embedded fields and events that a training step drops."""
    logit_clamp: PositiveFloat | None = None
    """Largest size of a logit."""
    ignored_features: tuple[str, ...] = ()
    """Features, histories or domains (user, item, behaviour, context) of the data that the model does not read."""
    field_order: tuple[str, ...] | None = None
    """Order of the fields inside a domain (default: that of the schema); a warm start keeps the order of its source."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of the backbone, see ``unimixer models``."""


class TemperatureConfig(Settings):
    """The temperature of learned mixing matrices over the run."""

    schedule: Literal["constant", "linear", "two-stage"] = "constant"
    """linear: max(start - (start - end) step / steps, end). two-stage: a run at ``start``, then one at ``end``."""
    start: PositiveFloat = 1.0
    end: PositiveFloat = 0.1
    """The temperature of a constant schedule, and the final one of the others."""


class EvictionConfig(Settings):
    """How ids of a managed table gain and lose rows."""

    renamed: ClassVar[Mapping[str, str]] = {"every": "eviction_interval"}
    policy: Literal["lfu", "lru", "distance_lfu"] = "lfu"
    """The id that loses its row: the least frequent, the least recent, or the one with the smallest count / age."""
    eviction_interval: PositiveInt = 100
    """Steps between two decisions; the first come at steps 1, 2, 4 and so on, because no id owns a row yet."""


class OptimizerConfig(Settings):
    """Optimizers and learning rates."""

    renamed: ClassVar[Mapping[str, str]] = {"sparse_lr": "embedding_lr"}
    dense: Literal["adam", "adamw", "muon", "sgd"] = "adam"
    """muon: Muon moves the weights of linear layers, AdamW all other dense parameters, both at ``dense_lr``."""
    dense_lr: PositiveFloat = 1e-3
    mixing_lr: PositiveFloat | None = None
    """Rate of the raw parameters of constrained mixings (default: ``dense_lr``). Adam's eps is then 1e-15 for them,
    because a sharp Sinkhorn can make gradients smaller than the usual eps of 1e-8."""
    weight_decay: NonNegativeFloat = 0.0
    """Decoupled weight decay, for ``adamw`` and ``muon``."""
    sparse: Literal["adam", "rowwise_adagrad", "sgd"] = "adam"
    embedding_lr: PositiveFloat = 1e-3
    eviction: dict[str, EvictionConfig] = Field(default_factory=dict)
    """Eviction by table, for tables of ``model.managed_embeddings`` that do not use the defaults."""
    warmup_steps: NonNegativeInt = 0
    """Steps over which both rates grow linearly."""
    decay: Literal["none", "linear", "cosine"] = "none"
    """How both rates decay to zero until the end of the run."""
    clip_norm: PositiveFloat | None = None
    """Largest norm of the gradient of the dense parameters."""


class TrainingConfig(Settings):
    """The training loop."""

    renamed: ClassVar[Mapping[str, str]] = {
        "accumulate": "gradient_accumulation_steps",
        "evaluate_every": "eval_interval",
        "checkpoint_every": "checkpoint_interval",
        "early_stopping": "patience",
        "auxiliary_weight": "aux_loss_weight",
        "checkpoint_activations": "activation_checkpointing",
    }
    epochs: PositiveInt = 1
    batch_size: PositiveInt = 512
    gradient_accumulation_steps: PositiveInt = 1
    """Batches per optimizer step."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    max_steps: PositiveInt | None = None
    eval_interval: PositiveInt | None = None
    """Steps between evaluations (default: four a run)."""
    patience: PositiveInt | None = None
    """Stop after this many evaluations without improvement."""
    monitor: str | None = None
    """``TASK.auc``, ``TASK.uauc``, ``TASK.gauc``, ``TASK.log_loss``, one of ``metrics`` or, where the truth is known,
    ``TASK.excess_log_loss`` (default: the first task's AUC)."""
    checkpoint_interval: PositiveInt | None = None
    """Steps between checkpoints (default: at every evaluation)."""
    keep_checkpoints: PositiveInt = 2
    log_every: PositiveInt = 20
    trackers: tuple[Literal["tensorboard", "mlflow", "wandb"], ...] = ("tensorboard",)
    """Where training curves go: ``tensorboard`` (if it is installed), ``mlflow``, ``wandb``; ``[]`` for none."""
    aux_loss_weight: NonNegativeFloat = 0.1
    """Weight of the loss on each set of intermediate tokens, in backbones that have them."""
    new_rows: Literal["drawn", "mean"] = "drawn"
    """How rows of new ids begin in a run that continues another: drawn anew, or the mean of the rows that it keeps."""
    precision: Literal["float32", "bfloat16", "auto"] = "float32"
    """Of the products; weights, sums and norms are float32. ``auto`` measures once whether bfloat16 pays on the device,
    and the run keeps the answer."""
    compile: bool = False
    """Compile the dense part with torch.compile."""
    activation_checkpointing: bool = False
    """Recompute activations inside blocks in backward: less memory, more time."""
    device: str = "auto"
    """``auto``, ``cpu``, ``cuda`` or ``cuda:N``."""
    num_workers: NonNegativeInt = 1
    threads: PositiveInt | None = None
    """Threads of torch (default: torch's own choice)."""


Sharding = Literal["auto", "table_wise", "row_wise", "column_wise"]


class DistributedConfig(Settings):
    """How several processes share a run; a single process uses only ``data_shards``."""

    data_shards: PositiveInt | None = None
    """Parts of the training rows, from each of which a batch takes a share (default: one per process). Batches depend
    on this number and not on the number of processes, so a run resumes on any number of processes up to it."""
    sharding: Sharding = "auto"
    """How tables are sharded; ``auto`` leaves every table to TorchRec's planner."""
    tables: dict[str, Sharding] = Field(default_factory=dict)
    """Sharding of single tables."""
    dense: Literal["ddp", "fsdp"] = "ddp"
    """``ddp``: every process holds all dense parameters and their optimizer's state. ``fsdp``: each holds a part, for
    backbones that would not fit."""
    timeout: PositiveInt = 300
    """Seconds that a process waits for the others before it gives up."""


class SoftLabelConfig(Settings):
    """A soft label that joins the label of a task."""

    label: str
    """A soft label of the schema."""
    weight: Annotated[float, Field(gt=0, le=1)] = 1.0
    """The target of training is (1 - weight) times the task's label + weight times the soft one."""


class PretrainedConfig(Settings):
    """Vectors that the rows of an embedding table start from."""

    path: str
    """A Parquet file with the columns ``key`` and ``value``, or a matrix in ``.npy``."""
    key: str = "id"
    """Column of the ids; for ``.npy`` the file of the ids, one a row."""
    value: str = "vector"
    """Column of the vectors."""
    trained: bool = True
    """Train the vectors further; otherwise they stay, and ids without a vector are trained alone."""


def _soft_label(value: object) -> object:
    """Read the short form, the name of the soft label alone."""
    return {"label": value} if isinstance(value, str) else value


class Recipe(Settings):
    """One training run."""

    synonyms: ClassVar[Mapping[str, str]] = {
        "optimizer.dense_lr": "learning_rate lr dense_learning_rate step_size",
        "optimizer.embedding_lr": "sparse_learning_rate emb_lr",
        "optimizer.weight_decay": "l2 wd l2_reg regularization",
        "optimizer.warmup_steps": "warmup warm_up warmup_ratio",
        "optimizer.clip_norm": "grad_clip clip gradient_clip clip_grad_norm max_grad_norm",
        "optimizer.decay": "lr_decay scheduler lr_scheduler",
        "averaging.kind": "ema swa weight_averaging",
        "averaging.decay": "ema_decay",
        "training.batch_size": "bs batch batchsize",
        "training.epochs": "epoch num_epochs n_epochs max_epochs",
        "training.max_steps": "steps num_steps total_steps",
        "training.patience": "earlystopping early_stop",
        "training.seed": "random_seed random_state",
        "training.num_workers": "workers n_workers",
        "training.threads": "num_threads n_threads",
        "training.gradient_accumulation_steps": "gradient_accumulation grad_accum accumulation",
        "training.precision": "amp bf16 fp16 mixed_precision dtype",
        "training.device": "gpu cuda",
        "training.monitor": "metric eval_metric",
        "training.eval_interval": "eval_every validate_every",
        "training.checkpoint_interval": "save_every checkpoint_steps",
        "model.embedding_dim": "emb_dim embed_dim embedding_size dim",
        "model.dense_params": "params parameters num_params",
        "model.tower_hidden_dims": "hidden_units tower_dims hidden_dim",
        "model.backbone": "architecture arch model_name",
        "model.num_tokens": "tokens n_tokens",
        "temperature.end": "tau tau_end",
        "tasks": "labels targets task",
        "dataset": "data data_path",
        "soft_labels": "distillation teacher",
        **{f"model.options.{name}": name for name in ("dropout", "hidden_dims", "num_blocks", "num_heads", "rank")},
    }
    renamed: ClassVar[Mapping[str, str]] = {"store": "dataset"}
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    dataset: str
    """Prepared data: a path, or a name below the folder ``$UNIMIXER_DATASETS`` (default: ``datasets``)."""
    tasks: dict[str, PositiveFloat] = Field(default_factory=dict)
    """Labels to learn and their loss weights (default: every label of the schema that is not soft, weight 1)."""
    soft_labels: dict[str, Annotated[SoftLabelConfig, BeforeValidator(_soft_label)]] = Field(default_factory=dict)
    """Soft labels by task, ``TASK: {label: NAME, weight: W}`` or ``TASK: NAME``; metrics keep the task's own label."""
    metrics: Annotated[tuple[str, ...], AfterValidator(metric_names)] = ()
    """Metrics beyond the usual ones: ``ndcg@10``, ``mrr``, ``hitrate@10`` (lists of users), ``ece``, ``rig``."""
    pretrained: dict[str, PretrainedConfig] = Field(default_factory=dict)
    """Vectors by embedding table, ``TABLE: {path: FILE, key: COLUMN, value: COLUMN}``."""
    model: ModelConfig = ModelConfig()
    temperature: TemperatureConfig = TemperatureConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    averaging: AveragingConfig = AveragingConfig()
    loss_weighting: LossWeightingConfig = LossWeightingConfig()
    training: TrainingConfig = TrainingConfig()
    distributed: DistributedConfig = DistributedConfig()


def _dotted(value: object) -> object:
    """Flatten sections (``training: {seed: 1}``) to dotted keys (``training.seed: 1``)."""
    if not isinstance(value, Mapping):
        return value
    flattened: dict[str, Any] = {}
    for key, inner in value.items():
        is_section = key in Recipe.model_fields and models_in(Recipe.model_fields[key].annotation)
        below = inner if is_section and isinstance(inner, Mapping) else None
        for name, one in [(key, inner)] if below is None else [(f"{key}.{name}", one) for name, one in below.items()]:
            if name in flattened:
                raise UnimixerError(f"{name} is given twice; give it once")
            flattened[name] = one
    return flattened


RecipeKeys = Annotated[dict[str, Any], BeforeValidator(_dotted)]
"""Keys of a recipe by their dotted names."""


def load_recipe(path: Path | str, overrides: Sequence[str | Change] = ()) -> Recipe:
    """Read a recipe, by its path or the name of a packaged one, and apply overrides such as ``training.seed=1``."""
    return parse(Recipe, recipe_values(path, overrides), where=str(path))


def recipe_values(path: Path | str, overrides: Sequence[str | Change] = ()) -> Document:
    """Read the values of a recipe with overrides, and the origin of each value."""
    return override(load_yaml(find_settings(path)), overrides)
