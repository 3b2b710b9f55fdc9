"""Records: appended, resumed, damaged, turned into profiles and reports."""

from __future__ import annotations

import gzip
import json
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from click.testing import CliRunner

from planner.cli import cli
from profiler import kernel_bench
from profiler.kernel_bench import ContextLost, GpuBench, platform_of, run_cases
from profiler.kernel_case import KernelCase
from profiler.kernel_cases_dense import bf16_gemm, fp8_gemm
from profiler.kernel_cases_moe import grouped
from profiler.kernel_gpu import Gpu
from profiler.kernel_record import RecordWriter, RunHeader, read_records, record_of
from profiler.kernel_records import to_profile
from profiler.kernel_report import against_tables, load_records, summaries
from profiler.kernel_times import import_times
from search_spaces.catalog_loader import all_models, hardware, model
from search_spaces.errors import BadInput, MissingData
from search_spaces.kernel_profile import OWN_PROFILES, load_profile, save_profile

CASES = [fp8_gemm(m, 4096, 4096) for m in (1, 64, 1024)]
H200 = hardware("h200")
TWICE = 2.0


class FakeBench:
    """Every case takes twice its roofline, unless told otherwise."""

    def __init__(self, versions=None, gpus=1, **status):
        self.versions, self.gpus, self.status, self.asked = versions or {"torch": "1"}, gpus, status, []

    def header(self, run):
        return RunHeader(
            run=run, device="NVIDIA H200", hardware="h200", gpus=self.gpus, sm=90, num_sms=132,
            versions=self.versions, started="2026-01-01", method="fake",
        )  # fmt: skip

    def measure(self, case: KernelCase, run):
        self.asked.append(case.key)
        status = self.status.get(f"m{dict(case.shape).get('m')}", "ok")
        if status == "lost":
            raise ContextLost(record_of(case, run, "failed", "illegal memory access"))
        record = record_of(case, run, status, "" if status == "ok" else "because")
        if status != "ok":
            return record
        t = TWICE * case.roofline_s(H200)
        return record.model_copy(
            update={
                "time_s": t,
                "p10_s": 0.9 * t,
                "p90_s": 1.2 * t,
                "launches": 8,
                "replays": 9,
                "error": 0.001,
            }
        )


def measured(path: Path, cases, **status):
    return run_cases(cases, FakeBench(**status), path)


def test_records_are_appended_and_a_second_run_does_only_what_is_left(tmp_path):
    path = tmp_path / "k.jsonl"
    first = measured(path, CASES[:2])
    assert (first.counts, first.skipped, first.left) == ({"ok": 2}, 0, 0)
    bench = FakeBench()
    second = run_cases(CASES, bench, path)
    assert bench.asked == [CASES[2].key]
    assert (second.counts, second.skipped) == ({"ok": 1}, 2)
    found = read_records(path)
    assert [key for _, key in found.records] == [case.key for case in CASES]
    assert len(found.runs) == 2 and found.damaged == 0


def test_failed_cases_are_tried_again_last_and_unsupported_ones_only_elsewhere(tmp_path):
    path = tmp_path / "k.jsonl"
    measured(path, CASES[:2], m1="failed", m64="unsupported")
    bench = FakeBench()
    run_cases(CASES, bench, path)
    assert bench.asked == [CASES[2].key, CASES[0].key]
    elsewhere = FakeBench(versions={"torch": "2"})
    run_cases(CASES, elsewhere, path)
    assert elsewhere.asked == [CASES[1].key]


def test_a_half_written_line_is_counted_and_the_next_run_starts_a_new_one(tmp_path):
    path = tmp_path / "k.jsonl"
    measured(path, CASES[:2])
    whole = path.read_bytes()
    path.write_bytes(whole[:-40])
    assert read_records(path).damaged == 1
    bench = FakeBench()
    run_cases(CASES[:2], bench, path)
    assert bench.asked == [CASES[1].key]
    found = read_records(path)
    assert found.damaged == 1 and len(found.records) == 2


