"""Experiments: many training runs as resumable rows, from the plan of a study or a sweep."""

from unimixer.experiments.executor import Machine, Outcome, run_jobs
from unimixer.experiments.experiment import Experiment, plan_experiment, size_experiment
from unimixer.experiments.models import Variant
from unimixer.experiments.plan import Plan, Study, Sweep, load_study
from unimixer.experiments.results import load_rows

__all__ = [
    "Experiment",
    "Machine",
    "Outcome",
    "Plan",
    "Study",
    "Sweep",
    "Variant",
    "load_rows",
    "load_study",
    "plan_experiment",
    "run_jobs",
    "size_experiment",
]
