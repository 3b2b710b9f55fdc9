"""Where simulations run: processes of this machine, or a Dask cluster."""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

from search_spaces.errors import BadInput, MissingData

CONNECT_S = 20


def cluster_executor(url: str) -> Executor:
    """The executor of `dask://host:port`; closing it leaves the cluster running.

    Workers need this package in the same version.

    Raises:
        BadInput: the URL is of another form, or the scheduler does not answer.
        MissingData: `distributed` is not installed.
    """
    found = re.fullmatch(r"dask://([^:/]+:\d+)", url)
    if found is None:
        raise BadInput(f"cluster={url!r} is no cluster; write dask://host:port of a Dask scheduler")
    try:
        from distributed import Client
    except ImportError:
        raise MissingData(
            f"cluster={url!r} needs the package distributed; install servecast[distributed]"
        ) from None
    try:
        client = Client(f"tcp://{found[1]}", timeout=CONNECT_S, set_as_default=False)
    except OSError as error:
        raise BadInput(f"cluster={url!r} does not answer: {error}; start `dask scheduler` there") from None
    return DaskExecutor(client)


class DaskExecutor(Executor):
    """Futures of the standard library over a Dask client."""

    def __init__(self, client: Any) -> None:
        """Args: the connected client, which is closed with the executor."""
        self._client = client

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run a function on the cluster; a worker that dies has its task run elsewhere."""
        done: Future[Any] = Future()
        done.set_running_or_notify_cancel()
        remote = self._client.submit(fn, *args, pure=False, **kwargs)

        def finish(task: Any) -> None:
            error = task.exception()
            if error is not None:
                done.set_exception(error)
            else:
                done.set_result(task.result())

        remote.add_done_callback(finish)
        return done

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Disconnect."""
        self._client.close()
