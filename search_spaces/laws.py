"""Laws between the fields of a recipe, its model, its platform and its load.

`EngineGroup` itself refuses layouts that no engine can express; the laws here need to know the model,
the platform, the engine version or the workload. Memory is another matter: whether pools fit is decided
where bytes are counted.
"""

from __future__ import annotations

from collections.abc import Iterator

from search_spaces.draft_laws import DRAFT_LAWS
from search_spaces.errors import BadInput
from search_spaces.hardware import Hardware
from search_spaces.law_case import V0523, RoleCase, Violation, release
from search_spaces.model import ModelSpec
from search_spaces.recipe import EngineGroup, Recipe
from search_spaces.role_laws import ROLE_LAWS
from search_spaces.workload import Workload

__all__ = [
    "RULES",
    "Violation",
    "check",
    "pair_violations",
    "role_violations",
    "violations",
    "violations_between",
]

RULES: dict[str, str] = {
    "experts-divisible": "routed_experts + redundant_experts is a multiple of moe_ep",
    "experts-per-gpu": "tp is at most the number of routed experts",
    "expert-slices": "moe_tp divides the expert inner dimension",
    "attention-tp": "attention_tp divides the model's output groups",
    "full-dp": "attention_dp is 1 or tp; nothing between was ever published",
    "chunk-pages": "a chunk is whole KV pages under DP attention",
    "dp-lm-head": "dp_lm_head needs DP attention",
    "megamoe-platform": "MegaMoE needs SM100 and FP4 experts, or from 0.5.23 SM90 and FP8 experts",
    "megamoe-overlap": "MegaMoE excludes two-batch and single-batch overlap",
    "two-batch-overlap": "two-batch overlap splits prefill of DeepEP or of DP attention, on one stage",
    "single-batch-overlap": "single-batch overlap needs DeepEP in low-latency mode",
    "eplb-ep": "EPLB needs expert parallelism",
    "idle-experts": "redundant experts need a rule that sends tokens to them",
    "replica-agreement": "without an all-to-all backend all ranks choose the same copy of an expert",
    "waterfill-backend": "waterfill needs DeepEP, or from 0.5.23 MegaMoE",
    "waterfill-weights": "waterfill needs routed experts in the shared expert's FP8",
    "megamoe-cap-prefill": "the MegaMoE buffer holds a prefill chunk",
    "megamoe-cap-decode": "the MegaMoE buffer holds the largest decode batch",
    "deepep-cap": "the DeepEP low-latency buffer holds the largest decode batch",
    "nvlink-domain": "a worker stays inside one NVLink domain",
    "rack": "a rack-scale deployment stays inside one rack",
    "node-tiling": "workers tile nodes",
    "custom-all-reduce": "custom all-reduce v2 stays inside one node",
    "expert-weights": "the MoE kernel reads this weight format",
    "marlin-platform": "Marlin runs on SM90 and SM120",
    "fp4-activation": "FP4 activations need FP4 tensor cores and a kernel that takes them",
    "fp4-indexer": "the FP4 indexer needs SM100",
    "online-compress-mtp": "online compression excludes MTP",
    "mixed-chunk-mtp": "mixed chunks exclude MTP",
    "pp-mtp": "pipeline parallelism excludes MTP",
    "dspark-release": "DSpark needs a release that has it",
    "dspark-dp-head": "DSpark with DP attention needs the LM head per DP rank",
    "dspark-all-to-all": "DSpark with DP attention takes MegaMoE or no all-to-all backend",
    "dspark-verify": "DSpark verifies all drafts with DP attention over an all-to-all backend",
    "dspark-simulated": "pretended acceptance needs a DSpark that verifies all drafts",
    "adaptive-dp": "adaptive draft steps exclude DP attention",
    "adaptive-steps": "an adaptive server starts from a draft length it may choose",
    "decode-radix-mtp": "a decode worker's radix cache excludes MTP before 0.5.23",
    "prefill-decode-interval": "prefill_decode_interval needs a release after 0.5.15",
    "prefill-delayer": "the prefill delayer works on prefilling roles and needs the overlap schedule",
    "graph-slots": "graphs no larger than the slots of the worker",
    "context": "context_length is at most the model's and holds isl + osl",
    "transfer-backend": "a disaggregated recipe names its transfer backend",
    "kv-layout": "both roles compress the KV state in the same way",
    "mtp-roles": "from 0.5.23 both roles have the same MTP setting; before, prefill has none",
    "slots": "slots cover the concurrency",
    "graph-batch": "graphs cover the batch of each rank",
    "mtp-prompts": "MTP is measured on chat prompts",
}
"""Rule id to the law it names; every `Violation.rule` is a key."""


