"""Apply named changes to a setting, through the same validation that files go through."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

from planner.field_names import PRICE, full_name
from planner.recipe_source import find_recipe
from planner.setting_source import hardware_of, model_of
from search_spaces import catalog_loader
from search_spaces.base import Noun
from search_spaces.errors import BadInput
from search_spaces.outage import parse_outage
from search_spaces.stack import Switch
from simulator.acceptance import follows_calibration, mean_accept
from simulator.world import Setting

N = TypeVar("N", bound=Noun)

PAGE_TOKENS = 256
RELATIVE = re.compile(r"(?:[x*](?P<factor>\d*\.?\d+)|(?P<percent>[+-]\d*\.?\d+)%)")
ON_OFF = {"on": True, "true": True, "1": True, "off": False, "false": False, "0": False}
CONTEXT_STEP_TOKENS = 1024


class Change(NamedTuple):
    """One assignment; `name` in full, `text` as it was written."""

    name: str
    text: str

    @property
    def label(self) -> str:
        """`name=text`."""
        return f"{self.name}={self.text}"


class Changed(NamedTuple):
    """A setting after changes, what followed from them, and the resolved values."""

    setting: Setting
    notes: list[str]


def changed(setting: Setting, changes: Iterable[Change]) -> Changed:
    """The setting with changes applied, whole nouns first and derived quantities last.

    Raises:
        BadInput: a value that its field does not take.
    """
    wanted = sorted(changes, key=lambda change: _order(change.name))
    now, notes = setting, list[str]()
    for change in wanted:
        now = _apply(now, change, notes)
    return Changed(_follow_ups(setting, now, {c.name for c in wanted}, notes), notes)


PEAKS = ("_flops", "hbm_bytes_per_s", "nvlink_bytes_per_s")
"""Fields of a platform that kernel tables were measured at."""
ORDER = ("model", "hardware", "price", "stack", "recipe", "workload", "calibration", "relief", "seed")


def _order(name: str) -> tuple[int, bool]:
    root = name.split(".")[0]
    return (ORDER.index(root) if root in ORDER else len(ORDER), "." in name)


def _apply(setting: Setting, change: Change, notes: list[str]) -> Setting:
    name, text = change
    if name.startswith(PRICE):
        return _price(setting, name.removeprefix(PRICE), text, notes)
    special = SPECIAL.get(name)
    if special is not None:
        return special(setting, text, notes)
    root, _, path = name.partition(".")
    if root == "stack":
        return replace(setting, stack=_switched(setting, path, text))
    if root == "relief":
        value = float(_value(text, getattr(setting.relief, path), name))
        return replace(setting, relief=replace(setting.relief, **{path: value}))
    if root == "hardware" and path.endswith(PEAKS):
        notes.append(f"{name} moves analytic times alone; measured kernel times stay (relief scales steps)")
    nouns: dict[str, Any] = {root: with_field(getattr(setting, root), path, text, name)}
    return replace(setting, **nouns)


def with_field(noun: N, path: str, text: str, name: str) -> N:
    """A noun with one field, at a dotted path, set from text; relative texts refer to its present value.

    Raises:
        BadInput: the field does not take the value.
    """
    data = noun.model_dump()
    *parents, last = path.split(".")
    at: Any = data
    for part in parents:
        if part == "mtp" and text.lower() in NO_DRAFTS:
            at[part] = None
            return type(noun).parse(data, f"set {name}")
        at[part] = {} if at.get(part) is None else at[part]
        at = at[part]
    at[last] = _value(text, at.get(last), name)
    return type(noun).parse(data, f"set {name}")


NO_DRAFTS = ("off", "none", "0")
"""Texts for the number of draft steps that take drafting away."""


def _value(text: str, present: Any, name: str) -> Any:
    """A text as the value that pydantic will judge: relative, JSON, none, on/off or as it stands."""
    match = RELATIVE.fullmatch(text)
    if match is not None:
        if isinstance(present, bool) or not isinstance(present, int | float):
            raise BadInput(
                f"set {name}={text}: the field is {present!r} now, no number to scale; give a value"
            )
        factor = float(match["factor"]) if match["factor"] else 1 + float(match["percent"]) / 100
        return round(present * factor) if isinstance(present, int) else present * factor
    if text.lower() == "none":
        return None
    if isinstance(present, bool) and text.lower() in ON_OFF:
        return ON_OFF[text.lower()]
    if text[:1] in "[{":
        try:
            return json.loads(text)
        except ValueError as error:
            raise BadInput(f"set {name}={text}: {error}; write JSON") from None
    return text


def _number(text: str, present: float | None, name: str, low: float, high: float) -> float:
    try:
        found = float(_value(text, present, name))
    except ValueError:
        raise BadInput(f"set {name}={text!r} must be a number; give one") from None
    if not low <= found <= high or math.isnan(found):
        raise BadInput(f"set {name}={text} must lie in [{low:g}, {high:g}]; change it to fit")
    return found


def _model(setting: Setting, text: str, notes: list[str]) -> Setting:
    model = catalog_loader.model(text)
    return replace(setting, model=model, recipe=setting.recipe.model_copy(update={"model": model.name}))


def _hardware(setting: Setting, text: str, notes: list[str]) -> Setting:
    platform = catalog_loader.hardware(text)
    recipe = setting.recipe.model_copy(update={"hardware": platform.name})
    return replace(setting, hardware=platform, recipe=recipe)


def _stack(setting: Setting, text: str, notes: list[str]) -> Setting:
    return replace(setting, stack=catalog_loader.stack(text))


def _switched(setting: Setting, switch: str, text: str) -> Any:
    on = ON_OFF.get(text.lower())
    if on is None:
        raise BadInput(f"set stack.{switch}={text!r} must be on or off; choose one")
    known: Switch = switch  # type: ignore[assignment]
    if setting.stack.has(known) == on:
        return setting.stack
    return setting.stack.toggled(on=(known,)) if on else setting.stack.toggled(off=(known,))


def _recipe(setting: Setting, text: str, notes: list[str]) -> Setting:
    loaded = find_recipe(
        text,
        hardware=hardware_of(setting).name,
        model=model_of(setting).name,
        engine_version=setting.stack.version,
        concurrency=setting.workload.concurrency,
    )
    return replace(setting, recipe=loaded.recipe)


def _seed(setting: Setting, text: str, notes: list[str]) -> Setting:
    return replace(setting, seed=int(_number(text, setting.seed, "seed", 0, 2**31)))


def _price(setting: Setting, platform: str, text: str, notes: list[str]) -> Setting:
    own = hardware_of(setting)
    named = catalog_loader.hardware(platform).name if platform else own.name
    if named != own.name:
        notes.append(f"price.{named} has no effect: the scenario runs on {own.name}")
        return setting
    return replace(setting, hardware=with_field(own, "price_per_gpu_hour", text, f"price.{named}"))


def _own_price(setting: Setting, text: str, notes: list[str]) -> Setting:
    return _price(setting, "", text, notes)


def _acceptance(setting: Setting, text: str, notes: list[str]) -> Setting:
    """First-draft acceptance of the prompts at hand, whatever the stack makes of it."""
    now = mean_accept(setting.calibration, setting.stack, setting.workload)
    field = "accept_chat" if setting.workload.prompts == "chat" else "accept_random"
    factor = now / getattr(setting.calibration, field)
    wanted = _number(text, now, "mtp.acceptance", 0.01, 1.0)
    if setting.recipe.mtp is None:
        notes.append("mtp.acceptance has no effect: the recipe does not draft")
    elif not follows_calibration(setting.recipe.mtp, setting.workload):
        notes.append("mtp.acceptance has no effect: it is pretended, stated by the workload, or DSpark's own")
    value = with_field(setting.calibration, field, repr(wanted / factor), "mtp.acceptance")
    return replace(setting, calibration=value)


def _prefix_hit(setting: Setting, text: str, notes: list[str]) -> Setting:
    """A system prompt, common to all requests, of that share of the mean prompt, with radix caches on."""
    share = _number(text, None, "prefix_hit", 0.0, 1.0)
    load = setting.workload
    tokens = round(share * load.mean_isl / PAGE_TOKENS) * PAGE_TOKENS
    shortest = max(1, int(load.isl * load.random_range_ratio))
    if load.trace is not None or load.turns > 1:
        raise BadInput(
            f"set prefix_hit={text} needs independent prompts; the load has turns or a trace of its own"
        )
    if tokens >= shortest:
        raise BadInput(
            f"set prefix_hit={text}: a shared prefix of {tokens} tokens does not fit the shortest prompt of "
            f"{shortest}; at most {(shortest - 1) // PAGE_TOKENS * PAGE_TOKENS / load.mean_isl:.2f} here"
        )
    roles = ("aggregated", "prefill")
    groups = {
        role: group.model_copy(update={"radix_cache": True})
        for role, group in setting.recipe.groups.items()
        if role in roles
    }
    notes.append(
        f"prefix_hit={share:g} is {tokens} prompt tokens common to all requests, radix_cache on "
        f"({', '.join(groups)}); the first prompt of each rank still misses"
    )
    return replace(
        setting,
        workload=load.model_copy(update={"shared_prefix_tokens": tokens, "prefix_groups": 1}),
        recipe=setting.recipe.model_copy(update=groups),
    )


def _outage(setting: Setting, text: str, notes: list[str]) -> Setting:
    """Workers that die, apart by commas."""
    return replace(setting, outages=tuple(parse_outage(part) for part in text.split(",")))


Special = Callable[[Setting, str, list[str]], Setting]
SPECIAL: dict[str, Special] = {
    "model": _model,
    "hardware": _hardware,
    "stack": _stack,
    "recipe": _recipe,
    "seed": _seed,
    "price": _own_price,
    "mtp.acceptance": _acceptance,
    "prefix_hit": _prefix_hit,
    "outage": _outage,
}


def _follow_ups(base: Setting, now: Setting, names: set[str], notes: list[str]) -> Setting:
    """What an operator changes along: request counts with the load, context limits with the lengths."""
    return _fit_context(base, _fit_counts(base, now, names, notes), notes)


def _fit_counts(base: Setting, now: Setting, names: set[str], notes: list[str]) -> Setting:
    load, before = now.workload, base.workload
    update: dict[str, Any] = {}
    if load.concurrency != before.concurrency:
        for name in ("num_prompts", "num_warmup"):
            count = getattr(before, name)
            if count is not None and f"workload.{name}" not in names:
                update[name] = max(1, count * load.concurrency // before.concurrency)
    opened = load.request_rate is not None and before.request_rate is None
    if opened and "workload.concurrency" not in names:
        # As with `simulate --request-rate`: arrivals set the load, and nothing holds them back.
        update = {"concurrency": load.measured_requests, "num_prompts": load.measured_requests}
        notes.append("arrivals set the load; the limit on requests in flight is lifted")
    return replace(now, workload=load.model_copy(update=update)) if update else now


def _fit_context(base: Setting, now: Setting, notes: list[str]) -> Setting:
    needed = now.workload.longest_tokens
    if needed <= base.workload.longest_tokens:
        return now
    limit = -(-needed // CONTEXT_STEP_TOKENS) * CONTEXT_STEP_TOKENS
    groups = {}
    for role, group in now.recipe.groups.items():
        if group.context_length is not None and group.context_length < needed:
            groups[role] = group.model_copy(update={"context_length": limit})
            notes.append(f"{role}.context_length follows the lengths: {group.context_length} to {limit}")
    return replace(now, recipe=now.recipe.model_copy(update=groups)) if groups else now


def parse_changes(setting: Setting, texts: Iterable[str]) -> list[tuple[Change, ...]]:
    """The values of each `FIELD=VALUE`, `FIELD=a,b,c` or `FIELD=a:b:n`, one tuple per field.

    Raises:
        BadInput: no equals sign, an unknown field, a field named twice, or a range that makes no sense.
    """
    found: dict[str, tuple[Change, ...]] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not value.strip():
            raise BadInput(f"set: {text!r} is not FIELD=VALUE; write e.g. workload.isl=32768")
        full = full_name(setting, name.strip())
        if full in found:
            raise BadInput(f"set: {full} is given twice; give its values as {full}=a,b")
        found[full] = tuple(Change(full, item) for item in _values(full, value.strip()))
    return list(found.values())


MOST_VALUES = 200


def _values(name: str, text: str) -> list[str]:
    if text[0] in "[{" or name == "outage":
        return [text]
    if (match := re.fullmatch(r"([^:,]+):([^:,]+):(\d+)", text)) is None:
        found = [item.strip() for item in text.split(",")]
        if not all(found) or len(set(found)) != len(found):
            raise BadInput(f"set: {name}={text} has an empty or repeated value; write e.g. {name}=1,2,4")
        return found
    try:
        low, high, count = float(match[1]), float(match[2]), int(match[3])
    except ValueError:
        raise BadInput(f"set: {name}={text} must be LOW:HIGH:COUNT in numbers") from None
    if not 2 <= count <= MOST_VALUES or low == high or not math.isfinite(low + high):
        raise BadInput(f"set: {name}={text} needs two different ends and 2 to {MOST_VALUES} values")
    whole = match[1].lstrip("-").isdigit() and match[2].lstrip("-").isdigit()
    steps = [low + (high - low) * i / (count - 1) for i in range(count)]
    return list(dict.fromkeys(str(round(step)) if whole else f"{step:.6g}" for step in steps))
