"""Published measurements, in the normalised record form, to `MeasuredPoint`."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine_adapter import model_names
from engine_adapter.engine_defaults import ExpertWeights
from engine_adapter.flag_table import MEGAMOE_CAP_ENV, W4A4_ENV, Role, version_tuple
from engine_adapter.frontends import frontend_from_block
from engine_adapter.observations import OBSERVATION, PREDICTION, observed_point
from engine_adapter.published import group_from_role, transfer_of
from engine_adapter.yaml_files import parse_yaml, read_text
from search_spaces.errors import BadInput
from search_spaces.mtp import DSPARK_SINCE
from search_spaces.recipe import Recipe
from search_spaces.records import MeasuredPoint
from search_spaces.workload import Workload

LATENCIES = (
    "median_tpot_ms", "mean_tpot_ms", "p99_tpot_ms", "median_ttft_ms", "mean_ttft_ms",
    "p99_ttft_ms", "mean_e2e_ms", "median_e2e_ms",
)  # fmt: skip

LANE_DEFAULTS: dict[Role, tuple[dict[str, object], dict[str, str]]] = {
    "prefill": (
        {"moe-a2a-backend": "megamoe", "enable-dp-lm-head": True, "mem-fraction-static": 0.9,
         "max-running-requests": 512, "chunked-prefill-size": 32768},
        {MEGAMOE_CAP_ENV: "8192", "SGLANG_OPT_USE_ONLINE_COMPRESS": "1",
         "SGLANG_RADIX_FORCE_MISS": "1"},
    ),
    "decode": (
        {"moe-a2a-backend": "megamoe", "enable-dp-lm-head": True, "mem-fraction-static": 0.94,
         "max-running-requests": 21504, "cuda-graph-max-bs": 1280, "swa-full-tokens-ratio": 0.056,
         "context-length": 9216, "disaggregation-decode-polling-interval": 8},
        {MEGAMOE_CAP_ENV: "1280", "SGLANG_OPT_USE_ONLINE_COMPRESS": "1",
         "SGLANG_CLIP_MAX_NEW_TOKENS_ESTIMATION": "8"},
    ),
}  # fmt: skip
"""Settings of a GB300 DEP worker whose source states only its topology. Source: the closest public
recipe, SemiAnalysisAI/InferenceX disagg-gb300-12p1d-dep4-dep12-15-c21504.yaml @ 876b59521 and its
lane, with the 8-bit MegaMoE activations in use before 2026-05-21."""


EARLIER_PROMPTS = {16: 16, 256: 128, 4096: 2048}
"""Concurrency of a cookbook cell's second run to the prompts of its first one (at 1, 64 or 1,024 users).
`bench_serving` draws both from one seed, so that the second run begins with the prompts of the first, which
the server still has where the prefix cache was not flushed between them; later measurements say it was.
Source: sgl-project/sglang docs_new/src/snippets/configs/deepseek-ai/deepseek-v4-benchmarks.jsx."""


class _Refusal(Exception):
    """Why a point cannot be predicted; never leaves this module."""


def load_points(path: str | Path) -> list[MeasuredPoint]:
    """Every point of a YAML list of records.

    Raises:
        BadInput: the file is no list, or a record is malformed; names its id or position.
    """
    data = parse_yaml(read_text(path), str(path))
    if not isinstance(data, list):
        raise BadInput(f"{path}: expected a list of points, got {type(data).__name__}; start items with `- `")
    points = []
    for index, record in enumerate(data):
        name = record.get("id") if isinstance(record, dict) else None
        where = f"{path}: point {name or f'[{index}]'}"
        schema = record.get("schema") if isinstance(record, dict) else None
        if schema == PREDICTION:
            continue
        try:
            if schema == OBSERVATION:
                points.append(observed_point(record, Path(path).parent))
            else:
                points.append(point_from_record(record))
        except BadInput as error:
            raise BadInput(f"{where}: {error}") from None
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BadInput(
                f"{where}: malformed ({type(error).__name__}: {error}); correct the record"
            ) from None
    return points


NOMINAL_TOTAL = "published total is itself output"
"""How a record says that its total was scaled up from output by the nominal lengths."""


def point_from_record(record: Mapping[str, Any]) -> MeasuredPoint:
    """The point of one record; what cannot be predicted has `refused` set to the reason."""
    if not isinstance(record, Mapping):
        raise BadInput(f"expected a mapping, got {type(record).__name__}; write `id: ...` and its fields")
    for name in ("id", "trust", "source", "engine", "hardware", "model", "mode", "gpus_total", "measured"):
        if name not in record:
            raise BadInput(f"{name} is required and absent; add it")
    version = str(record["engine"].get("version_or_image") or "not recorded")
    recipe, workload, refused = None, None, None
    try:
        _check_scope(record)
        workload = _workload(record)
        recipe = _recipe(record, workload.concurrency)
    except _Refusal as reason:
        refused = str(reason)
    except BadInput as error:
        recipe, refused = None, f"recipe not understood: {error}"
    return MeasuredPoint.parse(
        {
            "id": record["id"],
            "trust": record["trust"],
            "model": record["model"],
            "hardware": record["hardware"],
            "engine": record["engine"].get("name") or "unknown",
            "engine_version": version,
            "stack": model_names.stack_of(_image(record), str(record["source"].get("date") or "")).name,
            "num_gpus": record["gpus_total"],
            "recipe": recipe,
            "workload": workload,
            "measured": _measured(record),
            "total_is_nominal": NOMINAL_TOTAL in str((record.get("measured_derived") or {}).get("how")),
            "refused": refused,
            "source": str(record["source"].get("ref") or ""),
        },
        str(record["id"]),
    )


def _image(record: Mapping[str, Any]) -> str:
    """Image or version; of several images, the one used last."""
    version = str(record["engine"].get("version_or_image") or "")
    history = (record.get("recipe") or {}).get("images_by_search_space_history") or {}
    if version.startswith("several") and history:
        return str(max(history, key=lambda image: str(history[image]).split("..")[-1]))
    return "" if version.startswith("PR #") else version


def _check_scope(record: Mapping[str, Any]) -> None:
    """Refuse other models, other engines and what is not modelled."""
    if "v4" not in str(record["model"]).lower():
        raise _Refusal(f"other model: {record['model']}")
    if record["engine"].get("name") != "sglang":
        raise _Refusal(f"other engine: {record['engine'].get('name')}")
    mtp = record.get("mtp") or {}
    workload = record.get("workload") or {}
    if not workload.get("isl") or not workload.get("osl"):
        raise _Refusal("no isl and osl: not a fixed-length workload")
    if not workload.get("max_concurrency"):
        raise _Refusal("no concurrency stated")
    if mtp.get("enabled") not in (True, False):
        raise _Refusal("speculation not stated")
    for name in _roles(record):
        if "tp" not in (record.get(name) or {}):
            raise _Refusal(f"no {name} layout transcribed")


def _roles(record: Mapping[str, Any]) -> tuple[str, ...]:
    return ("prefill", "decode") if record["mode"] == "disagg" else ("worker",)


def _workload(record: Mapping[str, Any]) -> Workload:
    source = record["workload"]
    cookbook = "bench_serving)" in str(source.get("dataset"))
    ratio = source.get("random_range_ratio")
    stated = f"{source.get('warmup') or ''} {record.get('notes') or ''}"
    warmup = re.search(r"^(\d+) requests|(\d+) warm-up requests", stated)
    reused = EARLIER_PROMPTS.get(int(source["max_concurrency"]), 0) if cookbook else 0
    warm = cookbook or "warm passes" in stated
    reused = 0 if "cache flushed" in stated else min(reused, source.get("num_prompts") or 0)
    return Workload.parse(
        {
            "isl": source["isl"],
            "osl": source["osl"],
            "random_range_ratio": 0.8 if ratio is None else ratio,
            "concurrency": source["max_concurrency"],
            "request_rate": _rate(source.get("request_rate")),
            "num_prompts": source.get("num_prompts"),
            "num_warmup": int(warmup[1] or warmup[2]) if warmup else None,
            "prompts": "chat" if source.get("chat_template") else "random",
            "harness": "bench_serving" if cookbook else "inferencex",
            "fresh_server": not warm,
            "reused_prompts": reused,
            "accept_length": _accept_length((record.get("mtp") or {}), int(source["max_concurrency"])),
        },
        "workload",
    )


def _accept_length(mtp: Mapping[str, Any], concurrency: int) -> float | None:
    """Measured tokens per verify step; of `5.47 (c64), 5.43 (c256)` the one at the point's concurrency."""
    stated = mtp.get("acceptance_length")
    by_load = re.findall(r"([\d.]+) \(c(\d+)\)", str(stated))
    if by_load:
        return next((float(length) for length, load in by_load if int(load) == concurrency), None)
    return None if stated is None else float(stated)


