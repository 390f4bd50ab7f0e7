"""The same sweep and the same search on a Ray cluster; it begins one on this machine, where Ray is installed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from fake_ray import FakeRay
from inline import use_inline
from searches import SPACE, small_search
from test_local import work
from test_passes import contents
from toy import toy_tables

from unimixer.data.prepare import prepare
from unimixer.errors import MissingExtraError, UnimixerError
from unimixer.experiments import Machine
from unimixer.experiments.tuning import read_trials, run_search
from unimixer.workers.executor import Executor, Reply
from unimixer.workers.ray import executor_on

NEEDS_RAY = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed: pip install 'unimixer[sweep]'")

SWEEP = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
import ray
from sweep_case import small_sweep
from unimixer.experiments import Machine, plan_experiment
from unimixer.experiments.worker import failure, handle
from unimixer.workers.ray import executor_on

ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
folder, machine = Path(sys.argv[2]), Machine(workers=1, threads=1, ray="auto")
sweep = small_sweep(sys.argv[1], models=["rankmixer"], params=[6000], seeds=2, dense_lr=[2e-3])
planned = plan_experiment(sweep, folder, machine)
outcome = planned.compute(quiet=True)
assert [row["status"] for row in outcome.computed] == ["ok", "ok"], outcome
assert outcome.failed == []

with executor_on("auto")(handle, workers=1, threads=1, log=folder / "workers.log") as pool:
    pool.submit("bad", {"do": "train", "folder": str(folder), "recipe": {}, "columns": {"key": "bad"}})
    assert (pool.free, pool.running) == (0, ["bad"])
    replies = []
    while not replies:
        replies += [reply for reply in [pool.wait(1.0)] if reply is not None]
    assert replies[0].task == "bad" and not replies[0].died, replies
    assert "name: required" in failure(replies[0]), replies
    assert (pool.free, pool.wait(0.01)) == (1, None)
    recipe = planned.cases[0].recipe.model_dump(mode="json")
    pool.submit("lost", {"do": "measure", "recipe": recipe})  # takes a second at least
    ray.kill(next(iter(pool._busy.values())).worker)
    lost = None
    while lost is None:
        lost = pool.wait(1.0)
    assert lost.died and lost.task == "lost", lost
    assert "was lost" in failure(lost), lost
ray.shutdown()
"""


