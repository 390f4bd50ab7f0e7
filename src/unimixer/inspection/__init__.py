"""Looking into a trained run: learned mixing matrices, effective ranks, attention."""

from unimixer.inspection.effective_rank import effective_rank, stable_rank
from unimixer.inspection.page import write_inspection
from unimixer.inspection.report import Inspection, inspect_run

__all__ = ["Inspection", "effective_rank", "inspect_run", "stable_rank", "write_inspection"]
