"""Laws of balanced experts and of communication that runs beside computation.

Their source is the SGLang code of releases 0.5.15 and 0.5.23, read there and not executed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from search_spaces.law_case import V0523, RoleCase, Violation, redundant_experts_for
from search_spaces.recipe import A2A_BACKENDS

WATERFILL_BACKENDS = {True: ("deepep", "megamoe"), False: ("deepep",)}
"""All-to-all backends that spread the shared expert; key: from 0.5.23 on."""


def _balance_laws(case: RoleCase) -> Iterator[Violation]:
    group, model = case.group, case.model
    if group.eplb and group.moe_ep == 1:
        yield case.hard(
            "eplb-ep",
            f"eplb=true needs expert-parallel ranks to balance; set moe_ep={group.tp} or eplb=false",
        )
    dispatched = group.eplb or group.expert_location != "trivial" or group.expert_dispatch is not None
    needed = redundant_experts_for(model.num_experts, group.moe_ep)
    if group.redundant_experts > needed and not dispatched:
        yield case.soft(
            "idle-experts",
            f"redundant_experts={group.redundant_experts} takes memory and gets no token: without eplb, "
            f"expert_location or expert_dispatch a token follows its expert's number; set eplb=true or "
            f"redundant_experts={needed}",
        )
    if not dispatched or group.moe_backend in A2A_BACKENDS:
        return
    if case.version < V0523 and group.redundant_experts:
        yield case.hard(
            "replica-agreement",
            f"redundant_experts={group.redundant_experts} with moe_backend={group.moe_backend}: each rank of "
            f"{case.engine_version} picks a copy by itself and the sums are wrong; set redundant_experts=0, "
            "an all-to-all backend, or engine 0.5.23",
        )
    if case.version >= V0523 and group.expert_dispatch == "static":
        yield case.hard(
            "replica-agreement",
            f"expert_dispatch=static with moe_backend={group.moe_backend} is refused: ranks must agree on a "
            "copy; set expert_dispatch=dynamic or an all-to-all backend",
        )


def _waterfill_laws(case: RoleCase) -> Iterator[Violation]:
    group = case.group
    if not group.waterfill:
        return
    backends = WATERFILL_BACKENDS[case.version >= V0523]
    if group.moe_backend not in backends or group.moe_ep == 1:
        yield case.hard(
            "waterfill-backend",
            f"waterfill=true needs moe_ep > 1 and moe_backend={' or '.join(backends)} in "
            f"{case.engine_version}, got {group.moe_ep} and {group.moe_backend} (the engine would switch to "
            "deepep by itself); set waterfill=false or such a backend",
        )
    if group.expert_weights != "fp8":
        yield case.hard(
            "waterfill-weights",
            f"waterfill=true with expert_weights={group.expert_weights}: the checkpoint's shared expert is "
            "FP8 and does not fit a slot of the routed experts; set waterfill=false or expert_weights=fp8",
        )


def _overlap_laws(case: RoleCase) -> Iterator[Violation]:
    group = case.group
    asked = {"two_batch_overlap": group.two_batch_overlap, "single_batch_overlap": group.single_batch_overlap}
    for name in (name for name, on in asked.items() if on and group.moe_backend == "megamoe"):
        yield case.hard(
            "megamoe-overlap",
            f"{name}=true is incompatible with moe_backend=megamoe, one kernel that already overlaps; "
            f"set {name}=false",
        )
    if group.moe_backend != "megamoe" and group.two_batch_overlap:
        yield from _two_batch_laws(case)
    low_latency = group.deepep_mode == "low_latency" or (group.deepep_mode == "auto" and not case.prefills)
    if group.single_batch_overlap and group.moe_backend != "megamoe":
        if group.moe_backend != "deepep":
            yield case.soft(
                "single-batch-overlap",
                f"single_batch_overlap=true hides DeepEP's communication and moe_backend={group.moe_backend} "
                "has none; set it to false",
            )
        elif not low_latency:
            yield case.hard(
                "single-batch-overlap",
                f"single_batch_overlap=true needs DeepEP's low-latency layout in every step, got "
                f"deepep_mode={group.deepep_mode} on a worker that prefills; set deepep_mode=low_latency",
            )


def _two_batch_laws(case: RoleCase) -> Iterator[Violation]:
    group, off = case.group, "set two_batch_overlap=false"
    if group.moe_backend not in A2A_BACKENDS and group.attention_dp == 1:
        yield case.hard(
            "two-batch-overlap",
            f"two_batch_overlap=true with moe_backend={group.moe_backend} needs DP attention, got "
            f"attention_dp=1; {off} or attention_dp={group.tp}",
        )
    elif not case.prefills:
        yield case.soft(
            "two-batch-overlap",
            f"two_batch_overlap=true splits prefill steps only, and this worker has none; {off}",
        )
    elif group.pp > 1:
        yield case.soft(
            "two-batch-overlap", f"two_batch_overlap=true is ignored with pp={group.pp}; {off} or pp=1"
        )
    elif group.moe_backend == "deepep" and group.deepep_mode == "low_latency":
        yield case.soft(
            "two-batch-overlap",
            f"two_batch_overlap=true is ignored with deepep_mode=low_latency; {off} or deepep_mode=auto",
        )
    if group.prefill_graph and case.version >= V0523:
        yield case.soft(
            "two-batch-overlap",
            f"prefill_graph=true is ignored with two_batch_overlap in {case.engine_version}; {off} or "
            "prefill_graph=false",
        )


EXPERT_LAWS: tuple[Callable[[RoleCase], Iterator[Violation]], ...] = (
    _balance_laws,
    _waterfill_laws,
    _overlap_laws,
)
"""Laws of one role, in the order in which violations are reported."""
