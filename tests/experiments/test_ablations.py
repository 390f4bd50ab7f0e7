"""The ablations by name: one thing changed each, all of them trainable."""

from __future__ import annotations

from pathlib import Path

import pytest
from small import small_cases, small_study

from unimixer.errors import UnimixerError
from unimixer.experiments.ablations import GROUPS, PAPER_STACK, ablations
from unimixer.experiments.experiment import build_series
from unimixer.experiments.lr_search import Rates
from unimixer.experiments.models import Variant


def changes(base: Variant, variant: Variant) -> dict[str, object]:
    """What a variant sets otherwise than its base."""
    before = {**base.options, **base.recipe}
    return {key: value for key, value in {**variant.options, **variant.recipe}.items() if before.get(key) != value}


def by_name(model: str, **options: object) -> tuple[Variant, dict[str, dict[str, object]]]:
    (base, *rest), _ = ablations(model, **options)  # type: ignore[arg-type]
    return base, {v.label.partition(": ")[2]: changes(base, v) for v in rest if v.backbone == base.backbone}


def test_the_papers_list_changes_one_thing_each_of_the_papers_stack() -> None:
    base, found = by_name("unimixer", groups=["paper"])
    assert base.label == "unimixer (paper)"
    assert (base.options, base.recipe) == (PAPER_STACK["options"], PAPER_STACK["recipe"])
    assert base.recipe == {"temperature.schedule": "two-stage", "temperature.start": 1.0, "temperature.end": 0.05}
    assert found["no temperature"] == {"temperature.end": 1.0}
    assert found["no warm-up"] == {"temperature.start": 0.05}
    assert found["annealing for warm-up, one pass"] == {"temperature.schedule": "linear"}
    assert found["no symmetry"] == {"symmetric": False}
    assert found["shared local weights"] == {"local": "shared"}
    assert found["Post-Norm for SiameseNorm"] == {"residual": "post"}
    assert found["no Sinkhorn (raw deviation 0.1)"] == {"constraint": "free", "init_scale": 0.1}
    assert found["start from the rule"] == {"init": "rule"}
    assert found["start from the identity"] == {"init": "identity"}
    assert found["tau_end 0.1"] == {"temperature.end": 0.1}
    assert found["block size 8"] == {"block_size": 8}
    assert "block size 6" not in found  # it is the base


def test_from_the_default_the_same_list_is_taken_the_other_way() -> None:
    base, found = by_name("unimixer-lite", groups=["paper"], start="default")
    assert (base.options, base.recipe) == ({}, {})
    assert found["SiameseNorm for Post-Norm"] == {"residual": "siamese"}
    assert found["annealing from 1"] == {"temperature.schedule": "linear"}
    assert found["start from random"] == {"init": "random"}
    assert all(found.values())


def test_tables_of_basis_rank_and_depth_leave_the_base_out_and_show_rankmixer_beside() -> None:
    variants, left_out = ablations(
        "unimixer-lite:matrices=blocks:label=unimixer-lite", groups=["basis", "rank", "depth"], start="default"
    )
    assert left_out == {}
    tables = {group: [v.label for v in variants if v.group == group] for group in ("basis", "rank", "depth")}
    assert tables["basis"] == [f"unimixer-lite: {n} basis matrices" for n in (2, 8)]
    assert tables["rank"] == [f"unimixer-lite: rank {n}" for n in (2, 4, 8, 32, 64, 128, 256)]
    depth = ("1 block", "4 blocks", "8 blocks")
    rankmixer = ["rankmixer", *(f"rankmixer: {n}" for n in depth)]
    assert tables["depth"] == [*(f"unimixer-lite: {n}" for n in depth), *rankmixer]
    assert {v.size_of for v in variants} == {None}
    grown, _ = ablations("unimixer-lite", groups=["depth"], start="default", grow=True)
    assert [v.size_of for v in grown] == [None, *["unimixer-lite"] * 3, None, *["rankmixer"] * 3]


def test_tokenizers_and_readouts_are_variants_of_any_model() -> None:
    _, found = by_name("rankmixer", groups=["tokenizer", "pooling"])
    assert found == {
        **{f"{name} tokenizer": {"model.tokenizer": name} for name in ("semantic", "random", "field")},
        "flatten read-out": {"model.pooling": "flatten"},
        "attention read-out": {"model.pooling": "attention"},
    }


def test_levers_of_recipe_and_stack_are_variants_of_any_model() -> None:
    _, found = by_name("rankmixer", groups=["recipe", "residual", "expansion", "tokens"])
    assert found == {
        "Muon for matrices": {"optimizer.dense": "muon"},
        "AdamW, weight decay 0.01": {"optimizer.dense": "adamw", "optimizer.weight_decay": 0.01},
        "Adagrad for tables, rate 0.05": {"optimizer.sparse": "rowwise_adagrad", "optimizer.embedding_lr": 0.05},
        "cosine decay": {"optimizer.decay": "cosine"},
        "EMA of weights, decay 0.999": {"averaging.kind": "ema", "averaging.decay": 0.999},
        "SWA of weights, last quarter": {"averaging.kind": "swa", "averaging.start": 0.75},
        "dropout of embeddings 0.1": {"model.embedding_dropout": 0.1},
        "logits within 20": {"model.logit_clamp": 20.0},
        "4 crosses below the towers": {"model.tower_crosses": 4},
        "no Add&Norm after the mixing": {"residual": "bare-mixing"},
        "Pre-Norm": {"residual": "pre"},
        "SiameseNorm": {"residual": "siamese"},
        **{f"expansion {ratio:g}": {"expansion": ratio} for ratio in (0.5, 1.0, 2.0)},
        **{f"{n} tokens": {"model.num_tokens": n} for n in (4, 8, 32, 64)},
    }


