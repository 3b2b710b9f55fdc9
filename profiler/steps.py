"""Measure the steps of a running engine over a grid of shapes, and keep them in a file that can go on.

Decode steps are taken at (batch, context) points by letting that many equal prompts be continued side by
side; prefill steps at prompt lengths, and wherever the prompts of a decode point were prefilled. Where the
engine runs our recorder its own passes are read, else a client's token times stand for them.
"""

from __future__ import annotations

import json
import math
import random
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Thread
from typing import Any, Literal

import numpy as np
from pydantic import Field

from engine_adapter.adapter import ServerInfo
from engine_adapter.sglang_server import SglangServer
from profiler.recorder_files import read_passes
from profiler.step_recorder import WRITE_EVERY_S
from profiler.step_rows import (
    Pass,
    Timed,
    between_decodes,
    client_passes,
    launches,
    merged,
    rows,
    steady,
    timed,
    turns,
    with_drafts,
)
from search_spaces.base import Noun
from search_spaces.errors import BadInput, MissingData
from search_spaces.recipe import EngineGroup, Recipe
from search_spaces.step_profile import StepProfile, StepRow

WARM_UP_TOKENS = 8
LATENCY_REQUESTS = 9
SHORT_PROMPT = 16
LONG_PROMPT = 4096
"""A request of this length, beside a short one, shows what a token of a prompt costs outside passes."""
DECODE_BURSTS = 3
"""Times the prompts of a decode point are sent, so that their prefill passes make rows too."""
LEAD_PASSES = 4
"""Decode passes after a prefill that are left out: the host, which launches ahead, has no lead yet."""
LEAST_PROMPT = 64
"""Shortest prompt of a prefill point of several."""
TILE = 64
"""Tokens of a tile of the kernels whose variants a warm-up compiles."""
REHEARSALS = 3
MIXED_PROMPTS = 24
MIXED_SEQUENCES, MIXED_TOKENS = (4, 12, 32), (256, 512, 1024, 2048)
WARM_LENGTHS = 128
"""Prompt lengths of a warm-up at most."""
LOWEST_ID, HIGHEST_ID = 3, 1000
"""Token ids of the prompts; every vocabulary has them. All of one are drawn from where it is known: layers
that route by token id would hit fewer experts else."""


# fmt: off
PREFILL_TOKENS = (
    64, 128, 192, 256, 384, 512, 768, 1024, 1280, 1536, 2048, 2560, 3072, 3584, 4096, 5120, 6144, 7168, 8192,
    12288, 24576,
)
"""Dense, as kernels pick their tiles and splits by size: neighbours in a grid of powers of two miss them."""
# fmt: on


class StepPlan(Noun):
    """The grid. Points that exceed the server's limits are left out."""

    batches: tuple[int, ...] = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
    contexts: tuple[int, ...] = (128, 1024, 4096, 16384)
    prefill_tokens: tuple[int, ...] = PREFILL_TOKENS
    """Tokens of a prefill point; beyond the chunk the passes have a context."""
    prefill_sequences: tuple[int, ...] = (1, 4)
    """Prompts that share the tokens of a prefill point."""
    passes: int = Field(default=96, ge=4)
    """Decode passes per point."""
    repeats: int = Field(default=5, ge=3)
    """Prompts per prefill length."""
    warm_up: bool = True
    """Whether every size of pass runs once before anything is measured."""


class StepPoint(Noun):
    """One entry of the grid: prompts of `tokens` tokens, `sequences` side by side."""

    kind: Literal["latency", "decode", "prefill", "mixed"]
    """`mixed`: prompts of up to `tokens` that arrive one after another while `sequences` decode; shows the
    host at work, and what a prefill takes then."""
    sequences: int = Field(ge=1)
    tokens: int = Field(ge=1)


class PointRecord(Noun):
    """What one point gave; a line of the journal."""

    point: StepPoint
    rows: tuple[StepRow, ...]
    request_s: float | None = None
    turn_s: dict[str, float] = Field(default_factory=dict)
    """Median host seconds between passes, by what they do (`step_rows.turns`)."""


