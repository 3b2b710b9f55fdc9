"""The short fidelity: a few rounds of a closed loop, read as the long run that they begin.

A run begins with all users at once and ends with the last of them alone. The round before the end has
neither: its pace, its latencies and the time that both ends take say what any number of rounds gives.
"""

from __future__ import annotations

from dataclasses import replace
from math import ceil

import numpy as np

from search_spaces.units import MS_PER_S
from simulator import loop_state as ls
from simulator.fluid import estimate
from simulator.metrics import serving_metrics
from simulator.run import Run
from simulator.setting import Setting
from simulator.simulate import metrics_of

ROUNDS = 5
"""Requests per user: batches need about four rounds to settle where prefill and decode are balanced."""
FEWEST = 160
"""Requests of a run of few users."""
FEWEST_READ = 80
"""Requests that latencies are read from, where there are so many between both ends."""
CROWDED = 512
"""Users from which some are left out who would only wait."""
LEAST_CROWD = 384
"""Users that stay at least: the pace of a round of fewer is off by up to 6 %, users come back in waves."""
USERS_PER_SERVED = 2
"""Users per request in service, by the fluid model, that keep every queue filled."""
WAITING = ("_ttft_ms", "_e2e_ms")
"""Metrics that hold the time in queues."""


def shortened(setting: Setting) -> Setting:
    """The same closed loop, short.

    Of a crowd that the recipe cannot serve at once, so many users stay as keep its queues filled: more of
    them change nothing but how long each waits.

    Raises:
        Infeasible: a role does not fit its GPUs.
    """
    users = setting.workload.concurrency
    if users > CROWDED:
        users = min(max(ceil(USERS_PER_SERVED * estimate(setting).in_service), LEAST_CROWD), users)
    count = min(max(ROUNDS * users, FEWEST), setting.workload.measured_requests)
    changes = {"concurrency": users, "num_prompts": count}
    return replace(setting, workload=setting.workload.model_copy(update=changes))


def metrics_of_whole(done: Run, whole: Setting) -> dict[str, float]:
    """Serving metrics of the whole setting, from the run of its shortened one."""
    reqs, users = done.reqs, done.setting.workload.concurrency
    sent, ended = reqs.t[:, ls.SEND], np.sort(reqs.t[:, ls.DONE])
    count, total = len(sent), whole.workload.measured_requests
    if count == total:
        return metrics_of(done)
    last = count - users
    first = max(users, last - max(users, FEWEST_READ))
    settled = np.argsort(sent, kind="stable")[first:last]
    # A whole round: users that began together come back in waves.
    pace = len(settled) / (ended[last - 1] - ended[first - 1])
    metrics = serving_metrics(
        reqs.i[settled, ls.ISL],
        reqs.i[settled, ls.OSL],
        sent[settled],
        reqs.t[settled, ls.FIRST],
        reqs.t[settled, ls.DONE],
        whole.recipe.num_gpus,
    )
    duration = ended[-1] - sent.min() + (total - count) / pace
    tokens = reqs.i[:, (ls.ISL, ls.OSL)].sum(axis=0) * total / count / duration / whole.recipe.num_gpus
    # By Little's law, a request waits for as many others as stand in the queue before it. In the first round
    # that is half of them on average.
    crowd = whole.workload.concurrency
    wait_ms = (crowd - users) / pace * MS_PER_S
    for name in (name for name in metrics if name.endswith(WAITING)):
        metrics[name] += wait_ms * (1 - crowd / (2 * total) if name.startswith("mean_") else 1)
    return metrics | {
        "duration_s": float(duration),
        "completed": float(total),
        "requests_per_s": float(total / duration),
        "total_tokens_per_s_per_gpu": float(tokens.sum()),
        "output_tokens_per_s_per_gpu": float(tokens[1]),
    }
