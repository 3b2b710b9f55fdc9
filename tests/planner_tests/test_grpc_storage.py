"""A study behind Optuna's gRPC proxy, shared as through a database."""

from __future__ import annotations

import socket
import threading

import optuna
import pytest

from planner.plan import plan
from planner.shared_study import storage_for
from tests.planner_tests.test_plan import SPACE, request


@pytest.fixture
def proxy(tmp_path):
    pytest.importorskip("grpc")
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = int(found.getsockname()[1])
    behind = storage_for(f"sqlite:///{tmp_path / 'study.db'}")
    thread = threading.Thread(
        target=optuna.storages.run_grpc_proxy_server,
        args=(behind,),
        kwargs={"host": "127.0.0.1", "port": port},
        daemon=True,  # it serves until the process ends; there is no call that stops it
    )
    thread.start()
    client = storage_for(f"grpc://127.0.0.1:{port}")
    assert isinstance(client, optuna.storages.GrpcStorageProxy)
    client.wait_server_ready(timeout=30)
    return f"grpc://127.0.0.1:{port}"


def test_a_plan_through_the_proxy_leaves_its_trials_there(proxy):
    result = plan(request(concurrencies=(16,), trials=2, keep=2), None, 1, spaces=[SPACE], storage=proxy)
    assert result.table.rows
    (name,) = optuna.get_all_study_names(storage_for(proxy))
    trials = optuna.load_study(study_name=name, storage=storage_for(proxy)).get_trials()
    assert [t for t in trials if "outcome" in t.user_attrs]
