"""What would longer prompts, worse drafts or one more prefill worker do to a public recipe?"""

from planner.api import whatif


def main() -> None:
    """Print the scenarios and the change that costs most."""
    found = whatif(
        "disagg-high-conc-6p1d-dep4-dep8-mtp",
        "workload.isl=16384",
        "mtp.acceptance=0.57",
        "prefill.workers=7",
        "outage=prefill:0@20+20",
        concurrency=256,
    )
    for scenario in (found.base, *found.scenarios):
        if scenario.prediction is None or scenario.cost is None:
            print(f"{scenario.name}: cannot run: {scenario.refused}")
            continue
        rate = scenario.prediction.metrics["total_tokens_per_s_per_gpu"]
        print(f"{scenario.name}: {rate:,.0f} tok/s/GPU, {scenario.cost.per_million_tokens:.3f} $/M tokens, "
              f"limit {scenario.limit}")  # fmt: skip
    worst = max(found.scenarios, key=lambda s: s.differences.get("cost_per_million_tokens", 0.0))
    print(f"dearest change: {worst.name}")


if __name__ == "__main__":
    main()
