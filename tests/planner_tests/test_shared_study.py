"""Studies shared by processes: nothing is lost with a killed one, and nothing is simulated twice."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from planner.cluster import cluster_executor
from planner.plan import plan
from planner.plan_types import PlanRequest
from planner.shared_study import DONE, SharedStudy, storage_for
from search_spaces.errors import BadInput
from tests.planner_tests.test_plan import SPACE, request

ROOT = Path(__file__).parents[2]
PLAN = (
    sys.executable, "-m", "planner.cli", "plan", "--model", "deepseek-v4-pro", "--hardware", "gb300",
    "--num-gpus", "24", "--concurrency", "256", "--trials", "24", "--keep", "6", "--workers", "1",
)  # fmt: skip


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def server_user() -> str | None:
    """PostgreSQL refuses to run as root: its own user, or one without rights, runs it then."""
    return "postgres" if os.geteuid() == 0 else None


@pytest.fixture
def postgres(tmp_path):
    pytest.importorskip("psycopg")
    binaries = [shutil.which(name) for name in ("initdb", "postgres")]
    if None in binaries:
        pytest.skip("no PostgreSQL server is installed")
    initdb, server = map(str, binaries)
    data, port = Path(f"/tmp/servecast-pg-{os.getpid()}"), free_port()
    data.mkdir(mode=0o777)
    data.chmod(0o777)
    user = server_user()
    log = (tmp_path / "postgres.log").open("w")
    subprocess.run(
        [initdb, "-D", str(data / "db"), "-U", "plan", "-A", "trust"],
        check=True,
        stdout=log,
        cwd=data,
        user=user,
    )
    running = subprocess.Popen(
        [server, "-D", str(data / "db"), "-p", str(port), "-h", "127.0.0.1", "-k", str(data)],
        stdout=log, stderr=log, cwd=data, user=user,
    )  # fmt: skip
    url = f"postgresql://plan@127.0.0.1:{port}/postgres"
    for _ in range(100):
        try:
            storage_for(url)
            break
        except BadInput:
            time.sleep(0.2)
    yield url
    running.send_signal(signal.SIGINT)  # at once, whoever is connected
    running.wait(timeout=20)
    shutil.rmtree(data, ignore_errors=True)


def trials_of(url: str) -> list[optuna.trial.FrozenTrial]:
    storage = storage_for(url)
    return [
        trial
        for name in optuna.get_all_study_names(storage)
        for trial in optuna.load_study(study_name=name, storage=storage).get_trials(deepcopy=False)
    ]


def wait_for(condition, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.2)


def stop_in_a_trial(worker, states) -> None:
    """Stop a process while a trial is its own: it stays running although the other process finishes two."""
    for _ in range(5):
        os.kill(worker.pid, signal.SIGSTOP)
        running = {t.number for t in states(TrialState.RUNNING)}
        finished = len(states(*DONE))
        deadline = time.monotonic() + 20  # stopped inside a transaction, it keeps the other waiting
        while len(states(*DONE)) < finished + 2 and time.monotonic() < deadline:
            time.sleep(0.1)
        if len(states(*DONE)) >= finished + 2 and running & {t.number for t in states(TrialState.RUNNING)}:
            return
        os.kill(worker.pid, signal.SIGCONT)
        time.sleep(0.3)
    raise AssertionError("never stopped in a trial")


@pytest.mark.slow
def test_a_killed_worker_loses_no_finished_trial_and_its_running_one_is_tried_again(postgres, tmp_path):
    """Two real processes on one real server."""
    workers = [
        subprocess.Popen(
            [*PLAN, "--storage", postgres, "--out", str(tmp_path / name)],
            cwd=ROOT, stdout=subprocess.DEVNULL, stderr=(tmp_path / f"{name}.log").open("w"),
        )
        for name in ("one", "two")
    ]  # fmt: skip
    states = lambda *wanted: [t for t in trials_of(postgres) if t.state in wanted]  # noqa: E731
    wait_for(lambda: len(states(*DONE)) >= 2 and len(states(TrialState.RUNNING)) >= 2, 240)
    stop_in_a_trial(workers[0], states)
    kept = {t.number: t.user_attrs.get("outcome") for t in states(*DONE)}
    workers[0].kill()
    workers[0].wait()
    assert workers[1].wait(timeout=300) == 0, (tmp_path / "two.log").read_text()
    after = trials_of(postgres)
    assert {t.number: t.user_attrs.get("outcome") for t in after if t.number in kept} == kept
    failed = [t for t in after if t.state == TrialState.FAIL]
    retried = [t.system_attrs["failed_trial"] for t in after if "failed_trial" in t.system_attrs]
    assert failed and {t.number for t in failed} == set(retried)
    digests = [t.user_attrs["digest"] for t in after if t.state in DONE and "digest" in t.user_attrs]
    assert len(digests) >= 6 and (tmp_path / "two" / "dispatch.json").exists()


def test_a_second_process_takes_over_what_the_first_found(tmp_path):
    url = f"sqlite:///{tmp_path / 'study.db'}"
    first = plan(request(concurrencies=(256,)), None, 1, spaces=[SPACE], storage=url)
    again = plan(request(concurrencies=(256,)), None, 1, spaces=[SPACE], storage=url)
    simulated = [int(str(done.counts["simulations"])) for done in (first, again)]
    assert 0 < simulated[1] < simulated[0]
    assert again.table.rows[0].recipe.digest == first.table.rows[0].recipe.digest
    for pair in first.comparisons:
        assert pair.recommended_tokens_per_s_per_gpu >= pair.public_tokens_per_s_per_gpu


def test_queued_recipes_are_queued_once(tmp_path):
    storage = storage_for(f"sqlite:///{tmp_path / 'study.db'}")
    sampler = optuna.samplers.RandomSampler(seed=0)
    one = SharedStudy(storage, "x", [SPACE], sampler)
    two = SharedStudy(storage, "x", [SPACE], sampler)
    assert one.made_here and not two.made_here


@pytest.mark.parametrize("url", ["redis://x", "postgres", "grpc://x", "file.db"])
def test_unknown_storages_are_refused(url):
    with pytest.raises(BadInput, match="is no storage; write postgresql://"):
        storage_for(url)


def test_a_database_that_is_not_there_is_named():
    pytest.importorskip("psycopg")
    with pytest.raises(BadInput, match="does not answer"):
        storage_for(f"postgresql://nobody@127.0.0.1:{free_port()}/none")


@pytest.mark.parametrize("url", ["dask://", "ray://x:1", "10.0.0.1:8786"])
def test_unknown_clusters_are_refused(url):
    with pytest.raises(BadInput, match="write dask://host:port"):
        cluster_executor(url)


@pytest.mark.slow
def test_a_local_dask_cluster_gives_the_same_table():
    distributed = pytest.importorskip("distributed")
    here = plan(PlanRequest.parse(request().model_dump(), "t"), None, 1, spaces=[SPACE])
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    ) as cluster:
        address = cluster.scheduler_address.removeprefix("tcp://")
        there = plan(request(), None, 1, spaces=[SPACE], cluster=f"dask://{address}")
    assert there.table == here.table
