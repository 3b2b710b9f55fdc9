"""State of the compiled event loop: plain arrays, grouped by what they describe.

A *class* is one role of the recipe (its workers are identical); a *group* is one worker, whose ranks
step together; a *rank* is one attention-DP rank. All times are seconds, all sizes tokens. Classes beyond
the roles are *shapes*: a role at another draft length, which a group takes up as it runs.
"""

from __future__ import annotations

import math
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from search_spaces.mtp import MOST_STEPS as MOST_STEPS

F8 = NDArray[np.float64]
I8 = NDArray[np.int64]

inner = njit(no_cpython_wrapper=True, no_cfunc_wrapper=True, _nrt=False)
"""Compiles what compiled code alone calls: a third of the compile time went into wrappers for Python.

Nothing in the loop allocates, so that arrays need no reference counts (`_nrt`); counting took two thirds
of the run time.
Such a function is cached inside its compiled callers. Calling it from Python crashes the interpreter.
"""
SOURCE_STAMP = zlib.crc32(b"".join(p.read_bytes() for p in sorted(Path(__file__).parent.glob("loop_*.py"))))
"""Of all files of the loop. Numba's cache looks at the file of the cached function alone; as the default of
one of its arguments this number is part of the key, so that an edit elsewhere is not missed."""

INFINITY = math.inf
PREFILL, DECODE, AGGREGATED = 0, 1, 2
PER_OCTAVE = 4
"""Points per factor of two on the axes of the cost tables."""
TOKEN_POINTS = 17 * PER_OCTAVE + 1
"""Axis 1 .. 2**17 tokens or sequences."""
CONTEXT_LOG2_MIN = 5
CONTEXT_POINTS = (20 - CONTEXT_LOG2_MIN) * PER_OCTAVE + 1
"""Axis 2**5 .. 2**20 tokens of context."""

# fmt: off
# Columns of Classes.i
ROLE, CHUNK, MAX_PREFILL, MAX_RUNNING, SLOTS, POLL, RESERVE, DRAFT, LOCAL_BUCKETS, DELAYER = range(10)
(INTERVAL, DP, WORKERS, SPEC, CLIP, SWA_INTERVAL, MIXED, BALANCE, RADIX, KEPT_WINDOW, STAGES, OVERLAP,
 CRASHES, SMS, COMPILED_AT_START, CHUNK_PAGE, FIRST_USE_AT, PIPELINED, PROGRESS_BY, DRAW_METHOD,
 STEPS_DRAFTED, ADAPTS, NUM_CLASS_INTS) = range(10, 33)
# Columns of Classes.f
FULL, SWA, RATIO_INIT, GAP, SEQ_EXPOSED, HOST_BASE, HOST_SEQ, EAGER, EXTEND, LAUNCH = range(10)
(EXPOSED, PREFILL_BASE, JOIN, SWA_RESERVE, COMPILE, FIRST_USE, PREFILL_TURN, DECODE_TURN, DECODE_LAUNCH,
 DRAW_MEAN, UNITS_PER_STEP, AMONG, AMONG_SEQ, FIRST_WAIT, LAUNCHED_SHARE, SENDING,
 NUM_CLASS_FLOATS) = range(10, 27)
# Values of PROGRESS_BY: a step is one unit of the calendar, as many as are drawn, or a share (`progress`)
ONE_UNIT, DRAWN_UNITS, UNIT_SHARE = range(3)
# Values of PIPELINED: a step is formed when the one before has ended, or while it runs; in that case its
# launches begin then too, or wait for that end
SERIAL, LAUNCHES_AHEAD, LAUNCHES_WAIT = range(3)
# Values of DRAW_METHOD
MATCH_EXPECTED, MULTINOMIAL = range(2)
# Columns of the per-class totals
(BUSY_PREFILL, BUSY_DECODE, BUSY_MIXED, STEPS_PREFILL, STEPS_DECODE, TOKENS_PREFILL, BATCH_SUM, CONTEXT_SUM,
 BLOCKED_SLOTS, BLOCKED_FULL, BLOCKED_SWA, RETRACTIONS, RANK_STEPS, WAITED, IDLE_RANK_STEPS, RANK_MAX_SUM,
 STALLED, OVERFLOWS, HIT_TOKENS, LOOKED_UP, FULL_OVERFLOWS, NUM_TOTALS) = range(22)
# Columns of Requests.t
SEND, ARRIVE, GRANT, PREFILL_START, PREFILL_END, READY, FIRST, DONE, NUM_TIMES = range(9)
# Columns of Requests.i
(ISL, OSL, ITERS, P_GROUP, P_RANK, D_GROUP, D_RANK, PROGRESS, TARGET, START_ITER, GENERATED, TAKE,
 FOLLOW, PROMPT, ANSWER, HIT, KEPT, NUM_REQ_INTS) = range(18)
# Columns of Ranks.i
(Q_HEAD, Q_TAIL, Q_LEN, R_HEAD, R_TAIL, RUNNING, ACTIVE, ITERATION, C_HEAD, C_TAIL, C_TOKENS, LINGER, PARTIAL,
 EVICTED_AT, SNAPSHOT, X_HEAD, X_TAIL, FORWARDS, DRAWS, LAST_UNITS,
 NUM_RANK_INTS) = range(21)
