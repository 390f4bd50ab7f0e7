"""Search for the settings of a recipe: trials on validation, and the best recipe as a file."""

from unimixer.experiments.tuning.confirm import confirm
from unimixer.experiments.tuning.default_space import default_space
from unimixer.experiments.tuning.plan import OpenSearch, Search, open_search
from unimixer.experiments.tuning.search import BEST, best_trial, run_search
from unimixer.experiments.tuning.space import read_space
from unimixer.experiments.tuning.storage import TrialRow, read_trials

__all__ = [
    "BEST",
    "OpenSearch",
    "Search",
    "TrialRow",
    "best_trial",
    "confirm",
    "default_space",
    "open_search",
    "read_space",
    "read_trials",
    "run_search",
]
