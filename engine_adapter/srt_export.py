"""A `Recipe` to an srt-slurm recipe file."""

from __future__ import annotations

from typing import Any

from engine_adapter import model_names
from engine_adapter.flag_table import NEW_FLAGS, Role, version_tuple
from engine_adapter.frontends import frontend_block
from engine_adapter.sglang_emit import flags_from_group
from engine_adapter.srt_slurm import PREFIX, PROMPTS_MULT, WARMUP_MULT
from engine_adapter.yaml_files import dump_yaml
from search_spaces.errors import BadInput
from search_spaces.hardware import Hardware
from search_spaces.recipe import EngineGroup, Recipe
from search_spaces.workload import Workload

HEALTH_CHECK = {"max_attempts": 720, "interval_seconds": 10}
"""Two hours: the public DeepSeek-V4 recipes raise the default of 30 minutes for weight loading."""


def image_for(recipe: Recipe, engine_version: str) -> str:
    """The recipe's own image where it understands the release's flags, else the release image."""
    image = recipe.launch.get("container")
    if image:
        own = version_tuple(model_names.engine_version(image))
        if (own >= NEW_FLAGS) == (version_tuple(engine_version) >= NEW_FLAGS):
            return image
    return f"lmsysorg/sglang:v{engine_version.removeprefix('v')}"


def nodes_of(group: EngineGroup, hardware: Hardware) -> int:
    """Nodes the workers of a group take: whole nodes for wide workers, packed for narrow ones."""
    per_node = hardware.gpus_per_node
    if group.num_gpus >= per_node:
        return group.num_workers * -(-group.num_gpus // per_node)
    return -(-group.num_workers // (per_node // group.num_gpus))


def srt_slurm_text(recipe: Recipe, engine_version: str, workload: Workload | None, hardware: Hardware) -> str:
    """The plain srt-slurm recipe; concurrencies are the recipe's, else the workload's."""
    return dump_yaml(srt_slurm_data(recipe, engine_version, workload, hardware))


def srt_slurm_data(
    recipe: Recipe, engine_version: str, workload: Workload | None, hardware: Hardware
) -> dict[str, Any]:
    """The same as a mapping."""
    resources: dict[str, Any] = {"gpu_type": hardware.name, "gpus_per_node": hardware.gpus_per_node}
    environments: dict[str, Any] = {}
    configs: dict[str, Any] = {}
    served = model_names.checkpoint(recipe)
    for name, group in recipe.groups.items():
        role: Role = "prefill" if name == "prefill" else "decode" if name == "decode" else "aggregated"
        dynamo = recipe.frontend.kind == "dynamo"
        flags, env = flags_from_group(group, role, engine_version, hardware, dynamo)
        config: dict[str, Any] = {"served-model-name": served, "trust-remote-code": True, **flags}
        if role != "aggregated":
            config["disaggregation-mode"] = role
            config["disaggregation-transfer-backend"] = recipe.transfer_backend or "mooncake"
        prefix = PREFIX[role]
        resources |= {
            f"{prefix}_nodes": nodes_of(group, hardware),
            f"{prefix}_workers": group.num_workers,
            f"gpus_per_{prefix}": group.num_gpus,
        }
        configs[role] = dict(sorted(config.items()))
        if env:
            environments[f"{role}_environment"] = env
    weights = recipe.serving.expert_weights
    precision = {"mxfp4": "fp4", "nvfp4": "nvfp4", "fp8": "fp8"}[weights]
    data: dict[str, Any] = {
        "name": recipe.name.rsplit("/", 1)[-1],
        "model": {
            "path": recipe.launch.get("model_path") or served,
            "container": image_for(recipe, engine_version),
            "precision": precision,
        },
        "resources": resources,
    }
    for key in ("hash", "version"):
        if recipe.frontend.kind == "dynamo" and recipe.launch.get(f"dynamo_{key}"):
            data["dynamo"] = {key: recipe.launch[f"dynamo_{key}"]}
            break
    data |= {
        "frontend": frontend_block(recipe.frontend),
        "backend": {"type": "sglang", **environments, "sglang_config": configs},
        "health_check": dict(HEALTH_CHECK),
        "benchmark": benchmark_block(recipe, workload),
    }
    return data


def benchmark_block(recipe: Recipe, workload: Workload | None) -> dict[str, Any]:
    """The sa-bench block; without a workload the benchmark is left to the operator."""
    if workload is None:
        found = [int(recipe.launch[k]) for k in ("isl", "osl") if recipe.launch.get(k, "").isdigit()]
        if len(found) != 2:
            return {"type": "manual", **_listed(recipe.concurrencies)}
        prompts = "chat" if recipe.mtp else "random"
        workload = Workload.parse({"isl": found[0], "osl": found[1], "prompts": prompts}, "recipe.launch")
        concurrencies = recipe.concurrencies or (1,)
    else:
        concurrencies = recipe.concurrencies or (workload.concurrency,)
    block: dict[str, Any] = {
        "type": "sa-bench",
        "isl": workload.isl,
        "osl": workload.osl,
        **_listed(concurrencies),
        "req_rate": "inf",
        "random_range_ratio": workload.random_range_ratio,
        "use_chat_template": workload.prompts == "chat",
    }
    for key, count, default in (
        ("num_prompts_mult", workload.num_prompts, PROMPTS_MULT),
        ("num_warmup_mult", workload.num_warmup, WARMUP_MULT),
    ):
        if count is None or count == default * workload.concurrency:
            continue
        if count % workload.concurrency:
            raise BadInput(
                f"workload gives {count} requests for {key}, which sa-bench counts in multiples of the "
                f"concurrency {workload.concurrency}; round it"
            )
        block[key] = count // workload.concurrency
    return block


def _listed(concurrencies: tuple[int, ...]) -> dict[str, list[int]]:
    return {"concurrencies": list(concurrencies)} if concurrencies else {}
