"""The table of requests that the compiled loop works on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from simulator import loop_state as ls
from simulator.acceptance import decode_iterations
from simulator.memory import PAGE_TOKENS, swa_tail_tokens, transfer_bytes
from simulator.rng import stream
from simulator.traffic import Traffic

if TYPE_CHECKING:
    from simulator.world import Setting


def request_table(setting: Setting, drawn: Traffic) -> ls.Requests:
    """Requests before they are sent: lengths, decode steps, what they hold and how long they travel."""
    isl, osl = drawn.isl, drawn.osl
    serving, count = setting.recipe.serving, len(isl)
    iters = decode_iterations(
        osl,
        serving.mtp,
        setting.calibration,
        setting.stack,
        setting.workload,
        stream(setting.seed, "acceptance"),
    )
    ints = np.zeros((count, ls.NUM_REQ_INTS), dtype=np.int64)
    ints[:, ls.ISL], ints[:, ls.OSL], ints[:, ls.ITERS] = isl, osl, iters
    ints[:, ls.P_GROUP] = ints[:, ls.P_RANK] = ints[:, ls.HIT] = -1
    ints[:, ls.FOLLOW] = drawn.follow
    if drawn.tree is not None:
        ints[:, ls.PROMPT], ints[:, ls.ANSWER] = drawn.tree.prompt, drawn.tree.answer
    swa = np.ceil(swa_tail_tokens(isl) / PAGE_TOKENS) * PAGE_TOKENS
    if not setting.stack.has("swa_tail_prealloc") and setting.recipe.is_disaggregated:
        swa = np.ceil(isl / PAGE_TOKENS) * PAGE_TOKENS
    transfer = np.zeros(count)
    if setting.recipe.prefill is not None:
        transfer = _transfer_seconds(setting, isl)
    return ls.Requests(
        i=ints,
        t=np.full((count, ls.NUM_TIMES), -1.0),
        link=np.full(count, -1, dtype=np.int64),
        transfer_s=transfer,
        swa=swa.astype(float),
    )


def _transfer_seconds(setting: Setting, isl: NDArray[np.int64]) -> NDArray[np.float64]:
    """Hand-over of a prompt's last chunk; the chunks before it travelled while later ones computed."""
    prefill, hw = setting.recipe.prefill, setting.hardware
    assert prefill is not None and setting.model is not None and hw is not None
    before = (isl - 1) // prefill.chunk_tokens_per_rank * prefill.chunk_tokens_per_rank
    size = transfer_bytes(setting.model, isl, prefill, before)
    one_domain = setting.recipe.num_gpus <= hw.nvlink_domain_gpus and hw.nvlink_domain_gpus > hw.gpus_per_node
    link = hw.nvlink_bytes_per_s if one_domain else hw.nic_bytes_per_s
    seconds = setting.calibration.transfer_latency_s + size / (link * setting.calibration.transfer_efficiency)
    found: NDArray[np.float64] = seconds * setting.relief.transfer_time
    return found
