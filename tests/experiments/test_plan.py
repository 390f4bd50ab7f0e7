"""Plans: models as text, labels, what may differ, how two calls in one folder go together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from small import LITE, small_study, small_values

from unimixer.errors import UnimixerError
from unimixer.experiments.models import Variant, parse_variant, split_models
from unimixer.experiments.plan import Plan, Study, Sweep, load_study, read_plan, write_plan
from unimixer.experiments.plan_file import PlanFile, check_folder
from unimixer.experiments.tuning.plan import Search
from unimixer.settings import parse


def variant(text: str) -> Variant:
    return parse(Variant, parse_variant(text), where=text)


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("rankmixer", "rankmixer"),
        ("unimixer-lite:num_blocks=4", "unimixer-lite, 4 blocks"),
        ("unimixer-lite:num_blocks=1:rank=8", "unimixer-lite, 1 block, rank 8"),
        ("rankmixer:ffn=swiglu:model.pooling=flatten", "rankmixer, ffn swiglu, flatten pooling"),
        ("rankmixer:label=ours", "ours"),
    ],
)
def test_a_model_is_named_after_its_options(text: str, label: str) -> None:
    assert variant(text).label == label


def test_an_option_without_a_dot_is_the_backbones_and_values_are_typed() -> None:
    found = variant("mlp:hidden_dims=[64,32]:optimizer.weight_decay=1e-2")
    assert found.options == {"hidden_dims": [64, 32]}
    assert found.recipe == {"optimizer.weight_decay": 0.01}
    assert split_models("rankmixer,mlp:hidden_dims=[64,32], fm") == ["rankmixer", "mlp:hidden_dims=[64,32]", " fm"]


def test_a_section_of_the_recipe_means_the_same_as_dotted_keys() -> None:
    models = [{"backbone": "mlp", "recipe": {"model": {"pooling": "flatten"}}}]
    given = {"data": ["s"], "models": models, "params": ["1M"]}
    recipe = {"model": {"num_tokens": 4, "embedding_dims": {"a": 8}}, "training.epochs": 2}
    found = parse(Study, {**given, "recipe": recipe}, where="study")
    assert found.recipe == {"model.num_tokens": 4, "model.embedding_dims": {"a": 8}, "training.epochs": 2}
    assert found.models[0].recipe == {"model.pooling": "flatten"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rankmixr", "unknown backbone 'rankmixr'; did you mean 'rankmixer'?"),
        ("rankmixer:num_block=3", "unknown option of backbone 'rankmixer': 'num_block'; did you mean 'num_blocks'?"),
        ("rankmixer:num_tokens=8", "num_tokens is a key of the recipe: write model.num_tokens"),
        ("rankmixer:training.batch_size=64", "training.batch_size is the same for every model of a study"),
        ("rankmixer:optimizer.dense_lr=1", "optimizer.dense_lr is the same for every model of a study"),
        (
            "rankmixer:modl.pooling=mean",
            "unknown key of model 'rankmixer': 'modl.pooling'; did you mean 'model.pooling'",
        ),
    ],
)
def test_what_may_not_differ_between_models_is_refused(text: str, message: str) -> None:
    with pytest.raises(UnimixerError, match="(?s).*" + message.replace("?", r"\?").replace(".", r"\.")):
        variant(text)


def test_a_model_that_is_no_option_value_says_how_to_write_one() -> None:
    with pytest.raises(
        UnimixerError, match=r"'deep' is not OPTION=VALUE; write for example unimixer-lite:num_blocks=4"
    ):
        parse_variant("unimixer-lite:deep")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"params": []}, "a study needs a budget: --params 1M,4M, --flops 2M or --widths 64"),
        ({"models": ["rankmixer", "rankmixer"]}, "two models are called 'rankmixer'"),
        ({"base": "lit"}, "unknown base 'lit'; did you mean 'lite'?"),
        ({"models": ["rankmixer:label=a", "rankmixer:num_blocks=1:label=b"], "base": "rankmixer"}, "a · b"),
        ({"recipe": {"training.seed": 1}}, "--set training.seed: a study sets it itself"),
        ({"recipe": {"training": {"seed": 1}}}, "--set training.seed: a study sets it itself"),
        ({"recipe": {"model": {"backbone": "mlp"}}}, "--set model.backbone: a study sets it itself"),
        ({"recipe": {"training": {"epochs": 1}, "training.epochs": 2}}, "training.epochs is given twice; give it once"),
        ({"models": ["mlp:batch_norm=no"]}, "option of backbone 'mlp': batch_norm='no' is neither true nor false"),
        ({"models": ["mlp:dropout=0.1:dropout=0.2"]}, "dropout is given twice; give it once"),
        ({"dense_lr": []}, "dense_lr"),
        ({"seed": 3}, "unknown key 'seed'; did you mean 'seeds'?"),
        ({"models": [{"backbone": "mlp", "size_of": "rankmixer"}, "rankmixer"]}, "size_of 'rankmixer'"),
        (
            {"models": [{"backbone": "unimixer", "mixing_lr": [1e-2], "recipe": {"optimizer.mixing_lr": 1e-3}}]},
            "unimixer: mixing_lr has rates to choose from, optimizer.mixing_lr has one; give one",
        ),
        ({"models": [{"backbone": "unimixer", "mixing_lr": [0]}]}, "mixing_lr"),
    ],
)
def test_a_mistake_in_a_study_is_one_sentence(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UnimixerError) as caught:
        small_study("datasets/toy", **changes)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_base_is_the_first_model_or_named_by_label_backbone_or_text() -> None:
    assert small_study("toy").base == "rankmixer"
    assert small_study("toy", base="lite").base == "lite"
    assert small_study("toy", base="unimixer-lite").base == "lite"
    deep = ["rankmixer", "unimixer-lite:num_blocks=4", "unimixer-lite"]
    assert small_study("toy", models=deep, base="unimixer-lite:num_blocks=4").base == "unimixer-lite, 4 blocks"


def test_budgets_are_written_short_and_the_grid_is_a_product() -> None:
    study = small_study("toy", params=["1M", "1.5M"], flops=["2M"], sparse_lr=[1e-3, 5e-3], dense_lr=["5e-4", 1e-3])
    assert study.budgets == [("params", 1_000_000), ("params", 1_500_000), ("flops", 2_000_000)]
    assert [rates[:2] for rates in study.grid(study.models[0], mixing=False)] == [
        (5e-4, 1e-3),
        (5e-4, 5e-3),
        (1e-3, 1e-3),
        (1e-3, 5e-3),
    ]


def test_widths_are_budgets_and_only_learned_mixings_search_their_rate() -> None:
    study = small_study("toy", widths=[16], dense_lr=[1e-3], mixing_lr=[1e-3, 1e-2])
    assert study.budgets[-1] == ("width", 16)
    model = study.models[1]
    assert [rates.mixing for rates in study.grid(model, mixing=True)] == [1e-3, 1e-2]
    assert [rates.mixing for rates in study.grid(model, mixing=False)] == [None]
    own = model.model_copy(update={"mixing_lr": (3e-2, 1e-1)})  # a model's own rates go before those of the plan
    assert [rates.mixing for rates in study.grid(own, mixing=True)] == [3e-2, 1e-1]


def test_a_plan_comes_back_from_its_file(tmp_path: Path) -> None:
    study = small_study("toy", flops=["2M"])
    assert write_plan(tmp_path, study) == study == read_plan(tmp_path, Study)
    assert load_study(tmp_path / "study.yaml", {"seeds": 7}).seeds == 7
    with pytest.raises(UnimixerError, match="is not a study"):
        read_plan(tmp_path / "elsewhere", Study)


def test_models_seeds_and_budgets_may_come_on_top_and_nothing_is_lost(tmp_path: Path) -> None:
    write_plan(tmp_path, small_study("toy", seeds=3))
    whole = write_plan(tmp_path, small_study("toy", models=["mlp", LITE], params=["20K"], seeds=1, base="lite"))
    assert [model.label for model in whole.models] == ["rankmixer", "lite", "mlp"]
    assert whole.params == (12_000, 20_000)
    assert (whole.seeds, whole.base) == (3, "lite")
    assert read_plan(tmp_path, Study) == whole
    more = write_plan(tmp_path, small_study("toy", models=["fm"]))
    assert more.base == "lite"  # stays until another one is named


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dense_lr": [2e-3]}, "the study began with dense_lr=0.001, not 0.002"),
        ({"recipe": {"training.batch_size": 64}}, "recipe training.batch_size=128, not 64"),
        ({"recipe": {"model.pooling": "flatten"}}, "recipe model.pooling=default, not flatten"),
        ({"tasks": {"is_click": 2.0}}, "tasks is_click=1.0, not 2.0"),
        ({"models": ["rankmixer:num_blocks=3:label=rankmixer"]}, "model 'rankmixer' was begun with other settings"),
        ({"data": [{"path": "toy", "hash": "b"}]}, "data=toy has content b, the study began with a"),
    ],
)
def test_another_plan_in_the_same_folder_is_refused_by_its_first_difference(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    write_plan(tmp_path, parse(Study, small_values("toy", data=[{"path": "toy", "hash": "a"}]), where="study"))
    with pytest.raises(UnimixerError) as caught:
        write_plan(tmp_path, small_study("toy", **{"data": [{"path": "toy", "hash": "a"}], **changes}))
    assert message in str(caught.value)


@pytest.mark.parametrize("kind", [Study, Sweep, Search])
def test_a_file_and_a_folder_of_something_else_take_no_plan(kind: type[PlanFile], tmp_path: Path) -> None:
    check_folder(tmp_path, kind)
    (tmp_path / "file").touch()
    with pytest.raises(
        UnimixerError, match=r"file is a file, and a \w+ needs a folder of its own; choose another --out"
    ):
        check_folder(tmp_path / "file", kind)
    with pytest.raises(UnimixerError, match=r"is not empty \(it holds 'file'\), and a"):
        check_folder(tmp_path, kind)
    (tmp_path / "begun").mkdir()  # an experiment that was refused after its speeds were measured
    for name in ("speeds.json", "workers.log", ".hidden"):
        (tmp_path / "begun" / name).touch()
    check_folder(tmp_path / "begun", kind)
    (tmp_path / "config.yaml").touch()
    with pytest.raises(UnimixerError, match="is a run folder, and a"):
        check_folder(tmp_path, kind)


def test_what_is_judged_is_part_of_the_plan() -> None:
    values = {"data": ["s"], "models": ["mlp"], "params": ["1M"], "judged_metrics": ["auc"], "judged_tasks": ["click"]}
    study = parse(Study, values, where="study")
    more = parse(Study, {**values, "judged_metrics": [], "seeds": 9}, where="study")
    assert study.joined(more, Path("folder")).judged_metrics == ("auc",)
    with pytest.raises(UnimixerError, match="unknown metric 'aucs'; did you mean 'auc'"):
        parse(Study, {**values, "judged_metrics": ["aucs"]}, where="study")


STUDY_YAML = """\
data:
- {path: toy, name: toy, hash: abc}
models:
- {backbone: rankmixer, label: rankmixer}
params: [12000]
seeds: 2
base: rankmixer
dense_lr: [0.001, 0.01]
sparse_lr: [0.001]
recipe: {training.batch_size: 128}
lenient: false
"""
SWEEP_YAML = STUDY_YAML + "dial: width\nlr_search: smallest\nlr_power: 0.5\nanchors: [12000]\n"


@pytest.mark.parametrize(("kind", "text"), [(Study, STUDY_YAML), (Sweep, SWEEP_YAML)])
def test_a_folder_begun_earlier_is_joined_with_seeds_and_budgets_on_top(
    kind: type[Plan], text: str, tmp_path: Path
) -> None:
    (tmp_path / kind.file).write_text(text)
    begun = read_plan(tmp_path, kind)
    later = parse(kind, {**small_values("toy"), **begun.model_dump(), "params": ["24K"], "seeds": 3}, where="later")
    whole = write_plan(tmp_path, later)
    assert (whole.params, whole.seeds, whole.base) == ((12_000, 24_000), 3, "rankmixer")
    assert read_plan(tmp_path, kind) == whole
    if isinstance(whole, Sweep):
        assert whole.base_sizes == (12_000,)  # rates of rows that exist do not move
        assert whole.budgets == [("params", 12_000), ("params", 24_000)]
    other = later.model_copy(update={"dense_lr": (1e-3,)})
    with pytest.raises(UnimixerError, match=f"the {kind.noun} began with dense_lr=0.001, 0.01, not 0.001"):
        write_plan(tmp_path, other)


def test_a_sweep_takes_no_other_data() -> None:
    begun = parse(Sweep, {"data": ["a"], "models": ["mlp"], "params": ["1M"]}, where="sweep")
    datasets = [begun.data[0].model_copy(update={"hash": digest}) for digest in "12"]
    one, two = (begun.model_copy(update={"data": (dataset,)}) for dataset in datasets)
    with pytest.raises(UnimixerError, match=r"the sweep began with data a \(1\), not a \(2\)"):
        one.joined(two, Path("folder"))
