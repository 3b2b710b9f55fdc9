"""The space of recipes a search may choose from, as data: choices, conditions and formulas.

A space lists parallel plans and worker counts, and for any other field of a role its choices. A field
that a space leaves out follows public practice (`catalog/practice.yaml`), mostly by formula.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache, lru_cache
from itertools import product
from typing import Any, Literal

import yaml
from pydantic import Field, field_validator, model_validator

from search_spaces.base import Noun
from search_spaces.catalog_loader import catalog_root
from search_spaces.errors import BadInput
from search_spaces.formula import formula_of, parse_formula
from search_spaces.recipe import EngineGroup

Choice = bool | int | float | str | None
Role = Literal["prefill", "decode", "aggregated"]

STRUCTURAL = frozenset(
    {"num_workers", "tp", "attention_dp", "moe_ep", "redundant_experts", "pp", "mtp"}
    | {"extra_flags", "extra_env"}
)
"""Fields of a role that follow from its plan, its workers and the drafting; never knobs of their own."""
DEPLOYMENT_FIELDS = ("transfer_backend", "frontend_kind", "router_processes", "policy")
"""Knobs of the deployment as a whole."""
PRACTICE = "=practice"
"""A choice that stands for what `catalog/practice.yaml` says of the field."""
LOAD_NAMES = frozenset(
    {"isl", "osl", "concurrency", "mtp_steps", "drafting", "disaggregated"}
    | {"sm", "rack", "gpus_per_node", "hbm_gib", "num_experts"}
)
"""Values every condition and formula may use."""
SHAPE_NAMES = LOAD_NAMES | {
    "width", "workers", "attention_dp", "moe_ep", "gpus_per_rank", "tp_only", "dep", "dpa", "share",
    "draft_tokens",
}  # fmt: skip
"""What those of a role may use besides: its plan, its workers, and `share`, its load per rank."""


class Case(Noun):
    """Choices of one field, and when they hold."""

    when: str = ""
    """Condition over the shape and the load; empty holds always. The first case that holds counts."""
    choices: tuple[Choice, ...] = Field(min_length=1)
    """Plain values, or formulas that start with `=`; the first is used until a search varies it."""

    @model_validator(mode="after")
    def _reads(self) -> Case:
        try:
            for choice in self.choices:
                formula_of(choice)
            if self.when:
                parse_formula(self.when)
        except BadInput as error:
            raise ValueError(str(error)) from None
        if len(set(map(repr, self.choices))) < len(self.choices):
            raise ValueError(f"choices={list(self.choices)} repeat a value; list each once")
        return self


Knobs = dict[str, tuple[Case, ...]]


def as_cases(value: Any) -> Any:
    """A field's `value`, `[choices]` or `[{when, choices}]` in the last form."""
    items = value if isinstance(value, list | tuple) else [value]
    if any(isinstance(item, dict | Case) for item in items):
        return items
    return [{"choices": items}]


class RoleSpace(Noun):
    """Choices of one role."""

    plans: tuple[str, ...] = Field(min_length=1)
    """Parallel plans: `TP4`, `DEP8` (attention DP, expert parallel), `DPA4` (attention DP, TP experts)."""
    workers: tuple[int, ...] = Field(min_length=1)
    knobs: Knobs = Field(default_factory=dict)
    """Any other field of a role, in the order of evaluation, with its choices."""

    @field_validator("knobs", mode="before")
    @classmethod
    def _normal(cls, value: Any) -> Any:
        return {k: as_cases(v) for k, v in value.items()} if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _known(self) -> RoleSpace:
        known = set(EngineGroup.model_fields) - STRUCTURAL
        wrong = sorted(set(self.knobs) - known)
        if wrong:
            raise ValueError(
                f"knobs.{wrong[0]} is no knob of a role; choose among {sorted(known)}, or plans and workers"
            )
        for plan in self.plans:
            try:
                plan_width(plan)
            except BadInput as error:
                raise ValueError(str(error)) from None
        for number in self.workers:
            if number < 1:
                raise ValueError(f"workers={number} must be at least 1; raise it")
        return self


