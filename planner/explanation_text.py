"""An explanation as a report for people."""

from __future__ import annotations

from planner.expert_use import ExpertUse
from planner.explanation import BatchLimit, Explanation, MemoryTable, RankLimits, RoleExplanation
from planner.text_table import number, percent, table
from search_spaces.units import gb, ms

SHOWN_BUCKETS = 5
"""Graph sizes shown at each end of the list."""
POOL_NAMES = {
    "c4_kv": "full c4",
    "indexer": "indexer",
    "c128_kv": "c128",
    "swa_kv": "SWA",
    "compressor_state": "compressor state",
    "mtp_draft": "MTP draft",
}
"""Token pools in the order in which they are shown."""


def explanation_text(found: Explanation) -> str:
    """The whole report; the same for equal inputs."""
    parts = [_head(found), *(_role(role, found) for role in found.roles), _laws(found)]
    return "\n\n".join(parts)


def _head(found: Explanation) -> str:
    accepted = found.accepted_tokens_per_step
    drafts = f", {number(accepted)} tokens a step" if accepted != 1 else ""
    rows = [
        ("recipe", f"{found.recipe}: {found.topology}, {found.num_gpus} GPUs"),
        ("serves", f"{found.model} on {found.hardware}"),
        ("load", f"{found.isl}/{found.osl} tokens, concurrency {found.concurrency}{drafts}"),
        ("stack", f"{found.stack} (SGLang {found.engine_version})"),
    ]
    return table(rows, indent=0)


def _role(role: RoleExplanation, found: Explanation) -> str:
    workers = f"{role.num_workers} worker{'s' if role.num_workers > 1 else ''}"
    ranks = f"{role.ranks_per_worker} rank{'s' if role.ranks_per_worker > 1 else ''}"
    gpus = f"{role.gpus_per_rank} GPU{'s' if role.gpus_per_rank > 1 else ''}"
    experts = [_experts(role.experts)] if role.experts else []
    parts = [
        f"== {role.role}: {workers} {role.label}, {ranks} a worker, {gpus} a rank ==",
        "Memory of one GPU\n" + _memory(role.memory, role.limits),
        "Limits of one rank\n" + _limits(role),
        *experts,
        _overrides(role),
        _batches(role, found),
    ]
    return "\n\n".join(parts)


def _memory(memory: MemoryTable, limits: RankLimits) -> str:
    def row(name: str, size: float, per_token: float | None = None) -> tuple[str, str, str, str]:
        each = "" if per_token is None else f"{per_token:,.2f}"
        return (name, f"{gb(size):.3f}", percent(size / memory.hbm_bytes), each)

    per_token = limits.bytes_per_full_token_parts
    pools = [name for name in POOL_NAMES if name in memory.pools_bytes]
    rows = [
        row("runtime", memory.runtime_bytes),
        row("weights", sum(memory.weights_bytes.values())),
        *(row(f"  {name.replace('_', ' ')}", size) for name, size in memory.weights_bytes.items()),
        row("rope tables", memory.rope_tables_bytes),
        row("slot state (c128)", memory.slot_state_bytes),
        row("token pools", sum(memory.pools_bytes.values()), limits.bytes_per_full_token),
        *(row(f"  {POOL_NAMES[name]}", memory.pools_bytes[name], per_token[name]) for name in pools),
        row("headroom", memory.headroom_bytes),
        row("HBM", memory.hbm_bytes),
    ]
    return table(rows, ("part", "GB", "share", "bytes per full token"))


