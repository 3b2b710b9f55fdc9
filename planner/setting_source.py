"""The setting that the shared options of a command mean: recipe, load, stack, calibration and seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from planner.recipe_source import LoadOptions, find_recipe, notes_on, stack_for, stack_note, workload_for
from search_spaces import catalog_loader
from search_spaces.errors import BadInput
from search_spaces.hardware import Hardware
from search_spaces.model import ModelSpec
from search_spaces.outage import parse_outage
from simulator.calibration import load_calibration
from simulator.world import Setting


def setting_from(options: Mapping[str, Any]) -> tuple[Setting, list[str]]:
    """The setting and what is worth a note about it.

    Args:
        options: values by the names that `recipe_options`, `traffic_options`, `stack_options` and
            `calibration_option` give them, `seed` and `outages`; an absent one is not stated.

    Raises:
        BadInput: unknown names, or a recipe that breaks a hard law.
    """
    chosen = options.get("stack")
    loaded = find_recipe(
        options["recipe"],
        hardware=options.get("hardware"),
        model=options.get("model"),
        engine_version=catalog_loader.stack(chosen).version if chosen else None,
        concurrency=options.get("concurrency"),
    )
    recipe = loaded.recipe
    load = LoadOptions(**{field.name: options.get(field.name) for field in fields(LoadOptions)})
    workload = workload_for(loaded, load)
    stack = stack_for(recipe, chosen, options.get("with_", ()), options.get("without", ()))
    notes = notes_on(recipe, workload, stack.version)
    notes += [note] if chosen is None and (note := stack_note(recipe, stack)) else []
    setting = Setting(
        recipe,
        workload,
        catalog_loader.model(recipe.model),
        catalog_loader.hardware(recipe.hardware),
        stack,
        load_calibration(options.get("calibration")),
        options.get("seed", 0),
        outages=tuple(parse_outage(text) for text in options.get("outages", ())),
    )
    return setting, notes


def model_of(setting: Setting) -> ModelSpec:
    """Its model; raises `BadInput` for one that only measured steps stand for."""
    if setting.model is None:
        raise BadInput(
            f"model={setting.recipe.model!r} is not in the catalog; choose a recipe of one that is"
        )
    return setting.model


def hardware_of(setting: Setting) -> Hardware:
    """Its platform; raises `BadInput` for one that only measured steps stand for."""
    if setting.hardware is None:
        raise BadInput(f"hardware={setting.recipe.hardware!r} is not in the catalog; choose one that is")
    return setting.hardware