class SearchSpace(Noun):
    """Choices of one lane. Everything else of a recipe follows from them by formula."""

    name: str
    mode: Literal["disaggregated", "aggregated"]
    models: tuple[str, ...] = ()
    """Models it is meant for; empty means any."""
    mtp_steps: tuple[int, ...] = (0,)
    """Draft steps; 0 turns drafting off."""
    prefill: RoleSpace | None = None
    decode: RoleSpace | None = None
    aggregated: RoleSpace | None = None
    deployment: Knobs = Field(default_factory=dict)
    """Choices of `transfer_backend`, `frontend_kind`, `router_processes` and `policy`."""
    source: str = ""

    @field_validator("deployment", mode="before")
    @classmethod
    def _normal(cls, value: Any) -> Any:
        return {k: as_cases(v) for k, v in value.items()} if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _complete(self) -> SearchSpace:
        for role in self.roles:
            if getattr(self, role) is None:
                raise ValueError(f"space {self.name!r}: {role} is required for mode={self.mode}; add it")
        extra = [r for r in ("prefill", "decode", "aggregated") if getattr(self, r) and r not in self.roles]
        if extra:
            raise ValueError(f"space {self.name!r}: {extra[0]} has no place in mode={self.mode}; remove it")
        wrong = sorted(set(self.deployment) - set(DEPLOYMENT_FIELDS))
        if wrong:
            raise ValueError(f"deployment.{wrong[0]} is unknown; choose among {list(DEPLOYMENT_FIELDS)}")
        for role in self.roles:
            _check_names(self.fields(role), SHAPE_NAMES, role)
        _check_names(self.fields("deployment"), LOAD_NAMES, "deployment")
        return self

    @property
    def roles(self) -> tuple[Role, ...]:
        """Roles of the mode, prefill first."""
        return ("prefill", "decode") if self.mode == "disaggregated" else ("aggregated",)

    def role(self, role: Role) -> RoleSpace:
        """Choices of a role of the mode."""
        found: RoleSpace = getattr(self, role)
        return found

    def fields(self, part: str) -> Knobs:
        """Every field of a role or of `deployment` with its cases, in the order of evaluation."""
        return _fields(self, part)

    def knobs(self) -> dict[str, tuple[Choice, ...]]:
        """Flat name to choices, such as `decode.plan`; fields with one choice are left out.

        Where a field has several cases, each case with choices is a knob: `decode.slots@1`.
        """
        found: dict[str, tuple[Choice, ...]] = {"mtp_steps": self.mtp_steps}
        for role in self.roles:
            found[f"{role}.plan"] = self.role(role).plans
            found[f"{role}.workers"] = self.role(role).workers
        for part in (*self.roles, "deployment"):
            for field, cases in self.fields(part).items():
                for index, case in enumerate(cases):
                    if len(case.choices) > 1:
                        found[knob_name(part, field, index, cases)] = case.choices
        return found

    @property
    def size(self) -> int:
        """Points of the space with every knob counted, whether its case holds or not."""
        total = 1
        for choices in self.knobs().values():
            total *= len(choices)
        return total


@lru_cache(maxsize=1024)
def _fields(space: SearchSpace, part: str) -> Knobs:
    own = space.deployment if part == "deployment" else getattr(space, part).knobs
    base = practice()[part]
    own = {name: tuple(_resolved(case, base.get(name)) for case in cases) for name, cases in own.items()}
    return {**{name: own.get(name, cases) for name, cases in base.items()}, **own}


def _resolved(case: Case, usual: tuple[Case, ...] | None) -> Case:
    """The case with `=practice` replaced by what it stands for."""
    if PRACTICE not in case.choices:
        return case
    if usual is None or len(usual) != 1:
        raise ValueError(f"{PRACTICE} stands for one formula of catalog/practice.yaml; write it out here")
    first = usual[0].choices[0]
    return Case(when=case.when, choices=tuple(first if c == PRACTICE else c for c in case.choices))


