"""The grid of kernel cases: where shapes come from, keys, order and rooflines by hand."""

from __future__ import annotations

import pytest

from profiler.kernel_cases import FAMILIES, kernel_cases, ordered
from profiler.kernel_cases_attention import closing, padded_heads
from profiler.kernel_cases_dense import fp8_gemm, fp8_products
from profiler.kernel_cases_links import link_share
from profiler.kernel_cases_moe import grouped
from profiler.kernel_plans import plans_of, rank_plan
from profiler.kernel_report import load_records
from profiler.kernel_routing import rows_per_expert
from profiler.kernel_warm import share, worth_warming
from search_spaces.catalog_loader import all_models, hardware, model
from search_spaces.errors import BadInput

FLASH, PRO = model("deepseek-v4-flash"), model("deepseek-v4-pro")
H200 = hardware("h200")


def grid(name="h200", **options):
    return kernel_cases(list(all_models().values()), plans_of(hardware(name)), **options)


def test_plans_come_from_the_search_space_of_the_platform():
    shipped = ["DEP4", "DEP8", "DEP16", "DPA8", "TP4", "TP8"]
    assert [plan.name for plan in plans_of(H200)] == shipped
    assert [plan.name for plan in plans_of(H200, ("TP1", "TP8"))] == [*shipped, "TP1"]
    with pytest.raises(BadInput, match="XP4"):
        plans_of(H200, ("XP4",))


def test_slices_of_plans():
    tp, dep, dpa = rank_plan("TP8"), rank_plan("DEP16"), rank_plan("DPA4")
    assert (tp.attention_tp, tp.dense_tp, tp.moe_tp, tp.moe_ep) == (8, 8, 8, 1)
    assert (dep.attention_tp, dep.dense_tp, dep.moe_tp, dep.moe_ep) == (1, 1, 1, 16)
    assert (dpa.attention_tp, dpa.dense_tp, dpa.moe_tp, dpa.moe_ep) == (1, 4, 4, 1)
    assert rank_plan("TP8").fits(FLASH) and not rank_plan("TP16").fits(FLASH)  # 8 output groups
    assert not rank_plan("DEP40").fits(PRO)