# Columns of Ranks.f
(USED_FULL, USED_SWA, CONTEXT, ACCEPT, LINGER_FULL, LINGER_SWA, LINGER_CONTEXT, NTR, REMAINING, C_CONTEXT,
 Q_TOKENS, CACHED_FULL, CACHED_SWA, GROWN, UNIT_REST, NUM_RANK_FLOATS) = range(16)
# Columns of Groups.i
(CLASS, RANK0, RANKS, STATE, TURN, PREFILL_AGE, STEP_COUNT, DECODE_STREAK, FORMED, FORMED_RANKS,
 COMPILED, PROMPTED, SHAPE, NUM_GROUP_INTS) = range(14)
IDLE, IN_PREFILL, IN_DECODE, IN_MIXED, DOWN, DRAINED = range(6)
# Columns of Drafting.rule
EMA_ALPHA, EVERY, WARMUP, DOWN_BY, UP_BY, CEILING, NUM_RULE_FLOATS = range(7)
# Columns of World.counters and World.clock
(HEAP_SIZE, SEQUENCE, SENT, DUE, LIVE, CAP, COMPLETED, TURN_P, TURN_D, RNG, P_POLICY, ROOMS,
 RESENT, DRAW_SEED, NUM_COUNTERS) = range(15)
NOW, FRONT_REQUEST, FRONT_TOKEN, FRONT_LATENCY, THINK, NUM_CLOCKS = range(6)
# fmt: on


class Classes(NamedTuple):
    """Constants of each role."""

    i: I8
    f: F8
    decode_rank: F8
    """[class, batch, context] seconds a rank needs for its own part of a decode step."""
    decode_group: F8
    """[class, batch] seconds of the part common to the group, by mean batch per rank."""
    prefill_rank: F8
    """[class, tokens, context]"""
    prefill_group: F8
    """[class, tokens]"""
    bucket: I8
    """[class, batch] batch after padding to a captured graph; -1 runs eagerly."""
    progress: F8
    """[class, batch] units of the calendar per step under UNIT_SHARE."""


class Groups(NamedTuple):
    """Workers."""

    i: I8
    next_s: F8
    """When the current step ends or, before, a prefill worker's host looks for work; infinity when idle."""
    begun_s: F8
    """When the current step began."""
    polled_s: F8
    """When the decode queues were last advanced."""
    formed_s: F8
    """How long the prefill batch that is formed but not running yet will take."""
    formed_at_s: F8
    """When that batch was formed, from which on the host launches it."""
    gpu_end_s: F8
    """When the GPU has computed all that a pipelined or a prefill worker launched."""


class PrefixCache(NamedTuple):
    """Radix caches of all ranks over one tree of prompts (`traffic.PrefixTree`); no nodes where it is off.

    Both lists run from least to most recently used, chained through a sentinel at index `nodes`; an
    entry of -1 is not in the list.
    """

    parent: I8
    tokens: I8
    depth: I8
    present: I8
    """[rank, node] 1 where its tokens are in the full pool."""
    locks: I8
    """[rank, node] requests that need it now."""
    children: I8
    """[rank, node] present children."""
    owners: I8
    """[rank, node] 1 while the request whose prompt ends here holds its window."""
    window: I8
    """[rank, node] evictable window-pool tokens; a node without any, unless owned, is a tombstone."""
    full_next: I8
    full_prev: I8
    swa_next: I8
    swa_prev: I8


class Ranks(NamedTuple):
    """Attention-DP ranks of all groups."""

    i: I8
    f: F8
    calendar: I8
    """[rank, iteration mod width] first request that finishes at that iteration."""
    blocked: I8
    """Why the head of the queue could not be admitted at the last look (0 it could)."""
    cache: PrefixCache


class Requests(NamedTuple):
    """Requests; `link` chains them in queues and calendar cells."""

    i: I8
    t: F8
    link: I8
    transfer_s: F8
    """Duration of the prefill-to-decode hand-over."""
    swa: F8
    """Window-pool tokens held after prefill."""


class Drafting(NamedTuple):
    """Draft lengths that follow acceptance; no tiers where they stay."""

    batch: I8
    """[tier] smallest batch; the first tier also holds below."""
    candidates: I8
    """[tier, candidate] draft steps, ascending."""
    num_candidates: I8
    rule: F8
    """[tier, column]"""
    shape_of: I8
    """[draft steps] class whose row holds their costs; -1 none."""
    alive: F8
    """[position] probability that a draft and all before it are accepted."""
    chosen: I8
    """[group, tier] candidate in force."""
    seen: I8
    """[group, tier] steps that were learned from."""
    mean: F8
    """[group, tier] running mean of accepted drafts."""
    last: I8
    """[group, 2] sequences (0 none) and draft steps of the step that is still to be learned from."""


class World(NamedTuple):
    """What all groups share."""

    heap_time: F8
    heap_kind: I8
    heap_req: I8
    heap_seq: I8
    counters: I8
    clock: F8
    starts: I8
    """[session] first request, in order of arrival."""
    start_s: F8
    """[session] arrival."""
    frontends: F8
    """When each frontend process is free."""
    totals: F8
    """[class, column] sums over the run."""
    groups_of: I8
    """[role, 2] first group and number of groups per role."""
    drafting: Drafting
