"""Studies: many training runs as resumable rows, and what they say about models at equal budgets."""

from unimixer.study.cases import Case, Job, build_cases, open_stores
from unimixer.study.compare import Machine, Planned, compute_study, plan_study, report_study
from unimixer.study.execute import Outcome, run_jobs
from unimixer.study.plan import Study, Variant, load_study
from unimixer.study.rows import load_rows

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
