"""The importer of recordings, on a made-up recording and on what ships."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from profiler.step_records import read_live_runs, read_profile
from search_spaces.errors import BadInput, MissingData
from search_spaces.live_run import shipped_live_runs
from search_spaces.step_profile import (
    StepProfile,
    load_step_profile,
    shipped_step_profiles,
    step_profile_json,
)

INFO: dict[str, Any] = {
    "version": "0.5.15",
    "moe_runner_backend": "auto",
    "moe_a2a_backend": "none",
    "tp_size": 1,
    "dp_size": 1,
    "ep_size": 1,
    "enable_dp_attention": False,
    "mem_fraction_static": 0.85,
    "swa_full_tokens_ratio": 0.1,
    "max_running_requests": 256,
    "chunked_prefill_size": 8192,
    "max_prefill_tokens": 16384,
    "context_length": 131072,
    "disable_radix_cache": False,
    "cuda_graph_config": {"decode": {"backend": "full", "bs": [1, 2, 4, 64]}},
    "speculative_algorithm": None,
    "speculative_num_steps": None,
    "internal_states": [{"max_total_num_tokens": 1000}],
}
NOON = 1_795_262_400 * 10**9  # 2026-11-21 12:00 UTC


def decode(i: int, bs: int = 2, **changes: Any) -> dict[str, Any]:
    row = {"mode": "decode", "bs": bs, "tokens": bs, "seq_lens": [1024 + i] * bs, "skipped": False}
    return {**row, "gpu_ms": 2.0, "gap_ms": 0.05, "host_ms": 0.3, "graph": True, "t_ns": NOON + i, **changes}


def prefill(t: int, tokens: int, gpu_ms: float, **changes: Any) -> dict[str, Any]:
    row = {"mode": "extend", "bs": 1, "tokens": tokens, "seq_lens": [tokens], "extend_lens": [tokens]}
    rest = {"prefix_lens": [0], "skipped": False, "host_ms": 30.0, "gap_ms": 20.0, "graph": False}
    return {**row, **rest, "gpu_ms": gpu_ms, "t_ns": NOON + t, **changes}


def recording(folder: Path, passes: list[dict[str, Any]], info: dict[str, Any] = INFO) -> Path:
    phases = [{"phase": "profile", "t0_ns": NOON + 9000, "t1_ns": NOON + 9999}]
    lines = "\n".join(json.dumps(row) for row in passes)
    (folder / "steps.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    (folder / "phases.jsonl").write_text("\n".join(json.dumps(row) for row in phases))
    (folder / "server_info.json").write_text(json.dumps(info))
    return folder


def read(folder: Path) -> StepProfile:
    return read_profile(folder, "one", "dsv4-flash", 4, "h200", "NVIDIA H200", "torch 2.11")


def test_rows_leave_out_first_skipped_traced_and_lone_passes(tmp_path: Path) -> None:
    passes = [
        prefill(0, 512, 900.0),  # compiles
        prefill(1, 512, 31.0),
        prefill(2, 512, 33.0),
        prefill(3, 512, 1.0, skipped=True),
        prefill(9001, 512, 70.0),  # under a trace
        decode(0, gpu_ms=50.0),  # first of its shape
        decode(1, gpu_ms=40.0, gap_ms=9.0),
        *[decode(i, gap_ms=0.06) for i in range(2, 14)],
        prefill(5, 64, 30.0),
        decode(20, gpu_ms=8.0),  # alone between prefills
        prefill(6, 64, 28.0),
    ]
    found = read(recording(tmp_path, passes))
    by_mode = {row.mode: row for row in found.rows if row.new_tokens != 64}
    assert by_mode["prefill"].count == 2 and by_mode["prefill"].wall_s == pytest.approx(0.032)
    row = by_mode["decode"]
    # From the second pass to the last but one; the last is followed by a prefill.
    assert (row.count, row.wall_s, row.gpu_s, row.gap_s) == (12, 2.06e-3, 2e-3, 6e-5)
    assert row.context == pytest.approx(1029.5)
    assert found.measured_on == "2026-11-21" and found.max_total_tokens == 1000
    assert found.group.moe_backend == "triton" and found.group.expert_weights == "fp8"
    assert "4 layers" in found.source and found.source.endswith("; torch 2.11")


def test_verify_rows_carry_the_window_and_the_whole_iteration(tmp_path: Path) -> None:
    info = INFO | {"speculative_algorithm": "EAGLE", "speculative_num_steps": 3}
    passes = [decode(i, mode="target_verify", tokens=8, gap_ms=5.0) for i in range(14)]
    (row,) = read(recording(tmp_path, passes, info)).rows
    assert (row.mode, row.sequences, row.new_tokens) == ("verify", 2, 8)
    assert row.wall_s == pytest.approx(7e-3) and row.gpu_s == pytest.approx(2e-3)


def test_marlin_means_packed_weights(tmp_path: Path) -> None:
    passes = [prefill(t, 512, 31.0) for t in range(3)]
    found = read(recording(tmp_path, passes, INFO | {"moe_runner_backend": "marlin"}))
    assert (found.group.expert_weights, found.group.moe_activation) == ("mxfp4", "bf16")


def test_refusals_name_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(MissingData, match=r"server_info\.json is absent"):
        read(tmp_path)
    with pytest.raises(MissingData, match="no pass is left"):
        read(recording(tmp_path, [prefill(0, 512, 30.0)]))
    with pytest.raises(BadInput, match="deepep"):
        read(recording(tmp_path, [prefill(0, 512, 30.0)], INFO | {"moe_a2a_backend": "deepep"}))
    (tmp_path / "steps.jsonl.gz").write_bytes(gzip.compress(b"{"))
    with pytest.raises(BadInput, match="one JSON object a line"):
        read(tmp_path)


def test_bench_results_must_match_what_was_driven(tmp_path: Path) -> None:
    folder = recording(tmp_path, [prefill(t, 512, 31.0) for t in range(3)])
    assert read_live_runs(folder, "one") == []
    (folder / "bench.jsonl").write_text("{}")
    with pytest.raises(BadInput, match="1 results for 0 phases"):
        read_live_runs(folder, "one")


def test_file_form_round_trips(tmp_path: Path) -> None:
    shipped = load_step_profile("h200-flash8-marlin")
    file = tmp_path / "again.json"
    file.write_text(step_profile_json(shipped))
    again = load_step_profile(str(file))
    assert again == shipped and again.digest == shipped.digest


@pytest.mark.parametrize("name", shipped_step_profiles())
def test_shipped_profiles_say_what_they_are(name: str) -> None:
    profile = load_step_profile(name)
    assert profile.name == name and profile.source.startswith(f"recorded on one {profile.device}, SGLang")
    assert f"{profile.num_layers} layers" in profile.source and "dummy weights" in profile.source
    assert all(row.low_s <= row.wall_s <= row.high_s for row in profile.rows)
    assert len({(r.mode, r.sequences, r.new_tokens, r.context) for r in profile.rows}) == len(profile.rows)


def test_shipped_live_runs_belong_to_shipped_profiles() -> None:
    runs = shipped_live_runs()
    assert {run.profile for run in runs} <= set(shipped_step_profiles())
    one = next(r for r in runs if r.profile == "h200-flash8-triton" and r.workload.concurrency == 1)
    assert one.measured["median_tpot_ms"] == pytest.approx(1.985, abs=0.001)
    for run in runs:
        assert run.completed == run.workload.num_prompts
        assert run.measured["median_ttft_ms"] < 1e3 * run.duration_s


def test_unknown_profile_names_the_choices() -> None:
    with pytest.raises(MissingData, match="h200-flash8-triton"):
        load_step_profile("h300")