def _rate(stated: object) -> float | None:
    """Arrivals per second; None where the client sends as fast as its concurrency lets it."""
    rate = float(str(stated)) if stated is not None else math.inf
    return None if math.isinf(rate) else rate


def evaluate(value: object, concurrency: int, until: str | None = None) -> object:
    """A flag value that a record states in words, as a number where it is one.

    `max(8, 1.5 x concurrency)` is computed. Of dated values the last one holds that began by `until`
    (`MM-DD`), the last day on which the point was measured.
    """
    if not isinstance(value, str):
        return value
    formula = re.fullmatch(r"max\((\d+), ([\d.]+) x concurrency\)", value)
    if formula:
        return max(int(formula[1]), int(float(formula[2]) * concurrency))
    dated = re.findall(r"(\d+) \((\d\d-\d\d)?[^)]*\)", value)
    held = [number for number, since in dated if until is None or not since or since <= until]
    return int((held or [number for number, _ in dated[:1]])[-1]) if dated else value


def _last_day(record: Mapping[str, Any]) -> str | None:
    """`MM-DD` of the last day on which any of the record's images was in use, where it says so."""
    spans = ((record.get("recipe") or {}).get("images_by_search_space_history") or {}).values()
    days = [day for span in spans for day in re.findall(r"\d{4}-(\d\d-\d\d)$", str(span))]
    return max(days, default=None)


