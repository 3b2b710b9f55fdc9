"""InferenceX master-config entries (`configs/nvidia-master.yaml`): which loads run which recipe.

Keys and rules as in SemiAnalysisAI/InferenceX 843c6254f, `utils/matrix_logic/validation.py`. An entry
states the topology of each row and names the srt-slurm file that holds the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import ConfigDict, Field, model_validator

from engine_adapter import model_names
from engine_adapter.srt_export import image_for
from engine_adapter.yaml_files import dump_yaml, parse_yaml
from search_spaces import catalog_loader
from search_spaces.base import Noun
from search_spaces.errors import BadInput
from search_spaces.recipe import EngineGroup, Recipe

PRECISIONS = {"mxfp4": "fp4", "nvfp4": "fp4", "fp8": "fp8"}
ROUTER_VERSION = "1.3.0"
"""Dynamo release an entry names where the recipe does not."""
RECIPE_FOLDER = "recipes/sglang/deepseek-v4"
LINK = "CONFIG_FILE="


def _kebab(name: str) -> str:
    return name.replace("_", "-")


class _Entry(Noun):
    model_config = ConfigDict(alias_generator=_kebab, populate_by_name=True)


class RoleRow(_Entry):
    """One role of a multi-node row."""

    num_worker: int = Field(ge=1)
    tp: int = Field(ge=1)
    pp: int = Field(default=1, ge=1)
    ep: int = Field(ge=1)
    dp_attn: bool
    additional_settings: tuple[str, ...] = ()


class Row(_Entry):
    """One operating point or one range of them."""

    spec_decoding: Literal["mtp", "draft_model", "none"] = "none"
    prefill: RoleRow | None = None
    decode: RoleRow | None = None
    tp: int | None = Field(default=None, ge=1)
    ep: int | None = Field(default=None, ge=1)
    dp_attn: bool | None = None
    conc_list: tuple[int, ...] | None = None
    conc_start: int | None = Field(default=None, ge=1)
    conc_end: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _forms(self) -> Row:
        if (self.conc_list is None) == (self.conc_start is None or self.conc_end is None):
            raise ValueError("conc-list and conc-start with conc-end exclude each other; give exactly one")
        if self.conc_list is not None and (not self.conc_list or min(self.conc_list) < 1):
            raise ValueError(f"conc-list={list(self.conc_list)} must hold whole numbers above 0; correct it")
        if self.conc_start and self.conc_end and self.conc_start > self.conc_end:
            raise ValueError(f"conc-start={self.conc_start} must not exceed conc-end={self.conc_end}")
        if (self.prefill is None) != (self.decode is None) or (self.prefill is None) == (self.tp is None):
            raise ValueError("a row has prefill and decode, or tp and ep; give one of the two")
        return self

    @property
    def loads(self) -> tuple[int, ...]:
        """Concurrencies of the row; a range is doubled from its start, both ends included."""
        if self.conc_list is not None:
            return self.conc_list
        assert self.conc_start is not None and self.conc_end is not None
        found, load = [], self.conc_start
        while load < self.conc_end:
            found.append(load)
            load *= 2
        return (*found, self.conc_end)

    @property
    def config_file(self) -> str | None:
        """The srt-slurm recipe that the row links."""
        settings = self.prefill.additional_settings if self.prefill else ()
        found = [s.removeprefix(LINK) for s in settings if s.startswith(LINK)]
        return found[0] if found else None


class FixedLengths(_Entry):
    """Rows of one pair of lengths."""

    isl: int = Field(ge=1)
    osl: int = Field(ge=1)
    search_space: tuple[Row, ...] = Field(min_length=1)


class Scenarios(_Entry):
    """What is run; agentic replay is not modelled."""

    fixed_seq_len: tuple[FixedLengths, ...] = Field(min_length=1)


class Router(_Entry):
    """The router of a disaggregated entry."""

    name: str
    version: str

    @model_validator(mode="after")
    def _no_image(self) -> Router:
        if "/" in self.version or ":" in self.version:
            raise ValueError(f"router.version={self.version!r} is an image; give a version")
        return self


class MasterEntry(_Entry):
    """One entry: a model, an image and a runner, and the rows that run there."""

    image: str
    model: str
    model_prefix: str
    runner: str
    precision: str
    framework: Literal["dynamo-sglang", "sglang"]
    multinode: bool
    disagg: bool = False
    router: Router | None = None
    kv_p2p_transfer: str | None = None
    scenarios: Scenarios

    @model_validator(mode="after")
    def _consistent(self) -> MasterEntry:
        if self.disagg and not self.multinode:
            raise ValueError("disagg=true needs multinode=true; set it")
        if self.disagg and self.kv_p2p_transfer is None:
            raise ValueError("disagg=true needs kv-p2p-transfer; set mooncake or nixl")
        for lengths in self.scenarios.fixed_seq_len:
            for row in lengths.search_space:
                if (row.prefill is not None) != self.multinode:
                    raise ValueError("rows have prefill and decode where multinode=true alone; correct them")
        return self


def entry_key(recipe: Recipe) -> str:
    """Such as `dsv4-fp4-gb300-dynamo-sglang-mtp`."""
    precision = PRECISIONS[recipe.serving.expert_weights]
    framework = "dynamo-sglang" if recipe.is_disaggregated else "sglang"
    return f"dsv4-{precision}-{recipe.hardware}-{framework}" + ("-mtp" if recipe.mtp else "")


def master_entries(
    rows: Sequence[tuple[Recipe, str]], isl: int, osl: int, engine_version: str
) -> dict[str, MasterEntry]:
    """Entries of recipes that run at their concurrencies, by key; MTP and aggregated ones apart.

    Args:
        rows: recipes, and the srt-slurm file of each under `RECIPE_FOLDER`.
        isl: nominal input tokens.
        osl: nominal output tokens.
        engine_version: SGLang release of the image.

    Raises:
        BadInput: a recipe without concurrencies, or an aggregated one that is more than one server.
    """
    grouped: dict[str, list[tuple[Recipe, str]]] = {}
    for recipe, file in rows:
        if not recipe.concurrencies:
            raise BadInput(f"recipe {recipe.name!r} has no concurrencies to dispatch; give --concurrency")
        if not recipe.is_disaggregated and recipe.serving.num_workers > 1:
            raise BadInput(
                f"recipe {recipe.name!r} runs {recipe.serving.num_workers} servers, and a single-node row "
                "of InferenceX one; export one worker"
            )
        per_node = catalog_loader.hardware(recipe.hardware).gpus_per_node
        if not recipe.is_disaggregated and recipe.num_gpus > per_node:
            raise BadInput(
                f"recipe {recipe.name!r} runs one server on {recipe.num_gpus} GPUs, more than the "
                f"{per_node} of a node, which InferenceX has no row for; export it as sglang-nodes"
            )
        grouped.setdefault(entry_key(recipe), []).append((recipe, file))
    return {key: _entry(found, isl, osl, engine_version) for key, found in grouped.items()}


def _entry(rows: Sequence[tuple[Recipe, str]], isl: int, osl: int, version: str) -> MasterEntry:
    first = rows[0][0]
    return MasterEntry(
        image=image_for(first, version),
        model=model_names.checkpoint(first),
        model_prefix="dsv4",
        runner=first.hardware,
        precision=PRECISIONS[first.serving.expert_weights],
        framework="dynamo-sglang" if first.is_disaggregated else "sglang",
        multinode=first.is_disaggregated,
        disagg=first.is_disaggregated,
        router=_router(first) if first.is_disaggregated else None,
        kv_p2p_transfer=first.transfer_backend,
        scenarios=Scenarios(
            fixed_seq_len=(
                FixedLengths(isl=isl, osl=osl, search_space=tuple(_row(r, file) for r, file in rows)),
            )
        ),
    )


def _router(recipe: Recipe) -> Router:
    version = recipe.launch.get("dynamo_hash") or recipe.launch.get("dynamo_version") or ROUTER_VERSION
    return Router(name="dynamo", version=version)


def _row(recipe: Recipe, file: str) -> Row:
    spec: Literal["mtp", "none"] = "mtp" if recipe.mtp else "none"
    if recipe.prefill is None or recipe.decode is None:
        group = recipe.serving
        return Row(
            spec_decoding=spec,
            tp=group.tp,
            ep=group.moe_ep,
            dp_attn=group.attention_dp > 1,
            conc_list=recipe.concurrencies,
        )
    link = (f"{LINK}{RECIPE_FOLDER}/{file}",)
    return Row(
        spec_decoding=spec,
        prefill=_role(recipe.prefill, link),
        decode=_role(recipe.decode, ()),
        conc_list=recipe.concurrencies,
    )


def _role(group: EngineGroup, settings: tuple[str, ...]) -> RoleRow:
    return RoleRow(
        num_worker=group.num_workers,
        tp=group.tp,
        pp=group.pp,
        ep=group.moe_ep,
        dp_attn=group.attention_dp > 1,
        additional_settings=settings,
    )


def master_text(entries: dict[str, MasterEntry]) -> str:
    """The entries as YAML, to be pasted below the others."""
    data = {
        key: entry.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        | {"multinode": entry.multinode}
        for key, entry in entries.items()
    }
    return dump_yaml(data)


def load_master(text: str, where: str) -> dict[str, MasterEntry]:
    """Every entry of a file.

    Raises:
        BadInput: a key is unknown, or a rule of the format is broken.
    """
    data = parse_yaml(text, where)
    if not isinstance(data, dict) or not data:
        raise BadInput(f"{where}: expected a mapping from key to entry; give a master config")
    if any("*" in str(key) for key in data):
        raise BadInput(f"{where}: a key holds `*`; name every entry")
    return {str(key): MasterEntry.parse(item, f"{where}: {key}") for key, item in data.items()}


def row_difference(row: Row, recipe: Recipe) -> str:
    """The first thing a row states otherwise than its recipe, or an empty text."""
    wanted = _row(recipe, "x").model_dump()
    stated = row.model_dump()
    for side in ("prefill", "decode"):
        for found in (wanted, stated):
            if found[side]:
                found[side].pop("additional_settings")
    stated["conc_list"], stated["conc_start"], stated["conc_end"] = row.loads, None, None
    for key, value in wanted.items():
        if stated[key] != value:
            return f"{key}={stated[key]!r}, the recipe has {value!r}"
    return ""
