"""How many GPUs do 40 short requests a second need, and what if that doubles?"""

from planner.api import size


def main() -> None:
    """Print a fleet per level of load, and what it can lose."""
    result = size(
        "deepseek-ai/DeepSeek-V4-Flash",
        ["b200", "h200"],
        ["ttft.p90=1000", "tpot.p90=40"],
        request_rate=40.0,
        growth="1,2",
        isl=2048,
        osl=128,
        deployment_gpus=8,
        workers=1,
    )
    for level in result.levels:
        for fleet in level.fleets:
            print(
                f"{level.name}, {level.request_rate:g} requests/s on {fleet.hardware}: "
                f"{fleet.replicas} x {fleet.topology}, {fleet.num_gpus} GPUs on "
                f"{fleet.nodes} nodes ({fleet.num_gpus_with_spare} with the spare), "
                f"{fleet.cost.per_million_tokens:.3f} $/M tokens"
            )


if __name__ == "__main__":
    main()
