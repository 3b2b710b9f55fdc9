"""Public spellings of models, images and platforms to catalog names."""

from __future__ import annotations

import re
from collections.abc import Iterable

from engine_adapter.engine_defaults import ExpertWeights
from search_spaces import catalog_loader
from search_spaces.errors import BadInput
from search_spaces.hardware import Hardware
from search_spaces.model import ModelSpec
from search_spaces.recipe import Recipe
from search_spaces.stack import StackVersion

DAY0_IMAGE = re.compile(r"(?:deepseek-v4|dsv4)-(?:grace-blackwell|blackwell|hopper|b[23]00)")
"""Images built for the first days of DeepSeek-V4 support (April 2026)."""
RELEASE_DATES = {
    12: "2026-05-10",
    13: "2026-05-28",
    14: "2026-06-12",
    15: "2026-06-26",
    16: "2026-07-20",
    17: "2026-08-05",
}
"""Patch number of SGLang 0.5.x to the build date it is treated as; only places it among stacks."""
MID_MONTH = "15"


def model_spec(names: Iterable[str | None]) -> ModelSpec:
    """The catalog model that the first recognised name means.

    Raises:
        BadInput: none of the names is a DeepSeek-V4 Pro or Flash checkpoint.
    """
    tried = [name for name in names if name]
    for name in tried:
        found = re.search(r"(?:deepseek-?v4|dsv4)-(pro|flash)", name.lower().replace("_", "-"))
        if found:
            return catalog_loader.model(f"DeepSeek-V4-{found[1].capitalize()}")
    raise BadInput(f"model={tried} is no DeepSeek-V4-Pro or DeepSeek-V4-Flash checkpoint; name one of them")


def expert_weights(names: Iterable[str | None]) -> ExpertWeights | None:
    """Expert format that a checkpoint's name states; None when it states none."""
    for name in names:
        if name and re.search(r"nvfp4", name, re.IGNORECASE):
            return "nvfp4"
        if name and re.search(r"-fp8\b", name, re.IGNORECASE):
            return "fp8"
    return None


def checkpoint(recipe: Recipe) -> str:
    """Hugging Face id to serve: the published one where it has the recipe's expert format."""
    weights = recipe.serving.expert_weights
    served = recipe.launch.get("served", "")
    if served and (expert_weights([served]) or "mxfp4") == weights:
        return served
    name = catalog_loader.model(recipe.model).name
    if weights == "nvfp4":
        return f"nvidia/{name.rsplit('/', 1)[-1]}-NVFP4"
    return f"sgl-project/{name.rsplit('/', 1)[-1]}-FP8" if weights == "fp8" else name


def platform(text: str) -> Hardware:
    """The platform whose name occurs in a free-text GPU type; the longest name wins."""
    lowered = text.lower()
    known = sorted(catalog_loader.all_hardware(), key=len, reverse=True)
    for name in known:
        if name in lowered:
            return catalog_loader.hardware(name)
    raise BadInput(f"gpu_type={text!r} names no platform of the catalog; choose one of {sorted(known)}")


def _date_in(text: str) -> str | None:
    """First ISO date in a text; a month without a day counts as its middle."""
    packed = re.search(r"(20\d\d)(\d\d)(\d\d)(?!\d)", text)
    if packed:
        return "-".join(packed.groups())
    found = re.search(r"(20\d\d-\d\d)(-\d\d)?", text)
    return f"{found[1]}{found[2] or '-' + MID_MONTH}" if found else None


def stack_of(image: str, fallback_date: str = "") -> StackVersion:
    """The stack of an image or version name.

    A date in the name decides, then a first-days image, then a release number, then
    `fallback_date`; without any of them it is the default stack.
    """
    tagged = image.split("@")[0]
    date = _date_in(tagged)
    if date is None and DAY0_IMAGE.search(tagged):
        patched = "patched" in image
        return catalog_loader.stack("day0+swa_tail_prealloc" if patched else "day0")
    release = re.search(r"\b[v:]?0\.5\.(\d+)", tagged)
    if date is None and release:
        patch = int(release[1])
        if patch > max(RELEASE_DATES):
            exact = [s for s in catalog_loader.all_stacks().values() if s.version == f"0.5.{patch}"]
            if exact:
                return exact[0]
        date = RELEASE_DATES.get(min(max(patch, min(RELEASE_DATES)), max(RELEASE_DATES)))
    date = date or _date_in(fallback_date)
    return catalog_loader.stack_on(date) if date else catalog_loader.stack(catalog_loader.DEFAULT_STACK)


def engine_version(image: str, fallback_date: str = "") -> str:
    """SGLang release whose flags an image understands: its own tag, else its stack's."""
    release = re.search(r"\b0\.5\.\d+", image.split("@")[0].replace("v0.", "0."))
    return release[0] if release else stack_of(image, fallback_date).version
