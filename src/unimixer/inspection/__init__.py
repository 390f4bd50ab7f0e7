"""Measure a trained run: learned mixing matrices, interactions of fields, effective ranks, attention."""

from unimixer.inspection.effective_rank import effective_rank, stable_rank
from unimixer.inspection.inspect import Inspection, inspect_run
from unimixer.inspection.matrices import moved_share
from unimixer.inspection.start import moved_shares

__all__ = ["Inspection", "effective_rank", "inspect_run", "moved_share", "moved_shares", "stable_rank"]
