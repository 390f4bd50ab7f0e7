"""How often the p of a difference is below a level where no difference is: the exact sum of errors and Satterthwaite's.

python benchmarks/difference_levels.py

The error of other users is 1, that of other seeds a share of it. Prints for each number of seeds and each share how
many p are below .05, .01 and .001, and how much wider the exact interval is in the median.
"""

from __future__ import annotations

import argparse

import numpy as np
from scipy import stats

from unimixer.analysis.significance import half_width
from unimixer.cli import script
from unimixer.cli.output import markdown

LEVELS, SHARES, SEEDS = (0.05, 0.01, 0.001), (0.1, 0.3, 1.0, 3.0, 10.0), (2, 3, 5)
USERS = 1e6
"""Degrees of freedom of the error of users: so many that it is known."""
COLUMNS = (
    *("seeds", "error of seeds / users"),
    *(f"{name} p < {level:g}" for level in LEVELS for name in ("exact", "Satterthwaite")),
    "wider",
)


def row(seeds: int, share: float, number: int) -> list[str]:
    """One line of the table."""
    rng = np.random.default_rng(seeds)
    by_seed = share * seeds**0.5 * rng.normal(size=(number, seeds))
    estimates, errors = rng.normal(size=number) + by_seed.mean(axis=1), by_seed.std(axis=1, ddof=1) / seeds**0.5
    freedom = (1 + errors**2) ** 2 / (1 / USERS + errors**4 / (seeds - 1))
    places = np.geomspace(1e-4 * share, 10 * share, 80)
    cells, wider = [f"{seeds}", f"{share:g}"], 0.0
    for level in LEVELS:
        exact = np.interp(errors, places, [half_width(level, (1.0, USERS), (at, seeds - 1)) for at in places])
        approximate = stats.t.isf(level / 2, freedom) * (1 + errors**2) ** 0.5
        cells += [f"{np.mean(np.abs(estimates) > reach):.2%}" for reach in (exact, approximate)]
        wider = wider or float(np.median(exact / approximate)) - 1  # of the 95% interval
    return [*cells, f"{wider:.0%}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--number", type=int, default=200_000, help="simulated differences of a line")
    number = parser.parse_args().number
    print(markdown(COLUMNS, [row(seeds, share, number) for seeds in SEEDS for share in SHARES]))


if __name__ == "__main__":
    script(main)
