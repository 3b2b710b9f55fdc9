"""Passes to rows, the journal of a measurement, and the recorder's view of a batch."""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from engine_adapter.adapter import ServerInfo
from profiler.recorder_files import install_recorder, read_passes
from profiler.step_recorder import OUT_VARIABLE, Recorder, shape_of
from profiler.step_rows import (
    Pass,
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
from profiler.steps import (
    Journal,
    PointRecord,
    StepDriver,
    StepPlan,
    StepPoint,
    mean_launch,
    median_turn,
    points_of,
    request_seconds,
    warm_lengths,
)
from search_spaces.errors import BadInput
from search_spaces.mtp import Mtp
from tests.simulator_tests.test_measured_tables import GROUP, row


def decode(t: float, sequences: int = 2, context: float = 10.0, **extra: Any) -> Pass:
    return Pass(t, "decode", sequences, sequences, context, 0.001, **extra)


def test_walls_last_until_the_next_pass_of_the_target():
    run = [
        Pass(0.0, "prefill", 1, 5, 0.0, 0.3),
        Pass(1.0, "verify", 1, 4, 5.0, 0.1),
        Pass(1.5, "draft", 1, 1, 5.0, 0.2),
        Pass(2.0, "verify", 1, 4, 8.0, 0.1),
    ]
    assert [(item.one.mode, item.wall_s) for item in timed(run)] == [
        ("prefill", 1.0), ("draft", 0.2), ("verify", 1.0),
    ]  # fmt: skip


def test_walls_on_a_gpu_are_of_its_own_clock():
    """An overlapped host launches pass after pass at once; their starts on the host say nothing."""
    run = [decode(0.0, gpu_s=0.5), decode(0.001, gpu_s=0.6, gap_s=0.1), decode(0.002, gpu_s=0.7, gap_s=0.2)]
    assert [item.wall_s for item in timed(run)] == pytest.approx([0.6, 0.8])


VERIFY, EXTENSION, DRAFT, EXTENSION_LAUNCH, PREFILL_LAUNCH = 0.010, 0.0015, 0.002, 0.005, 0.030
ITERATION = VERIFY + EXTENSION + DRAFT


def drafting(iterations: int, tokens: int) -> list[Pass]:
    """Iterations with drafts as an overlapped engine records them, a prefill, and two iterations more.

    The recorder sees verify and the eager extension behind it, but not the graph that drafts. The host learns
    the accepted lengths when verify ends; a prefill needs none and is launched behind the extension, 6 ms
    after verify began.
    """
    found: list[Pass] = []
    start = gap = 0.0
    for k in range(iterations + 2):
        at = 4 + tokens if k < iterations else 8
        found.append(Pass(start - 0.0005, "verify", at // 4, at, 100.0 + k, 0.0005, True, VERIFY, gap))
        launch = start + 0.0005
        found.append(
            Pass(launch, "draft_extend", at // 4, at, 100.0 + k, EXTENSION_LAUNCH, False, EXTENSION, 0.0)
        )
        start, gap = start + ITERATION, DRAFT
        if k == iterations - 1:
            begun = launch + EXTENSION_LAUNCH + 0.001
            idle = max(0.0, begun - (start - DRAFT))
            found.append(Pass(begun, "prefill", 1, 600, 0.0, PREFILL_LAUNCH, False, 0.0265, idle))
            ended = start - DRAFT + idle + 0.0265
            extend = begun + PREFILL_LAUNCH
            late = max(0.0, extend - ended)
            found.append(
                Pass(extend, "draft_extend", 1, 600, 0.0, EXTENSION_LAUNCH, False, EXTENSION_LAUNCH, late)
            )
            gap = 0.003
            start = ended + late + EXTENSION_LAUNCH + gap
    return found


def test_the_draft_extension_belongs_to_the_pass_before_it():
    passes = drafting(3, 0)
    found = with_drafts(passes)
    assert [one.mode for one in found] == ["verify"] * 3 + ["prefill"] + ["verify"] * 2
    assert [one.gpu_s for one in found[:2]] == pytest.approx([VERIFY + EXTENSION] * 2)
    assert found[1].host_s == pytest.approx(0.001 + EXTENSION_LAUNCH)
    walls = [item.wall_s for item in timed(found)]
    assert walls[:2] == pytest.approx([ITERATION] * 2)  # the graph that drafts is the gap before verify
    assert walls[4] == pytest.approx(ITERATION)
    prefill = found[3]
    assert prefill.host_s == pytest.approx(PREFILL_LAUNCH + EXTENSION_LAUNCH)
    (shape,) = [one for one in rows([item for _ in range(3) for item in timed(found)]) if one.sequences == 2]
    assert (shape.mode, shape.new_tokens, shape.graph) == ("verify", 8, True)
    eager = [Pass(0.0, "verify", 1, 4, 5.0, 0.1), Pass(1.5, "draft", 1, 1, 5.0, 0.2), passes[0]]
    assert [one.mode for one in with_drafts(eager)] == ["verify", "verify"]


def test_a_prefill_adds_its_time_and_the_idle_before_it():
    """The gap before an iteration is there without the prefill too, as the engine drafts in it."""
    passes = drafting(3, 0)
    (found,) = between_decodes(with_drafts(passes))
    assert (found.one.mode, found.beside) == ("prefill", 1)
    walls = {item.one.mode: item.wall_s for item in timed(with_drafts(passes[4:]))}
    assert found.wall_s == pytest.approx(walls["prefill"] - DRAFT + (passes[6].gap_s or 0.0))
    assert turns(passes) == {"prefill": [], "decode": []}
    assert between_decodes([one._replace(gpu_s=None) for one in passes]) == []
    assert between_decodes(with_drafts(passes[6:])) == []  # nothing decoded before


def test_a_mixed_point_gives_rows_of_prefill_among_others(tmp_path: Path):
    """Prompts of several lengths arrive while others decode; each length makes a row."""
    group = GROUP.model_copy(update={"mtp": Mtp(num_steps=3, simulated_accept_length=2.5)})

    def generate(prompts: list[list[int]], new_tokens: int) -> list[Any]:
        if len(prompts) == 1:
            n = len(prompts[0])
            run = [one._replace(new_tokens=n) if one.new_tokens == 600 else one for one in drafting(4, 8)]
            with lock, (tmp_path / "passes.jsonl").open("a") as sink:
                sink.write("".join(json.dumps(one._replace(t=time.time())._asdict()) + "\n" for one in run))
        return []

    lock = threading.Lock()
    driver = StepDriver(SimpleNamespace(generate=generate), group, StepPlan(), tmp_path)  # type: ignore[arg-type]
    record = driver.measure(StepPoint(kind="mixed", sequences=3, tokens=512))
    assert [(one.new_tokens, one.beside) for one in record.rows] == [(256, 3), (512, 3)]
    assert all(one.mode == "prefill" for one in record.rows)


def test_rows_are_medians_without_the_first_pass():
    starts = np.cumsum([0, 9.0, 1.0, 1.0, 3.0, 1.0])
    (found,) = rows(timed([decode(t, context=10 + i) for i, t in enumerate(starts)]))
    assert (found.wall_s, found.count, found.sequences, found.context) == (1.0, 4, 2, 12.5)
    assert (found.low_s, found.high_s) == pytest.approx((1.0, 2.4))
    assert rows(timed([decode(t) for t in starts]), decode_sequences=3) == []
    assert rows(timed([decode(t) for t in starts[:3]])) == []  # two passes make no row


def test_decode_passes_right_after_a_prefill_are_left_out():
    run = [decode(0.0), Pass(1.0, "prefill", 1, 5, 0.0, 0.3), *(decode(float(t)) for t in range(2, 7))]
    assert [item.one.t for item in steady(timed(run), 2)] == [0.0, 1.0, 4.0, 5.0]


def test_turns_run_from_the_results_of_a_pass_to_the_next_start():
    """Pass 1 is launched at 1 ms, while pass 0 runs to 10; at 10 the host turns to pass 2, for 2 ms."""
    run = [
        decode(0.0, gpu_s=0.010, gap_s=0.0),
        decode(0.001, gpu_s=0.010, gap_s=0.0),
        decode(0.012, gpu_s=0.010, gap_s=0.0),
        Pass(0.0235, "prefill", 1, 5, 0.0, 0.040, False, 0.040, 0.0),
        decode(0.068, gpu_s=0.010, gap_s=0.004),
    ]
    found = turns(run)
    assert found["decode"] == pytest.approx([0.002])
    assert found["prefill"] == pytest.approx([0.0035, 0.0045])  # before the prefill, and after its launch
    assert turns([decode(float(t)) for t in range(4)]) == {"prefill": [], "decode": []}


def test_launches_are_those_of_passes_that_waited_for_the_host():
    passes = [
        Pass(0.0, "prefill", 1, 64, 0.0, 0.030, False, 0.031, 0.0),
        Pass(0.1, "prefill", 1, 8192, 0.0, 0.030, False, 0.080, 0.0),
        Pass(0.2, "prefill", 1, 4096, 8192.0, 0.070, False, 0.045, 0.0),
        Pass(0.3, "prefill", 1, 8192, 8192.0, 0.100, False, 0.108, 0.0),  # the host waited for a chunk
    ]
    assert launches(passes) == [0.030]
    points = [StepPoint(kind="prefill", sequences=1, tokens=n) for n in (64, 128)]
    records = [
        PointRecord(point=p, rows=(), turn_s={"launch": s, "prefill": s})
        for p, s in zip(points, (0.03, 0.05), strict=True)
    ]
    assert mean_launch(records) == pytest.approx(0.04) and mean_launch([]) is None
    mixed = PointRecord(
        point=StepPoint(kind="mixed", sequences=2, tokens=8), rows=(), turn_s={"prefill": 0.002}
    )
    assert median_turn([*records, mixed], "prefill") == pytest.approx(0.002)


def test_a_request_costs_a_base_and_its_tokens():
    assert request_seconds({}) == (None, None)
    assert request_seconds({16: 0.005}) == (0.005, None)
    base, token = request_seconds({16: 0.005, 4096: 0.0458})
    assert token == pytest.approx(1e-5) and base == pytest.approx(0.005 - 16e-5)


def test_a_warm_up_meets_every_tile_up_to_the_chunk():
    assert warm_lengths(200) == [64, 128, 192, 200]
    assert len(warm_lengths(8192)) == 128 and warm_lengths(8192)[-1] == 8192
    assert len(warm_lengths(65536)) <= 129
    sent: list[list[int]] = []

    def generate(prompts: list[list[int]], new_tokens: int) -> list[Any]:
        sent.append([len(prompt) for prompt in prompts])
        return []

    driver = StepDriver(SimpleNamespace(generate=generate), GROUP, StepPlan(), None)  # type: ignore[arg-type]
    count = driver.warm_up(100_000, 3)
    assert sent == [*([n] for n in warm_lengths(GROUP.chunk_tokens_per_rank)), [16, 16, 16]]
    assert count == sum(len(lengths) for lengths in sent)
    del sent[:]
    assert driver.rehearse(4, 10, 20) == 12
    assert len(sent) == 3 and all(10 <= n <= 20 for lengths in sent for n in lengths)


def test_every_attention_rank_gets_the_prompts_of_a_point():
    sent: list[list[int]] = []

    def generate(prompts: list[list[int]], new_tokens: int) -> list[tuple[float, int]]:
        sent.append([len(prompt) for prompt in prompts])
        return [(0.1 * k, i) for k in range(new_tokens) for i in range(len(prompts))]

    group = GROUP.model_copy(update={"tp": 2, "attention_dp": 2, "chunk_tokens_per_rank": 128})
    driver = StepDriver(SimpleNamespace(generate=generate), group, StepPlan(), None)  # type: ignore[arg-type]
    driver.run(StepPoint(kind="decode", sequences=3, tokens=8), 4)
    assert driver.warm_up(128, 3) == 2 * (2 + 3)
    assert driver.rehearse(2, 10, 20) == 12
    assert [len(lengths) for lengths in sent] == [6, 2, 2, 6, 4, 4, 4]
    assert sent[0] == [8] * 6 and sent[3] == [16] * 6


def test_merging_keeps_the_better_known_row():
    many, few = row("decode", 2, 2, 10.2, 1.0), row("decode", 2, 2, 9.9, 2.0).model_copy(update={"count": 3})
    other = row("prefill", 1, 7, 0, 1.0)
    assert merged([few, other, many]) == (many, other)


def test_a_client_counts_tokens_between_the_last_begin_and_the_first_end():
    tokens = [(1.0, 0), (1.4, 1), (2.0, 0), (2.0, 1), (3.0, 0), (3.0, 1), (4.0, 0), (4.5, 1), (5.5, 1)]
    found = client_passes(0.5, sorted(tokens), context=8, sequences=2, one_prefill=True)
    assert found[0] == Pass(0.5, "prefill", 2, 16, 0.0)
    assert [(one.t, one.context) for one in found[1:]] == [(2.0, 9), (3.0, 10), (4.0, 11)]
    assert client_passes(0.5, sorted(tokens), 8, 2, one_prefill=False) == found[1:]


def test_points_fit_the_server():
    info = ServerInfo(
        engine="e",
        engine_version="1",
        model_path="m",
        device="d",
        max_total_tokens=2000,
        max_running_requests=4,
    )
    plan = StepPlan(batches=(1, 4, 8), contexts=(100, 400, 1000), prefill_tokens=(64, 4096), passes=50)
    found = points_of(plan, GROUP, info)
    assert [(p.sequences, p.tokens) for p in found if p.kind == "decode"] == [
        (1, 100), (4, 100), (1, 400), (4, 400), (1, 1000),
    ]  # fmt: skip
    assert [p.tokens for p in found if p.kind == "prefill"] == [64]


def test_a_journal_goes_on_after_a_kill(tmp_path: Path):
    path, head = tmp_path / "j.jsonl", {"recipe": "abc"}
    first, second = (StepPoint(kind="decode", sequences=b, tokens=8) for b in (1, 2))
    Journal(path, head).add(PointRecord(point=first, rows=(row("decode", 1, 1, 8, 0.5),)))
    with path.open("a") as sink:
        sink.write('{"point": {"kind": "dec')  # killed while writing
    again = Journal(path, head)
    assert again.has(first) and not again.has(second)
    again.add(PointRecord(point=second, rows=()))
    assert [r.point for r in Journal(path, head).records] == [first, second]
    with pytest.raises(BadInput, match="choose another --out"):
        Journal(path, {"recipe": "other"})
    (tmp_path / "text").write_text("hello\n")
    with pytest.raises(BadInput, match="no journal"):
        Journal(tmp_path / "text", head)


def batch(mode: str, lengths: list[int], new: int) -> SimpleNamespace:
    ids = SimpleNamespace(shape=(new,), device=SimpleNamespace(type="cpu"))
    return SimpleNamespace(
        forward_mode=SimpleNamespace(name=mode),
        batch_size=len(lengths),
        input_ids=ids,
        seq_lens_cpu=np.array(lengths),
    )


def test_the_recorder_counts_what_was_cached():
    prefill = shape_of(batch("EXTEND", [30, 50], 60), False)
    assert prefill == {"mode": "prefill", "sequences": 2, "new_tokens": 60, "context": 10.0}
    step = shape_of(batch("DECODE", [31, 51], 2), False)
    assert step == {"mode": "decode", "sequences": 2, "new_tokens": 2, "context": 40.0}
    assert shape_of(batch("IDLE", [], 0), False) is None
    drafted = shape_of(batch("DECODE", [31], 1), True)
    assert drafted is not None and drafted["mode"] == "draft"
    unknown = batch("DECODE", [31], 1)
    unknown.seq_lens_cpu = unknown.seq_lens_sum = None
    assert shape_of(unknown, False) is None
    extended = shape_of(batch("DRAFT_EXTEND_V2", [34, 54], 8), True)
    assert extended == {"mode": "draft_extend", "sequences": 2, "new_tokens": 8, "context": 40.0}


def test_the_recorder_leaves_a_capturing_engine_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Neither passes that are captured, or warm up for it, nor events of others are touched meanwhile."""
    capture = [False]
    engine = "sglang.srt.model_executor.runner_utils.capture_mode"
    for name in (engine.rsplit(".", n)[0] for n in range(4, 0, -1)):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    mode = SimpleNamespace(get_is_capture_mode=lambda: capture[0])
    monkeypatch.setitem(sys.modules, engine, mode)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=SimpleNamespace(Event=FakeEvent)))
    recorder = Recorder(str(tmp_path / "passes.jsonl"))
    drafted = batch("DECODE", [9], 1)
    drafted.input_ids.device.type = "cuda"
    runner = SimpleNamespace(is_draft_worker=True)
    assert recorder.around(lambda *_: "done", runner, drafted) == "done"
    capture[0] = True
    assert recorder.around(lambda *_: "done", runner, drafted) == "done"
    recorder.drain(wait=True)
    assert not (tmp_path / "passes.jsonl").exists()
    capture[0] = False
    recorder.drain(wait=True)
    assert json.loads((tmp_path / "passes.jsonl").read_text())["gpu_s"] == 0.002  # one line


class FakeEvent:
    """A GPU event that says it was two milliseconds before every other."""

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        pass

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, other: object) -> float:
        return 2.0


def test_the_recorder_writes_what_is_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("PYTHONPATH", raising=False)
    env = install_recorder(tmp_path)
    entry = (tmp_path / "servecast_step_recorder-1.dist-info" / "entry_points.txt").read_text()
    assert "sglang.srt.plugins" in entry and env["PYTHONPATH"] == str(tmp_path)
    recorder = Recorder(env[OUT_VARIABLE])
    result = object()

    def forward(*_):
        time.sleep(0.001)
        return result

    for lengths in ([9], [10], [11]):
        assert recorder.around(forward, SimpleNamespace(), batch("DECODE", lengths, 1)) is result
    recorder.drain(wait=True)
    found = read_passes(tmp_path)
    assert [one.context for one in found] == [8, 9, 10]
    assert found[1].t > found[0].t and found[0].host_s is not None and found[0].host_s > 0
    assert read_passes(tmp_path, since=found[1].t) == found[1:]
    with Path(env[OUT_VARIABLE]).open("a") as sink:
        sink.write(json.dumps({"t": 1})[:-2])
    assert read_passes(tmp_path) == found
