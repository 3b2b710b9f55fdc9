"""What the catalog holds, as tables and entries for people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import get_args

from engine_adapter.recipe_files import recipe_to_yaml
from planner.recipe_source import named_recipes, public_recipe
from planner.text_table import number, table
from search_spaces import catalog_loader
from search_spaces.base import Noun
from search_spaces.hardware import Hardware
from search_spaces.model import ModelSpec
from search_spaces.recipe import Recipe
from search_spaces.stack import StackVersion, Switch
from search_spaces.units import BYTES_PER_GB, BYTES_PER_GIB, FLOPS_PER_TFLOPS

KINDS = ("hardware", "models", "stacks", "recipes")


def entries(kind: str, hardware: str | None = None, model: str | None = None) -> dict[str, Noun]:
    """Catalog name to entry of one kind; recipes may be filtered by platform and model."""
    found: dict[str, Noun] = {}
    if kind == "hardware":
        found.update(catalog_loader.all_hardware())
    elif kind == "models":
        found.update(catalog_loader.all_models())
    elif kind == "stacks":
        found.update(catalog_loader.all_stacks())
    else:
        platform = catalog_loader.hardware(hardware).name if hardware else None
        served = catalog_loader.model(model).name if model else None
        found.update(
            (name, recipe)
            for name, recipe in named_recipes().items()
            if platform in (None, recipe.hardware) and served in (None, recipe.model)
        )
    return found


def entry(kind: str, name: str) -> Noun:
    """One entry by any of its names; raises `BadInput` for an unknown one."""
    if kind == "hardware":
        return catalog_loader.hardware(name)
    if kind == "models":
        return catalog_loader.model(name)
    return catalog_loader.stack(name) if kind == "stacks" else public_recipe(name.removeprefix("catalog:"))


def overview_text() -> str:
    """How much of each kind there is."""
    rows = [(kind, str(len(found)), _some(found)) for kind in KINDS for found in [entries(kind)]]
    return table(rows, ("kind", "entries", "names"), indent=0)


def _some(found: Mapping[str, Noun]) -> str:
    names = list(found)
    return ", ".join(names) if len(names) <= 8 else f"{names[0]}, ... (`servecast catalog recipes`)"


def list_text(kind: str, found: Mapping[str, Noun]) -> str:
    """One line per entry."""
    if not found:
        return "no public recipe is known for these filters"
    if kind == "hardware":
        return _hardware(e for e in found.values() if isinstance(e, Hardware))
    if kind == "models":
        return _models({n: e for n, e in found.items() if isinstance(e, ModelSpec)})
    if kind == "stacks":
        return _stacks(e for e in found.values() if isinstance(e, StackVersion))
    return _recipes({n: e for n, e in found.items() if isinstance(e, Recipe)})


def _hardware(found: Iterable[Hardware]) -> str:
    rows = [
        (
            hw.name,
            hw.gpu,
            str(hw.sm),
            number(hw.hbm_bytes / BYTES_PER_GIB),
            number(hw.hbm_bytes_per_s / BYTES_PER_GB),
            *(number(value / FLOPS_PER_TFLOPS) for value in (hw.fp4_flops, hw.fp8_flops, hw.bf16_flops)),
            number(hw.nvlink_bytes_per_s / BYTES_PER_GB),
            str(hw.nvlink_domain_gpus),
            hw.host_cpu,
        )
        for hw in found
    ]
    header = (
        "name", "GPU", "sm", "HBM GiB", "HBM GB/s", "FP4 TFLOPS", "FP8", "BF16", "NVLink GB/s", "joined",
        "host",
    )  # fmt: skip
    return table(rows, header, indent=0)


def _models(found: Mapping[str, ModelSpec]) -> str:
    rows = [
        (name, m.name, str(m.num_layers), str(m.hidden), f"{m.num_experts} (top {m.experts_per_token})")
        for name, m in found.items()
    ]
    return table(rows, ("name", "model", "layers", "hidden", "experts"), indent=0)


def _stacks(found: Iterable[StackVersion]) -> str:
    ordered = sorted(found, key=lambda s: s.since)
    rows = [
        (switch, *("on" if stack.has(switch) else "" for stack in ordered)) for switch in get_args(Switch)
    ]
    rows = [("SGLang", *(s.version for s in ordered)), ("builds since", *(s.since for s in ordered)), *rows]
    text = table(rows, ("", *(s.name for s in ordered)), indent=0)
    return f"{text}\n\ndefault: {catalog_loader.DEFAULT_STACK}; change switches with --with and --without"


def _recipes(found: Mapping[str, Recipe]) -> str:
    rows = [
        (
            name,
            recipe.hardware,
            recipe.model.rsplit("/", 1)[-1],
            recipe.topology,
            f"{recipe.num_gpus}",
            "/".join(recipe.launch.get(k, "-") for k in ("isl", "osl")),
            ",".join(map(str, recipe.concurrencies)) or "-",
        )
        for name, recipe in found.items()
    ]
    return table(
        rows, ("name", "platform", "model", "topology", "GPUs", "isl/osl", "concurrencies"), indent=0
    )


def entry_text(found: Noun) -> str:
    """Every field of an entry, each with its source where one is stated."""
    if isinstance(found, Recipe):
        return recipe_to_yaml(found).rstrip()
    data = found.model_dump()
    sources: dict[str, str] = data.pop("sources", {})
    rows = [(name, _value(value), sources.pop(name, "")) for name, value in data.items()]
    rows += [(f"({name})", "", source) for name, source in sources.items()]
    return table(rows, ("field", "value", "source"), indent=0)


def _value(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "-"
    return f"{value:g}" if isinstance(value, float) else str(value)