def _recipe(record: Mapping[str, Any], concurrency: int) -> Recipe:
    where = str(record["id"])
    backend = str(record.get("moe_backend") or "")
    image = _image(record)
    date = str(record["source"].get("date") or "")
    hardware = model_names.platform(str(record["hardware"]))
    model = model_names.model_spec([str(record["model"])])
    weights: ExpertWeights | None = "nvfp4" if "nvfp4" in str(record.get("precision")) else None
    groups, stated = {}, {}
    for key in _roles(record):
        role: Role = "prefill" if key == "prefill" else "decode" if key == "decode" else "aggregated"
        body = dict(record[key])
        flags, env = _settings(record, body, role, concurrency)
        if "megamoe" in _backend_of(backend, role) and "flags" in body:
            _apply_backend_text(backend, role, env)
        if role not in LANE_DEFAULTS or "flags" in body:
            body.setdefault("dp", 1)
        else:
            body |= {"dp": body["tp"], "dp_attention": True}
        stated[role] = flags
        groups[role] = group_from_role(
            body,
            role,
            flags=flags,
            env=env,
            hardware=hardware,
            model=model,
            version=_engine_version(record, image, date),
            weights=weights,
            where=where,
        )
    router = (record.get("recipe") or {}).get("router") or {"type": record.get("frontend") or "none"}
    if router.get("type") == "dynamo" and len(router) == 1 and "8k1k" in str(record.get("recipe")):
        router = {**router, "num_additional_frontends": 8}
    source = record.get("recipe") or {}
    return Recipe(
        name=where,
        model=model.name,
        hardware=hardware.name,
        aggregated=groups.get("aggregated"),
        prefill=groups.get("prefill"),
        decode=groups.get("decode"),
        transfer_backend=transfer_of(stated, where) if "decode" in groups else None,
        frontend=frontend_from_block(router, where),
        concurrencies=(concurrency,),
        source=" ".join(str(source[k]) for k in ("repo", "path", "commit") if source.get(k)),
    )


