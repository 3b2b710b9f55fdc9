"""Kernels of sampling and drafting that no table holds.

Times of two H200 that served DeepSeek-V4-Flash's widths with SGLang 0.5.15, EAGLE with three draft tokens,
24 layers, LM head per rank, greedy requests, batches of 32 and 64 per rank: kernel traces of the target's
pass, of draft passes and of the draft extension (`profiler/data/h200x2-flash-eagle-parts.json`). What grows
with the batch is carried to other widths and platforms by the bytes that it moves; what is made of many
small kernels is taken as it is.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from search_spaces.hardware import Hardware
from search_spaces.model import BYTES_BF16, BYTES_FP32, ModelSpec
from search_spaces.recipe import Mtp
from simulator.op_costs import Floats

LOGITS_BANDWIDTH = 0.43
"""Share of peak memory bandwidth at which logits become fp32 (`LogitsProcessor._copy_logits_to_buffer`)."""
ARGMAX_S = 25e-6
"""`torch.argmax` of one row."""
ARGMAX_BANDWIDTH = 0.9
"""Share of peak memory bandwidth at which further rows are read."""
MTP_PROJECTIONS_S = 13e-6
"""Norms and sum around the two projections of the MTP layer (`e_proj`, `h_proj`)."""
MTP_HEAD_S = 38e-6
"""Fifteen unfused kernels that join the streams behind the MTP layer (`DeepseekV4ModelNextN.hc_head`)."""
MTP_HEAD_SWEEPS = 14
"""How often these read or write the streams in fp32."""
ATTENTION_METADATA_S = 30e-6
"""FlashMLA's scheduling metadata, of a pass outside the target's graph."""
DRAFT_METADATA_S = 74e-6
"""Attention metadata per draft step, 31 kernels in the draft graph; none where there is one step. The last
step gets its own too, and needs none (`DeepseekV4MultiStepBackend.init_forward_metadata_in_graph`)."""
ITERATION_S = 185e-6
"""Once per iteration with drafts: positions, metadata and padding before the extension 165 microseconds,
acceptance besides its argmax 20. What lies between graphs is `HostCosts.step_gap_s`."""


def sampling_s(model: ModelSpec, hw: Hardware, rows: ArrayLike) -> Floats:
    """Logits to fp32 and the choice of a token, for `rows` logits of a rank; greedy."""
    width = np.asarray(rows, float) * model.vocab / hw.hbm_bytes_per_s
    converted = width * (BYTES_BF16 + BYTES_FP32) / LOGITS_BANDWIDTH
    found: Floats = converted + ARGMAX_S + width * BYTES_FP32 / ARGMAX_BANDWIDTH
    return found


def mtp_head_s(model: ModelSpec, hw: Hardware, tokens: ArrayLike) -> Floats:
    """Joining the streams behind the MTP layer, its norms, and its attention's metadata."""
    streams = np.asarray(tokens, float) * model.mhc_streams * model.hidden * BYTES_FP32
    fixed = MTP_PROJECTIONS_S + MTP_HEAD_S + ATTENTION_METADATA_S
    found: Floats = fixed + MTP_HEAD_SWEEPS * streams / hw.hbm_bytes_per_s
    return found


def iteration_s(mtp: Mtp) -> float:
    """Small kernels of an iteration with drafts that belong to no pass."""
    return ITERATION_S + (DRAFT_METADATA_S * mtp.num_steps if mtp.num_steps > 1 else 0.0)
