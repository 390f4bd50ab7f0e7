"""The settings of a label: an outcome of the impression, and how its negatives were sampled."""

from __future__ import annotations

from typing import Any

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from unimixer.settings import Settings


class Label(Settings):
    """An outcome of the impression: 0 or 1, or the probability of 1."""

    name: str
    source: str | None = None
    """Column that it is read from (default: the name)."""
    threshold: float | None = None
    """The label is ``source >= threshold``; without it the column must hold 0 and 1 only."""
    probability: str | None = None
    """Column with the true probability, where a simulator knows it: the best reachable AUC follows from it."""
    soft: bool = False
    """The column holds a probability in [0, 1], which is learned by its cross entropy."""
    negative_sampling_rate: float | None = Field(default=None, gt=0, le=1)
    """Share of the rows with label 0 that the training part keeps; logits are corrected to those of all rows."""
    presampled: bool = False
    """The log itself holds only that share of the rows with label 0, in all its parts."""

    @property
    def column(self) -> str:
        """The raw column."""
        return self.source or self.name

    @model_validator(mode="after")
    def _soft_has_no_threshold(self) -> Label:
        if self.soft and self.threshold is not None:
            raise ValueError(
                f"label {self.name!r}: a soft label is a probability and has no threshold; drop one of them"
            )
        if self.soft and self.negative_sampling_rate is not None:
            raise ValueError(f"label {self.name!r}: a soft label has no negatives to sample; sample another label")
        if self.presampled and self.negative_sampling_rate is None:
            raise ValueError(f"label {self.name!r}: presampled needs negative_sampling_rate, the share that was kept")
        return self

    @model_serializer(mode="wrap")
    def _without_the_default(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out flags that are not set, so that the files of older datasets keep their bytes."""
        values: dict[str, Any] = serialize(self)
        flags = ("soft", "presampled", "negative_sampling_rate")
        return {key: value for key, value in values.items() if value or key not in flags}
