"""Training on a sample of the negatives: the logits are those of all rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from tiny import tiny_recipe
from toy import tables_of, toy_schema

from unimixer.api import evaluate
from unimixer.data.dataset import Dataset
from unimixer.data.loader import Loader
from unimixer.data.prepare import prepare
from unimixer.data.raw.frames import frame_of
from unimixer.data.schema import Schema
from unimixer.errors import UnimixerError
from unimixer.predictor import Predictor
from unimixer.training.model import build_ranker
from unimixer.training.run import RunFolder
from unimixer.training.sampling import NegativeSampling
from unimixer.training.step import TrainStep
from unimixer.training.train import train

FEATURES = [{"name": name, "kind": "categorical", "domain": "context"} for name in ("a", "b")]


def schema(rate: float | None, *, presampled: bool = False, tasks: tuple[str, ...] = ("click",)) -> Schema:
    first = {"name": "click"} if rate is None else {"name": "click", "negative_sampling_rate": rate}
    return toy_schema(
        keys={},
        labels=[first | ({"presampled": True} if presampled else {}), *({"name": name} for name in tasks[1:])],
        split={"by": "random", "validation": 0.05, "test": 0.3},
        histories=[],
        features=FEATURES,
    )


def log(rows: int, *, shift: float = 1.5, seed: int = 0) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, 6, rows), rng.integers(0, 6, rows)
    click = rng.random(rows) < 1 / (1 + np.exp(shift - 0.5 * (a - 2.5) - 0.3 * (b - 2.5)))
    like = (rng.random(rows) < 0.2 + 0.1 * (a > 2)) & click | (rng.random(rows) < 0.05)
    return pl.DataFrame({"a": a, "b": b, "click": click.astype(int), "like": like.astype(int)})


def run_on(frame: pl.DataFrame, chosen: Schema, folder: Path, *changes: str) -> RunFolder:
    prepare(tables_of(chosen, frame), folder / "data")
    recipe = tiny_recipe(
        folder / "data", "model.backbone=mlp", "model.options={}", "model.width=16", "optimizer.embedding_lr=0.03",
        "optimizer.dense_lr=0.03", "optimizer.decay=cosine", "training.batch_size=1024", "training.epochs=8",
        "training.eval_interval=10000",
        *changes,
    )  # fmt: skip
    return train(recipe, folder=folder / "run", quiet=True)


@pytest.mark.slow
@pytest.mark.parametrize(("rate", "rows"), [(0.1, 300_000), (0.01, 1_000_000)])
def test_predictions_are_calibrated_on_all_rows(rate: float, rows: int, tmp_path: Path) -> None:
    frame = log(rows, shift=1.5 if rate == 0.1 else 3.0)
    run = run_on(frame, schema(rate), tmp_path)
    data = Dataset(tmp_path / "data")
    kept, positives = data.summary("train").rows, data.summary("train").positives[0]
    assert (kept - positives) / (0.65 * (frame["click"] == 0).sum()) == pytest.approx(rate, rel=0.06)
    assert data.summary("test").rows == pytest.approx(0.3 * rows, rel=0.01)
    test = (run.result or {})["test"]["click"]
    assert test["calibration"] == pytest.approx(1, abs=0.02)
    assert test["positive_rate"] == pytest.approx(frame["click"].mean(), rel=0.02)
    scores = Predictor(run.folder).predict(frame_of(frame.head(20_000)))
    assert scores["click"].mean() == pytest.approx(frame["click"].mean(), rel=0.03)


def test_training_is_that_of_the_sample_up_to_a_shift_of_the_logits(tmp_path: Path) -> None:
    prepare(tables_of(schema(0.1), log(20_000)), tmp_path / "data")
    data = Dataset(tmp_path / "data")
    recipe = tiny_recipe(tmp_path / "data", "model.backbone=mlp", "model.options={}", "tasks={click: 1.0}")
    logits, columns = [], torch.tensor([0])
    batches = list(Loader(data, "train", batch_size=512, shuffle=True).batches())[:8]
    for sampling in (NegativeSampling.of(data), None):
        torch.manual_seed(0)
        model = build_ranker(recipe.model, data.transform.spec)
        if sampling is not None:
            sampling.start(model, columns)
        step = TrainStep(model, recipe, columns, total_steps=8, checkpoints=tmp_path, sampling=sampling)
        losses = [float(step([batch], number).loss) for number, batch in enumerate(batches)]
        with torch.no_grad():
            logits.append((losses, model.eval()(batches[0])))
    (corrected_losses, corrected), (plain_losses, plain) = logits
    assert corrected_losses == pytest.approx(plain_losses, abs=1e-4)
    assert (corrected - plain).numpy() == pytest.approx(np.full((512, 1), np.log(0.1)), abs=1e-3)


@pytest.mark.slow
def test_other_tasks_are_calibrated_too(tmp_path: Path) -> None:
    run = run_on(log(200_000), schema(0.1, tasks=("click", "like")), tmp_path)
    for task in ("click", "like"):
        assert (run.result or {})["test"][task]["calibration"] == pytest.approx(1, abs=0.04)


@pytest.mark.slow
def test_a_log_that_was_sampled_before_is_measured_as_if_all_rows_were_there(tmp_path: Path) -> None:
    whole = log(300_000).sort("a", "b", "click")
    kept = whole.filter((pl.col("click") == 1) | (pl.int_range(pl.len()) % 10 == 0))
    run = run_on(kept, schema(0.1, presampled=True), tmp_path)
    test = (run.result or {})["test"]["click"]
    assert test["calibration"] == pytest.approx(1, abs=0.03)
    assert test["positive_rate"] == pytest.approx(whole["click"].mean(), rel=0.03)
    kept.gather_every(3).write_parquet(tmp_path / "rows.parquet")
    found = evaluate(run.folder, rows=tmp_path / "rows.parquet")["click"]
    assert found.positive_rate == pytest.approx(whole["click"].mean(), rel=0.05)
    # the model scores all rows, whose rate is that of the whole log
    assert Predictor(run.folder).predict(whole.gather_every(7))["click"].mean() == pytest.approx(
        whole["click"].mean(), rel=0.03
    )


def test_which_rows_are_kept_depends_on_the_row_alone(tmp_path: Path) -> None:
    frame = log(4_000)
    for name, rows in (("one", 10_000), ("many", 700)):
        prepare(tables_of(schema(0.3), frame, chunk_rows=rows), tmp_path / name)
    one, many = Dataset(tmp_path / "one"), Dataset(tmp_path / "many")
    assert one.hash == many.hash
    assert one.summary("train").rows < 0.65 * 4_000


def test_the_weights_of_a_sample(tmp_path: Path) -> None:
    prepare(tables_of(schema(0.25, tasks=("click", "like")), log(4_000)), tmp_path / "data")
    sampling = NegativeSampling.of(Dataset(tmp_path / "data"))
    assert sampling is not None
    labels, columns = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([1, 0])
    assert sampling.weights(labels).tolist() == [1.0, 4.0]
    weights = sampling.task_weights(labels, columns)
    assert weights is not None
    assert weights[:, 1].tolist() == [1.0, 1.0]
    assert weights[:, 0].tolist() == pytest.approx([1 / sampling.mean, 4 / sampling.mean])
    assert sampling.shifts(columns).tolist() == pytest.approx([0.0, np.log(0.25)])
    # a probability of .2 among all rows is one of .5 in a sample of a quarter of the negatives
    assert sampling.in_sample(torch.tensor([[0.2, 0.2]]), columns).tolist()[0] == pytest.approx([0.2, 0.5])


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ({"soft": True, "negative_sampling_rate": 0.1}, "has no negatives to sample"),
        ({"presampled": True}, "presampled needs negative_sampling_rate"),
        ({"negative_sampling_rate": 0}, "negative_sampling_rate"),
    ],
)
def test_a_wrong_setting_is_one_sentence(label: dict[str, object], message: str) -> None:
    with pytest.raises(UnimixerError, match=message):
        toy_schema(labels=[{"name": "click", **label}], histories=[], features=FEATURES)


def test_one_label_samples_the_rows() -> None:
    labels = [{"name": name, "negative_sampling_rate": 0.1} for name in ("click", "like")]
    with pytest.raises(UnimixerError, match="rows are sampled by one label; leave it with the rarest"):
        toy_schema(labels=labels, histories=[], features=FEATURES)
