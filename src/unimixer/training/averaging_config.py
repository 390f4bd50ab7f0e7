"""Settings of the mean of the weights."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from unimixer.settings import Settings


class AveragingConfig(Settings):
    """The mean of the dense weights over the steps; evaluation, the best weights and an export have the mean."""

    kind: Literal["none", "ema", "swa"] = "none"
    """ema: an exponential moving average over all steps. swa: the plain mean over the last steps."""
    decay: Annotated[float, Field(gt=0, lt=1)] = 0.999
    """Share of the mean that an ``ema`` keeps at a step; in the first steps t it is (1 + t) / (10 + t) if less."""
    start: Annotated[float, Field(ge=0, lt=1)] = 0.75
    """Share of the steps after which ``swa`` begins; evaluations before have the present weights."""

    @model_validator(mode="after")
    def _every_key_has_an_effect(self) -> AveragingConfig:
        both = {"decay", "start"} <= self.model_fields_set and (self.kind != "none" or self == AveragingConfig())
        for key, kind in (("decay", "ema"), ("start", "swa")):
            if key in self.model_fields_set and self.kind != kind and not both:  # a run folder writes out both
                raise ValueError(f"averaging.{key} needs averaging.kind={kind} and has no effect without; set the kind")
        return self