class Journal:
    """An append-only file of finished points, headed by what they were measured on."""

    def __init__(self, path: Path, head: dict[str, Any]) -> None:
        """Go on with `path` where it exists.

        Raises:
            BadInput: the file belongs to another recipe or engine, or cannot be read.
        """
        self.path = path
        self.records: list[PointRecord] = []
        if not path.exists() or not path.stat().st_size:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(head) + "\n")
            return
        lines = path.read_text().splitlines(keepends=True)
        whole = [line for line in lines if line.endswith("\n")]
        try:
            first, *rest = [json.loads(line) for line in whole]
        except ValueError:
            raise BadInput(f"{path}: is no journal of steps; remove it or choose another --out") from None
        if first != head:
            raise BadInput(
                f"{path}: holds steps of {first} and this run is {head}; choose another --out, or remove it"
            )
        self.records = [PointRecord.parse(item, str(path)) for item in rest]
        if len(whole) < len(lines):  # a line that a kill cut short
            path.write_text("".join(whole))

    def has(self, point: StepPoint) -> bool:
        """Whether the point is finished."""
        return any(record.point == point for record in self.records)

    def add(self, record: PointRecord) -> None:
        """Append a finished point."""
        self.records.append(record)
        with self.path.open("a") as sink:
            sink.write(record.model_dump_json() + "\n")


