"""Training on a sample of the negatives, with a model whose logits are those of all rows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unimixer.data.dataset import Dataset
from unimixer.data.schema import Schema
from unimixer.ranker import Ranker


@dataclass(frozen=True)
class NegativeSampling:
    r"""The sampling of a dataset: of the rows without a label, a share r was kept.

    A row of the sample is a positive with odds 1/r times those among all rows. The model gives the logit z of all rows,
    and the loss reads the logit of the sample:

    .. math:: z_\text{sample} = z - \log r, \qquad t_\text{sample} = \frac{t}{t + r (1 - t)}

    with t a soft label that joins the target. He et al., Practical Lessons from Predicting Clicks on Ads at Facebook
    (2014), section 6.3, correct the same shift after training. Other labels have no such shift: there a negative of the
    sampled label counts 1/r times, scaled to a mean of 1.

    Args:
        column: of the sampled label among the labels of a batch.
        rate: r.
        presampled: whether the whole log was sampled, or the training part alone.
        mean: mean of the weights over the training part.
    """

    column: int
    rate: float
    presampled: bool
    mean: float

    @classmethod
    def of(cls, dataset: Dataset) -> NegativeSampling | None:
        """Read the sampling of a dataset; None where all rows are there."""
        label = dataset.transform.schema.sampled_label
        if label is None or label.negative_sampling_rate is None:
            return None
        column, rate = dataset.transform.schema.label_names.index(label.name), label.negative_sampling_rate
        summary = dataset.summary("train")
        share = summary.positives[column] / summary.rows
        return cls(column, rate, label.presampled, share + (1 - share) / rate)

    def weights(self, labels: Tensor) -> Tensor:
        """Count how many rows every row stands for: ``(B, labels)`` to ``(B,)``."""
        return torch.where(labels[:, self.column] > 0, 1.0, 1.0 / self.rate)

    def task_weights(self, labels: Tensor, columns: Tensor) -> Tensor | None:
        """Weigh the rows for every task ``(B, tasks)``; None where the sampled label is the only task."""
        if columns.tolist() == [self.column]:
            return None
        own = (columns == self.column).to(labels.device)
        return torch.where(own, 1.0, self.weights(labels).unsqueeze(1) / self.mean)

    def shifts(self, columns: Tensor) -> Tensor:
        """Return log r for the task of the sampled label and 0 for the others, ``(tasks,)``."""
        return torch.where(columns == self.column, torch.tensor(self.rate).log(), torch.tensor(0.0))

    def in_sample(self, targets: Tensor, columns: Tensor) -> Tensor:
        """Turn soft targets of all rows into those of the sample; targets of 0 and 1 stay."""
        own = (columns == self.column).to(targets.device)
        return torch.where(own, targets / (targets + self.rate * (1 - targets)), targets)

    @torch.no_grad()
    def start(self, model: Ranker, columns: Tensor) -> None:
        """Move the last biases of a fresh model, so that it starts where it would start without the correction."""
        for towers in (model.towers, *model.auxiliary_towers):
            for tower, shift in zip(towers.towers, self.shifts(columns).tolist(), strict=True):
                last = tower[-1]
                assert isinstance(last, nn.Linear)
                last.bias.add_(shift)


def all_rows_weights(schema: Schema, split: str) -> float | None:
    """Return what a negative of the sampled label counts in the metrics of a split; None where all rows are there.

    Args:
        schema: of the dataset.
        split: its part; ``new`` for rows from outside, which are sampled where the log was.
    """
    label = schema.sampled_label
    if label is None or label.negative_sampling_rate is None or not (label.presampled or split == "train"):
        return None
    return 1 / label.negative_sampling_rate
