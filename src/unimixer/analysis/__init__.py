"""Scaling laws: counting, sweeps over sizes, fits of exponents with intervals, advice, reports."""

from unimixer.analysis.joint_law import JointLaw, fit_joint
from unimixer.analysis.points import Points, check_points, read_points
from unimixer.analysis.power_law import Floor, Law, fit_law
from unimixer.analysis.scaling_laws import Analysis, Pair, analyse, analyse_jointly, compare_exponents
from unimixer.analysis.series import Reading

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