def _limits(role: RoleExplanation) -> str:
    limits = role.limits
    extra = f", {limits.extra_slots:,} of them extra for transfers" if limits.extra_slots else ""
    rows = [
        ("bytes per full token", f"{limits.bytes_per_full_token:,.2f}"),
        ("full tokens", f"{limits.full_tokens:,} (max_total_num_tokens)"),
        ("SWA tokens", f"{limits.swa_tokens:,}"),
        (
            "running requests",
            f"{limits.max_running:,} ({limits.max_running * role.ranks_per_worker:,} a worker)",
        ),
        ("request slots", f"{limits.slots:,}{extra}, {limits.slot_state_bytes:,.0f} bytes of state each"),
        ("CUDA graphs", graph_text(limits.graph_buckets)),
    ]
    if role.role != "decode":
        chunk = limits.chunk_tokens
        rows += [
            ("chunk", f"{chunk:,} tokens ({chunk * role.ranks_per_worker:,} a worker)"),
            ("max prefill tokens", f"{limits.max_prefill_tokens:,} (not divided by ranks)"),
        ]
    rows.append(("longest request", f"{limits.longest_request_tokens:,} tokens"))
    rows += [
        (f"{tokens:,}-token prompt", f"ships {size:,.0f} bytes to decode")
        for tokens, size in limits.shipped_bytes.items()
    ]
    return table(rows)


def _experts(use: ExpertUse) -> str:
    idle = f", {use.idle_slots} of the worker's get no token" if use.idle_slots else ""
    rows = [
        ("slots per rank", f"{use.slots_per_rank:,}{idle}"),
        (
            "most loaded rank",
            f"{use.load_factor:.2f} times an even share ({use.load_factor_in_order:.2f} with experts in "
            f"order; popularity exponent {number(use.routing_alpha)})",
        ),
    ]
    if use.rebalance_s_per_step:
        rows.append(("rebalancing", f"{ms(use.rebalance_s_per_step):.2f} ms a step on average"))
    if use.overlap:
        rows.append(("communicates beside", " and ".join(use.overlap)))
    return "Experts of one rank\n" + table(rows)


def graph_text(buckets: tuple[int, ...]) -> str:
    """Count and sizes of the captured graphs, with the middle of a long list left out."""
    if not buckets:
        return "none captured"
    sizes = [str(size) for size in buckets]
    if len(sizes) > 2 * SHOWN_BUCKETS:
        sizes[SHOWN_BUCKETS:-SHOWN_BUCKETS] = ["..."]
    return f"up to {buckets[-1]}, {len(buckets)} sizes: {', '.join(sizes)}"


def _overrides(role: RoleExplanation) -> str:
    if not role.overrides:
        return "What the engine changes silently: nothing"
    lines = [f"  - {o.field}: {o.asked} -> {o.runs} ({o.reason})" for o in role.overrides]
    return "What the engine changes silently\n" + "\n".join(lines)


def _batches(role: RoleExplanation, found: Explanation) -> str:
    rows = [(limit.resource, f"{limit.batch:,}", _held(limit), limit.beyond) for limit in role.batch_limits]
    if role.window is None:
        title = f"Largest number of {found.isl}-token prompts a rank holds"
    else:
        title = f"Largest batch of a rank at {found.isl}/{found.osl} tokens, half of the output generated"
    text = f"{title}\n" + table(rows, ("limit", "requests", "tokens each", "the next one"))
    ordered = sorted(role.batch_limits, key=lambda limit: limit.batch)
    text += f"\n  binds first: {ordered[0].resource} at {ordered[0].batch:,}"
    if ordered[0].resource == "CUDA graph":  # which slows larger batches, but does not stop them
        text += f", then {ordered[1].resource} at {ordered[1].batch:,}"
    if role.window is None:
        return text
    window = role.window
    text += f"; concurrency {found.concurrency:,} is {role.requests_per_rank:,} a rank\n"
    if window.crest_pages == window.trough_pages:
        return (
            text
            + f"  the window pool binds before the full pool below ratio {window.crossover_ratio_mean:.4f}"
        )
    return text + (
        f"  the window pool binds before the full pool below ratio {window.crossover_ratio_mean:.4f} "
        f"(mean, {number(window.mean_pages)} pages) or {window.crossover_ratio_crest:.4f} "
        f"(crest, {number(window.crest_pages)} pages)"
    )


def _held(limit: BatchLimit) -> str:
    return "" if limit.tokens_per_request is None else f"{limit.tokens_per_request:,.0f}"


def _laws(found: Explanation) -> str:
    if not found.laws:
        return "Laws broken: none"
    lines = [f"  - {law.severity} [{law.rule}] {law.message}" for law in found.laws]
    return "Laws broken\n" + "\n".join(lines)
