"""What the options of a command mean: a recipe of a file or the catalog, its workload, its stack."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_args

from engine_adapter import model_names
from engine_adapter.recipe_files import load_recipe, split_selector
from engine_adapter.srt_slurm import LoadedRecipe
from search_spaces import catalog_loader, laws
from search_spaces.errors import BadInput
from search_spaces.public_recipes import recipe_lanes
from search_spaces.recipe import Recipe
from search_spaces.stack import StackVersion, Switch
from search_spaces.traces import open_trace, trace_rows
from search_spaces.workload import Workload

CATALOG_PREFIX = "catalog:"
DEFAULT_ISL, DEFAULT_OSL = 8192, 1024
"""Lengths of the public 8k/1k lane, for recipes that state none."""


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """What a command line says about the load; None keeps what the recipe says."""

    concurrency: int | None = None
    isl: int | None = None
    osl: int | None = None
    random_range_ratio: float | None = None
    num_prompts: int | None = None
    request_rate: float | None = None
    burstiness: float | None = None
    turns: int | None = None
    turn_tokens: int | None = None
    think_s: float | None = None
    shared_prefix_tokens: int | None = None
    prefix_groups: int | None = None
    trace: str | None = None
    rate_scale: float | None = None


def named_recipes() -> dict[str, Recipe]:
    """Every public recipe by a name that is unique: `NAME`, or `NAME[i]` where several share one."""
    recipes = [recipe for lane in recipe_lanes().values() for recipe in lane]
    total, seen = Counter(r.name for r in recipes), Counter[str]()
    found = {}
    for recipe in recipes:
        name = recipe.name
        found[f"{name}[{seen[name]}]" if total[name] > 1 else name] = recipe
        seen[name] += 1
    return found


def _spellings(unique: str, recipe: Recipe) -> set[str]:
    """Names that mean a public recipe, with and without its index and the part before the slash."""
    return {text for name in (unique, recipe.name) for text in (name, name.rsplit("/", 1)[-1])}


def public_recipe(name: str, concurrency: int | None = None) -> Recipe:
    """The public recipe called `name`, in full or from its last slash on.

    Of several with one name, the one dispatched at `concurrency` is meant.

    Raises:
        BadInput: none or several; names close ones.
    """
    known = named_recipes()
    found = {unique: recipe for unique, recipe in known.items() if name in _spellings(unique, recipe)}
    if len(found) > 1:
        found = {n: r for n, r in found.items() if concurrency in r.concurrencies} or found
    if len(found) == 1:
        return next(iter(found.values()))
    if found:
        listed = ", ".join(f"{n} (concurrency {list(r.concurrencies)})" for n, r in found.items())
        raise BadInput(f"recipe={name!r} means {len(found)} public recipes; choose one of {listed}")
    spelled = {text for unique, recipe in known.items() for text in _spellings(unique, recipe)}
    close = difflib.get_close_matches(name, sorted(spelled), n=3)
    hint = f"did you mean {' or '.join(close)}?" if close else "`servecast catalog recipes` lists them"
    raise BadInput(f"recipe={name!r} is no public recipe; {hint}")


def find_recipe(
    text: str,
    *,
    hardware: str | None = None,
    model: str | None = None,
    engine_version: str | None = None,
    concurrency: int | None = None,
) -> LoadedRecipe:
    """The recipe that `--recipe` means, with `--hardware` and `--model` applied.

    Args:
        text: a file with an optional `:selector`, `catalog:NAME`, or the name of a public recipe.
        hardware: platform to run on instead of the recipe's.
        model: model to serve instead of the recipe's.
        engine_version: SGLang release of shell commands that name none.
        concurrency: chooses between public recipes of one name.
    """
    if text.startswith(CATALOG_PREFIX):
        loaded = LoadedRecipe(public_recipe(text.removeprefix(CATALOG_PREFIX), concurrency))
    elif not Path(split_selector(text)[0]).exists() and _is_public(text):
        loaded = LoadedRecipe(public_recipe(text, concurrency))
    else:
        loaded = _from_file(text, hardware, engine_version)
    changes: dict[str, str] = {
        "hardware": catalog_loader.hardware(hardware or loaded.recipe.hardware).name,
        "model": catalog_loader.model(model or loaded.recipe.model).name,
    }
    return LoadedRecipe(loaded.recipe.model_copy(update=changes), loaded.workload, loaded.selector)


def _is_public(text: str) -> bool:
    return any(text in _spellings(unique, recipe) for unique, recipe in named_recipes().items())


def _from_file(text: str, hardware: str | None, engine_version: str | None) -> LoadedRecipe:
    try:
        return load_recipe(text, hardware=hardware, engine_version=engine_version)
    except BadInput as error:
        if Path(split_selector(text)[0]).exists():
            raise
        raise BadInput(f"{error}, or name a recipe of `servecast catalog recipes`") from None


def workload_for(loaded: LoadedRecipe, options: LoadOptions) -> Workload:
    """The load to simulate: what the options say, else what the file says, else the 8k/1k lane.

    Without an option the largest concurrency of the recipe counts. Request counts of a file scale
    with the concurrency, as load generators state them as multiples of it.
    """
    recipe = loaded.recipe
    base = loaded.workload or _default_workload(recipe)
    concurrency = options.concurrency
    if concurrency is None:
        concurrency = max(recipe.concurrencies, default=base.concurrency)
    data: dict[str, Any] = base.model_dump() | {"concurrency": concurrency}
    for name in ("num_prompts", "num_warmup"):
        if data[name] is not None:
            data[name] = data[name] * concurrency // base.concurrency
    stated = {f.name: getattr(options, f.name) for f in fields(options)}
    trace, rate_scale = stated.pop("trace"), stated.pop("rate_scale")
    data |= {name: value for name, value in stated.items() if value is not None}
    if trace is not None:
        data |= _replay(trace, rate_scale or 1.0)
    workload = Workload.parse(data, "workload options")
    open_loop = workload.request_rate is not None or trace is not None
    if open_loop and options.concurrency is None:
        # Arrivals set the load; nothing holds them back.
        workload = workload.model_copy(
            update={"concurrency": workload.measured_requests, "num_prompts": workload.measured_requests}
        )
    return workload


def _replay(path: str, rate_scale: float) -> dict[str, Any]:
    trace = open_trace(path, rate_scale)
    rows = trace_rows(trace)
    return {"trace": trace.model_dump(), "isl": int(rows.isl.max()), "osl": int(rows.osl.max())}


def _default_workload(recipe: Recipe) -> Workload:
    stated = recipe.launch
    return Workload.parse(
        {
            "isl": stated.get("isl", DEFAULT_ISL),
            "osl": stated.get("osl", DEFAULT_OSL),
            "prompts": "chat" if recipe.mtp else "random",
        },
        f"{recipe.name}: launch",
    )


def stack_for(
    recipe: Recipe, name: str | None = None, on: Sequence[str] = (), off: Sequence[str] = ()
) -> StackVersion:
    """The stack `name`, else the recipe's, else the default, with switches changed."""
    stack = catalog_loader.stack(name or recipe.stack or catalog_loader.DEFAULT_STACK)
    known: tuple[Switch, ...] = get_args(Switch)
    on, off = [_switch(name, known) for name in on], [_switch(name, known) for name in off]
    both = sorted(set(on) & set(off))
    if both:
        raise BadInput(f"switch={both[0]!r} is both switched on and off; name it once")
    if not on and not off:
        return stack
    return stack.toggled(on=tuple(s for s in known if s in on), off=tuple(s for s in known if s in off))


def _switch(name: str, known: tuple[Switch, ...]) -> Switch:
    """A switch by its name, or by a beginning of it that no other shares."""
    found = [switch for switch in known if switch == name] or [s for s in known if s.startswith(name)]
    if len(found) != 1:
        why = "is unknown" if not found else f"may be any of {found}"
        raise BadInput(f"switch={name!r} {why}; choose among {list(known)}")
    return found[0]


def notes_on(recipe: Recipe, workload: Workload | None, engine_version: str) -> list[str]:
    """Soft violations of the laws, worded; hard ones raise `BadInput`."""
    model, hardware = catalog_loader.model(recipe.model), catalog_loader.hardware(recipe.hardware)
    laws.check(recipe, model, hardware, workload, engine_version)
    found = laws.violations(recipe, model, hardware, workload, engine_version)
    return [f"{violation.message} [{violation.rule}]" for violation in found]


def stack_note(recipe: Recipe, stack: StackVersion) -> str | None:
    """A hint where the recipe's image is a build of another stack."""
    image = recipe.launch.get("container")
    built = model_names.stack_of(image) if image else stack
    if built.name == stack.name:
        return None
    return (
        f"image {image} is a {built.name} build, predicted as {stack.name}; --stack {built.name} for its own"
    )