def _engine_version(record: Mapping[str, Any], image: str, date: str) -> str:
    """Release whose flags hold; a build that ran DSpark is at least as new as the first release with it."""
    version = model_names.engine_version(image, date)
    dspark = str((record.get("mtp") or {}).get("algorithm")).upper() == "DSPARK"
    if dspark and version_tuple(version) < DSPARK_SINCE:
        return ".".join(map(str, DSPARK_SINCE))
    return version


def _backend_of(text: str, role: Role) -> str:
    """The part of `prefill X; decode Y` that belongs to a role."""
    for part in text.split(";"):
        if part.strip().startswith(role):
            return part
    return "" if text.startswith(("prefill ", "decode ")) else text


def _apply_backend_text(text: str, role: Role, env: dict[str, str]) -> None:
    """A record that names 4-bit activations means the two switches."""
    if "w4a4" in _backend_of(text, role):
        for name in W4A4_ENV:
            env.setdefault(name, "1")


def _settings(
    record: Mapping[str, Any], body: Mapping[str, Any], role: Role, concurrency: int
) -> tuple[dict[str, object], dict[str, str]]:
    """Flags and environment of a role, speculation included."""
    if "flags" not in body and role in LANE_DEFAULTS:
        flags, env = dict(LANE_DEFAULTS[role][0]), dict(LANE_DEFAULTS[role][1])
    else:
        flags = {k: evaluate(v, concurrency, _last_day(record)) for k, v in (body.get("flags") or {}).items()}
        env = {**(body.get("env") or {}), **(flags.pop("env", None) or {})}  # type: ignore[dict-item]
        flags.pop("note", None)
    if role == "prefill" and "sa-bench" in str(record["workload"].get("dataset")):
        # Public multi-node recipes force every prefix look-up to miss; records leave that variable out.
        flags.setdefault("disable-radix-cache", True)
    mtp = record.get("mtp") or {}
    if mtp.get("enabled") and role != "prefill" and not any("speculative" in name for name in flags):
        flags["speculative-algorithm"] = mtp.get("algorithm", "EAGLE")
        if mtp.get("num_steps"):
            flags["speculative-num-steps"] = int(mtp["num_steps"])
    return flags, env


def _measured(record: Mapping[str, Any]) -> dict[str, float]:
    """Canonical metrics: stated ones first, then derived ones; throughput over all GPUs."""
    stated = record["measured"]
    found = {name: float(stated[name]) for name in LATENCIES if stated.get(name) is not None}
    for kind in ("total", "output"):
        value = _per_gpu(kind, stated, record)
        if value is None:
            value = _per_gpu(kind, record.get("measured_derived") or {}, record)
        if value is not None:
            found[f"{kind}_tokens_per_s_per_gpu"] = value
    return found


def _per_gpu(kind: str, values: Mapping[str, Any], record: Mapping[str, Any]) -> float | None:
    """Tokens/s per GPU of the deployment, from whichever of its forms is there."""
    gpus = float(record["gpus_total"])
    if values.get(f"{kind}_tok_s_per_gpu") is not None:
        return float(values[f"{kind}_tok_s_per_gpu"])
    if values.get(f"{kind}_tok_s") is not None:
        return float(values[f"{kind}_tok_s"]) / gpus
    decode = record.get("decode") or {}
    if kind == "output" and values.get("output_tok_s_per_decode_gpu") is not None and decode:
        width = decode.get("gpus_per_worker", 0) * decode.get("workers", 1)
        return float(values["output_tok_s_per_decode_gpu"]) * float(width) / gpus
    return None
