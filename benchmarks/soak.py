"""Random recipes under random loads: does any break a law, and how fast do they run?

Run: python -m benchmarks.soak [--count 2000] [--seed 0]. Exit code 1 when a law is broken.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

import numpy as np

from search_spaces import catalog_loader
from search_spaces.errors import Infeasible
from search_spaces.recipe import EngineGroup, Frontend, Mtp, Recipe
from search_spaces.workload import Workload
from simulator import loop_state as ls
from simulator.calibration import load_calibration
from simulator.loop_aggregated import FINISHED, advance
from simulator.world import Setting, State, prepare

LONGEST_S = 1e7
"""Simulated seconds that no load here needs."""
LAYOUTS = ("TP4", "TP8", "DEP4", "DEP8", "DEP16", "DPA4", "DPA8")
PLATFORMS = ("gb300", "gb200", "b300", "b200", "h200")
STACKS = ("day0", "may", "june", "july", "v0523")


def random_group(rng: np.random.Generator, role: str, mtp: Mtp | None) -> EngineGroup:
    """One role with any settings that belong together."""
    layout = str(rng.choice(LAYOUTS))
    kind, size = layout.rstrip("0123456789"), int(layout.lstrip("ADEPT"))
    fields: dict[str, object] = {"tp": size, "moe_backend": "flashinfer_mxfp4"}
    if kind != "TP":
        fields["attention_dp"] = size
    if kind == "DEP":
        fields |= {"moe_ep": size, "moe_backend": "megamoe", "dense_tp1": bool(rng.random() < 0.5)}
        fields["dp_lm_head"] = fields["dense_tp1"]
    fields |= {
        "num_workers": int(rng.integers(1, 4)),
        "mem_fraction_static": float(rng.uniform(0.8, 0.94)),
        "swa_full_tokens_ratio": float(rng.choice([0.03, 0.1, 0.2, 0.5])),
        "max_running_per_rank": int(rng.choice([1, 8, 64, 300])),
        "max_total_tokens": [None, None, 65_536, 262_144][rng.integers(4)],
        "chunk_tokens_per_rank": int(rng.choice([512, 4096, 8192, 16384])),
        "graph_max_batch_per_rank": int(rng.choice([0, 16, 512])),
        "radix_cache": bool(role != "decode" and rng.random() < 0.5),
        "swa_tail_lock": bool(rng.random() < 0.5),
        "prefill_delayer": bool(rng.random() < 0.3),
        "mixed_chunk": bool(mtp is None and rng.random() < 0.2),
        "prefill_decode_interval": int(rng.choice([0, 0, 4])),
        "overlap_schedule": bool(rng.random() < 0.9),
        "load_balance": str(rng.choice(["auto", "total_requests", "total_tokens"])),
        "decode_polling_interval": int(rng.choice([1, 8])),
        "reserved_decode_tokens": int(rng.choice([128, 512])),
        "pp": int(rng.choice([1, 1, 2])) if role == "prefill" and mtp is None else 1,
        "mtp": mtp if role != "prefill" else None,
    }
    return EngineGroup.model_validate(fields)


def random_workload(rng: np.random.Generator) -> Workload:
    """Any load of at most a few hundred requests."""
    isl = int(rng.choice([16, 300, 1024, 8192, 40_000]))
    concurrency = int(rng.choice([1, 7, 64, 400]))
    turns = int(rng.choice([1, 1, 1, 4]))
    load = Workload(
        isl=isl,
        osl=int(rng.choice([1, 2, 100, 1024])),
        random_range_ratio=float(rng.choice([0.5, 0.8, 1.0])),
        concurrency=concurrency,
        num_prompts=int(rng.integers(1, min(3 * concurrency, 600) + 1)),
        request_rate=[None, None, 2.0, 200.0][rng.integers(4)],
        burstiness=float(rng.choice([0.3, 1.0, 4.0])),
        turns=turns,
        turn_tokens=int(rng.choice([20, 500])),
        think_s=float(rng.choice([0.0, 2.0])),
        shared_prefix_tokens=isl // 4 if rng.random() < 0.3 else 0,
        prefix_groups=int(rng.integers(1, 5)),
        prompts="chat" if rng.random() < 0.5 else "random",
    )
    sent_before = turns == 1 and load.measured_requests % 3 == 0
    return load.model_copy(update={"reused_prompts": load.measured_requests // 2 if sent_before else 0})


def random_setting(seed: int) -> Setting:
    """One recipe on one platform under one load, all drawn from `seed`."""
    rng = np.random.default_rng([2026, seed])
    mtp = Mtp(num_steps=int(rng.integers(1, 4))) if rng.random() < 0.5 else None
    platform = str(rng.choice(PLATFORMS))
    fields: dict[str, object] = {"aggregated": random_group(rng, "aggregated", mtp)}
    if rng.random() < 0.6:
        fields = {
            "prefill": random_group(rng, "prefill", mtp),
            "decode": random_group(rng, "decode", mtp),
            "transfer_backend": "mooncake",
        }
    policy = str(rng.choice(["round_robin", "random", "load", "kv"]))
    model = catalog_loader.model("deepseek-v4-pro" if rng.random() < 0.6 else "deepseek-v4-flash")
    recipe = Recipe.model_validate(
        {"name": f"soak-{seed}", "model": model.name, "hardware": platform}
        | fields
        | {"frontend": Frontend.model_validate({"policy": policy})}
    )
    return Setting(
        recipe,
        random_workload(rng),
        model,
        catalog_loader.hardware(platform),
        catalog_loader.stack(str(rng.choice(STACKS))),
        load_calibration(),
        seed,
    )


def broken_laws(state: State) -> list[str]:
    """What a finished run violates: conservation, causality, utilisation, empty pools at the end."""
    reqs, ranks, totals = state.reqs, state.ranks, state.world.totals
    t, found = reqs.t, []
    order = [ls.SEND, ls.ARRIVE, ls.PREFILL_START, ls.PREFILL_END, ls.FIRST, ls.DONE]
    if state.groups_per_role[1:]:
        order = [ls.SEND, ls.ARRIVE, ls.GRANT, ls.PREFILL_START, ls.PREFILL_END, ls.READY, ls.FIRST, ls.DONE]
    if (t[:, order] < 0).any():
        found.append("a request never passed a stage")
    if (np.diff(t[:, order], axis=1) < -1e-9).any():
        found.append("a request went back in time")
    followers = np.flatnonzero(reqs.i[:, ls.FOLLOW] >= 0)
    if (t[reqs.i[followers, ls.FOLLOW], ls.SEND] < t[followers, ls.DONE] - 1e-9).any():
        found.append("a turn was sent before the last was answered")
    span = t[:, ls.DONE].max() - t[:, ls.SEND].min()
    busy = totals[:, [ls.BUSY_PREFILL, ls.BUSY_DECODE, ls.BUSY_MIXED]].sum(axis=1)
    if (busy > span * np.array(state.groups_per_role) * (1 + 1e-9)).any():
        found.append("a worker was busy for longer than the run")
    if ranks.i[:, ls.RUNNING].any() or ranks.i[:, ls.Q_LEN].any():
        found.append("a request is left in a queue or a batch")
    left = ranks.f[:, ls.USED_FULL] - ranks.f[:, ls.LINGER_FULL]
    if (np.abs(left) > 1e-3).any():
        found.append(f"{left[np.abs(left).argmax()]:.3f} tokens of a full pool were never returned")
    if ranks.cache.locks.any():
        found.append("a prefix is locked for nobody")
    lacking = reqs.i[:, ls.TARGET] - reqs.i[:, ls.PROGRESS]
    if (lacking != 0).any():
        found.append("a prompt was not wholly prefilled")
    return found


def main() -> int:
    """Run the soak and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    warm = prepare(random_setting(0))
    advance(warm.world, warm.classes, warm.groups, warm.ranks, warm.reqs, 0.0)
    outcome: Counter[str] = Counter()
    steps = tokens = requests = 0.0
    loop_s, begun = 0.0, time.process_time()
    for seed in range(options.seed, options.seed + options.count):
        try:
            state = prepare(random_setting(seed))
        except Infeasible:
            outcome["does not fit its GPUs"] += 1
            continue
        start = time.process_time()
        status = advance(state.world, state.classes, state.groups, state.ranks, state.reqs, LONGEST_S)
        loop_s += time.process_time() - start
        if status != FINISHED:
            outcome["a request can never be admitted"] += 1
            continue
        broken = broken_laws(state)
        for law in broken:
            print(f"seed {seed}: {law}", file=sys.stderr)
        outcome["BROKEN" if broken else "ran"] += 1
        columns = [ls.STEPS_PREFILL, ls.STEPS_DECODE]
        steps += state.world.totals[:, columns].sum()
        tokens += state.reqs.i[:, ls.OSL].sum()
        requests += len(state.reqs.link)
    total_s = time.process_time() - begun
    print(f"{options.count} random settings in {total_s:.1f} s of processor time: {dict(outcome)}")
    print(
        f"of it in the loop {loop_s:.1f} s: {steps / loop_s:,.0f} engine steps, {requests / loop_s:,.0f} "
        f"requests and {tokens / loop_s:,.0f} output tokens per second"
    )
    return 1 if outcome["BROKEN"] else 0


if __name__ == "__main__":
    sys.exit(main())