def test_files_that_hold_no_records_are_refused(tmp_path):
    path = tmp_path / "k.jsonl"
    path.write_text("hello\nworld\n")
    with pytest.raises(BadInput, match="no line is a kernel record"):
        read_records(path)
    with pytest.raises(BadInput, match="cannot be read"):
        read_records(tmp_path / "absent.jsonl")
    (tmp_path / "x.jsonl.gz").write_bytes(b"not gzip")
    with pytest.raises(BadInput, match="cannot be read"):
        read_records(tmp_path / "x.jsonl.gz")


def test_budget_stops_between_cases_and_says_how_many_are_left(tmp_path):
    assert run_cases(CASES, FakeBench(), tmp_path / "k.jsonl", budget_s=0.0).left == 3


def test_a_case_says_how_long_it_took(tmp_path):
    path = tmp_path / "k.jsonl"
    result = run_cases(CASES, FakeBench(), path)
    took = [record.took_s for record in read_records(path).records.values()]
    assert len(took) == 3 and all(seconds is not None and seconds < 1 for seconds in took)
    assert result.seconds > 0


def test_imports_of_a_kernel_are_kept_out_of_later_collections(monkeypatch):
    """Once per kernel: what is alive then is never looked at again."""
    done: list[str] = []
    fake = SimpleNamespace(collect=lambda: done.append("collect"), freeze=lambda: done.append("freeze"))
    monkeypatch.setattr("profiler.kernel_bench.gc", fake)
    bench = GpuBench(cast(Gpu, None), None)
    for kernel in ("fp8_gemm", "fp8_gemm", "moe_masked"):
        bench._settle(kernel)
    assert done == ["collect", "freeze"] * 2


def test_a_lost_context_ends_the_run_with_its_record_kept(tmp_path):
    path = tmp_path / "k.jsonl"
    with pytest.raises(MissingData, match="run the same command again"):
        measured(path, CASES, m64="lost")
    statuses = [record.status for record in read_records(path).records.values()]
    assert statuses == ["ok", "failed"]
    bench = FakeBench()
    run_cases(CASES, bench, path)
    assert bench.asked == [CASES[2].key, CASES[1].key]


def test_a_hanging_kernel_is_recorded_and_ends_the_process(tmp_path, monkeypatch):
    path, ended, go_on = tmp_path / "k.jsonl", [], threading.Event()

    def end() -> None:
        ended.append([record.message for record in read_records(path).records.values()])
        go_on.set()

    class Hanging(FakeBench):
        def measure(self, case, run):
            assert go_on.wait(10)
            return super().measure(case, run)

    monkeypatch.setattr(kernel_bench, "CASE_LIMIT_S", 0.05)
    monkeypatch.setattr(kernel_bench, "_end_process", end)
    run_cases(CASES[:1], Hanging(), path)
    assert ended == [["took longer than 0.05 s"]]


def test_report_numbers(tmp_path):
    path = tmp_path / "k.jsonl"
    measured(path, [*CASES, fp8_gemm(7, 128, 128)], m7="wrong")
    (row,) = summaries(load_records([path]))
    assert row.ratio() == pytest.approx((TWICE, TWICE, TWICE))
    assert row.spreads == pytest.approx((0.3,) * 3)
    assert row.checked == 3 and row.largest_error == 0.001
    assert row.reasons == {"wrong: because": 1}
    done = CliRunner().invoke(cli, ["profile", "report", str(path), "--out", str(tmp_path / "r")])
    assert done.exit_code == 0, done.output
    assert "fp8_gemm       3        3" in done.output and "wrong: because" in done.output
    assert (tmp_path / "r" / "kernels.png").stat().st_size > 5000
    assert (tmp_path / "r" / "kernels.svg").read_text().startswith("<?xml")