def test_ways_to_share_a_model_among_tasks_are_a_group_that_is_named(toy_folder: Path) -> None:
    _, found = by_name("rankmixer", groups=["tasks"])
    assert found == {
        "MMoE": {"model.task_head": "mmoe"},
        "CGC": {"model.task_head": "ple", "model.task_head_options": {"num_levels": 1}},
        "PLE": {"model.task_head": "ple"},
        "losses by uncertainty": {"loss_weighting.kind": "uncertainty"},
        "losses by GradNorm": {"loss_weighting.kind": "gradnorm"},
    }
    assert "tasks" not in {variant.group for variant in ablations("rankmixer")[0]}
    variants = {v.label.partition(": ")[2]: v.model_dump() for v in ablations("mlp", groups=["tasks"])[0]}
    both = {"is_click": 1.0, "long_view": 1.0}
    chosen = [variants[name] for name in ("", "PLE", "losses by GradNorm")]
    cases = small_cases(toy_folder, models=chosen, params=["60K"], tasks=both)
    assert all(abs(case.dense_params / 60_000 - 1) < 0.02 for case in cases)
    assert [case.recipe.model.task_head for case in cases] == ["shared_bottom", "ple", "shared_bottom"]
    assert len({case.job(0, Rates(1e-3, 1e-3)).key for case in cases}) == len(cases) == 3


def test_a_variant_is_left_out_where_all_models_of_the_study_have_its_keys() -> None:
    variants, _ = ablations("rankmixer", groups=["tokens"], recipe={"model.num_tokens": 8})
    assert [v.recipe for v in variants] == [{}, *({"model.num_tokens": n} for n in (4, 16, 32, 64))]


def test_a_model_may_have_a_rate_of_its_own_for_tables(toy_folder: Path) -> None:
    variants, _ = ablations("rankmixer", groups=["recipe"])
    values = [v.model_dump() for v in variants if "Adagrad" in v.label or v.label == "rankmixer"]
    study = small_study(toy_folder, models=values, sparse_lr=[1e-3, 5e-3], seeds=1)
    series, _ = build_series(study.opened(Path("no folder")))
    jobs = [[job.recipe.optimizer for job in one.search() or one.jobs()] for one in series]
    assert [[job.embedding_lr for job in some] for some in jobs] == [[1e-3, 5e-3], [0.05]]
    assert jobs[1][0].sparse == "rowwise_adagrad"


def test_a_group_that_a_model_does_not_have_is_left_out_or_refused_when_named() -> None:
    _, left_out = ablations("unimixer")
    assert left_out == dict.fromkeys(("basis", "rank"), "unimixer has none; pass --model unimixer-lite")
    without = {"paper", "basis", "rank", "depth", "residual", "expansion", "tokens", "pooling"}
    assert set(ablations("dcnv2")[1]) == without
    with pytest.raises(UnimixerError, match="group 'rank': unimixer has none; pass --model unimixer-lite"):
        ablations("unimixer", groups=["rank"])
    with pytest.raises(UnimixerError, match=r"unknown group 'ranks'; did you mean 'rank'\?"):
        ablations("unimixer", groups=["ranks"])
    with pytest.raises(UnimixerError, match="--from='papers' is not one of paper, default"):
        ablations("unimixer", start="papers")


@pytest.mark.parametrize(("model", "start"), [("unimixer", "paper"), ("unimixer-lite", "default")])
def test_every_variant_can_be_built_or_says_why_not(model: str, start: str, toy_folder: Path) -> None:
    variants, _ = ablations(
        f"{model}:num_blocks=1:label=base", groups=GROUPS if "lite" in model else ["paper"], start=start
    )
    values = [variant.model_dump() for variant in variants if variant.backbone == model and "tau" not in variant.label]
    recipe = {"model.num_tokens": 4}
    study = small_study(toy_folder, models=values, params=["60K"], lenient=True, recipe=recipe)
    series, left_out = build_series(study.opened(Path("no folder")))
    cases = [case for one in series for case in one.cases]
    assert len(cases) + len(left_out) == len(values)
    assert len(cases) > 0.8 * len(values), left_out
    assert all(abs(case.dense_params / 60_000 - 1) < 0.02 for case in cases)
    assert len({case.job(0, Rates(1e-3, 1e-3)).key for case in cases}) == len(cases)


def test_what_the_paper_ablates_is_in_the_model_that_is_trained(toy_folder: Path) -> None:
    variants, _ = ablations("unimixer:num_blocks=1", groups=["paper"])
    chosen = [v.model_dump() for v in variants if v.label.endswith(("(paper)", "no symmetry", "no temperature"))]
    base, flat, loose = small_cases(toy_folder, models=chosen, params=["60K"])
    assert base.recipe.temperature.end == 0.05
    assert flat.recipe.temperature.end == 1.0
    assert (base.arguments["symmetric"], loose.arguments["symmetric"]) == (
        None,
        False,
    )  # None: symmetric between blocks
    assert base.samples == flat.samples == loose.samples  # equal steps: the warm-up is there in all of them
