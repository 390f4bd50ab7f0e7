"""Studies: many training runs as resumable rows, and what they say about models at equal budgets."""

from unimixer.experiments.cases import Case, Job, build_cases, open_stores
from unimixer.experiments.executor import Outcome, run_jobs
from unimixer.experiments.results import load_rows
from unimixer.experiments.run_study import Machine, Planned, compute_study, plan_study, report_study
from unimixer.experiments.study_config import Study, Variant, load_study

__all__ = [
    "Case",
    "Job",
    "Machine",
    "Outcome",
    "Planned",
    "Study",
    "Variant",
    "build_cases",
    "compute_study",
    "load_rows",
    "load_study",
    "open_stores",
    "plan_study",
    "report_study",
    "run_jobs",
]