def test_shipped_records_are_reported_without_a_gpu():
    done = CliRunner().invoke(cli, ["profile", "report", "--json"])
    assert done.exit_code == 0, done.output
    data = json.loads(done.stdout)
    assert {run["hardware"] for run in data["runs"]} >= {"h100", "h200"}
    kernels = {(k["device"], k["kernel"]): k for k in data["kernels"]}
    gemm = kernels["NVIDIA H200", "fp8_gemm"]
    assert gemm["shapes"] >= 50 and 1 < gemm["time_over_roofline"][0] < gemm["time_over_roofline"][2] < 25
    copy = kernels["NVIDIA H200", "hbm_copy"]["time_over_roofline"][0]
    assert 4.8 / copy == pytest.approx(4.29, rel=0.03)  # TB/s
    tables = {(one["table"], one["kernel"]): one for one in data["tables"] if one["device"] == "NVIDIA H200"}
    reduce = tables["nccl", "nccl_all_reduce"]
    assert reduce["shapes"] == 18 and 0.75 < reduce["time_over_table"][0] < reduce["time_over_table"][2] < 1.1


def test_own_times_are_compared_with_the_shipped_table_row_by_row(tmp_path):
    shipped = load_profile("h200").table("nccl")
    chosen = (shipped["op"] == 1) & (shipped["num_gpus"] == 2) & (shipped["bytes"] == 4096)
    (theirs,) = shipped["time_s"][chosen].tolist()
    cases = [
        KernelCase("links", "nccl_all_reduce", (("gpus", 2), ("bytes", size)), 0, 8192)
        for size in (4096, 4100)  # the second is in no table
    ]
    path = tmp_path / "k.jsonl"
    measured(path, [*cases, fp8_gemm(7, 128, 128)])
    (found,) = against_tables(read_records(path), list(all_models().values()))
    assert (found.table, found.kernel) == ("nccl", "nccl_all_reduce")
    want = TWICE * cases[0].roofline_s(H200) / theirs
    assert found.ratios == pytest.approx((want,))


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA GB300", "gb300"),
        ("NVIDIA L4", None),
    ],
)
def test_platform_from_the_device_name(device, name):
    found = platform_of(device)
    assert (found.name if found else None) == name


def test_without_torch_or_gpu_the_exit_code_is_5_and_says_what_works(tmp_path, monkeypatch):
    monkeypatch.setattr("profiler.kernel_gpu.find_spec", lambda name: None)
    done = CliRunner().invoke(cli, ["profile", "kernels", "--out", str(tmp_path / "k.jsonl")])
    assert done.exit_code == 5
    assert "torch is not installed" in done.output and "servecast profile report" in done.output
    assert not (tmp_path / "k.jsonl").exists()


def test_cases_can_be_listed_without_a_gpu(tmp_path):
    arguments = ["--list", "--hardware", "h200", "--only", "mhc", "--level", "0", "--out", "unused"]
    done = CliRunner().invoke(cli, ["profile", "kernels", *arguments])
    assert done.exit_code == 0
    assert "0 mhc mhc_pre/m=1,hidden=4096" in done.output.splitlines()


