"""Benchmarks: what the parts cost on this machine, against a reference that they must agree with and against ceilings.

Part of the package and not of its tests, so that whoever installed it can measure a machine of their own.
"""

from unimixer.bench.base import Benchmark, Case, Prepared, Product, Setting, UnavailableError, Work, differentiable
from unimixer.bench.compare import Comparison, compare_rows
from unimixer.bench.registry import NAMES, benchmark, select
from unimixer.bench.results import Row, read_rows, save_rows
from unimixer.bench.run import run_benchmarks

__all__ = [
    "NAMES",
    "Benchmark",
    "Case",
    "Comparison",
    "Prepared",
    "Product",
    "Row",
    "Setting",
    "UnavailableError",
    "Work",
    "benchmark",
    "compare_rows",
    "differentiable",
    "read_rows",
    "run_benchmarks",
    "save_rows",
    "select",
]
