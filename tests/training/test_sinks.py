"""Trackers beside the run folder: what they get, and what happens without them."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tiny import tiny_recipe

from unimixer.errors import UnimixerError
from unimixer.training.run import RunFolder
from unimixer.training.train import train


class FakeMLflow(ModuleType):
    """Remembers what a run logs."""

    def __init__(self, *, broken: str | None = None) -> None:
        super().__init__("mlflow")
        self.__spec__ = pytest.__spec__
        self.calls: list[tuple[Any, ...]] = []
        self.broken = broken

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # modules are asked for their file by others
            raise AttributeError(name)

        def call(*values: Any, **named: Any) -> None:
            if name == self.broken:
                raise ValueError("the server\nsays no")
            self.calls.append((name, *values, *named.values()))

        return call


class FakeWandB(ModuleType):
    """Remembers what a run logs."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.__spec__ = pytest.__spec__
        self.settings: dict[str, Any] = {}
        self.logged: list[tuple[dict[str, float], int]] = []
        self.finished = False

    def init(self, **settings: Any) -> Any:
        self.settings = settings
        return self

    def log(self, values: dict[str, float], step: int) -> None:
        self.logged.append((values, step))

    def finish(self) -> None:
        self.finished = True


def trained(folder: Path, data: Path, name: str) -> RunFolder:
    changes = (f"training.trackers=[{name}]", "training.max_steps=2", "metrics=[ndcg@5]")
    return train(tiny_recipe(data, *changes), folder=folder, quiet=True)


def test_mlflow_gets_the_numbers_of_the_run(toy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeMLflow()
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run = trained(tmp_path / "run", toy_folder, "mlflow")
    calls = {name: [call[1:] for call in fake.calls if call[0] == name] for name, *_ in fake.calls}
    assert calls["set_tracking_uri"] == [((tmp_path / "mlruns").resolve().as_uri(),)]
    assert calls["set_experiment"] == [("tiny",)]
    assert calls["log_params"][0][0]["training.trackers"] == "['mlflow']"
    metrics, step = next(call for call in calls["log_metrics"] if "test/is_click/auc" in call[0])
    test = (run.result or {})["test"]["is_click"]
    assert (metrics["test/is_click/auc"], metrics["test/is_click/ndcg_at_5"], step) == (test["auc"], test["ndcg@5"], 2)
    assert "end_run" in calls
    assert not list((tmp_path / "run").glob("events.*"))


def test_wandb_runs_offline_in_the_run_folder(
    toy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeWandB()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    trained(tmp_path / "run", toy_folder, "wandb")
    assert (fake.settings["mode"], fake.settings["dir"]) == ("offline", str(tmp_path / "run"))
    assert any("validation/is_click/auc" in values for values, _ in fake.logged)
    assert fake.finished


@pytest.mark.parametrize("call", ["start_run", "log_metrics"])
def test_a_tracker_that_fails_does_not_end_the_run(
    call: str, toy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", FakeMLflow(broken=call))
    run = trained(tmp_path / "run", toy_folder, "mlflow")
    assert "the run goes on without MLflow: the server" in (run.folder / "train.log").read_text()
    assert run.result is not None


def test_a_missing_tracker_is_one_sentence_before_the_run(
    toy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UnimixerError, match=r"training\.trackers: wandb is not installed; pip install wandb"):
        trained(tmp_path / "run", toy_folder, "wandb")
    assert not (tmp_path / "run").exists()
