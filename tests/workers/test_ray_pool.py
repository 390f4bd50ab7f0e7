"""The same sweep on a Ray cluster; it begins one on this machine, where Ray is installed."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from unimixer.errors import MissingExtraError
from unimixer.workers import ray as ray_pool

NEEDS_RAY = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed: pip install 'unimixer[sweep]'")

SWEEP = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
import ray
from sweep_case import small_sweep
from unimixer.experiments.sweep_config import build_ladders, open_sweep
from unimixer.workers.ray import on_ray
from unimixer.experiments.run_sweep import PlannedSweep, compute_sweep
from unimixer.experiments import Machine

ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
folder, executor = Path(sys.argv[2]), on_ray("auto")
sweep = open_sweep(small_sweep(sys.argv[1], models=["rankmixer"], params=[6000], seeds=2, dense_lr=[2e-3]), folder)
planned = PlannedSweep(sweep, *build_ladders(sweep))
outcome = compute_sweep(planned, folder, Machine(workers=1, threads=1), quiet=True, executor=executor)
assert [row["status"] for row in outcome.computed] == ["ok", "ok"], outcome
assert outcome.failed == []

with executor(workers=1, threads=1, log=folder / "workers.log") as pool:
    pool.submit("bad", {"do": "train", "folder": str(folder), "recipe": {}, "columns": {"key": "bad"}})
    assert (pool.free, pool.running) == (0, ["bad"])
    replies = []
    while not replies:
        replies += [reply for reply in [pool.wait(1.0)] if reply is not None]
    assert replies[0].task == "bad" and not replies[0].died, replies
    assert "name: required" in replies[0].values["failed"], replies
    assert (pool.free, pool.wait(0.01)) == (1, None)
    recipe = planned.ladders[0].cases[0].recipe.model_dump(mode="json")
    pool.submit("lost", {"do": "measure", "recipe": recipe})  # takes a second at least
    ray.kill(next(iter(pool._busy.values()))[0])
    lost = None
    while lost is None:
        lost = pool.wait(1.0)
    assert lost.died and lost.task == "lost", lost
    assert "was lost" in lost.values["failed"], lost
ray.shutdown()
"""


@pytest.mark.slow
@NEEDS_RAY
def test_a_sweep_runs_on_a_cluster(toy_folder: Path, tmp_path: Path) -> None:
    here = Path(__file__).parent
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0", "PYTHONWARNINGS": "ignore"}
    # Ray warns and leaves sockets behind, so it gets a process of its own
    done = subprocess.run(
        [sys.executable, "-c", SWEEP, str(toy_folder), str(tmp_path / "sweep"), str(here)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    points = (tmp_path / "sweep" / "points.csv").read_text(encoding="utf-8").splitlines()
    assert [line.split(",")[0] for line in points] == ["model", "rankmixer", "rankmixer"]


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'unimixer\[sweep\]'"):
        ray_pool.on_ray("local")


def test_ray_is_not_imported_unless_it_is_asked_for() -> None:
    modules = "unimixer.cli.scale, unimixer.experiments.run_sweep, unimixer.workers.ray"
    code = f"import sys, {modules}\nprint('ray' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
