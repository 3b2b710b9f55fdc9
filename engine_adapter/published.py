"""Recipes that were published, in the normalised record form, to `Recipe`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, cast

from engine_adapter import model_names
from engine_adapter.engine_defaults import ExpertWeights
from engine_adapter.flag_table import Role, canonical_name
from engine_adapter.frontends import frontend_from_block
from engine_adapter.sglang_flags import group_from_flags
from search_spaces.errors import BadInput
from search_spaces.hardware import Hardware
from search_spaces.model import ModelSpec
from search_spaces.recipe import EngineGroup, Frontend, Recipe

Transfer = Literal["mooncake", "nixl", "mori"]


def layout_flags(role: Mapping[str, Any], where: str) -> dict[str, object]:
    """Parallel sizes of a record's role as engine flags.

    Raises:
        BadInput: a size is a template of a sweep file, or the sizes contradict the worker's GPUs.
    """
    sizes: dict[str, int] = {}
    for name in ("tp", "dp", "ep", "pp"):
        value = role.get(name, 1)
        if not isinstance(value, int):
            raise BadInput(
                f"{where}: {name}={value!r} is a sweep template, not a number; load one expanded variant"
            )
        sizes[name] = value
    gpus = role.get("gpus_per_worker", sizes["tp"] * sizes["pp"])
    if sizes["tp"] * sizes["pp"] != gpus:
        raise BadInput(
            f"{where}: tp*pp={sizes['tp'] * sizes['pp']} must equal gpus_per_worker={gpus}; correct one"
        )
    attention = bool(role.get("dp_attention", sizes["dp"] > 1))
    return {
        "tensor-parallel-size": sizes["tp"],
        "pipeline-parallel-size": sizes["pp"],
        "expert-parallel-size": sizes["ep"],
        "data-parallel-size": sizes["dp"] if attention else 1,
        "enable-dp-attention": attention,
    }


def group_from_role(
    role: Mapping[str, Any],
    name: Role,
    *,
    flags: Mapping[str, object],
    env: Mapping[str, str],
    hardware: Hardware,
    model: ModelSpec,
    version: str,
    weights: ExpertWeights | None,
    where: str,
) -> EngineGroup:
    """One role of a record: its sizes with `flags` and `env`; errors are prefixed with `where`."""
    layout = layout_flags(role, f"{where}: {name}")
    kept = {k: v for k, v in flags.items() if canonical_name(k) not in layout}
    try:
        return group_from_flags(
            {**kept, **layout},
            env,
            role=name,
            hardware=hardware,
            model=model,
            num_workers=int(role.get("workers", 1)),
            engine_version=version,
            expert_weights=weights,
        )
    except BadInput as error:
        raise BadInput(f"{where}: {name}: {error}") from None


def transfer_of(groups: Mapping[Any, Mapping[str, object]], where: str) -> Transfer | None:
    """The KV transfer backend both roles name; the engine's default is mooncake."""
    named = {
        str(flags["disaggregation-transfer-backend"])
        for flags in groups.values()
        if flags.get("disaggregation-transfer-backend") is not None
    }
    if len(named) > 1:
        raise BadInput(
            f"{where}: disaggregation-transfer-backend={sorted(named)} must be equal on both roles; keep one"
        )
    value = next(iter(named), "mooncake")
    if value not in ("mooncake", "nixl", "mori"):
        raise BadInput(
            f"{where}: disaggregation-transfer-backend={value!r} is not modelled; "
            "choose mooncake, nixl or mori"
        )
    return cast(Transfer, value)


def dispatched(record: Mapping[str, Any]) -> tuple[int, ...]:
    """Concurrencies a master configuration dispatches to the recipe, else those it lists itself."""
    workload = record.get("workload") or {}
    lists = [row.get("conc_list") or [] for row in workload.get("dispatch") or []]
    found = {int(c) for row in lists for c in row} or {int(c) for c in workload.get("concurrencies") or []}
    return tuple(sorted(found))


