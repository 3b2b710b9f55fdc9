"""What SGLang fills in when a DeepSeek-V4 recipe leaves a flag out.

Source: server-argument handling of SGLang 0.5.15 (and 0.5.23 where named).
"""

from __future__ import annotations

from typing import Literal

from engine_adapter.flag_table import NEW_FLAGS, Role
from search_spaces.errors import BadInput
from search_spaces.hardware import Hardware
from search_spaces.recipe import MoeActivation, MoeBackend
from search_spaces.units import BYTES_PER_GIB, BYTES_PER_MIB

ExpertWeights = Literal["mxfp4", "nvfp4", "fp8"]

MAX_RUNNING_REQUESTS = 256
"""Requests per worker; the DeepSeek-V4 model hook fills this in before any other default."""
LARGE_GPU_GIB = 160
SWA_RATIO = 0.1
SWA_RATIO_FLAG_DEFAULT = 0.8
"""Flag default of 0.5.15, which it cannot tell from an explicit 0.8 and replaces by 0.1."""
MTP_STEPS = 3
"""Draft steps when only the algorithm is named: the engine's (3, 1, 4)."""
HICACHE_RATIO = 2.0
MIN_RESERVE_MIB = 10_240
"""Least memory left outside the static share on GPUs above 60 GB, MiB."""
PREFILL_GRAPH_RESERVE_MIB = 1_536
DEEPEP_RESERVE_MIB = 2_048


def is_large_gpu(hardware: Hardware) -> bool:
    """Whether the GPU falls in the engine's class of 160 GB and more."""
    return hardware.hbm_bytes >= LARGE_GPU_GIB * BYTES_PER_GIB


def chunk_tokens(hardware: Hardware) -> int:
    """Default `chunked-prefill-size` of a worker, tokens."""
    return 16384 if is_large_gpu(hardware) else 8192


def graph_max_batch(hardware: Hardware, tp: int, max_running: int, version: tuple[int, ...]) -> int:
    """Default largest decode graph per rank; 0.5.23 also clamps it to the running limit."""
    batch = 512 if is_large_gpu(hardware) or tp >= 4 else 256
    return min(batch, max_running) if version >= NEW_FLAGS else batch


def mem_fraction_static(
    hardware: Hardware,
    role: Role,
    *,
    num_gpus: int,
    attention_dp: int,
    chunk: int,
    max_running: int,
    draft_tokens: int,
    graph_batch: int,
    prefill_graph: bool,
    deepep: bool,
) -> float:
    """Default static memory share of a worker of `num_gpus` = tp x pp.

    `chunk` and `max_running` are per worker, `graph_batch` per rank. The engine reserves, in MiB:
    512, plus 1.5 per token of the largest step, 128 per GPU of the worker, and graph buffers.
    """
    total_mib = hardware.hbm_bytes / BYTES_PER_MIB
    step_tokens = max_running * draft_tokens if role == "decode" else chunk
    reserve = 512 + 1.5 * max(step_tokens, 2048) + 128 * num_gpus
    if role != "prefill":
        reserve += 2 * graph_batch
        if attention_dp > 1:
            reserve += (4.5 if graph_batch > 300 else 3.0) * graph_batch * attention_dp
    if prefill_graph:
        reserve += PREFILL_GRAPH_RESERVE_MIB
    if hardware.hbm_bytes > 60 * BYTES_PER_GIB:
        reserve = max(reserve, MIN_RESERVE_MIB)
    if deepep and graph_batch > 0:
        reserve += DEEPEP_RESERVE_MIB
    share = round((total_mib - reserve) / total_mib, 3)
    if share <= 0:
        raise BadInput(
            f"mem-fraction-static is absent and the engine's default would be {share} on {hardware.name} "
            f"(reserve {reserve:.0f} MiB of {total_mib:.0f}); state mem-fraction-static"
        )
    return share


def moe_backend(hardware: Hardware, weights: ExpertWeights, version: tuple[int, ...]) -> MoeBackend:
    """Expert kernels the engine picks without an all-to-all backend or a runner flag.

    NVFP4 experts take `flashinfer_trtllm_routed`; MXFP4 experts take `flashinfer_mxfp4` on SM100
    and, from 0.5.23, on SM90 (`marlin` before); FP8 experts take `triton`.
    """
    if weights == "nvfp4":
        return "flashinfer_trtllm_routed"
    if weights == "fp8":
        return "triton"
    return "flashinfer_mxfp4" if hardware.sm >= 100 or version >= NEW_FLAGS else "marlin"


def moe_activation(backend: MoeBackend, hardware: Hardware, w4a4: bool) -> MoeActivation:
    """Precision of the expert GEMM activations that `backend` runs on this GPU.

    Only MegaMoE has a choice (`w4a4`); Marlin, and FlashInfer MXFP4 on SM90, keep 16-bit
    activations; NVFP4 kernels quantise them to 4 bits; every other kernel runs FP8.
    """
    if backend == "megamoe":
        return "fp4" if w4a4 else "fp8"
    if backend == "marlin" or (backend == "flashinfer_mxfp4" and hardware.sm < 100):
        return "bf16"
    return "fp4" if backend == "flashinfer_trtllm_routed" else "fp8"
