"""Names of everything in a setting that may be changed, and what a short or misspelt name means."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any, get_args

from search_spaces.base import Noun
from search_spaces.errors import BadInput
from search_spaces.stack import Switch
from simulator.world import Relief, Setting

WHOLE = ("model", "hardware", "stack", "recipe", "seed", "price", "prefix_hit", "mtp.acceptance", "outage")
"""Names that are no field of a noun: a catalog entry in place of another, or a quantity that sets several."""
ALIASES = {
    "moe.w4a4": "stack.w4a4_megamoe",
    "mtp.accept": "mtp.acceptance",
    "acceptance": "mtp.acceptance",
    "mtp": "mtp.num_steps",
    "price_per_gpu_hour": "price",
    "outages": "outage",
}
PRICE = "price."


def field_names(setting: Setting) -> list[str]:
    """Every name in full, such as `recipe.decode.num_workers` or `stack.swa_budget`."""
    found = list(WHOLE)
    for root in ("recipe", "workload", "hardware", "model", "calibration"):
        found += _fields(getattr(setting, root), root)
    found += [f"stack.{switch}" for switch in get_args(Switch)]
    found += [f"relief.{name}" for name in Relief.__dataclass_fields__]
    return found


def _fields(noun: Noun, prefix: str) -> Iterator[str]:
    for name, field in type(noun).model_fields.items():
        value, path = getattr(noun, name), f"{prefix}.{name}"
        if isinstance(value, Noun):
            yield from _fields(value, path)
        elif isinstance(value, dict) and value and all(isinstance(v, Noun) for v in value.values()):
            for key, part in value.items():
                yield from _fields(part, f"{path}.{key}")
        elif value is None and (kind := _small_noun(field.annotation)) is not None:
            yield from (f"{path}.{inner}" for inner in _required(kind))
        else:
            yield path


def _small_noun(annotation: Any) -> type[Noun] | None:
    """The noun of an optional field, where one value is enough to make it."""
    for kind in get_args(annotation):
        if isinstance(kind, type) and issubclass(kind, Noun) and len(_required(kind)) == 1:
            return kind
    return None


def _required(kind: type[Noun]) -> list[str]:
    """Fields without a default."""
    return [name for name, field in kind.model_fields.items() if field.is_required()]


def full_name(setting: Setting, name: str) -> str:
    """What a name means: in full, its last parts, or with words of a part left out, `num` first.

    `decode.swa_ratio` means `recipe.decode.swa_full_tokens_ratio`, and `isl` means `workload.isl`. Of
    several meanings, one of the role that decodes is taken.

    Raises:
        BadInput: no meaning, or several; names close ones.
    """
    name = ALIASES.get(name, name)
    if name.startswith(PRICE):
        return name
    known = field_names(setting)
    if name in known:
        return name
    parts = name.removeprefix("switch.").split(".")
    counted = [*parts[:-1], f"num_{parts[-1]}"]
    for fits, wanted in ((_ends_with, parts), (_ends_with, counted), (_abbreviates, parts)):
        found = [full for full in known if fits(full.split("."), wanted)]
        if len(found) > 1:
            role = "decode" if setting.recipe.is_disaggregated else "aggregated"
            found = [full for full in found if full.startswith(f"recipe.{role}.")] or found
        if len(found) == 1:
            return found[0]
        if found:
            raise BadInput(f"set: {name!r} may be any of {', '.join(found)}; write one in full")
    raise BadInput(f"set: {name!r} is no field of the scenario; {_hint(name, known)}")


def _ends_with(full: list[str], parts: list[str]) -> bool:
    return full[-len(parts) :] == parts


def _abbreviates(full: list[str], parts: list[str]) -> bool:
    """Whether each part has only words of the full name's part, in their order."""
    tail = full[-len(parts) :]
    return len(tail) == len(parts) and all(
        _subsequence(short.split("_"), long.split("_")) for short, long in zip(parts, tail, strict=True)
    )


def _subsequence(few: list[str], many: list[str]) -> bool:
    rest = iter(many)
    return all(word in rest for word in few)


def _hint(name: str, known: list[str]) -> str:
    spelled = {full: full for full in known} | {full.rpartition(".")[2]: full for full in known}
    close = difflib.get_close_matches(name, list(spelled), n=4, cutoff=0.5)
    close += difflib.get_close_matches(name.rpartition(".")[2], list(spelled), n=4, cutoff=0.6)
    meant = list(dict.fromkeys(spelled[text] for text in close))[:4]
    if meant:
        return f"did you mean {' or '.join(meant)}?"
    return "fields begin with recipe, workload, hardware, stack, model, calibration, relief or price"
