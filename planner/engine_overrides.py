"""What SGLang does differently from what a recipe says, without an error.

Source: server arguments, memory pools, scheduler and graph runner of SGLang 0.5.15 and 0.5.23, read there
and not executed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from engine_adapter import engine_defaults as defaults
from engine_adapter.flag_table import (
    ENV_REMOVED_IN_NEW,
    ENV_UNKNOWN,
    FORCED_FLAGS,
    ONLINE_MTP_ENV,
    REMOVED_IN_NEW,
)
from search_spaces.base import Noun
from search_spaces.law_case import V0523, RoleCase
from search_spaces.recipe import A2A_BACKENDS
from search_spaces.role_laws import megamoe_cap
from simulator.memory import PAGE_TOKENS, graph_buckets, num_slots


class Override(Noun):
    """One setting of a role that the engine changes or ignores without saying so."""

    field: str
    """Recipe field or engine flag."""
    asked: str
    """What the recipe says; `unset` where it leaves the choice to the engine."""
    runs: str
    """What the engine does."""
    reason: str


def decode_graphs_disabled(case: RoleCase) -> str | None:
    """Why no decode graph is captured whatever size is asked; None when graphs are captured."""
    group = case.group
    if not case.decodes:
        return "a prefill worker runs no decode steps and captures no decode graphs"
    if group.graph_max_batch_per_rank == 0:
        return "decode graphs are switched off"
    if group.moe_backend == "deepep" and group.deepep_mode == "normal":
        return "DeepEP's normal mode cannot be captured"
    return None


def _graph_overrides(case: RoleCase) -> Iterator[Override]:
    group = case.group
    disabled = decode_graphs_disabled(case)
    asked = group.graph_max_batch_per_rank
    if not case.decodes and group.prefill_graph and case.version < V0523:
        yield Override(
            field="prefill_graph",
            asked="true",
            runs="false",
            reason=f"{case.engine_version} switches all graphs off on prefill workers",
        )
    if case.decodes and asked and disabled:
        yield Override(
            field="graph_max_batch_per_rank", asked=str(asked), runs="no decode graphs", reason=disabled
        )
    if disabled is not None:
        return
    largest = graph_buckets(group)[-1]
    if largest < asked:
        yield Override(
            field="graph_max_batch_per_rank",
            asked=str(asked),
            runs=str(largest),
            reason=f"graphs are clipped to the {group.max_running_per_rank} request slots of a rank",
        )
    if group.attention_dp > 1 and not group.local_graph_buckets:
        missing = [
            text
            for text, absent in (
                ("dense_tp1=true (moe-dense-tp-size 1)", not group.dense_tp1),
                ("dp_lm_head=true (enable-dp-lm-head)", not group.dp_lm_head),
                (f"an all-to-all moe_backend ({' or '.join(sorted(A2A_BACKENDS))})",
                 group.moe_backend not in A2A_BACKENDS),
            )
            if absent
        ]  # fmt: skip
        yield Override(
            field="graph buckets",
            asked="unset",
            runs="global: every rank pads to the bucket of the largest rank",
            reason=f"local buckets also need {' and '.join(missing)}",
        )


def _memory_overrides(case: RoleCase) -> Iterator[Override]:
    group = case.group
    if group.swa_full_tokens_ratio == defaults.SWA_RATIO_FLAG_DEFAULT and case.version < V0523:
        yield Override(
            field="swa_full_tokens_ratio",
            asked=f"{group.swa_full_tokens_ratio:g}",
            runs=f"{defaults.SWA_RATIO:g}",
            reason=f"{case.engine_version} cannot tell its flag default from an explicit value; the pools "
            "shown here are for the value asked",
        )
    if group.online_compress and group.mtp:
        allowed = ONLINE_MTP_ENV in group.extra_env
        yield Override(
            field="online_compress",
            asked="true",
            runs="state rows for every draft token" if allowed else "the engine refuses to start",
            reason=f"online compression excludes MTP unless {ONLINE_MTP_ENV} is set; the slot state shown "
            "here is the offline one",
        )
    if group.mtp and group.mtp.adaptive is not None and group.attention_dp > 1:
        yield Override(
            field="mtp.adaptive",
            asked="draft steps that follow acceptance",
            runs=f"{group.mtp.num_steps} draft steps",
            reason="DP ranks would not decide alike",
        )
    cap = group.max_total_tokens
    if cap is not None and cap % PAGE_TOKENS:
        yield Override(
            field="max_total_tokens",
            asked=str(cap),
            runs=str(cap // PAGE_TOKENS * PAGE_TOKENS),
            reason=f"pools are whole pages of {PAGE_TOKENS} tokens",
        )
    extra = num_slots(group, case.role == "decode") - group.max_running_per_rank
    if extra:
        yield Override(
            field="max_running_per_rank",
            asked=f"{group.max_running_per_rank} slots",
            runs=f"{group.max_running_per_rank + extra} slots",
            reason="a small decode worker reserves slots, and their state, for requests in transfer",
        )
    if group.fp4_indexer:
        yield Override(
            field="fp4_indexer",
            asked="true",
            runs="true, charged as FP8",
            reason="the memory budget counts 132 bytes per key although 68 are stored",
        )


def _default_overrides(case: RoleCase) -> Iterator[Override]:
    group = case.group
    if group.moe_backend == "megamoe" and group.megamoe_cap_tokens is None:
        yield Override(
            field="megamoe_cap_tokens",
            asked="unset",
            runs=str(megamoe_cap(group, case.engine_version)),
            reason=f"default of {case.engine_version}; it is 1024 before 0.5.23 and 8192 from there on",
        )
    dp = group.attention_dp
    for field, default in (
        ("max_running_per_rank", defaults.MAX_RUNNING_REQUESTS),
        ("chunk_tokens_per_rank", defaults.chunk_tokens(case.hardware)),
    ):
        value = getattr(group, field)
        if default % dp and value == default // dp:
            yield Override(
                field=field,
                asked=f"{default} per worker",
                runs=f"{value} per rank, {value * dp} per worker",
                reason=f"the engine divides by the {dp} attention ranks and rounds down",
            )


def _schedule_overrides(case: RoleCase) -> Iterator[Override]:
    group = case.group
    if case.prefills and group.max_prefill_tokens < group.chunk_tokens_per_rank:
        yield Override(
            field="chunk_tokens_per_rank",
            asked=str(group.chunk_tokens_per_rank),
            runs=f"batches of several prompts stop at {group.max_prefill_tokens}",
            reason="max_prefill_tokens is checked after each prompt and is not divided by attention_dp; a "
            "single long prompt still fills the chunk",
        )
    if case.role == "decode" and not group.radix_cache:
        yield Override(
            field="radix_cache",
            asked="unset",
            runs="false",
            reason="a decode worker has no prefix cache unless disaggregation-decode-enable-radix-cache",
        )
    if case.role == "decode" and group.prefill_delayer:
        yield Override(
            field="prefill_delayer",
            asked="true",
            runs="false",
            reason="decode workers ignore the delayer",
        )
    if case.role == "aggregated" and group.attention_dp > 1:
        yield Override(
            field="schedule_conservativeness",
            asked=f"{group.schedule_conservativeness:g}",
            runs=f"{0.3 * group.schedule_conservativeness:g}",
            reason="DP attention multiplies it by 0.3",
        )


def _ignored(case: RoleCase) -> Iterator[Override]:
    """Flags and variables kept for export that this release does not read."""
    group, new = case.group, case.version >= V0523
    reasons = (
        (FORCED_FLAGS, group.extra_flags, "the forced value", "forced for this model family"),
        (ENV_UNKNOWN, group.extra_env, "ignored", "no release reads it"),
        (ENV_REMOVED_IN_NEW if new else frozenset[str](), group.extra_env, "ignored",
         f"{case.engine_version} no longer reads it"),
        (REMOVED_IN_NEW if new else frozenset[str](), group.extra_flags, "left out on export",
         f"{case.engine_version} does not start with it"),
    )  # fmt: skip
    for names, settings, runs, reason in reasons:
        for name in sorted(names & settings.keys()):
            yield Override(field=name, asked=str(settings[name]), runs=runs, reason=reason)


OVERRIDES: tuple[Callable[[RoleCase], Iterator[Override]], ...] = (
    _graph_overrides,
    _memory_overrides,
    _default_overrides,
    _schedule_overrides,
    _ignored,
)
"""Every kind of override, in the order in which they are reported."""


def overrides_of(case: RoleCase) -> tuple[Override, ...]:
    """What the engine changes or ignores in one role of a recipe."""
    return tuple(found for rule in OVERRIDES for found in rule(case))
