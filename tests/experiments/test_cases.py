"""Cases: budgets met, costs known, keys that name exactly one computation."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from small import LITE, small_cases, small_study
from toy import toy_tables

from unimixer.backbones.budget import once_a_size, solve_width
from unimixer.data.dataset import Dataset
from unimixer.data.prepare import prepare
from unimixer.errors import UnimixerError
from unimixer.experiments.experiment import build_series
from unimixer.experiments.lr_search import Rates
from unimixer.experiments.models import slug
from unimixer.experiments.sizes import ranker_flops, short, size_for_flops
from unimixer.models import ranker_sizes
from unimixer.ranker import Ranker, count_dense


def test_every_budget_is_met_within_two_percent_and_costs_are_those_of_the_ranker(toy_folder: Path) -> None:
    spec = Dataset(toy_folder).transform.spec
    cases = small_cases(toy_folder, params=["12K", "20K"], flops=["40K"], tasks={})
    assert [(case.variant, case.budget_kind, case.budget) for case in cases] == [
        (model, *budget)
        for model in ("rankmixer", "lite")
        for budget in (("params", 12_000), ("params", 20_000), ("flops", 40_000))
    ]
    for case in cases:
        cost = case.dense_params if case.budget_kind == "params" else case.flops_per_sample
        assert cost == pytest.approx(case.budget, rel=0.02)
        ranker = Ranker(spec, **case.recipe.model.model_dump(exclude={"dense_params"}))
        assert case.dense_params == count_dense(ranker)
        assert case.table_params == sum(p.numel() for p in ranker.embedding.tables.parameters())
        assert (case.steps, case.samples) == (-(-case.train_rows // 128), case.train_rows)


def test_flops_are_two_a_weight_of_tokenizer_backbone_and_towers(toy_folder: Path) -> None:
    spec = Dataset(toy_folder).transform.spec
    arguments = {"backbone": "mlp", "tokenizer": "chunk", "num_tokens": 4, "embedding_dim": 4, "width": 16.0}
    ranker = Ranker(spec, **arguments)
    products = ("tokenizer", "backbone", "towers")
    weights = sum(p.numel() for name in products for p in getattr(ranker, name).parameters() if p.dim() > 1)
    biases = ranker.tokenizer.linear.bias.numel()  # of every token: two-dimensional, and no product
    assert ranker_flops(spec, **arguments) == 2 * (weights - biases)


@pytest.mark.parametrize("sequences", ["tokens", "cross_attention"])
def test_models_that_read_events_have_flops_too(sequences: str, toy_folder: Path) -> None:
    spec = Dataset(toy_folder).transform.spec
    arguments = {"backbone": "rankmixer", "num_tokens": 8, "embedding_dim": 4, "width": 16.0, "sequences": sequences}
    pooled = ranker_flops(spec, **{**arguments, "sequences": "pooled"})
    assert ranker_flops(spec, **arguments) != pooled
    size, kept = size_for_flops(spec, flops=100_000, **{k: v for k, v in arguments.items() if k != "width"})
    assert not kept
    assert ranker_flops(spec, **{**arguments, "width": size}) == pytest.approx(100_000, rel=0.02)


def test_where_token_widths_are_too_coarse_for_flops_the_hidden_width_meets_them(toy_folder: Path) -> None:
    """The FLOPs of a mixing between all blocks go with the square of the token width, and that has steps of T / 2."""
    spec = Dataset(toy_folder).transform.spec
    options = {"matrices": "blocks", "init": "random", "expansion": 0.75, "num_blocks": 1}
    arguments = {"num_tokens": 8, "embedding_dim": 4, "tower_hidden_dims": [8], "options": options}
    flops, backbone = 80_000, "unimixer-lite"
    count = once_a_size(partial(ranker_flops, spec), ranker_sizes(spec))
    with pytest.raises(UnimixerError, match="cannot be met within 2%"):
        solve_width(lambda width: count(backbone=backbone, width=width, **arguments), flops)
    (case,) = small_cases(
        toy_folder,
        models=[{"backbone": backbone, "label": "coarse", "options": options}],
        params=[],
        flops=[flops],
        recipe={"model.num_tokens": 8},
    )
    assert case.flops_per_sample == pytest.approx(flops, rel=0.02)
    assert case.recipe.model.options["token_dim"] == 32
    assert 24 / 4 <= case.arguments["hidden_dim"] <= 24 * 4


def test_a_budget_out_of_reach_names_model_and_budget(toy_folder: Path) -> None:
    with pytest.raises(UnimixerError, match=r"^rankmixer at 10 parameters: params=10 cannot be met within 2%"):
        small_cases(toy_folder, params=[10])
    with pytest.raises(UnimixerError, match=r"^rankmixer at 10 FLOPs a sample: flops=10 cannot be met within 2%"):
        small_cases(toy_folder, params=[], flops=[10])


def test_a_lenient_study_leaves_out_what_cannot_be_built_and_says_why(toy_folder: Path, tmp_path: Path) -> None:
    models = ["unimixer-lite:matrices=blocks:rank=2:label=too low", LITE, "rankmixer"]
    series, left_out = build_series(small_study(toy_folder, models=models, lenient=True).opened(tmp_path))
    assert [one.name for one in series] == ["lite", "rankmixer"]
    assert list(left_out) == ["too low at 12K parameters"]
    assert "rank=2 is too small to start from a permutation" in left_out["too low at 12K parameters"]


def test_a_lenient_study_of_models_that_cannot_be_built_is_refused(toy_folder: Path, tmp_path: Path) -> None:
    low = "unimixer-lite:matrices=blocks:rank=2:label=low"
    after = {"backbone": "unimixer-lite", "label": "after", "options": {"num_blocks": 4}, "size_of": "low"}
    plan = small_study(toy_folder, models=[low, after, "rankmixer"], lenient=True).opened(tmp_path / "some")
    series, left_out = build_series(plan)
    assert [one.name for one in series] == ["rankmixer"]
    assert left_out["after at 12K parameters"] == "'low', whose width it gets, cannot be built"
    with pytest.raises(UnimixerError, match=r"^no model can be built: .*rank=2 is too small"):
        build_series(small_study(toy_folder, models=[low], lenient=True).opened(tmp_path / "none"))


def test_a_model_with_the_dial_of_another_grows_with_its_depth(toy_folder: Path) -> None:
    deep = {"backbone": "rankmixer", "label": "deep", "options": {"num_blocks": 4}, "size_of": "rankmixer"}
    deeper, base = small_cases(toy_folder, models=[deep, "rankmixer"])
    assert deeper.recipe.model.width == base.recipe.model.width
    assert base.dense_params == pytest.approx(12_000, rel=0.02)
    tokenizer_and_towers = 3_000
    assert deeper.dense_params > 2 * base.dense_params - tokenizer_and_towers


def test_a_key_is_readable_and_another_for_everything_that_matters(toy_folder: Path) -> None:
    (case, *_) = small_cases(toy_folder)
    key = case.job(1, Rates(1e-3, 1e-3)).key
    assert key.startswith("toy-rankmixer-12K-lr1e-3-s1-")
    assert len(key.rpartition("-")[2]) == 8
    assert case.job(1, Rates(1e-3, 5e-3)).key.startswith("toy-rankmixer-12K-lr1e-3-sparse5e-3-s1-")
    others = [case.job(2, Rates(1e-3, 1e-3)), case.job(1, Rates(2e-3, 1e-3)), case.job(1, Rates(1e-3, 2e-3))]
    for recipe in ({"model.pooling": "flatten"}, {"training.max_steps": 3}, {"training.eval_interval": 5}):
        others.append(small_cases(toy_folder, recipe=recipe)[0].job(1, Rates(1e-3, 1e-3)))
    digests = [job.key.rpartition("-")[2] for job in others]
    assert len({key.rpartition("-")[2], *digests}) == 7
    same = small_cases(toy_folder, recipe={"training.threads": 2, "training.log_every": 7})[0]
    assert same.job(1, Rates(1e-3, 1e-3)).key == key


def test_a_width_is_the_same_for_every_model_and_a_rate_of_mixings_is_part_of_a_key(toy_folder: Path) -> None:
    cases = small_cases(toy_folder, params=[], widths=[16])
    assert {(case.arguments["token_dim"], case.arguments["hidden_dim"]) for case in cases} <= {(16, 32), (16, 64)}
    assert [case.width for case in cases] == [16, 16]
    assert cases[0].name == "rankmixer at width 16"
    assert [case.searches_mixing for case in cases] == [False, True]
    own = {"backbone": "rankmixer", "mixing_lr": [1e-2, 3e-2]}
    with pytest.raises(UnimixerError, match="rankmixer: this model has no learned mixing; leave mixing_lr out"):
        small_cases(toy_folder, models=[own])
    job = cases[1].job(1, Rates(1e-3, 1e-3, 1e-2))
    assert job.key.startswith("toy-lite-16wide-lr1e-3-mixing0.01-s1-")
    assert job.recipe.optimizer.mixing_lr == job.columns()["mixing_lr"] == 1e-2


def test_another_dataset_makes_other_keys_and_two_of_one_name_are_told_apart(toy_folder: Path, tmp_path: Path) -> None:
    prepare(toy_tables(seed=1), tmp_path / "other")
    asked = small_study(toy_folder, data=[str(toy_folder), str(tmp_path / "other")], models=["rankmixer"])
    study = asked.opened(tmp_path / "study")
    first, second = study.data
    assert first.name == "toy"
    assert second.name == f"toy-{second.hash[:4]}"
    keys = [one.cases[0].job(0, Rates(1e-3, 1e-3)).key for one in build_series(study)[0]]
    assert keys[0].rpartition("-")[2] != keys[1].rpartition("-")[2]
    with pytest.raises(UnimixerError, match="the study began with aaaa"):
        small_study(toy_folder, data=[{"path": str(toy_folder), "hash": "aaaa"}]).opened(tmp_path / "study")


def test_a_warm_up_doubles_samples(toy_folder: Path) -> None:
    models = ["unimixer-lite:num_blocks=1:matrices=blocks:rank=4:block_size=2:temperature.schedule=two-stage"]
    (case,) = small_cases(toy_folder, models=models, recipe={"training.max_steps": 3})
    assert (case.stages, case.steps, case.samples) == (2, 3, 2 * 3 * 128)


def test_counts_and_names_in_short() -> None:
    assert [short(n) for n in (999, 12_000, 1_500_000, 2_000_000_000)] == ["999", "12K", "1.5M", "2B"]
    assert slug("a: tau_end 0.05, x") == "a-tau-end-0.05-x"
