"""srt-slurm recipe YAML (the form InferenceX uses) to `Recipe` and `Workload`.

Keys and rules as in srt-slurm v1.0.68, `src/srtctl/core/schema.py`. What `srtctl` leaves unchecked
(engine flags, worker widths, node counts) is checked here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine_adapter import model_names, overrides
from engine_adapter.flag_table import Role, canonical_name
from engine_adapter.frontends import frontend_from_block
from engine_adapter.published import transfer_of
from engine_adapter.sglang_flags import group_from_flags
from engine_adapter.yaml_files import mapping
from search_spaces.errors import BadInput
from search_spaces.hardware import Hardware
from search_spaces.model import ModelSpec
from search_spaces.recipe import EngineGroup, Recipe
from search_spaces.workload import Workload

TOP_KEYS = frozenset(
    {
        "name", "model", "resources", "slurm", "backend", "frontend", "dynamo", "benchmark", "health_check",
        "infra", "environment", "container_mounts", "extra_mount", "srun_options", "sbatch_directives",
        "setup_script", "enable_config_dump", "output", "profiling", "observability", "telemetry",
        "identity", "reporting", "lock", "sweep",
    }
)  # fmt: skip
RESOURCE_KEYS = frozenset(
    {
        "gpu_type", "gpus_per_node", "prefill_nodes", "prefill_workers", "gpus_per_prefill", "decode_nodes",
        "decode_workers", "gpus_per_decode", "agg_nodes", "agg_workers", "gpus_per_agg", "spread_workers",
        "het_jobs",
    }
)  # fmt: skip
BACKEND_KEYS = frozenset(
    {
        "type", "prefill_environment", "decode_environment", "aggregated_environment", "sglang_config",
        "kv_events_config", "mooncake_kv_store", "gpu_type",
    }
)  # fmt: skip
FRONTEND_KEYS = frozenset(
    {
        "type", "enable_multiple_frontends", "num_additional_frontends", "args", "env", "dedicated_node",
        "orchestrator_placement", "ctx_router", "gen_router", "server_config_extra",
    }
)  # fmt: skip
BENCHMARK_KEYS = frozenset(
    {
        "type", "isl", "osl", "concurrencies", "req_rate", "random_range_ratio", "num_prompts_mult",
        "num_warmup_mult", "use_chat_template", "custom_tokenizer", "dataset_name", "dataset_path",
        "trace_file", "reuse_http_connections", "client_placement", "client_dedicated_node",
        "colocate_with_frontend", "command", "container_image", "env", "aiperf_package", "aiperf_args",
        "ttft_threshold_ms", "itl_threshold_ms", "sweep",
    }
)  # fmt: skip
REQUIRED = (
    ("name",),
    ("model", "path"),
    ("model", "container"),
    ("model", "precision"),
    ("resources", "gpu_type"),
)
DEFAULT_GPUS_PER_NODE = 4
PROMPTS_MULT, WARMUP_MULT = 10, 2
"""sa-bench defaults: measured and warm-up requests per unit of concurrency."""

PREFIX: dict[Role, str] = {"prefill": "prefill", "decode": "decode", "aggregated": "agg"}


@dataclass(frozen=True, slots=True)
class LoadedRecipe:
    """A recipe, the workload its file states, and the variant it was read from."""

    recipe: Recipe
    workload: Workload | None = None
    selector: str = ""


def load_srt(data: Mapping[str, Any], where: str, selector: str | None = None) -> list[LoadedRecipe]:
    """Every selected variant of a file, plain or with overrides.

    Raises:
        BadInput: srt-slurm or the engine would refuse the file; names field, value and rule.
    """
    if not overrides.is_override_file(data):
        if selector not in (None, "base"):
            raise BadInput(f"{where}: selector {selector!r} needs override_ groups; leave it out")
        return [load_plain(data, where)]
    variants = overrides.select(overrides.expand(data, where), selector, where)
    return [load_plain(variant, f"{where}:{key}", key) for key, variant in variants.items()]


def load_plain(data: Mapping[str, Any], where: str, selector: str = "") -> LoadedRecipe:
    """One expanded recipe."""
    _check_keys(data, where)
    configs = mapping((data.get("backend") or {}).get("sglang_config"), f"{where}: backend.sglang_config")
    roles = roles_of(configs, where)
    names = [str(c[k]) for c in configs.values() if c for k in c if canonical_name(k) == "served-model-name"]
    names += [str(data["model"]["path"])]
    hardware = model_names.platform(str(data["resources"]["gpu_type"]))
    model = model_names.model_spec(names)
    groups = {role: _group(data, role, names, hardware, model, where) for role in roles}
    disaggregated = "decode" in groups
    workload, concurrencies = workload_from_srt(data, where)
    recipe = Recipe.parse(
        {
            "name": str(data["name"]),
            "model": model.name,
            "hardware": hardware.name,
            "transfer_backend": transfer_of(configs, where) if disaggregated else None,
            "frontend": frontend_from_block(data.get("frontend") or {}, where),
            "concurrencies": concurrencies,
            "source": where,
            "launch": _launch(data, names),
            **groups,
        },
        where,
    )
    return LoadedRecipe(recipe, workload, selector)


def _group(
    data: Mapping[str, Any], role: Role, names: list[str], hardware: Hardware, model: ModelSpec, where: str
) -> EngineGroup:
    """One role: its flags, its environment and the workers `resources` gives it."""
    backend = data["backend"]
    workers, gpus = _workers(data["resources"], role, where)
    env = _strings(data.get("environment"), f"{where}: environment")
    env |= _strings(backend.get(f"{role}_environment"), f"{where}: backend.{role}_environment")
    nvfp4 = str(data["model"]["precision"]).lower() == "nvfp4"
    try:
        group = group_from_flags(
            backend["sglang_config"][role],
            env,
            role=role,
            hardware=hardware,
            model=model,
            num_workers=workers,
            engine_version=model_names.engine_version(str(data["model"]["container"])),
            expert_weights="nvfp4" if nvfp4 else model_names.expert_weights(names[:1]),
        )
    except BadInput as error:
        raise BadInput(f"{where}: backend.sglang_config.{role}: {error}") from None
    if group.num_gpus != gpus:
        raise BadInput(
            f"{where}: {role} tensor-parallel-size*pipeline-parallel-size={group.num_gpus} must equal "
            f"resources.gpus_per_{PREFIX[role]}={gpus}; correct one"
        )
    return group


def roles_of(configs: Mapping[str, Any], where: str) -> tuple[Role, ...]:
    """Roles that have an engine configuration."""
    known: tuple[Role, ...] = ("prefill", "decode", "aggregated")
    unknown = sorted(set(configs) - set(known))
    if unknown:
        raise BadInput(f"{where}: backend.sglang_config.{unknown[0]} is no role; choose one of {list(known)}")
    present = tuple(role for role in known if configs.get(role) is not None)
    if present not in (("prefill", "decode"), ("aggregated",)):
        raise BadInput(
            f"{where}: backend.sglang_config has {list(present)}; give prefill and decode, or aggregated"
        )
    for role in present:
        if not isinstance(configs[role], Mapping):
            raise BadInput(f"{where}: backend.sglang_config.{role} must be a mapping of flags; indent them")
    return present


def _check_keys(data: Mapping[str, Any], where: str) -> None:
    """What `srtctl` checks when it loads a file, and its limits named."""
    for *parents, key in REQUIRED:
        node: Any = data
        for parent in parents:
            node = node.get(parent) or {}
            if not isinstance(node, Mapping):
                raise BadInput(f"{where}: {parent}={node!r} must be a mapping; indent its keys")
        if key not in node:
            raise BadInput(f"{where}: {'.'.join((*parents, key))} is required and absent; add it")
    if data.get("sweep"):
        raise BadInput(f"{where}: sweep is a template file; expand it, or use zip_override_<name>")
    for name, known in (
        ("", TOP_KEYS),
        ("resources", RESOURCE_KEYS),
        ("backend", BACKEND_KEYS),
        ("frontend", FRONTEND_KEYS),
        ("benchmark", BENCHMARK_KEYS),
    ):
        block = data if not name else data.get(name) or {}
        if not isinstance(block, Mapping):
            raise BadInput(f"{where}: {name}={block!r} must be a mapping; indent its keys")
        for key in block:
            if key not in known and not (name == "frontend" and str(key).startswith("nginx_")):
                at = f"{name}.{key}" if name else str(key)
                raise BadInput(f"{where}: unknown key {at}; remove it or choose one of {sorted(known)}")
    backend = (data.get("backend") or {}).get("type", "sglang")
    if backend != "sglang":
        raise BadInput(f"{where}: backend.type={backend!r} is not modelled; only sglang is")


def _strings(block: Any, where: str) -> dict[str, str]:
    """An environment mapping; srt-slurm accepts strings alone."""
    if block is None:
        return {}
    if not isinstance(block, Mapping):
        raise BadInput(f"{where}={block!r} must be a mapping of strings; indent NAME: 'value' lines")
    for name, value in block.items():
        if not isinstance(value, str):
            raise BadInput(f"{where}.{name}={value!r} must be a string; write '{value}' in quotes")
    return {str(name): value for name, value in block.items()}


def _workers(resources: Mapping[str, Any], role: Role, where: str) -> tuple[int, int]:
    """Workers of a role and GPUs of each, by srt-slurm's arithmetic."""
    prefix = PREFIX[role]

    def count(key: str, default: int | None = None) -> int:
        value = resources.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise BadInput(f"{where}: resources.{key}={value!r} must be a whole number; give it")
        return value

    workers = count(f"{prefix}_workers")
    if workers < 1:
        raise BadInput(f"{where}: resources.{prefix}_workers={workers} must be at least 1; raise it")
    per_node = count("gpus_per_node", DEFAULT_GPUS_PER_NODE)
    if per_node < 1:
        raise BadInput(f"{where}: resources.gpus_per_node={per_node} must be at least 1; raise it")
    nodes = count(f"{prefix}_nodes")
    gpus = count(f"gpus_per_{prefix}", nodes * per_node // workers)
    whole = (
        workers * -(-gpus // per_node) if gpus > per_node else -(-workers // max(1, per_node // max(gpus, 1)))
    )
    if nodes and whole > nodes:
        raise BadInput(
            f"{where}: resources.{prefix}_nodes={nodes} must hold {workers} workers of {gpus} GPUs "
            f"({per_node} per node); raise it to {whole}"
        )
    return workers, gpus


def workload_from_srt(
    data: Mapping[str, Any], where: str = "recipe"
) -> tuple[Workload | None, tuple[int, ...]]:
    """The benchmark block's workload (at its first concurrency) and concurrencies."""
    block = data.get("benchmark") or {}
    concurrencies = _concurrencies(block.get("concurrencies"), where)
    if block.get("isl") is None or block.get("osl") is None:
        return None, concurrencies
    concurrency = concurrencies[0] if concurrencies else 1
    prompts, warmup = block.get("num_prompts_mult"), block.get("num_warmup_mult")
    fields = {
        "isl": block["isl"],
        "osl": block["osl"],
        "random_range_ratio": block.get("random_range_ratio", 0.8),
        "concurrency": concurrency,
        "num_prompts": None if prompts in (None, PROMPTS_MULT) else prompts * concurrency,
        "num_warmup": None if warmup in (None, WARMUP_MULT) else warmup * concurrency,
        "prompts": "chat" if block.get("use_chat_template", True) else "random",
    }
    return Workload.parse(fields, f"{where}: benchmark"), concurrencies


def _concurrencies(value: Any, where: str) -> tuple[int, ...]:
    if value is None:
        return ()
    items = value.split("x") if isinstance(value, str) else value
    try:
        found = tuple(int(item) for item in items)
    except (TypeError, ValueError, OverflowError):
        found = ()
    if not found or min(found) < 1:
        raise BadInput(
            f"{where}: benchmark.concurrencies={value!r} must be a list of whole numbers; write [{value}]"
        )
    return found


def _launch(data: Mapping[str, Any], names: list[str]) -> dict[str, str]:
    """Facts an exporter writes back."""
    dynamo, model = mapping(data.get("dynamo"), "dynamo"), data["model"]
    facts = {
        "model_path": model["path"],
        "served": names[0] if len(names) > 1 else None,
        "container": model["container"],
        "precision": model["precision"],
        "dynamo_hash": dynamo.get("hash"),
        "dynamo_version": dynamo.get("version"),
    }
    return {key: str(value) for key, value in facts.items() if value is not None}