def test_products_of_a_plan_by_hand():
    found = {role.rpartition("Flash ")[2]: (n, k) for role, n, k in fp8_products(FLASH, [rank_plan("TP8")])}
    assert found == {
        "wqkv_a": (1024 + 512, 4096),
        "indexer wq_b": (64 * 128, 1024),
        "TP8 wq_b": (64 * 512 // 8, 1024),
        "TP8 wo_b": (4096, 1024),
        "TP8 shared gate+up": (2 * 2048 // 8, 4096),
        "TP8 shared down": (4096, 256),
    }


def test_slices_without_whole_scale_blocks_are_left_out():
    keys = {case.key for case in kernel_cases([PRO], [rank_plan("TP16")])}
    assert not any("n=7168,k=192" in key for key in keys)  # 3072 / 16


@pytest.mark.parametrize("name", ["h100", "h200", "b300", "gb300"])
def test_keys_are_unique_and_every_family_starts_at_the_coarse_level(name):
    cases = grid(name)
    assert len({case.key for case in cases}) == len(cases)
    assert 1000 < len(cases) < 5000
    assert {case.family for case in cases if case.level == 0} == set(FAMILIES)
    assert [case.key for case in cases] == [case.key for case in grid(name)]


def test_an_interrupted_run_has_seen_every_family():
    cases = grid()
    assert [case.level for case in cases] == sorted(case.level for case in cases)
    assert {case.family for case in cases[: len(FAMILIES)]} == set(FAMILIES)


def test_shared_shapes_appear_once_at_their_coarsest_level():
    late = fp8_gemm(64, 4096, 4096, level=2)
    early = fp8_gemm(64, 4096, 4096, level=0)
    assert late.key == early.key == "fp8_gemm/m=64,n=4096,k=4096"
    found = [c for c in kernel_cases([FLASH], plans_of(H200), ("gemm",)) if c.key == early.key]
    assert [c.level for c in found] == [0]
    assert [c.level for c in ordered([late, fp8_gemm(1, 128, 128, level=1)])] == [1, 2]


def test_unknown_family_is_refused():
    with pytest.raises(BadInput, match="only='gem'"):
        grid(families=("gem",))


def test_rooflines_by_hand():
    wide = fp8_gemm(8192, 8192, 8192)
    assert wide.flops == 2 * 8192**3
    assert wide.roofline_s(H200) == pytest.approx(2 * 8192**3 / 1.978e15)
    thin = fp8_gemm(1, 1536, 4096)
    assert thin.num_bytes == 1536 * 4096 + 4096 + 2 * 1536
    assert thin.roofline_s(H200) == pytest.approx(6_298_624 / 4.8e12)
    copy = next(c for c in grid() if c.kernel == "hbm_copy")
    assert copy.roofline_s(H200) == pytest.approx(2 * 4 * 2**30 / 4.8e12)
    ring = next(c for c in grid() if c.kernel == "nccl_all_reduce" and c.size("gpus") == 8)
    assert ring.roofline_s(H200) == pytest.approx(ring.size("bytes") * 1.75 / 450e9)


def test_experts_that_no_row_reaches_are_not_read():
    counts = rows_per_expert(256, 96)
    assert counts.sum() == 96 and not counts.flags.writeable
    hit = int((counts > 0).sum())
    assert 70 < hit < 92  # 256 * (1 - exp(-96 / 256)) = 80
    case = grouped("masked", 256, 96, 4096, 4096)
    assert case.num_bytes == hit * 4096 * 4096 + 96 * (4096 + 2 * 4096)
    assert case.flops == 2 * 96 * 4096 * 4096


def test_expert_cases_of_a_wide_plan():
    found = [c for c in kernel_cases([PRO], [rank_plan("DEP8")], ("moe",)) if c.kernel == "moe_masked"]
    assert {(c.size("experts"), c.size("n"), c.size("k")) for c in found} == {
        (48, 6144, 7168), (48, 7168, 3072),
    }  # fmt: skip
    assert {c.size("rows") for c in found} >= {64 * 6 // 8, 512 * 6 // 8}


def test_small_facts():
    assert [padded_heads(h) for h in (8, 64, 65, 128)] == [64, 64, 128, 128]
    assert [closing(b, 128) for b in (1, 128, 129)] == [1, 1, 2]
    assert link_share("nccl_all_gather", 4) == 0.75 and link_share("nccl_all_reduce", 2) == 1.0


def test_shipped_records_cover_every_pro_case_of_the_platform():
    """On one GPU and between four; eight have not been measured, which the records say."""
    records = load_records([]).records
    cases = kernel_cases([PRO], plans_of(H200))
    found = {case: records["NVIDIA H200", case.key] for case in cases}
    without = [case for case, record in found.items() if record.status != "ok"]
    assert len(cases) > 1200 and len(without) < 0.07 * len(cases)
    eight = [case for case in without if case.family == "links"]
    assert eight and all(case.size("gpus") == 8 for case in eight)
    assert {case.family for case in without} == {"links", "fp4", "deepep", "moe"}
    assert all(found[case].status == "unsupported" and found[case].message for case in without)


def test_engine_all_reduce_has_the_sizes_that_the_engine_takes():
    found = [case for case in kernel_cases([], [], ("links",)) if case.kernel == "custom_all_reduce"]
    assert {case.size("gpus") for case in found} == {2, 4, 8}
    assert max(case.size("bytes") for case in found) == 8 << 20
    one = next(case for case in found if case.size("gpus") == 4)
    assert one.link_bytes == 1.5 * one.size("bytes")


def test_cases_too_large_to_share_the_gpu_are_not_compiled_beside_others():
    assert worth_warming(fp8_gemm(1, 1536, 4096))
    assert not worth_warming(grouped("masked", 384, 6, 6144, 7168))  # 17 GB, of which six experts are read
    assert not worth_warming(next(c for c in grid() if c.kernel == "hbm_copy"))


def test_processes_that_compile_share_all_cases_and_begin_at_different_ones():
    cases = [case for case in grid() if worth_warming(case)]
    parts = [share(cases, part, 12) for part in range(12)]
    assert sorted(case.key for part in parts for case in part) == sorted(case.key for case in cases)
    assert len({(part[0].kernel, part[0].shape[1:]) for part in parts}) > 8
    assert all([case.level for case in part] == sorted(case.level for case in part) for part in parts)