def knob_name(part: str, field: str, index: int, cases: tuple[Case, ...]) -> str:
    """Name of the knob of one case of a field."""
    return f"{part}.{field}" + (f"@{index}" if len(cases) > 1 else "")


def _check_names(fields: Knobs, known: frozenset[str], part: str) -> None:
    """Raise `ValueError` for a formula that looks at what is not known when it is evaluated."""
    before: set[str] = set()
    for field, cases in fields.items():
        for case in cases:
            for condition, names in [
                (case.when, parse_formula(case.when).names if case.when else frozenset()),
                *((str(c), f.names) for c in case.choices if (f := formula_of(c))),
            ]:
                allowed = known if condition == case.when else known | before
                wrong = sorted(names - allowed)
                if wrong:
                    raise ValueError(
                        f"{part}.{field}: {condition!r} uses {wrong[0]}, which is not known there; choose "
                        f"among {sorted(allowed)}"
                    )
        if cases[-1].when:
            raise ValueError(f"{part}.{field}: the last case has a condition; end with one that has none")
        before.add(field)


@cache
def practice() -> dict[str, Knobs]:
    """What public recipes do with the fields that a space leaves out, by role."""
    where = "catalog/practice.yaml"
    data = yaml.safe_load((catalog_root() / "practice.yaml").read_text())
    return {
        part: {
            field: tuple(Case.parse(item, f"{where}: {part}.{field}") for item in as_cases(value))
            for field, value in fields.items()
        }
        for part, fields in data.items()
    }


@cache
def load_spaces(hardware: str, model: str | None = None) -> tuple[SearchSpace, ...]:
    """The shipped spaces for a platform and a model (None takes those of all): disaggregated first."""
    entry = catalog_root() / "lanes" / f"{hardware}.yaml"
    if not entry.is_file():
        raise BadInput(f"hardware={hardware!r} has no search space in the catalog; give one with --space")
    found = spaces_in(yaml.safe_load(entry.read_text()), f"catalog/lanes/{hardware}.yaml")
    return tuple(s for s in found if model is None or not s.models or model in s.models)


def spaces_in(data: Any, where: str) -> tuple[SearchSpace, ...]:
    """The spaces of a document: a list under `spaces`, or one space.

    Raises:
        BadInput: a key, name or formula is wrong; names it.
    """
    if not isinstance(data, Mapping):
        raise BadInput(f"{where}: expected a mapping with `spaces`, got {type(data).__name__}; see the docs")
    items = data.get("spaces", [data] if "mode" in data else None)
    if not isinstance(items, list) or not items:
        raise BadInput(f"{where}: spaces must be a list of at least one space; add `- name: ...`")
    extra = sorted(str(k) for k in set(data) - {"spaces"}) if "spaces" in data else []
    if extra:
        raise BadInput(f"{where}: unknown key {extra[0]} beside `spaces`; remove it")
    found = tuple(SearchSpace.parse(item, f"{where}: spaces[{i}]") for i, item in enumerate(items))
    names = [space.name for space in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise BadInput(f"{where}: two spaces are named {twice[0]!r}; name each differently")
    return found


@cache
def plan_width(plan: str) -> int:
    """GPUs of one worker of a plan such as `DEP8`."""
    digits = plan.lstrip("ADEPT")
    if not digits.isdigit() or int(digits) < 1 or plan[: -len(digits)] not in ("TP", "DEP", "DPA"):
        raise BadInput(f"plan={plan!r} is not TPn, DEPn or DPAn; correct the space")
    return int(digits)


def plan_sizes(plan: str) -> tuple[int, int, int]:
    """Tensor parallel, attention-DP and expert-parallel width of a plan."""
    width = plan_width(plan)
    return width, 1 if plan.startswith("TP") else width, width if plan.startswith("DEP") else 1


def shapes(space: SearchSpace) -> Iterator[tuple[int, tuple[tuple[str, int], ...]]]:
    """Every layout: draft steps, and plan and workers of each role."""
    sides = [list(product(space.role(r).plans, space.role(r).workers)) for r in space.roles]
    for steps in space.mtp_steps:
        for layout in product(*sides):
            yield steps, layout