def points_of(plan: StepPlan, group: EngineGroup, info: ServerInfo) -> list[StepPoint]:
    """The plan's points that the server can hold, short ones first."""
    running = min(group.max_running_per_rank, info.max_running_requests or 1 << 20)
    room = info.max_total_tokens or 1 << 40
    longest = min(group.context_length or 1 << 40, room) - plan.passes
    found = [
        StepPoint(kind="latency", sequences=1, tokens=tokens)
        for tokens in (SHORT_PROMPT, LONG_PROMPT)
        if tokens <= min(longest, group.chunk_tokens_per_rank)
    ]
    prefill = [
        StepPoint(kind="prefill", sequences=sequences, tokens=tokens // sequences)
        for sequences in plan.prefill_sequences
        for tokens in plan.prefill_tokens
        if tokens // sequences <= longest
        and sequences <= running
        and (sequences == 1 or LEAST_PROMPT <= tokens // sequences <= group.chunk_tokens_per_rank)
    ]
    # A new server's host speeds up for about a minute; decode, which it does not slow down, comes first.
    found += [
        StepPoint(kind="decode", sequences=batch, tokens=context)
        for context in plan.contexts
        for batch in plan.batches
        if batch <= running and context <= longest and batch * (context + plan.passes) <= 0.9 * room
    ]
    first, between, last = _mixed_points(info, room, longest, running, group.chunk_tokens_per_rank)
    return [*found[:2], *first, *found[2:], *between, *prefill, *last]


def _mixed_points(
    info: ServerInfo, room: float, longest: int, running: int, chunk: int
) -> tuple[list[StepPoint], list[StepPoint], list[StepPoint]]:
    """Mixed points for the beginning, middle and end: hosts are faster at one time than at another.

    What they look at is the time line of a GPU.
    """
    tokens = max(n for n in MIXED_TOKENS if n <= chunk) if chunk >= min(MIXED_TOKENS) else 0
    sides = [min(n, running - 1) for n in MIXED_SEQUENCES]
    most = (max(sides) + 1) * (tokens + 2 * MIXED_PROMPTS * WARM_UP_TOKENS)
    if info.device == "cpu" or min(sides) < 1 or not tokens or most > 0.9 * room or tokens > longest:
        return [], [], []
    one, two, three = ([StepPoint(kind="mixed", sequences=side, tokens=tokens)] for side in sides)
    return one, two, three


def warm_lengths(most_tokens: int) -> list[int]:
    """Prompt lengths of a warm-up: whole tiles up to `most_tokens`, all of them where they are few."""
    step = TILE * max(1, -(-most_tokens // (TILE * WARM_LENGTHS)))
    return [*range(step, most_tokens, step), most_tokens]


class StepDriver:
    """Drives one server from point to point."""

    def __init__(
        self,
        server: SglangServer,
        group: EngineGroup,
        plan: StepPlan,
        recorder: Path | None,
        vocabulary: int = HIGHEST_ID,
    ) -> None:
        """Args: what to drive, folder of the recorder that it runs (None: none), and its number of tokens."""
        self.server, self.group, self.plan, self.recorder = server, group, plan, recorder
        self._ids, self._vocabulary = random.Random(0), max(vocabulary, LOWEST_ID + 1)

    def _prompts(self, point: StepPoint) -> list[list[int]]:
        """The point's prompts for every attention rank; an engine deals them out in turn."""
        return [
            [self._ids.randrange(LOWEST_ID, self._vocabulary) for _ in range(point.tokens)]
            for _ in range(point.sequences * self.group.attention_dp)
        ]

    def run(self, point: StepPoint, new_tokens: int) -> tuple[list[Pass], float]:
        """Passes of one burst of prompts, and the seconds it took a client."""
        prompts, sent = self._prompts(point), time.time()
        tokens = self.server.generate(prompts, new_tokens)
        spent = time.time() - sent
        if self.recorder is not None:
            time.sleep(3 * WRITE_EVERY_S)
            found = read_passes(self.recorder, sent)
            if not found:
                raise MissingData(
                    f"steps: the engine recorded no pass in {self.recorder}; does this SGLang load plugins? "
                    "attach with --endpoint for a client's view"
                )
            return found, spent
        fits = point.sequences * point.tokens <= self.group.chunk_tokens_per_rank
        return client_passes(sent, tokens, point.tokens, point.sequences, fits), spent

    def warm_up(self, most_tokens: int, sequences: int) -> int:
        """Run prefill passes of every size up to `most_tokens` once, and decode; returns the prompts sent.

        An engine compiles, loads and tunes kernels by the size of a pass when it first meets it, for
        milliseconds to many seconds; a deployment has met them all. Sizes are whole tiles.
        """
        lengths = warm_lengths(min(most_tokens, self.group.chunk_tokens_per_rank))
        for tokens in lengths:
            self.server.generate(self._prompts(StepPoint(kind="prefill", sequences=1, tokens=tokens)), 1)
        self.server.generate(
            self._prompts(StepPoint(kind="decode", sequences=sequences, tokens=SHORT_PROMPT)), WARM_UP_TOKENS
        )
        return (len(lengths) + sequences) * self.group.attention_dp

    def measure(self, point: StepPoint) -> PointRecord:
        """Rows of one point; the request's own latency for a `latency` point."""
        if point.kind == "latency":
            return PointRecord(point=point, rows=(), request_s=self._request_seconds(point))
        if point.kind == "mixed":
            return self._mixed(point)
        decode = point.kind == "decode"
        walls: list[Timed] = []
        between: dict[str, list[float]] = defaultdict(list)
        bursts = DECODE_BURSTS if decode else self.plan.repeats + 1
        count = -(-self.plan.passes // DECODE_BURSTS) + LEAD_PASSES + 3
        new_tokens = math.ceil(count * self._tokens_per_pass()) if decode else 2
        for _ in range(bursts):
            passes, _ = self.run(point, new_tokens)
            walls += steady(timed(with_drafts(passes)), LEAD_PASSES)
            for kind, seconds in (turns(passes) | {"launch": launches(passes)}).items():
                between[kind] += seconds
        return PointRecord(
            point=point,
            rows=tuple(rows(walls, point.sequences if decode else None)),
            turn_s={kind: float(np.median(seconds)) for kind, seconds in between.items() if seconds},
        )

    def _tokens_per_pass(self) -> float:
        """Least tokens that a decode pass emits per sequence: above one where acceptance is pretended."""
        mtp = self.group.mtp
        if mtp is None or mtp.simulated_accept_length is None:
            return 1.0
        return min(max(mtp.simulated_accept_length, 1.0), float(mtp.num_draft_tokens))

    def _mixed(self, point: StepPoint) -> PointRecord:
        """Send prompts one after another while others decode, and look at the host."""
        if self.recorder is None:
            return PointRecord(point=point, rows=())
        sent = time.time()
        short = point.model_copy(update={"tokens": min(point.tokens, MIXED_TOKENS[0])})
        background = Thread(
            target=self.server.generate, args=(self._prompts(short), 2 * MIXED_PROMPTS * WARM_UP_TOKENS)
        )
        background.start()
        lengths = [n for n in MIXED_TOKENS if n <= point.tokens]
        for i in range(MIXED_PROMPTS):
            alone = StepPoint(kind="prefill", sequences=1, tokens=lengths[i % len(lengths)])
            self.server.generate(self._prompts(alone), WARM_UP_TOKENS)
        background.join()
        time.sleep(3 * WRITE_EVERY_S)
        passes = read_passes(self.recorder, sent)
        between = turns(passes) | {"launch": launches(passes)}
        among = [Timed(one, wall) for one, wall, _ in between_decodes(with_drafts(passes))]
        return PointRecord(
            point=point,
            rows=tuple(row.model_copy(update={"beside": point.sequences}) for row in rows(among)),
            turn_s={kind: float(np.median(seconds)) for kind, seconds in between.items() if seconds},
        )

    def rehearse(self, sequences: int, shortest: int, longest: int) -> int:
        """Bursts of prompts of all lengths that a load draws, as it begins and goes on; returns how many.

        What an allocator and a scheduler meet first with many unlike prompts is no compilation, but takes
        a tenth of a second at a time too.
        """
        for _ in range(REHEARSALS):
            lengths = [self._ids.randint(shortest, longest) for _ in range(sequences)]
            prompts = [
                prompt
                for n in lengths
                for prompt in self._prompts(StepPoint(kind="prefill", sequences=1, tokens=n))
            ]
            self.server.generate(prompts, WARM_UP_TOKENS)
        return REHEARSALS * sequences * self.group.attention_dp

    def _request_seconds(self, point: StepPoint) -> float | None:
        """Median time of short requests outside their passes; None for a client, who sees them inside."""
        if self.recorder is None:
            return None
        self.run(point, WARM_UP_TOKENS)
        outside = []
        for _ in range(LATENCY_REQUESTS):
            passes, spent = self.run(point, 2)
            outside.append(spent - self._inside(passes))
        return max(0.0, float(np.median(outside)))

    def _inside(self, passes: Sequence[Pass]) -> float:
        """Seconds of a request that its passes account for.

        With drafts its last tokens come out when an iteration more has been launched.
        """
        last = passes[-1]
        own = last.host_s if self.group.mtp is not None else last.gpu_s
        return last.t - passes[0].t + (own or last.host_s or 0.0)


def measure_steps(
    driver: StepDriver, journal: Journal, info: ServerInfo, on_point: Callable[[StepPoint], None]
) -> None:
    """Measure every point that the journal lacks."""
    left = [point for point in points_of(driver.plan, driver.group, info) if not journal.has(point)]
    if not left:
        return
    if driver.plan.warm_up:
        most, widest = max(one.sequences * one.tokens for one in left), max(one.sequences for one in left)
        driver.warm_up(most, widest)
    else:
        driver.run(StepPoint(kind="decode", sequences=2, tokens=SHORT_PROMPT), WARM_UP_TOKENS)
    for point in left:
        journal.add(driver.measure(point))
        on_point(point)


def median_turn(records: Sequence[PointRecord], kind: str) -> float | None:
    """Host seconds between passes of a kind: of the mixed points, else of all; None where none were."""
    known = [record.turn_s[kind] for record in records if kind in record.turn_s]
    mixed = [
        record.turn_s[kind] for record in records if record.point.kind == "mixed" and kind in record.turn_s
    ]
    known = mixed or known
    return max(0.0, float(np.mean(known))) if known else None


def mean_launch(records: Sequence[PointRecord]) -> float | None:
    """Mean over points of the host seconds that launch a prefill pass; None where none was seen.

    A host is a third slower for ten seconds at a time, on a machine that others share, so that no single
    point speaks for it.
    """
    known = [record.turn_s["launch"] for record in records if "launch" in record.turn_s]
    return float(np.mean(known)) if known else None


def request_seconds(latencies: Mapping[int, float]) -> tuple[float | None, float | None]:
    """Seconds of a request outside passes, and of each token of its prompt, of those of two lengths."""
    if not latencies:
        return None, None
    short, long = min(latencies), max(latencies)
    if short == long:
        return latencies[short], None
    token = max(0.0, (latencies[long] - latencies[short]) / (long - short))
    return max(0.0, latencies[short] - short * token), token


def profile_of(
    journal: Journal,
    recipe: Recipe,
    info: ServerInfo,
    *,
    device: str,
    num_layers: int,
    date: str,
    source: str,
) -> StepProfile:
    """The profile that a journal's points make.

    Raises:
        MissingData: no point gave a row.
    """
    found = merged(row for record in journal.records for row in record.rows)
    if not found:
        raise MissingData(f"{journal.path}: no point gave a row; ask for more --passes")
    latencies = {r.point.tokens: r.request_s for r in journal.records if r.request_s is not None}
    base, token = request_seconds(latencies)
    return StepProfile(
        name=recipe.name,
        model=recipe.model,
        num_layers=num_layers,
        hardware=recipe.hardware,
        device=device,
        engine=info.engine,
        engine_version=info.engine_version,
        group=recipe.serving,
        max_total_tokens=info.max_total_tokens,
        max_running_requests=info.max_running_requests,
        request_s=base,
        request_token_s=token,
        prefill_turn_s=median_turn(journal.records, "prefill"),
        prefill_launch_s=mean_launch(journal.records),
        decode_turn_s=median_turn(journal.records, "decode"),
        measured_on=date,
        source=source,
        rows=found,
    )
