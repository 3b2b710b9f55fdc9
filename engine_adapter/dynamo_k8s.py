"""Dynamo on Kubernetes: a `DynamoGraphDeployment` (nvidia.com/v1alpha1) to `Recipe` and back.

The form is that of NVIDIA's aiconfigurator and of the public SGLang manifests of ai-dynamo/dynamo. A
manifest states no platform and no load; both go along as annotations.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

import yaml

from engine_adapter import model_names
from engine_adapter.flag_table import DEFAULT_ENGINE_VERSION, Role
from engine_adapter.frontends import policy_args, policy_of
from engine_adapter.launch_command import parse_flags
from engine_adapter.published import transfer_of
from engine_adapter.sglang_emit import flags_from_group
from engine_adapter.sglang_flags import FlagValue, group_from_flags
from engine_adapter.yaml_files import mapping
from search_spaces.errors import BadInput
from search_spaces.hardware import Hardware
from search_spaces.recipe import EngineGroup, Frontend, Recipe

API_VERSION, KIND = "nvidia.com/v1alpha1", "DynamoGraphDeployment"
DOMAIN_API, DOMAIN_KIND = "resource.nvidia.com/v1beta1", "ComputeDomain"
ANNOTATION = "servecast/"
SERVICES: dict[Role, str] = {
    "prefill": "SGLangPrefillWorker",
    "decode": "SGLangDecodeWorker",
    "aggregated": "SGLangWorker",
}
CHANNEL = "compute-domain-channel"
SHARED_MEMORY = "80Gi"
"""Of a worker: what the public SGLang manifests give it."""
WORKDIR = "/workspace/components/backends/sglang"
SERVICE_KEYS = frozenset(
    {
        "componentType", "subComponentType", "replicas", "multinode", "resources", "envs", "envFromSecret",
        "sharedMemory", "extraPodSpec", "livenessProbe", "readinessProbe", "volumeMounts", "dynamoNamespace",
    }
)  # fmt: skip


class _Dumper(yaml.SafeDumper):
    """Quotes every text that YAML 1.1 takes for a boolean, as Kubernetes reads it."""


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    quoted = value.lower() in ("y", "n", "yes", "no", "on", "off", "true", "false")
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style='"' if quoted else None)


_Dumper.add_representer(str, _text)


def _dump(data: Any) -> str:
    return str(yaml.dump(data, Dumper=_Dumper, sort_keys=False, width=100))


def manifest_name(recipe: Recipe) -> str:
    """A name Kubernetes takes: lower-case letters, digits and dashes, at most 45 characters."""
    plain = recipe.name.rsplit("/", 1)[-1].lower()
    kept = "".join(c if c.isalnum() else "-" for c in plain).strip("-")
    return kept[:45].rstrip("-") or "servecast"


def dynamo_manifests(recipe: Recipe, engine_version: str, hardware: Hardware) -> dict[str, str]:
    """The deployment, and the compute domain that rack workers over several nodes need.

    The image is a Dynamo runtime with this SGLang; the recipe names one only where it was published so.

    Raises:
        BadInput: a worker cannot be cut into equal nodes.
    """
    name = manifest_name(recipe)
    image = recipe.launch.get("dynamo_image") or f"dynamo-sglang-runtime:sglang-{engine_version}"
    services: dict[str, Any] = {"Frontend": _frontend(recipe.frontend, image)}
    wide_nodes = 0
    for key, group in recipe.groups.items():
        role: Role = "prefill" if key == "prefill" else "decode" if key == "decode" else "aggregated"
        nodes, per_node = _nodes(group, role, hardware)
        rack = nodes > 1 and hardware.nvlink_domain_gpus > hardware.gpus_per_node
        wide_nodes += nodes * group.num_workers if rack else 0
        services[SERVICES[role]] = _worker(
            recipe, role, engine_version, hardware, image, nodes, per_node, name if rack else None
        )
    annotations = {
        f"{ANNOTATION}recipe": recipe.name,
        f"{ANNOTATION}hardware": hardware.name,
        f"{ANNOTATION}sglang": engine_version,
    }
    if recipe.concurrencies:
        annotations[f"{ANNOTATION}concurrencies"] = ",".join(map(str, recipe.concurrencies))
    document = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": name, "annotations": annotations},
        "spec": {"backendFramework": "sglang", "services": services},
    }
    files = {f"{name}.yaml": _dump(document)}
    if wide_nodes:
        domain = {
            "apiVersion": DOMAIN_API,
            "kind": DOMAIN_KIND,
            "metadata": {"name": f"{name}-compute-domain"},
            "spec": {
                "numNodes": wide_nodes,
                "channel": {"resourceClaimTemplate": {"name": f"{name}-{CHANNEL}"}},
            },
        }
        files["compute-domain.yaml"] = _dump(domain)
    return files


def _nodes(group: EngineGroup, role: Role, hardware: Hardware) -> tuple[int, int]:
    nodes = -(-group.num_gpus // hardware.gpus_per_node)
    if group.num_gpus % nodes:
        raise BadInput(
            f"{role}.tp={group.num_gpus} cannot be cut into {nodes} equal nodes of at most "
            f"{hardware.gpus_per_node} GPUs, which a manifest needs; choose a multiple of {nodes}"
        )
    return nodes, group.num_gpus // nodes


def _frontend(frontend: Frontend, image: str) -> dict[str, Any]:
    args = dict(frontend.args) if frontend.kind == "dynamo" else {}
    if policy_of("dynamo", args) != frontend.policy:
        args = policy_args("dynamo", frontend.policy)
    words = [word for name, value in args.items() for word in _words(name, value)]
    container: dict[str, Any] = {"image": image, "command": ["python3", "-m", "dynamo.frontend"]}
    if words:
        container["args"] = words
    block: dict[str, Any] = {"componentType": "frontend", "replicas": frontend.router_processes}
    if frontend.env and frontend.kind == "dynamo":
        block["envs"] = [{"name": n, "value": v} for n, v in sorted(frontend.env.items())]
    return block | {"extraPodSpec": {"mainContainer": container}}


def _words(name: str, value: FlagValue) -> list[str]:
    if value is False:
        return []
    if value is True:
        return [f"--{name}"]
    return [f"--{name}", *(map(str, value) if isinstance(value, list) else [str(value)])]


def _worker(
    recipe: Recipe,
    role: Role,
    engine_version: str,
    hardware: Hardware,
    image: str,
    nodes: int,
    per_node: int,
    domain: str | None,
) -> dict[str, Any]:
    group = recipe.groups[role]
    flags, env = flags_from_group(group, role, engine_version, hardware, dynamo=True)
    words = ["--model-path", model_names.checkpoint(recipe), "--trust-remote-code"]
    for name, value in flags.items():
        words += _words(name, value)
    if role != "aggregated":
        words += ["--disaggregation-mode", role]
        words += ["--disaggregation-transfer-backend", recipe.transfer_backend or "mooncake"]
    block: dict[str, Any] = {"componentType": "worker"}
    if role != "aggregated":
        block["subComponentType"] = role
    block["replicas"] = group.num_workers
    if nodes > 1:
        block["multinode"] = {"nodeCount": nodes}
    block["resources"] = {"limits": {"gpu": str(per_node)}}
    block["sharedMemory"] = {"size": SHARED_MEMORY}
    if env:
        block["envs"] = [{"name": name, "value": value} for name, value in env.items()]
    pod: dict[str, Any] = {}
    if domain:
        block["resources"]["claims"] = [{"name": CHANNEL}]
        pod["resourceClaims"] = [{"name": CHANNEL, "resourceClaimTemplateName": f"{domain}-{CHANNEL}"}]
    command = ["python3", "-m", "dynamo.sglang"]
    pod["mainContainer"] = {"image": image, "workingDir": WORKDIR, "command": command, "args": words}
    return block | {"extraPodSpec": pod}


def load_manifest(
    data: Mapping[str, Any], where: str, *, hardware: str | None = None, engine_version: str | None = None
) -> Recipe:
    """The recipe that a manifest deploys.

    Args:
        data: the `DynamoGraphDeployment` document.
        where: its file, for messages.
        hardware: platform of a manifest that does not name one.
        engine_version: SGLang release of a manifest that does not name one.

    Raises:
        BadInput: a key or value that the operator or the engine would refuse; names it.
    """
    meta = mapping(data.get("metadata"), f"{where}: metadata")
    notes = mapping(meta.get("annotations"), f"{where}: metadata.annotations")
    spec = mapping(data.get("spec"), f"{where}: spec")
    if data.get("apiVersion") != API_VERSION:
        raise BadInput(f"{where}: apiVersion={data.get('apiVersion')!r} is not read; give {API_VERSION}")
    if spec.get("backendFramework", "sglang") != "sglang":
        raise BadInput(f"{where}: backendFramework={spec['backendFramework']!r} is not modelled; give sglang")
    platform = hardware or notes.get(f"{ANNOTATION}hardware")
    if platform is None:
        raise BadInput(f"{where}: names no platform; pass hardware or annotate {ANNOTATION}hardware: gb300")
    found = model_names.platform(str(platform))
    version = engine_version or str(notes.get(f"{ANNOTATION}sglang", DEFAULT_ENGINE_VERSION))
    services = mapping(spec.get("services"), f"{where}: spec.services")
    groups: dict[str, EngineGroup] = {}
    flags_of: dict[str, dict[str, object]] = {}
    frontend = Frontend()
    models: list[str | None] = []
    for name, service in services.items():
        at = f"{where}: services.{name}"
        block = mapping(service, at)
        _check_service(block, at)
        if block["componentType"] == "frontend":
            frontend = _read_frontend(block, at)
            continue
        role: Role = block.get("subComponentType", "aggregated")
        flags, path = _worker_flags(block, at)
        models.append(path)
        flags_of[role] = flags
        model = model_names.model_spec([path])
        group = group_from_flags(
            flags,
            _environment(block.get("envs"), at),
            role=role,
            hardware=found,
            model=model,
            num_workers=block.get("replicas", 1),
            engine_version=version,
            expert_weights=model_names.expert_weights([path]),
        )
        _check_width(block, group, at)
        groups[role] = group
    loads = str(notes.get(f"{ANNOTATION}concurrencies", ""))
    return Recipe.parse(
        {
            "name": str(notes.get(f"{ANNOTATION}recipe", meta.get("name", where))),
            "model": model_names.model_spec(models).name,
            "hardware": found.name,
            "transfer_backend": transfer_of(flags_of, where) if "decode" in groups else None,
            "frontend": frontend,
            "concurrencies": tuple(int(part) for part in loads.split(",") if part.strip().isdigit()),
            "source": where,
            **groups,
        },
        where,
    )


def _check_service(block: Mapping[str, Any], at: str) -> None:
    for key in block:
        if key not in SERVICE_KEYS:
            raise BadInput(f"{at}: unknown key {key}; remove it or choose one of {sorted(SERVICE_KEYS)}")
    if block.get("componentType") not in ("frontend", "worker"):
        raise BadInput(f"{at}: componentType={block.get('componentType')!r} is not modelled; give worker")
    if block.get("subComponentType") not in (None, "prefill", "decode"):
        raise BadInput(f"{at}: subComponentType={block['subComponentType']!r} must be prefill or decode")
    replicas = block.get("replicas", 1)
    if not isinstance(replicas, int) or isinstance(replicas, bool) or replicas < 1:
        raise BadInput(f"{at}: replicas={replicas!r} must be a whole number above 0; raise it")


def _environment(value: Any, at: str) -> dict[str, str]:
    found = {}
    for item in value or []:
        if not isinstance(item, Mapping) or not isinstance(item.get("value"), str):
            raise BadInput(f"{at}: envs entry {item!r} must have name and a text value; quote the value")
        found[str(item.get("name"))] = item["value"]
    return found


def _container(block: Mapping[str, Any], at: str) -> dict[str, Any]:
    pod = mapping(block.get("extraPodSpec"), f"{at}.extraPodSpec")
    return mapping(pod.get("mainContainer"), f"{at}.mainContainer")


def _worker_flags(block: Mapping[str, Any], at: str) -> tuple[dict[str, object], str | None]:
    container = _container(block, at)
    words = [str(w) for w in [*(container.get("command") or []), *(container.get("args") or [])]]
    if len(words) and words[0] in ("/bin/bash", "/bin/sh", "bash", "sh"):
        words = shlex.split(" ".join(words[2:]))
    if "dynamo.sglang" not in words:
        raise BadInput(f"{at}: command {' '.join(words[:4])!r} does not start dynamo.sglang; correct it")
    command = parse_flags(words[words.index("dynamo.sglang") + 1 :], at)
    return command.flags, command.model


def _check_width(block: Mapping[str, Any], group: EngineGroup, at: str) -> None:
    limit = mapping(mapping(block.get("resources"), at).get("limits"), at).get("gpu")
    if not isinstance(limit, str) or not limit.isdigit():
        raise BadInput(f"{at}: resources.limits.gpu={limit!r} must be a number in quotes; write '4'")
    nodes = mapping(block.get("multinode"), at).get("nodeCount", 1)
    if int(limit) * nodes != group.num_gpus:
        raise BadInput(
            f"{at}: nodeCount x resources.limits.gpu = {nodes} x {limit} must equal the worker's "
            f"{group.num_gpus} GPUs; correct one"
        )


def _read_frontend(block: Mapping[str, Any], at: str) -> Frontend:
    args: dict[str, Any] = dict(
        parse_flags([str(w) for w in _container(block, at).get("args") or []], at).flags
    )
    return Frontend(
        kind="dynamo",
        router_processes=block.get("replicas", 1),
        policy=policy_of("dynamo", args),
        args=args,
        env=_environment(block.get("envs"), at),
    )
