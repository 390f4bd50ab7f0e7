"""Analysis of rows: differences between models and how sure they are, scaling laws, model sizes within a budget."""

from unimixer.analysis.joint_law import JointLaw, fit_joint
from unimixer.analysis.points import Points, check_points, read_points
from unimixer.analysis.power_law import IrreducibleError, Law, fit_law
from unimixer.analysis.scaling_laws import Analysis, Pair, analyze, analyze_jointly, compare_exponents
from unimixer.analysis.series import Reading

__all__ = [
    "Analysis",
    "IrreducibleError",
    "JointLaw",
    "Law",
    "Pair",
    "Points",
    "Reading",
    "analyze",
    "analyze_jointly",
    "check_points",
    "compare_exponents",
    "fit_joint",
    "fit_law",
    "read_points",
]
