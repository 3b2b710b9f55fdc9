"""Laws of DSpark and of draft lengths that adapt, of one role.

Source: `speculative_hook`, `adaptive_spec_params` and `dspark_worker_v2` of SGLang 0.5.23, read there and
not executed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from search_spaces.law_case import RoleCase, Violation
from search_spaces.mtp import DSPARK_SINCE
from search_spaces.recipe import A2A_BACKENDS


def _dspark_laws(case: RoleCase) -> Iterator[Violation]:
    group, mtp = case.group, case.group.mtp
    if mtp is None or mtp.algorithm != "dspark":
        return
    if case.version < DSPARK_SINCE:
        first = ".".join(map(str, DSPARK_SINCE))
        yield case.hard(
            "dspark-release",
            f"mtp.algorithm=dspark is unknown to {case.engine_version}; serve with {first} or later, "
            "or set algorithm=eagle",
        )
    pretended = mtp.simulated_accept_length
    if pretended is not None and pretended > 1 and not mtp.verifies_all:
        yield case.hard(
            "dspark-simulated",
            f"mtp.simulated_accept_length={pretended} may exceed what verify={mtp.verify} verifies; "
            "set verify=static",
        )
    if group.attention_dp == 1:
        return
    if not group.dp_lm_head:
        yield case.hard("dspark-dp-head", "dp_lm_head=false is refused with DSpark; set dp_lm_head=true")
    if group.moe_backend == "deepep":
        yield case.hard(
            "dspark-all-to-all",
            "moe_backend=deepep is refused with DSpark and DP attention; choose megamoe or flashinfer_mxfp4",
        )
    if group.moe_backend in A2A_BACKENDS and mtp.verify != "static":
        yield case.hard(
            "dspark-verify",
            f"mtp.verify={mtp.verify} is refused with moe_backend={group.moe_backend}; set verify=static",
        )


def _adaptive_laws(case: RoleCase) -> Iterator[Violation]:
    group, mtp = case.group, case.group.mtp
    if mtp is None or mtp.adaptive is None:
        return
    tiers = mtp.adaptive.tiers_of(case.version)
    candidates = sorted({steps for tier in tiers for steps in tier.candidate_steps})
    if mtp.num_steps not in candidates:
        yield case.hard(
            "adaptive-steps",
            f"mtp.num_steps={mtp.num_steps} must be a candidate of the adaptive tiers; "
            f"choose one of {candidates}",
        )
    if group.attention_dp > 1:
        yield case.soft(
            "adaptive-dp",
            f"mtp.adaptive is switched off by the engine with attention_dp={group.attention_dp}; remove it",
        )


DRAFT_LAWS: tuple[Callable[[RoleCase], Iterator[Violation]], ...] = (_dspark_laws, _adaptive_laws)
"""Laws beside those of every role, in the order in which violations are reported."""
