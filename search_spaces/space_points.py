"""Points of a search space, and the recipes they mean for a model, a platform and a load."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from math import ceil
from typing import Any, NamedTuple

from search_spaces.errors import BadInput
from search_spaces.formula import formula_of, parse_formula
from search_spaces.hardware import Hardware
from search_spaces.law_case import redundant_experts_for
from search_spaces.model import ModelSpec
from search_spaces.recipe import EngineGroup, Frontend, Mtp, Recipe
from search_spaces.space import (
    STRUCTURAL,
    Case,
    Choice,
    Role,
    SearchSpace,
    knob_name,
    plan_sizes,
    plan_width,
    shapes,
)
from search_spaces.units import BYTES_PER_GIB
from search_spaces.workload import Workload


class Site(NamedTuple):
    """Where a space is looked at: what is served, on what, under which load."""

    model: ModelSpec
    hardware: Hardware
    workload: Workload


def load_values(site: Site, disaggregated: bool, mtp_steps: int) -> dict[str, Any]:
    """Values of `LOAD_NAMES`."""
    hw = site.hardware
    return {
        "isl": site.workload.isl,
        "osl": site.workload.osl,
        "concurrency": site.workload.concurrency,
        "mtp_steps": mtp_steps,
        "drafting": mtp_steps > 0,
        "disaggregated": disaggregated,
        "sm": hw.sm,
        "rack": hw.nvlink_domain_gpus > hw.gpus_per_node,
        "gpus_per_node": hw.gpus_per_node,
        "hbm_gib": hw.hbm_bytes / BYTES_PER_GIB,
        "num_experts": site.model.num_experts,
    }


def shape_values(site: Site, role: str, plan: str, workers: int, mtp_steps: int) -> dict[str, Any]:
    """Values of `SHAPE_NAMES` for a role."""
    width, attention_dp, moe_ep = plan_sizes(plan)
    return load_values(site, role != "aggregated", mtp_steps) | {
        "width": width,
        "workers": workers,
        "attention_dp": attention_dp,
        "moe_ep": moe_ep,
        "gpus_per_rank": width // attention_dp,
        "tp_only": plan.startswith("TP"),
        "dep": plan.startswith("DEP"),
        "dpa": plan.startswith("DPA"),
        "share": ceil(site.workload.concurrency / (workers * attention_dp)),
        "draft_tokens": mtp_steps + 1 if role != "prefill" else 1,
    }


def active_case(cases: tuple[Case, ...], values: Mapping[str, Any]) -> int:
    """Index of the first case whose condition holds."""
    for index, case in enumerate(cases):
        if not case.when or parse_formula(case.when).value(values):
            return index
    raise AssertionError("the last case holds always")


def value_of(choice: Choice, values: Mapping[str, Any]) -> Any:
    """A choice as a plain value."""
    formula = formula_of(choice)
    return choice if formula is None else formula.value(values)


@lru_cache(maxsize=8)
def topologies(space: SearchSpace, num_gpus: int) -> tuple[Mapping[str, Any], ...]:
    """Choices of layout and drafting that fit `num_gpus`, with the other knobs at their first choice."""
    fixed = {
        knob: choices[0]
        for knob, choices in space.knobs().items()
        if knob != "mtp_steps" and not knob.endswith((".plan", ".workers"))
    }
    found: list[Mapping[str, Any]] = []
    for steps, layout in shapes(space):
        point: dict[str, Any] = {"mtp_steps": steps}
        for role, (plan, workers) in zip(space.roles, layout, strict=True):
            point |= {f"{role}.plan": plan, f"{role}.workers": workers}
        if gpus(space, point) <= num_gpus:
            found.append({**point, **fixed})
    return tuple(found)


def gpus(space: SearchSpace, point: Mapping[str, Any]) -> int:
    """GPUs of a point."""
    return sum(plan_width(point[f"{role}.plan"]) * int(point[f"{role}.workers"]) for role in space.roles)


def recipe_at(
    space: SearchSpace, point: Mapping[str, Any], model: ModelSpec, hw: Hardware, workload: Workload
) -> Recipe:
    """The recipe of one point for one workload; derived knobs follow public practice by formula.

    It is unnamed: `named` gives a candidate worth keeping its name.

    Raises:
        pydantic.ValidationError: the point's layout breaks a law of `EngineGroup`.
        BadInput: a formula of the space cannot be computed for it.
    """
    site = Site(model, hw, workload)
    groups: dict[str, Any] = {role: role_at(space, role, point, site) for role in space.roles}
    chosen = deployment_at(space, point, site)
    return Recipe.model_construct(
        name="candidate",
        model=model.name,
        hardware=hw.name,
        transfer_backend=chosen["transfer_backend"],
        frontend=_frontend(chosen["frontend_kind"], chosen["router_processes"], chosen["policy"]),
        source=f"search space {space.name}",
        **groups,
    )


def role_at(space: SearchSpace, role: Role, point: Mapping[str, Any], site: Site) -> EngineGroup:
    """One role of the recipe of a point.

    Raises:
        pydantic.ValidationError: its layout breaks a law of `EngineGroup`.
    """
    return _group(space, role, _part(point, role), point["mtp_steps"], site)


def deployment_at(space: SearchSpace, point: Mapping[str, Any], site: Site) -> dict[str, Any]:
    """Frontend and transfer of the recipe of a point."""
    return _deployment(space, _part(point, "deployment"), point["mtp_steps"], site)


def _part(point: Mapping[str, Any], part: str) -> tuple[tuple[str, Any], ...]:
    return tuple((k.partition(".")[2], v) for k, v in point.items() if k.startswith(f"{part}."))


def named(recipe: Recipe) -> Recipe:
    """The recipe with a name made of platform, topology and digest."""
    name = f"{recipe.hardware}-{recipe.topology.lower()}-{recipe.digest[:6]}"
    return recipe.model_copy(update={"name": name})


def field_values(
    space: SearchSpace, part: str, chosen: Mapping[str, Any], shape: Mapping[str, Any]
) -> dict[str, Any]:
    """Every field of a part, given the choices of its knobs; absent knobs take their first choice."""
    values = dict(shape)
    found = {}
    for field, cases in space.fields(part).items():
        index = active_case(cases, shape)
        knob = knob_name(part, field, index, cases).partition(".")[2]
        choice = chosen.get(knob, cases[index].choices[0])
        found[field] = values[field] = value_of(choice, values)
    return found


@lru_cache(maxsize=65536)
def _group(
    space: SearchSpace, role: Role, knobs: tuple[tuple[str, Any], ...], mtp_steps: int, site: Site
) -> EngineGroup:
    """One role of a point. Points share roles, so each is built and validated once."""
    chosen = dict(knobs)
    shape = shape_values(site, role, chosen["plan"], chosen["workers"], mtp_steps)
    return EngineGroup(
        **structure(site.model, role, chosen["plan"], chosen["workers"], mtp_steps),
        **field_values(space, role, chosen, shape),
    )


def structure(model: ModelSpec, role: str, plan: str, workers: int, mtp_steps: int) -> dict[str, Any]:
    """Fields that follow from plan, workers and drafting alone; a prefill worker does not draft."""
    width, attention_dp, moe_ep = plan_sizes(plan)
    return {
        "num_workers": workers,
        "tp": width,
        "attention_dp": attention_dp,
        "moe_ep": moe_ep,
        "redundant_experts": redundant_experts_for(model.num_experts, width) if moe_ep > 1 else 0,
        "mtp": Mtp(num_steps=mtp_steps) if mtp_steps and role != "prefill" else None,
    }


@lru_cache(maxsize=4096)
def _deployment(
    space: SearchSpace, knobs: tuple[tuple[str, Any], ...], mtp_steps: int, site: Site
) -> dict[str, Any]:
    values = load_values(site, space.mode == "disaggregated", mtp_steps)
    return field_values(space, "deployment", dict(knobs), values)


@lru_cache(maxsize=256)
def _frontend(kind: str, processes: int, policy: str) -> Frontend:
    return Frontend.parse(
        {"kind": kind, "router_processes": processes, "policy": policy}, "search space: deployment"
    )


class Missing(NamedTuple):
    """A field of a recipe whose value a space does not offer."""

    field: str
    value: Any
    offered: tuple[Any, ...]

    def __str__(self) -> str:
        offered = ", ".join(map(str, self.offered)) or "nothing"
        return f"{self.field}={self.value} (offered: {offered})"


def locate(space: SearchSpace, recipe: Recipe, site: Site) -> tuple[dict[str, Any], list[Missing]]:
    """The point whose recipe is `recipe` under the site's load, and what the space lacks for it.

    The point is complete exactly when nothing is missing; then `recipe_at` gives a recipe of the same
    digest.
    """
    if recipe.is_disaggregated != (space.mode == "disaggregated"):
        mode = "disaggregated" if recipe.is_disaggregated else "aggregated"
        return {}, [Missing("mode", mode, (space.mode,))]
    steps = recipe.mtp.num_steps if recipe.mtp else 0
    point: dict[str, Any] = {"mtp_steps": steps}
    lacking = [] if steps in space.mtp_steps else [Missing("mtp_steps", steps, space.mtp_steps)]
    for role in space.roles:
        group = recipe.groups[role]
        choices, plan = space.role(role), group.label
        point |= {f"{role}.plan": plan, f"{role}.workers": group.num_workers}
        if plan not in choices.plans:
            lacking.append(Missing(f"{role}.plan", plan, choices.plans))
            continue
        if group.num_workers not in choices.workers:
            lacking.append(Missing(f"{role}.workers", group.num_workers, choices.workers))
        expected = structure(site.model, role, plan, group.num_workers, steps) | {"pp": 1}
        lacking += [
            Missing(f"{role}.{name}", getattr(group, name), (value,))
            for name, value in expected.items()
            if getattr(group, name) != value
        ]
        shape = shape_values(site, role, plan, group.num_workers, steps)
        lacking += _locate_fields(space, role, group.model_dump(), shape, point)
    wanted = {
        "transfer_backend": recipe.transfer_backend,
        "frontend_kind": recipe.frontend.kind,
        "router_processes": recipe.frontend.router_processes,
        "policy": recipe.frontend.policy,
    }
    values = load_values(site, recipe.is_disaggregated, steps)
    return point, lacking + _locate_fields(space, "deployment", wanted, values, point)


def _locate_fields(
    space: SearchSpace, part: str, wanted: Mapping[str, Any], shape: Mapping[str, Any], point: dict[str, Any]
) -> list[Missing]:
    """Extend `point` by the choices that give the wanted values; returns the values nothing gives.

    Fields match one after the other, so that formulas see the wanted values of earlier fields.
    """
    values = {**shape, **wanted}
    fields = space.fields(part)
    lacking = []
    for field, cases in fields.items():
        index = active_case(cases, shape)
        offered = [value_of(choice, values) for choice in cases[index].choices]
        found = next((i for i, v in enumerate(offered) if _same(v, wanted[field])), None)
        if found is None:
            lacking.append(Missing(f"{part}.{field}", wanted[field], tuple(dict.fromkeys(offered))))
        elif len(offered) > 1:
            point[knob_name(part, field, index, cases)] = cases[index].choices[found]
    if part == "deployment":
        return lacking
    for name, info in EngineGroup.model_fields.items():
        free = name not in fields and name not in STRUCTURAL
        if free and wanted[name] != info.get_default():
            lacking.append(Missing(f"{part}.{name}", wanted[name], (info.get_default(),)))
    return lacking


def _same(found: Any, wanted: Any) -> bool:
    """Equal, with a boolean and a number never alike."""
    return bool(found == wanted) and isinstance(found, bool) == isinstance(wanted, bool)


def check_computes(space: SearchSpace, site: Site) -> None:
    """Build every layout at its first choices; raises `BadInput` for a formula or value that fails."""
    from pydantic import ValidationError

    from search_spaces.base import describe

    for point in topologies(space, 1 << 30):
        try:
            recipe_at(space, point, *site)
        except ValidationError as error:
            where = f"space {space.name!r}: " + ", ".join(
                f"{r}.plan={point[f'{r}.plan']}" for r in space.roles
            )
            raise BadInput(describe(error, where, EngineGroup)) from None
