"""Where training curves go beside the run folder: TensorBoard, MLflow, Weights & Biases."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from typing import Any, Protocol

from unimixer.errors import UnimixerError, explain, first_line
from unimixer.progress import say
from unimixer.training.config import Recipe
from unimixer.training.run import RunFolder

PACKAGES = {"tensorboard": "tensorboard", "mlflow": "mlflow", "wandb": "wandb"}


class Sink(Protocol):
    """Takes the numbers of a run."""

    name: str

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Write numbers of one step by their names."""

    def close(self) -> None:
        """Write what is left."""


def check_trackers(recipe: Recipe) -> None:
    """Raise, before a run is made, for a tracker whose package is not installed; TensorBoard may be missing."""
    for name in recipe.training.trackers:
        if name != "tensorboard" and importlib.util.find_spec(PACKAGES[name]) is None:
            raise UnimixerError(f"training.trackers: {name} is not installed; pip install {name}, or leave it out")


def open_sinks(run: RunFolder, next_step: int) -> list[Sink]:
    """Open the trackers of a run's recipe; ``next_step`` is the step that comes next.

    A run goes on without a tracker that does not open, and says so.
    """
    kinds: dict[str, type[TensorBoard | MLflow | WandB]] = {
        "tensorboard": TensorBoard,
        "mlflow": MLflow,
        "wandb": WandB,
    }
    sinks: list[Sink] = []
    for name in run.recipe.training.trackers:
        try:
            sinks.append(kinds[name](run, next_step))
        except Exception as error:  # trackers of others have errors of their own, and none is worth a run
            if name != "tensorboard" or not isinstance(error, ImportError):
                say(f"the run goes on without {kinds[name].name}: {explain(error) or first_line(error)}")
    return sinks


class TensorBoard:
    """Event files in the run folder."""

    name = "TensorBoard"

    def __init__(self, run: RunFolder, next_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # TensorBoard hides the values of a killed process for steps that are taken again
        self._writer: Any = SummaryWriter(str(run.folder), purge_step=next_step)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Write numbers."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush the file."""
        self._writer.close()


class MLflow:
    """A run of MLflow, in ``mlruns`` beside the run folder unless ``MLFLOW_TRACKING_URI`` names a store."""

    name = "MLflow"

    def __init__(self, run: RunFolder, next_step: int) -> None:
        import mlflow

        self._mlflow: Any = mlflow
        if "MLFLOW_TRACKING_URI" not in os.environ:
            self._mlflow.set_tracking_uri((run.folder.resolve().parent / "mlruns").as_uri())
        self._mlflow.set_experiment(run.recipe.name)
        self._mlflow.start_run(run_name=run.folder.name)
        self._mlflow.log_params(_flat(run.recipe.model_dump(mode="json")))

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Write numbers; names of MLflow have no ``@``."""
        self._mlflow.log_metrics({name.replace("@", "_at_"): value for name, value in values.items()}, step=step)

    def close(self) -> None:
        """End the run."""
        self._mlflow.end_run()


class WandB:
    """A run of Weights & Biases, offline in the run folder unless ``WANDB_MODE`` says otherwise."""

    name = "Weights & Biases"

    def __init__(self, run: RunFolder, next_step: int) -> None:
        import wandb

        self._run: Any = wandb.init(
            project=run.recipe.name,
            name=run.folder.name,
            dir=str(run.folder),
            mode=os.environ.get("WANDB_MODE", "offline"),
            config=run.recipe.model_dump(mode="json"),
        )

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Write numbers."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """End the run."""
        self._run.finish()


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the keys of a recipe by their dotted names, without those that are none."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        elif value is not None:
            flat[f"{prefix}{key}"] = str(value)[:500]
    return flat
