"""Scaling laws: counting, sweeps over sizes, fits of exponents with intervals, advice, reports."""

from unimixer.scaling.analysis import Analysis, analyse, analyse_jointly
from unimixer.scaling.exponents import Pair, compare_exponents
from unimixer.scaling.joint import JointLaw, fit_joint
from unimixer.scaling.points import Points, check_points, read_points
from unimixer.scaling.power_law import Floor, Law, fit_law
from unimixer.scaling.series import Reading

__all__ = [
    "Analysis",
    "Floor",
    "JointLaw",
    "Law",
    "Pair",
    "Points",
    "Reading",
    "analyse",
    "analyse_jointly",
    "check_points",
    "compare_exponents",
    "fit_joint",
    "fit_law",
    "read_points",
]
