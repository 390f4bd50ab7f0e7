from pathlib import Path

import torch
from tiny import tiny_recipe

from unimixer.metrics import MetricAccumulator
from unimixer.training.evaluation import user_keys
from unimixer.training.train import train


def test_impressions_without_a_user_are_left_out_of_uauc_one_by_one() -> None:
    users = torch.tensor([0, 0, 5, 5, 0])  # row 0 of the user table is "no user"
    labels = torch.tensor([[1.0], [0.0], [1.0], [0.0], [1.0]])
    logits = torch.tensor([[-9.0], [9.0], [1.0], [0.0], [0.0]])
    metrics = MetricAccumulator(("click",))
    for rows in (slice(0, 2), slice(2, 5)):
        metrics.update(logits[rows], labels[rows], user_keys(users[rows], metrics.num_rows))
    click = metrics.compute()["click"]
    assert click.uauc == 1.0  # user 5 alone, though the rows without a user are ranked the wrong way
    assert (click.users_counted, click.users_left_out) == (1, 3)


def test_a_run_measures_and_monitors_the_metrics_of_its_recipe(toy_folder: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(toy_folder, "metrics=[NDCG@5, ece]", "training.monitor=is_click.ndcg@5")
    run = train(recipe, folder=tmp_path / "run", quiet=True)
    test = (run.result or {})["test"]["is_click"]
    assert 0 < test["ndcg@5"] <= 1
    assert test["ece"] == sum(b["rows"] * abs(b["predicted"] - b["observed"]) for b in test["reliability"]) / sum(
        b["rows"] for b in test["reliability"]
    )
    best = [line["ndcg@5"] for line in run.history() if line["kind"] == "validation" and line["task"] == "is_click"]
    assert (run.result or {})["validation"]["is_click"]["ndcg@5"] == max(best)
