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
from unimixer.experiments import Machine, size_experiment

ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
folder, machine = Path(sys.argv[2]), Machine(workers=1, threads=1, ray="auto")
sweep = small_sweep(sys.argv[1], models=["rankmixer"], params=[6000], seeds=2, dense_lr=[2e-3])
planned = size_experiment(sweep, folder, machine)
outcome = planned.compute(quiet=True)
assert [row["status"] for row in outcome.computed] == ["ok", "ok"], outcome
assert outcome.failed == []

with machine.executor(folder / "workers.log") as pool:
    pool.submit("bad", {"do": "train", "folder": str(folder), "recipe": {}, "columns": {"key": "bad"}})
    assert (pool.free, pool.running) == (0, ["bad"])
    replies = []
    while not replies:
        replies += [reply for reply in [pool.wait(1.0)] if reply is not None]
    assert replies[0].task == "bad" and not replies[0].died, replies
    assert "name: required" in replies[0].values["failed"], replies
    assert (pool.free, pool.wait(0.01)) == (1, None)
    recipe = planned.cases[0].recipe.model_dump(mode="json")
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
    code = "import sys, unimixer.cli.scale, unimixer.experiments, unimixer.workers.ray\nprint('ray' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