def pair_violations(
    prefill: EngineGroup, decode: EngineGroup, transfer_backend: str | None, engine_version: str
) -> Iterator[Violation]:
    """Laws of a disaggregated recipe that look at both roles."""
    if transfer_backend is None:
        yield Violation(
            "transfer-backend",
            "hard",
            "transfer_backend is required when prefill and decode are apart; set mooncake, nixl or mori",
        )
    yield from violations_between(prefill, decode, engine_version)


def role_violations(
    role: str,
    group: EngineGroup,
    model: ModelSpec,
    hardware: Hardware,
    workload: Workload | None,
    engine_version: str,
) -> Iterator[Violation]:
    """Laws that one role breaks, whatever the other is."""
    case = RoleCase(role, group, model, hardware, workload, release(engine_version), engine_version)
    for law in (*ROLE_LAWS, *DRAFT_LAWS):
        yield from law(case)


def violations_between(
    prefill: EngineGroup, decode: EngineGroup, engine_version: str = "0.5.15"
) -> Iterator[Violation]:
    """Laws that compare both roles of a disaggregated recipe."""
    if prefill.online_compress != decode.online_compress:
        yield Violation(
            "kv-layout",
            "hard",
            f"prefill.online_compress={prefill.online_compress} must equal decode.online_compress="
            f"{decode.online_compress}; set both alike",
        )
    layouts = [group.mtp.layout if group.mtp else None for group in (prefill, decode)]
    if release(engine_version) >= V0523 and layouts[0] != layouts[1]:
        # Compression-state rings are twice as long with MTP, and 0.5.23 refuses a peer of another stride.
        yield Violation(
            "mtp-roles",
            "hard",
            f"prefill.mtp={prefill.mtp!r} must equal decode.mtp={decode.mtp!r} from 0.5.23 on; "
            "set both alike",
        )
    elif release(engine_version) < V0523 and prefill.mtp is not None:
        yield Violation(
            "mtp-roles",
            "soft",
            f"prefill.mtp={prefill.mtp!r} costs a draft pass per chunk, and {engine_version} does not ship "
            "the draft window; remove prefill.mtp",
        )


def _rack_laws(recipe: Recipe, hardware: Hardware) -> Iterator[Violation]:
    domain = hardware.nvlink_domain_gpus
    if domain > hardware.gpus_per_node and recipe.num_gpus > domain:
        yield Violation(
            "rack",
            "soft",
            f"num_gpus={recipe.num_gpus} exceeds the {domain} GPUs of one {hardware.name} rack; "
            "remove workers, or expect KV transfer between racks over the network",
        )


def violations(
    recipe: Recipe,
    model: ModelSpec,
    hardware: Hardware,
    workload: Workload | None = None,
    engine_version: str = "0.5.15",
) -> list[Violation]:
    """Every law that `recipe` breaks, in a fixed order; empty when it can run and makes sense.

    Args:
        recipe: the deployment.
        model: what it serves.
        hardware: what it runs on.
        workload: the load, for the laws about lengths, slots and graph sizes; None skips those.
        engine_version: release whose rules hold, such as `StackVersion.version`.
    """
    found: list[Violation] = []
    for role, group in recipe.groups.items():
        found.extend(role_violations(role, group, model, hardware, workload, engine_version))
    if recipe.prefill is not None and recipe.decode is not None:
        found.extend(pair_violations(recipe.prefill, recipe.decode, recipe.transfer_backend, engine_version))
    found.extend(_rack_laws(recipe, hardware))
    return found


def check(
    recipe: Recipe,
    model: ModelSpec,
    hardware: Hardware,
    workload: Workload | None = None,
    engine_version: str = "0.5.15",
) -> None:
    """Raise `BadInput` that lists every hard violation, one a line; soft ones pass."""
    broken = [
        v for v in violations(recipe, model, hardware, workload, engine_version) if v.severity == "hard"
    ]
    if broken:
        raise BadInput("\n".join(f"{recipe.name}: {v.message} [{v.rule}]" for v in broken))
