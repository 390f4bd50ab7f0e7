"""Measure a trained run: learned mixing matrices, effective ranks, attention."""

from unimixer.inspection.effective_rank import effective_rank, stable_rank
from unimixer.inspection.inspect import Inspection, inspect_run

__all__ = ["Inspection", "effective_rank", "inspect_run", "stable_rank"]
