"""Experts hit and tiles filled: laws, a drawn routing, and kernels that were timed alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_spaces import catalog_loader
from search_spaces.kernel_profile import DISTRIBUTIONS, MOE_KERNELS, load_profile
from simulator.calibration import ArchitectureCosts, Calibration, ExpertKernel, HostCosts
from simulator.expert_tiles import balanced_tiles, experts_hit, grouped_gemm_s, tile_height, uniform_tiles
from simulator.kernel_model import kernel_model
from simulator.step_cost import Scenario, decode_cost, decode_step_s
from tests.simulator_tests.worlds import group

FLASH = catalog_loader.model("dsv4-flash")
H200 = catalog_loader.hardware("h200")
SHARE = FLASH.experts_per_token / FLASH.num_experts
DEEP_GEMM = ExpertKernel(tile_rows=(128,), read_fraction=0.8, flops_fraction=0.55, layer_s=0.0)


def test_published_counts_of_experts_hit():
    assert np.round(experts_hit(256, SHARE, [16, 64, 256])) == pytest.approx([81, 200, 255])


@pytest.mark.parametrize(("tokens", "rows"), [(40, 16), (300, 8), (3072, 64), (8192, 64), (8192, 128)])
def test_tiles_are_those_of_a_drawn_routing(tokens, rows):
    rng = np.random.default_rng(3)
    drawn = [
        np.ceil(
            np.bincount(np.argsort(rng.random((tokens, 256)), axis=1)[:, :6].ravel(), minlength=256) / rows
        )
        for _ in range(max(2, 4000 // tokens))
    ]
    found = uniform_tiles(256, SHARE, float(tokens), rows)
    assert float(found) == pytest.approx(np.sum(drawn) / len(drawn), rel=0.02)


@given(st.integers(1, 20_000), st.sampled_from([8, 16, 64, 128]))
def test_laws_of_tiles(tokens, rows):
    tiles = float(uniform_tiles(256, SHARE, float(tokens), rows))
    assert tiles >= float(experts_hit(256, SHARE, tokens)) * (1 - 1e-9)
    assert tiles * rows >= tokens * FLASH.experts_per_token * (1 - 1e-6)
    assert tiles <= float(uniform_tiles(256, SHARE, tokens + 1.0, rows)) * (1 + 1e-9)


def test_a_balanced_deal_hits_more_experts_and_pads_less():
    assert float(balanced_tiles(256, SHARE, 64.0, 64)) == 256 > float(uniform_tiles(256, SHARE, 64.0, 64))
    assert float(balanced_tiles(256, SHARE, 8192.0, 64)) == 3 * 256
    assert float(uniform_tiles(256, SHARE, 8192.0, 64)) > 3.3 * 256


def test_height_follows_rows_per_expert():
    heights = (8, 16, 32, 48, 64)
    assert list(tile_height(heights, [0.1, 7.0, 7.3, 40.0, 500.0])) == [8, 8, 16, 48, 64]


def test_few_tokens_are_bound_by_the_weights_they_hit():
    few = grouped_gemm_s(FLASH, H200, 16.0, 1, 1, "fp8", "fp8", DEEP_GEMM)
    read = experts_hit(256, SHARE, 16.0) * FLASH.params_expert / H200.hbm_bytes_per_s
    assert float(few) == pytest.approx(float(read) / DEEP_GEMM.read_fraction, rel=1e-3)


def test_unpacking_weights_repeats_for_every_tile():
    kernel = DEEP_GEMM.model_copy(update={"tile_rows": (64,)})
    packed, plain = (
        grouped_gemm_s(FLASH, H200, [2048.0, 8192.0], 1, 1, weights, activation, kernel)
        for weights, activation in (("mxfp4", "bf16"), ("fp8", "fp8"))
    )
    assert packed[1] / packed[0] > 3.3 and plain[1] / plain[0] < 3.5
    assert (packed > plain).all()


@pytest.mark.parametrize("platform", ["h100", "h200"])
def test_one_pair_of_efficiencies_explains_grouped_gemms_timed_alone(platform):
    table = load_profile(platform).table("moe")
    mask = (table["kernel"] == MOE_KERNELS["fp8_block_deepgemm"]) & (
        table["distribution"] == DISTRIBUTIONS["uniform"]
    )
    assert mask.sum() == 15
    hw = catalog_loader.hardware(platform)
    errors = [
        float(grouped_gemm_s(FLASH, hw, float(t), int(ep), 1, "fp8", "fp8", DEEP_GEMM)) / s - 1
        for ep, t, s in zip(*(table[c][mask] for c in ("moe_ep", "tokens", "time_s")), strict=True)
    ]
    assert np.median(np.abs(errors)) < 0.10 and np.max(np.abs(errors)) < 0.25


def test_flat_popularity_pays_for_the_experts_hit_and_not_for_a_balanced_deal():
    kernels = kernel_model(FLASH, H200)
    flat, skewed = (kernels.grouped_moe_s("triton", [64.0], 1, 1, "fp8", a)[0][0] for a in (0.0, 1.01))
    table = load_profile("h200").table("moe")
    at = {"kernel": 0, "hidden": 4096, "moe_tp": 1, "moe_ep": 1, "distribution": 0, "tokens": 64}
    mask = np.all([table[c] == v for c, v in at.items()], axis=0)
    assert flat == pytest.approx(table["time_s"][mask][0] * 200.4 / 256, rel=0.02)
    assert skewed < flat


def drafting(**host):
    calibration = Calibration(hosts={"x86": HostCosts(draft_extend_s=0.0, **host)})
    one = group("TP1", 3, moe_backend="triton", expert_weights="fp8")
    return Scenario(FLASH, H200, one, catalog_loader.stack("july"), calibration)


def test_draft_launches_bind_only_where_the_gpu_is_faster():
    without, with_launches = drafting(), drafting(draft_launch_s=0.02)
    for batch in (1.0, 256.0):
        gpu = decode_cost(without, [batch], 1024.0).gpu_s
        slow = decode_step_s(with_launches, gpu, [batch])[0]
        assert slow == pytest.approx(max(decode_step_s(without, gpu, [batch])[0], 0.063 + 20e-6 * batch))


def test_a_fitted_kernel_goes_before_the_table_and_untimed_kernels_are_a_component():
    costs = ArchitectureCosts(untimed_step_s=2e-4, experts={"triton": DEEP_GEMM})
    one = group("TP1", 0, moe_backend="triton", expert_weights="fp8")
    plain = Scenario(FLASH, H200, one, catalog_loader.stack("july"), Calibration())
    fitted = Scenario(
        FLASH, H200, one, catalog_loader.stack("july"), Calibration(architectures={"sm90": costs})
    )
    before, after = (decode_cost(scn, [64.0], 1024.0) for scn in (plain, fitted))
    assert "untimed_kernels" not in before.seconds and after.seconds["untimed_kernels"] == 2e-4
    assert after.sources["routed_experts"] == "fitted" != before.sources["routed_experts"]