def recipe_from_expert_record(record: Mapping[str, Any], concurrency: int | None = None) -> Recipe:
    """The recipe of one record.

    Args:
        record: one item of a normalised recipe list.
        concurrency: load to take the settings of, for scripts that compute limits from it; None
            takes the largest.

    Raises:
        BadInput: the record is a template, or the engine refuses it; names the record.
    """
    where = str(record.get("id", "record without id"))
    names = (record["model"].get("served"), record["model"].get("alias"))
    hardware = model_names.platform(record["hardware"]["gpu"])
    model = model_names.model_spec(names)
    groups, flags = _groups(record, concurrency, hardware, model, where)
    return Recipe(
        name=where,
        model=model.name,
        hardware=hardware.name,
        transfer_backend=None if "aggregated" in groups else transfer_of(flags, where),
        frontend=_frontend(record, where),
        concurrencies=(concurrency,) if concurrency else dispatched(record),
        source=_source(record["source"]),
        launch=_launch(record),
        aggregated=groups.get("aggregated"),
        prefill=groups.get("prefill"),
        decode=groups.get("decode"),
    )


def _groups(
    record: Mapping[str, Any], concurrency: int | None, hardware: Hardware, model: ModelSpec, where: str
) -> tuple[dict[Role, EngineGroup], dict[Role, dict[str, object]]]:
    """Group and flags of each role a record has."""
    source, served = record["source"], record["model"]
    weights: ExpertWeights | None = "nvfp4" if record["precision"] == "nvfp4" else None
    if model_names.expert_weights([served.get("served")]) == "fp8":
        weights = "fp8"
    image, date = str(served.get("container") or ""), str(source.get("introduced_date") or "")
    computed = _computed_flags(record, concurrency)
    groups: dict[Role, EngineGroup] = {}
    flags: dict[Role, dict[str, object]] = {}
    roles: tuple[Role, ...] = ("prefill", "decode", "aggregated")
    for name in roles:
        if record.get(name) is None:
            continue
        flags[name] = {**record[name].get("flags", {}), **computed}
        groups[name] = group_from_role(
            record[name],
            name,
            flags=flags[name],
            env={**(record.get("global_env") or {}), **record[name].get("env", {})},
            hardware=hardware,
            model=model,
            version=model_names.engine_version(image, date),
            weights=weights,
            where=where,
        )
    return groups, flags


def recipes_from_expert_record(record: Mapping[str, Any]) -> list[Recipe]:
    """Every recipe of a record: one per concurrency where limits are computed from it, else one."""
    table = record.get("per_concurrency")
    if not table:
        return [recipe_from_expert_record(record)]
    wanted = dispatched(record) or tuple(int(c) for c in table)
    return [recipe_from_expert_record(record, c) for c in wanted if str(c) in table]


def _computed_flags(record: Mapping[str, Any], concurrency: int | None) -> dict[str, object]:
    table = record.get("per_concurrency") or {}
    if not table:
        return {}
    key = str(concurrency if concurrency is not None else max(int(c) for c in table))
    if key not in table:
        raise BadInput(
            f"{record.get('id')}: concurrency={key} is not dispatched; choose of {sorted(map(int, table))}"
        )
    return dict(table[key])


def _frontend(record: Mapping[str, Any], where: str) -> Frontend:
    block = dict(record.get("frontend") or {"type": "none"})
    processes = block.get("router_processes")
    if isinstance(processes, int) and processes >= 1:
        block |= {"enable_multiple_frontends": processes > 1, "num_additional_frontends": processes - 1}
    return frontend_from_block(block, where)


def _source(source: Mapping[str, Any]) -> str:
    path = f"{source['repo']}/{source['path']}"
    if source.get("selector"):
        path += f":{source['selector']}"
    commit = source.get("introduced") or source.get("blob")
    return f"{path} @ {commit}" if commit else path


def _launch(record: Mapping[str, Any]) -> dict[str, str]:
    """Facts for exporters: checkpoint, image, Dynamo commit and the workload it was written for."""
    workload, dynamo = record.get("workload") or {}, record.get("dynamo") or {}
    facts = {
        "model_path": record["model"].get("alias"),
        "served": record["model"].get("served"),
        "container": record["model"].get("container"),
        "dynamo_hash": dynamo.get("hash"),
        "dynamo_version": dynamo.get("version"),
        "isl": workload.get("isl"),
        "osl": workload.get("osl"),
    }
    return {key: str(value) for key, value in facts.items() if value is not None}
