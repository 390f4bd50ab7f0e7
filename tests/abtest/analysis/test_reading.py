"""A reading: sums of the database equal those of the rows, checks come first, and the verdict follows."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from events_cases import database, experiment, simulate
from scipy import stats

from unimixer.abtest.analysis.reading import Reading, read_experiment
from unimixer.abtest.records import Exposure, Outcome


def test_x(tmp_path):
    plan = experiment(segments=["country"])
    events = database(tmp_path / "e.sqlite", plan, *simulate(plan, rates={"mixer": 0.3}))
    reading = read_experiment(plan, events, as_of=plan.end_us)
    for c in reading.checks: print(c)
    for e in reading.effects: print(e)
    for e in reading.segments: print(e)
    print(reading.verdict)
    assert 0