def test_profile_of_own_records_is_read_back_and_used(tmp_path, monkeypatch):
    flash = model("deepseek-v4-flash")
    inner, rows, experts = flash.expert_inner, 48 * 6, 32
    mhc = [KernelCase("mhc", f"mhc_{op}", (("m", 64), ("hidden", 4096)), 0, 1e6) for op in ("pre", "post")]
    layer = [
        grouped("masked", experts, rows, 2 * inner, flash.hidden),
        grouped("masked", experts, rows, flash.hidden, inner),
        KernelCase(
            "moe", "silu_mul_quant_masked", (("experts", experts), ("rows", rows), ("inner", inner)), 0, 1e6
        ),
    ]
    reduce, engine = (
        KernelCase("links", f"{who}_all_reduce", (("gpus", 2), ("bytes", 4096)), 0, 8192)
        for who in ("nccl", "custom")
    )
    path = tmp_path / "k.jsonl"
    measured(path, [*CASES, bf16_gemm(1, 256, 4096, 4), *mhc, *layer, reduce, engine])
    done = CliRunner().invoke(
        cli, ["profile", "import", "records", str(path), "--out", str(tmp_path / "own")]
    )
    assert done.exit_code == 0, done.output
    assert "4 gemm, 1 moe, 2 mhc, 1 allreduce, 1 nccl" in done.output

    shipped = load_profile("h200")
    monkeypatch.setenv(OWN_PROFILES, str(tmp_path / "own"))
    own = load_profile("h200")
    assert own is not shipped and own.meta["device"] == "NVIDIA H200"
    assert own.meta["base"]["name"] == "h200" and len(own.meta["digest"]) == 64
    assert set(own.tables) == set(shipped.tables)

    def at(profile, table, **key):
        rows = profile.table(table)
        mask = [all(rows[c][i] == v for c, v in key.items()) for i in range(len(rows["time_s"]))]
        return rows["time_s"][mask].tolist()

    times = {case.key: TWICE * case.roofline_s(H200) for case in (*CASES, *mhc, *layer, reduce, engine)}
    assert at(own, "gemm", dtype=1, n=4096, k=4096, m=64) == pytest.approx([times[CASES[1].key]], rel=1e-6)
    assert at(own, "gemm", dtype=1, n=4096, k=4096, m=2) == at(shipped, "gemm", dtype=1, n=4096, k=4096, m=2)
    assert at(own, "mhc", op=0, hidden=4096, tokens=64) == pytest.approx([2 * times[mhc[0].key]], rel=1e-6)
    assert at(own, "nccl", op=1, num_gpus=2, bytes=4096) == pytest.approx([times[reduce.key]], rel=1e-6)
    key = {"graph": 1, "num_gpus": 2, "bytes": 4096}
    assert at(own, "allreduce", **key) == pytest.approx([times[engine.key]], rel=1e-6)
    whole = sum(times[case.key] for case in layer)
    key = {"kernel": 2, "hidden": 4096, "moe_ep": 8, "moe_tp": 1, "tokens": 48 * 8}
    assert at(own, "moe", **key) == pytest.approx([whole], rel=1e-6)


def test_an_expert_layer_is_not_assembled_from_a_part(tmp_path):
    path = tmp_path / "k.jsonl"
    measured(path, [grouped("masked", 32, 288, 4096, 4096), *CASES])
    profile = to_profile(read_records(path), all_models().values())
    assert "moe" not in profile.meta["own_rows"]


def test_profile_needs_records_of_one_device(tmp_path):
    with pytest.raises(BadInput, match="--device"):
        to_profile(load_records([]), all_models().values())
    own = to_profile(load_records([]), all_models().values(), device="NVIDIA H200")
    save_profile(own, tmp_path / "own.npz")
    read = load_profile(tmp_path / "own.npz")
    assert read.meta["own_rows"]["gemm"] > 50 and read.meta["runs"]


def test_folder_of_own_profiles_must_exist(monkeypatch):
    monkeypatch.setenv(OWN_PROFILES, "/nowhere")
    with pytest.raises(MissingData, match="is no folder"):
        load_profile("h200")


def test_timing_files_become_records(tmp_path):
    row = {"kernel": "fp8_gemm", "name": "wo_b", "m": 4, "n": 4096, "k": 8192, "us": 12.5, "us_min": 12.0,
           "us_max": 13.0, "launches": 64, "input_sets": 4}  # fmt: skip
    other = {"kernel": "unheard_of", "us": 1.0}
    meta = {"gpu": "NVIDIA H200", "torch": "2", "cuda": "13", "sms": 132}
    path = tmp_path / "t.json"
    path.write_text(json.dumps({"meta": meta, "rows": [row, other]}))
    header, records = import_times(path, "r1", "h200", "2026-01-01", {"x": "1"}, "a script")
    assert header.source == "a script" and header.versions == {"torch": "2", "x": "1"}
    (record,) = records
    assert record.key == "fp8_gemm/m=4,n=4096,k=8192" and record.time_s == pytest.approx(12.5e-6)
    assert record.error is None and record.flops == 2 * 4 * 4096 * 8192
    path.write_text("[]")
    with pytest.raises(BadInput, match="not a timing file"):
        import_times(path, "r1", "h200", "2026-01-01", {}, "a script")


def test_compressed_records_are_read(tmp_path):
    path = tmp_path / "k.jsonl"
    measured(path, CASES[:1])
    packed = tmp_path / "k.jsonl.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert read_records(packed).records.keys() == read_records(path).records.keys()


def test_unwritable_files_are_refused(tmp_path):
    with pytest.raises(BadInput, match="choose a writable file"):
        RecordWriter(tmp_path)
