"""Our arithmetic against the installed engine's own, question by question."""

from __future__ import annotations

import json
import os
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from engine_adapter.sglang_server import SglangAdapter
from search_spaces import catalog_loader
from search_spaces.laws import violations
from search_spaces.public_recipes import recipe_lanes
from search_spaces.recipe import EngineGroup, Recipe
from search_spaces.step_profile import StepProfile
from search_spaces.workload import Workload
from simulator import loop_state as ls
from simulator.calibration import Calibration
from simulator.expert_placement import balanced_slots
from simulator.loop_aggregated import FINISHED, advance
from simulator.memory import PAGE_TOKENS, bytes_per_full_token, graph_buckets, state_pool_bytes
from simulator.setting import setting_for
from simulator.world import prepare
from tests.simulator_tests.test_measured_tables import row
from tests.simulator_tests.worlds import JUNE, MODELS, V0523, aggregated, group

Floats = NDArray[np.float64]

pytestmark = pytest.mark.live

CHUNK = 2048
QUEUES = {
    "equal prompts that end within a page": [900] * 12,
    "prompts of whole pages": [512, 256, 1024, 768, 2048, 256],
    "a long prompt between short ones": [100, 300, 7000, 200, 5000, 40],
    "odd lengths": [int(n) for n in np.random.RandomState(0).randint(1, 3000, 40)],
}