def python(*arguments: str) -> str:
    """Run Python in a process of its own, because Ray warns and leaves sockets behind; return what it prints."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@pytest.mark.slow
@NEEDS_RAY
def test_a_sweep_runs_on_a_cluster(toy_folder: Path, tmp_path: Path) -> None:
    experiments = Path(__file__).parent.parent / "experiments"
    python("-c", SWEEP, str(toy_folder), str(tmp_path / "sweep"), str(experiments))
    points = (tmp_path / "sweep" / "points.csv").read_text(encoding="utf-8").splitlines()
    assert [line.split(",")[0] for line in points] == ["model", "rankmixer", "rankmixer"]


@pytest.mark.slow
@NEEDS_RAY
def test_tune_runs_on_a_cluster_and_goes_on_without_it(toy_folder: Path, tmp_path: Path) -> None:
    search = small_search(toy_folder, tmp_path / "search")
    for name, values in (("recipe", search.plan.recipe), ("space", SPACE)):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    tune, out = ("-m", "unimixer", "tune", "--jobs", "1"), ("--out", str(search.folder))
    recipe, space = str(tmp_path / "recipe.yaml"), str(tmp_path / "space.yaml")
    python(*tune, recipe, "--space", space, *out, "--trials", "2", "--ray", "local")
    assert [row.state for row in read_trials(search.folder)] == ["finished"] * 2
    python(*tune, str(search.folder), "--trials", "3")
    assert read_trials(search.folder) == run_search(small_search(toy_folder, tmp_path / "here"), 3, quiet=True)


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'unimixer\[sweep\]'"):
        executor_on("local")


def test_ray_is_not_imported_unless_it_is_asked_for() -> None:
    modules = "unimixer.cli.scale, unimixer.experiments, unimixer.workers.ray"
    code = f"import sys, {modules}\nprint('ray' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# ---- without Ray: its calls, inside one process --------------------------------------------------------------------


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    """A cluster of two cores."""
    ray = FakeRay(cores=2)
    monkeypatch.setitem(sys.modules, "ray", ray)
    return ray


def replies_of(pool: Executor[str], count: int) -> dict[str, Reply[str]]:
    replies: dict[str, Reply[str]] = {}
    while len(replies) < count:
        reply = pool.wait(1.0)
        if reply is not None:
            replies[reply.task] = reply
    return replies


def test_workers_on_a_cluster_report_reply_and_die_as_those_of_this_machine(fake: FakeRay, tmp_path: Path) -> None:
    reports: list[int] = []
    with executor_on("local")(work, workers=4, threads=1, log=tmp_path / "log") as pool:
        assert fake.options["num_cpus"] == 4
        assert pool.free == 2  # places of the cluster
        pool.submit("counts", ("count", 3), reports.append)
        pool.submit("dies", ("exit", 7))
        assert (pool.free, pool.running) == (0, ["counts", "dies"])
        replies = replies_of(pool, 2)
        assert replies["dies"] == Reply("dies", died="ended by itself with exit code 7")
        assert replies["counts"].died is None
        assert reports == [0, 1, 2]
        pool.submit("long", ("report and sleep", 3), reports.append)
        while 3 not in reports:
            pool.wait(1.0)
        pool.stop()
        assert replies_of(pool, 1)["long"].died == "was killed by SIGTERM"
        pool.submit("lost", ("report and sleep", 7), reports.append)
        while 7 not in reports:
            pool.wait(1.0)
        fake.kill(next(iter(pool._busy.values())).worker)
        assert replies_of(pool, 1)["lost"].died == "or its machine was lost (Ray: Its node was lost)"
        assert (pool.free, pool.running, pool.wait(0.01)) == (2, [], None)
    assert fake.actors == []


def test_reports_arrive_while_the_task_runs(fake: FakeRay, tmp_path: Path) -> None:
    reports: list[int] = []
    with executor_on("local")(work, workers=1, threads=1, log=tmp_path / "log") as pool:
        pool.submit("slow", ("report and sleep", 5), reports.append)
        while not reports:
            assert pool.wait(1.0) is None
        assert (reports, pool.running) == ([5], ["slow"])


@pytest.mark.parametrize(
    ("address", "message"),
    [
        (
            "local",
            "--ray local: no cluster began on this machine (timed out); try again on a machine that is less busy",
        ),
        ("10.0.0.1:6379", "--ray 10.0.0.1:6379: no cluster answers (timed out); start one with: ray start --head"),
    ],
)
def test_a_cluster_that_does_not_answer_is_one_sentence(
    address: str, message: str, fake: FakeRay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def init(**options: object) -> None:
        raise Exception("timed\nout")  # as Ray does

    monkeypatch.setattr(fake, "init", init)
    with pytest.raises(UnimixerError, match=re.escape(message)):
        executor_on(address)(work, workers=1, threads=1, log=tmp_path / "log").__enter__()


def test_more_workers_of_a_preparation_than_cores_are_refused(fake: FakeRay, tmp_path: Path) -> None:
    sentence = "--workers 3: the cluster has 2 cores, and every worker needs one; use --workers 2 or fewer"
    with pytest.raises(UnimixerError, match=sentence):
        prepare(toy_tables(300), tmp_path / "out", workers=3, ray="auto")
    assert list(tmp_path.iterdir()) == []


def test_a_preparation_on_a_cluster_is_that_of_one_process(fake: FakeRay, tmp_path: Path) -> None:
    tables = toy_tables(1_000, chunk_rows=37)
    alone, cluster = prepare(tables, tmp_path / "1"), prepare(tables, tmp_path / "2", workers=2, ray="local")
    assert contents(alone.folder) == contents(cluster.folder)


def test_a_search_for_settings_on_a_cluster_goes_on_without_it(
    fake: FakeRay, toy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [tmp_path / name for name in ("here", "cluster")]
    run_search(small_search(toy_folder, folders[1]), 2, Machine(ray="local"), quiet=True)
    assert fake.options["num_cpus"] == 1
    use_inline(monkeypatch)
    here, cluster = (run_search(small_search(toy_folder, folder), 3, quiet=True) for folder in folders)
    assert [row.state for row in cluster] == ["finished"] * 3
    assert cluster == here
