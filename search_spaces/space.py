"""The space of recipes a search may choose from, as data, and how its points become recipes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, lru_cache
from itertools import product
from math import ceil
from typing import Any, Literal

import yaml

from search_spaces.base import Noun
from search_spaces.catalog_loader import catalog_root
from search_spaces.errors import BadInput
from search_spaces.hardware import Hardware
from search_spaces.model import ModelSpec
from search_spaces.recipe import EngineGroup, Frontend, Mtp, Recipe
from search_spaces.role_laws import redundant_experts_for
from search_spaces.workload import Workload

PAGE = 256
PREFILL_SLOTS = 128
"""Request slots of a prefill rank: public recipes run 512 to 1024 per worker of four."""


class RoleSpace(Noun):
    """Choices of one role."""

    plans: tuple[str, ...]
    """Parallel plans: `TP4`, `DEP8` (attention DP, expert parallel), `DPA4` (attention DP, TP experts)."""
    workers: tuple[int, ...]
    mem_fraction_static: tuple[float, ...]
    swa_full_tokens_ratio: tuple[float, ...] = (0.1,)
    slots_margin: tuple[float, ...] = (1.0,)
    """Request slots over the share of the load that a worker gets."""
    chunk_tokens_per_rank: tuple[int, ...] = (8192,)
    prefill_delayer: tuple[bool, ...] = (False,)


class SearchSpace(Noun):
    """Choices of one lane. Everything else of a recipe follows from them by formula."""

    name: str
    mode: Literal["disaggregated", "aggregated"]
    mtp_steps: tuple[int, ...] = (0,)
    """Draft steps; 0 turns drafting off."""
    prefill: RoleSpace | None = None
    decode: RoleSpace | None = None
    aggregated: RoleSpace | None = None
    source: str = ""

    def knobs(self) -> dict[str, tuple[Any, ...]]:
        """Flat name to choices, such as `decode.plan`; single choices included."""
        found: dict[str, tuple[Any, ...]] = {"mtp_steps": self.mtp_steps}
        roles = ("prefill", "decode") if self.mode == "disaggregated" else ("aggregated",)
        for role in roles:
            space = getattr(self, role)
            if space is None:
                raise BadInput(f"space {self.name!r}: {role} is required for mode={self.mode}; add it")
            found[f"{role}.plan"] = space.plans
            found[f"{role}.workers"] = space.workers
            for knob in (
                "mem_fraction_static",
                "swa_full_tokens_ratio",
                "slots_margin",
                "chunk_tokens_per_rank",
                "prefill_delayer",
            ):
                choices = getattr(space, knob)
                if len(choices) > 1:
                    found[f"{role}.{knob}"] = choices
        return found

    @property
    def size(self) -> int:
        """Points of the space, valid or not."""
        total = 1
        for choices in self.knobs().values():
            total *= len(choices)
        return total


@cache
def load_spaces(hardware: str) -> tuple[SearchSpace, ...]:
    """The shipped spaces for a platform: disaggregated first."""
    entry = catalog_root() / "lanes" / f"{hardware}.yaml"
    if not entry.is_file():
        raise BadInput(f"hardware={hardware!r} has no search space in the catalog; give one with --space")
    data = yaml.safe_load(entry.read_text())
    return tuple(SearchSpace.parse(item, f"catalog/lanes/{hardware}.yaml") for item in data["spaces"])


def topologies(space: SearchSpace, num_gpus: int) -> Iterator[dict[str, Any]]:
    """Choices of layout and drafting that fit `num_gpus`, with the other knobs at their first choice."""
    knobs = space.knobs()
    shape = [k for k in knobs if k == "mtp_steps" or k.endswith((".plan", ".workers"))]
    rest = {k: v[0] for k, v in knobs.items() if k not in shape}
    for values in product(*(knobs[k] for k in shape)):
        point = {**dict(zip(shape, values, strict=True)), **rest}
        if gpus(space, point) <= num_gpus:
            yield point


def gpus(space: SearchSpace, point: dict[str, Any]) -> int:
    """GPUs of a point."""
    roles = ("prefill", "decode") if space.mode == "disaggregated" else ("aggregated",)
    return sum(plan_width(point[f"{role}.plan"]) * int(point[f"{role}.workers"]) for role in roles)


def plan_width(plan: str) -> int:
    """GPUs of one worker of a plan such as `DEP8`."""
    digits = plan.lstrip("ADEPT")
    if not digits.isdigit() or int(digits) < 1 or plan[: -len(digits)] not in ("TP", "DEP", "DPA"):
        raise BadInput(f"plan={plan!r} is not TPn, DEPn or DPAn; correct the space")
    return int(digits)


def recipe_at(
    space: SearchSpace, point: dict[str, Any], model: ModelSpec, hw: Hardware, workload: Workload
) -> Recipe:
    """The recipe of one point for one workload; derived knobs follow public practice by formula.

    It is unnamed: `named` gives a candidate worth keeping its name.

    Raises:
        pydantic.ValidationError: the point's layout breaks a law of `EngineGroup`.
    """
    disaggregated = space.mode == "disaggregated"
    roles = ("prefill", "decode") if disaggregated else ("aggregated",)
    groups: dict[str, Any] = {
        role: _group(
            getattr(space, role),
            role,
            tuple((k.partition(".")[2], v) for k, v in point.items() if k.startswith(f"{role}.")),
            point["mtp_steps"],
            model,
            hw,
            workload,
        )
        for role in roles
    }
    rack = hw.nvlink_domain_gpus > hw.gpus_per_node
    return Recipe.model_construct(
        name="candidate",
        model=model.name,
        hardware=hw.name,
        transfer_backend=("mooncake" if rack else "nixl") if disaggregated else None,
        frontend=ROUTER if disaggregated else NO_ROUTER,
        source=f"search space {space.name}",
        **groups,
    )


ROUTER = Frontend(kind="dynamo", router_processes=9)
NO_ROUTER = Frontend()


def named(recipe: Recipe) -> Recipe:
    """The recipe with a name made of platform, topology and digest."""
    name = f"{recipe.hardware}-{recipe.topology.lower()}-{recipe.digest[:6]}"
    return recipe.model_copy(update={"name": name})


@lru_cache(maxsize=65536)
def _group(
    choices: RoleSpace,
    role: str,
    knobs: tuple[tuple[str, Any], ...],
    mtp_steps: int,
    model: ModelSpec,
    hw: Hardware,
    workload: Workload,
) -> EngineGroup:
    """One role of a point. Points share roles, so each is built and validated once."""
    chosen = dict(knobs)

    def choice(knob: str) -> Any:
        return chosen.get(knob, getattr(choices, knob)[0])

    plan, workers = chosen["plan"], chosen["workers"]
    width = plan_width(plan)
    attention_dp = 1 if plan.startswith("TP") else width
    expert_parallel, drafting = plan.startswith("DEP"), mtp_steps > 0
    mtp = Mtp(num_steps=mtp_steps) if drafting and role != "prefill" else None
    draft = mtp.num_draft_tokens if mtp else 1
    chunk = choice("chunk_tokens_per_rank")
    share = ceil(workload.concurrency / (workers * attention_dp))
    slots = PREFILL_SLOTS if role == "prefill" else max(8, ceil(share * choice("slots_margin")))
    graph = min(1280, max(8, share, min(slots, 512)))
    values: dict[str, Any] = {
        "num_workers": workers,
        "tp": width,
        "attention_dp": attention_dp,
        "moe_ep": width if expert_parallel else 1,
        "redundant_experts": redundant_experts_for(model.num_experts, width) if expert_parallel else 0,
        "mem_fraction_static": choice("mem_fraction_static"),
        "swa_full_tokens_ratio": choice("swa_full_tokens_ratio"),
        "max_running_per_rank": slots,
        "chunk_tokens_per_rank": chunk * (width if role == "prefill" and attention_dp == 1 else 1),
        "graph_max_batch_per_rank": graph,
        "dp_lm_head": attention_dp > 1,
        "dense_tp1": expert_parallel and not drafting,
        "online_compress": not drafting,
        "mtp": mtp,
        "prefill_delayer": choice("prefill_delayer"),
        **_experts(plan, hw),
    }
    if expert_parallel and hw.sm >= 100:
        need = max(chunk if role != "decode" else 1, graph * draft if role != "prefill" else 1)
        values["megamoe_cap_tokens"] = max(1280, ceil(need / PAGE) * PAGE)
    if role == "decode":
        values["context_length"] = ceil((workload.isl + workload.osl) / 1024) * 1024
        if expert_parallel and not drafting:
            values |= {"decode_polling_interval": 8, "clip_max_new_tokens": 8}
    if role != "prefill" and attention_dp > 1:
        values["stream_interval"] = 60
    return EngineGroup(**values)


def _experts(plan: str, hw: Hardware) -> dict[str, str]:
    """MoE backend and precisions of a plan on a platform, as public recipes choose them."""
    if hw.sm >= 100:
        if plan.startswith("DEP"):
            return {"moe_backend": "megamoe", "moe_activation": "fp4"}
        return {"moe_backend": "flashinfer_mxfp4", "moe_activation": "fp8"}
    if plan.startswith("DEP"):
        return {"moe_backend": "deepep", "moe_activation": "fp8", "expert_weights": "fp8"}
    return {"moe_backend": "marlin", "moe_activation": "bf16"}