@cache
def answers(python: str, questions: str, newer: str | None = None) -> dict[str, Any]:
    """What the installed engine says, or the newer release in a folder."""
    script = Path(__file__).with_name("newer_engine_facts.py" if newer else "engine_facts.py")
    env = os.environ | ({"PYTHONPATH": newer} if newer else {})
    done = subprocess.run(
        [python, str(script)], input=questions, capture_output=True, text=True, check=False, env=env
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


STACKS = {"0.5.15": JUNE, "0.5.23": V0523}


def recipes_of(engine_version: str) -> list[Recipe]:
    """A sample over all lanes, of what the release starts, and the fields that no public recipe sets."""
    found = [recipe for lane in recipe_lanes().values() for recipe in lane[::4]]
    found = [one for one in found if not _refused(one, engine_version)]
    hopper: dict[str, Any] = {"hardware": "h200", "moe_backend": "deepep", "expert_weights": "fp8"}
    return [
        *found,
        aggregated("DEP8", eplb=True, redundant_experts=8, eplb_rebalance_steps=50, eplb_min_utilization=0.9),
        aggregated("DEP8", expert_location="/loads.pt", expert_dispatch="dynamic"),
        aggregated("DEP8", two_batch_overlap=True, waterfill=True, **hopper),
        aggregated("DEP8", single_batch_overlap=True, deepep_mode="low_latency", **hopper),
    ]


def _refused(recipe: Recipe, engine_version: str) -> bool:
    model, hardware = catalog_loader.model(recipe.model), catalog_loader.hardware(recipe.hardware)
    broken = violations(recipe, model, hardware, None, engine_version)
    return any(found.severity == "hard" for found in broken)


def bucket_cases() -> list[EngineGroup]:
    limits = [
        (512, 2048, 0),
        (512, 300, 0),
        (1280, 4096, 3),
        (100, 512, 1),
        (256, 256, 3),
        (7, 64, 0),
        (33, 20, 2),
    ]
    return [
        group("DEP8", mtp=mtp, graph_max_batch_per_rank=largest, max_running_per_rank=running)
        for largest, running, mtp in limits
    ]


def pool_cases() -> list[tuple[str, EngineGroup]]:
    return [
        (
            model,
            group(
                "DEP8", mtp=mtp, swa_full_tokens_ratio=ratio, max_running_per_rank=n, online_compress=online
            ),
        )
        for model in ("pro", "flash")
        for mtp, ratio, n, online in ((0, 0.1, 256, False), (0, 0.02, 77, True), (3, 0.056, 512, False))
    ]


def pool_question(model: str, worker: EngineGroup) -> dict[str, Any]:
    spec = MODELS[model]
    return {
        "head_dim": spec.head_dim, "rope_dim": spec.rope_dim, "indexer_dim": spec.indexer_dim,
        "context_len": spec.max_context, "window": spec.sliding_window,
        "ratios": [0] * spec.num_swa_only_layers + [4] * spec.num_c4_layers + [128] * spec.num_c128_layers,
        "swa_ratio": worker.swa_full_tokens_ratio, "drafts": worker.mtp is not None,
        "online": worker.online_compress, "max_running": worker.max_running_per_rank, "mode": "null",
        "extra_slots": 0, "available_bytes": 60e9, "page": PAGE_TOKENS,
    }  # fmt: skip


def placement_cases() -> list[dict[str, Any]]:
    """Loads without ties, on worker sizes with and without redundant experts."""
    rng = np.random.default_rng(3)
    shapes = [(384, 384, 8), (384, 400, 40), (384, 416, 32), (256, 288, 16), (6, 8, 4), (8, 8, 8)]
    return [
        {
            "loads": (rng.pareto(1.0, (4, experts)) + 0.1).tolist(),
            "slots": slots,
            "ranks": ranks,
            "nodes": nodes,
        }
        for experts, slots, ranks in shapes
        for nodes in (1, 2)
    ]


def questions_for(engine_version: str) -> dict[str, Any]:
    commands = [
        command.words[3:]
        for recipe in recipes_of(engine_version)
        for command in SglangAdapter("python").launch_commands(recipe, engine_version, port=30000).values()
    ]
    return {
        "parsed": commands,
        "buckets": [
            {
                "max_batch": one.graph_max_batch_per_rank,
                "slots": one.max_running_per_rank,
                "drafts": one.mtp is not None,
            }
            for one in bucket_cases()
        ],
        "pools": [pool_question(*case) for case in pool_cases()],
        "chunks": [
            {"page": page, "max_prefill": 16384, "chunk": CHUNK, "prompts": prompts, "ignore_eos": False}
            for page in (PAGE_TOKENS, 1)
            for prompts in QUEUES.values()
        ],
        "placements": placement_cases(),
    }


@pytest.fixture(scope="module", params=["0.5.15", "0.5.23"])
def release(request: pytest.FixtureRequest) -> str:
    """The releases whose rules are ours."""
    version: str = request.param
    return version


@pytest.fixture(scope="module")
def said(release: str, request: pytest.FixtureRequest) -> dict[str, Any]:
    """Everything asked of one release at once: the engine takes long to import."""
    python = request.getfixturevalue("live_python")
    newer = request.getfixturevalue("newer_engine") if release == "0.5.23" else None
    return answers(python, json.dumps(questions_for(release)), newer)


def test_the_engine_understands_every_command(said: dict[str, Any], release: str):
    """Its parser accepts each flag that the adapter emits, and reads the recipe's numbers."""
    index = 0
    for recipe in recipes_of(release):
        for role, worker in recipe.groups.items():
            answer = said["parsed"][index]
            index += 1
            assert "refused" not in answer, f"{recipe.name} {role}: {answer['refused']}"
            assert answer["unknown"] == [], f"{recipe.name} {role}"
            values = answer["values"]
            assert values["tp_size"] == worker.tp
            assert values["dp_size"] == worker.attention_dp
            assert values["enable_eplb"] == worker.eplb
            assert values["enable_two_batch_overlap"] == worker.two_batch_overlap
            assert values["enable_single_batch_overlap"] == worker.single_batch_overlap
            waterfill = "enable_waterfill" if release == "0.5.23" else "enable_deepep_waterfill"
            assert values[waterfill] == worker.waterfill
            assert values["init_expert_location"] == worker.expert_location
            assert values["max_running_requests"] == worker.max_running_per_rank * worker.attention_dp
            assert values["mem_fraction_static"] == worker.mem_fraction_static
            assert values["disaggregation_mode"] == ("null" if role == "aggregated" else role)
            assert bool(values["speculative_algorithm"]) == (worker.mtp is not None)
    assert index == len(said["parsed"]) > 50


def test_decode_graph_batches(said: dict[str, Any]):
    for worker, theirs in zip(bucket_cases(), said["buckets"], strict=True):
        assert list(graph_buckets(worker)) == theirs, worker.label


def test_pool_arithmetic(said: dict[str, Any], release: str):
    stack = STACKS[release]
    for (model, worker), theirs in zip(pool_cases(), said["pools"], strict=True):
        spec, slots = MODELS[model], worker.max_running_per_rank
        per_token = bytes_per_full_token(spec, worker, stack)
        state = state_pool_bytes(spec, worker, stack, slots)
        assert per_token == pytest.approx(theirs["bytes_per_token"], rel=1e-12)
        assert state == theirs["state_bytes"], (model, worker.mtp, worker.online_compress)
        full = int((60e9 - state) / per_token) // PAGE_TOKENS * PAGE_TOKENS
        assert full == theirs["full"]
        assert int(full * worker.swa_full_tokens_ratio) // PAGE_TOKENS * PAGE_TOKENS == theirs["swa"]


def ends_of_ours(prompts: list[int], page: int) -> Floats:
    """When each prompt is prefilled, all of them waiting; a pass takes as many seconds as tokens."""

    worker = EngineGroup(
        tp=1, moe_backend="triton", mem_fraction_static=0.5, max_running_per_rank=512,
        chunk_tokens_per_rank=CHUNK, graph_max_batch_per_rank=0, overlap_schedule=False,
        extra_flags={"page-size": page},
    )  # fmt: skip
    recipe = Recipe(name="r", model="m", hardware="h", aggregated=worker)
    rows = (row("prefill", 1, 1, 0, 1.0), row("prefill", 1, 1 << 17, 0, float(1 << 17)))
    steps = StepProfile.model_validate(
        {
            "name": "s", "model": "m", "num_layers": 1, "hardware": "h", "device": "d", "engine_version": "0",
            "group": worker, "max_total_tokens": 1 << 24, "measured_on": "2026-01-01", "source": "law",
            "rows": (*rows, row("decode", 1, 1, 1, 1e-9)),
        }
    )  # fmt: skip
    # The first request finds the engine idle and is computed alone; all others wait behind it.
    queue = [page, *prompts]
    load = Workload(isl=1, osl=1, random_range_ratio=1, concurrency=len(queue), num_prompts=len(queue))
    state = prepare(setting_for(recipe, load, JUNE, Calibration(), steps=steps))
    state.reqs.i[:, ls.ISL] = queue
    assert advance(state.world, state.classes, state.groups, state.ranks, state.reqs, 1e12) == FINISHED
    found: Floats = state.reqs.t[1:, ls.PREFILL_END] - state.reqs.t[0, ls.PREFILL_END]
    return found


def test_prefill_passes_take_the_same_tokens(said: dict[str, Any]):
    """Each prompt ends in the engine's pass, after as many tokens."""
    cases = [(prompts, page) for page in (PAGE_TOKENS, 1) for prompts in QUEUES.values()]
    for (prompts, page), theirs in zip(cases, said["chunks"], strict=True):
        done, ends = np.zeros(len(prompts), dtype=int), np.zeros(len(prompts))
        computed = 0
        for taken in theirs:
            computed += sum(tokens for _, tokens in taken)
            for index, tokens in taken:
                done[index] += tokens
                if done[index] == prompts[index]:
                    ends[index] = computed
        ours = ends_of_ours(prompts, page)
        groups = [np.unique(one, return_inverse=True)[1].tolist() for one in (ours, ends)]
        assert groups[0] == groups[1], (prompts, page)
        # Tables are linear between points a quarter of an octave apart: within half a per cent of a line.
        assert ours == pytest.approx(ends, rel=0.01), (prompts, page)


def test_experts_are_placed_slot_by_slot(said: dict[str, Any]):
    for case, theirs in zip(placement_cases(), said["placements"], strict=True):
        ours = balanced_slots(np.array(case["loads"], np.float32), case["slots"], case["ranks"])
        assert ours.tolist() == theirs, (case["slots"], case["ranks"])
