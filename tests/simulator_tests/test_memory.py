"""Published numbers of GPU memory; the source of each is named where it stands."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_spaces import catalog_loader
from search_spaces.errors import Infeasible
from search_spaces.units import BYTES_PER_GIB, gb
from simulator.memory import (
    PAGE_TOKENS,
    PLAIN_BUCKETS,
    SPECULATIVE_BUCKETS,
    bytes_per_full_token,
    graph_buckets,
    memory_budget,
    num_slots,
    slot_state_bytes,
    swa_tail_tokens,
    transfer_bytes,
    weight_bytes,
)
from tests.simulator_tests.worlds import DAY0, FLASH, JUNE, MODELS, PRO, V0523, group

GB300 = catalog_loader.hardware("gb300")
RATIOS = (0.02, 0.056, 0.1, 0.15, 0.2)

# GB per rank without and with the MTP layer, computed from the model configurations and SGLang's
# sharding rules (shared/sglang_dsv4_semantics.md, section 1, sglang 0.5.15 on SM100).
WEIGHTS_GB = {
    ("pro", "TP4"): (215.3, 3.6),
    ("pro", "TP8"): (109.4, 1.9),
    ("pro", "DEP4"): (234.2, 3.9),
    ("pro", "DEP8"): (131.4, 2.2),
    ("pro", "DEP16"): (80.1, 1.3),
    ("pro", "DEP32"): (54.4, 0.9),
    ("pro", "DPA4"): (229.8, None),
    ("flash", "TP4"): (40.0, 0.9),
    ("flash", "TP8"): (20.6, None),
    ("flash", "DEP4"): (45.6, 1.0),
    ("flash", "DEP8"): (27.2, None),
    ("flash", "DEP16"): (18.0, None),
    ("flash", "DEP32"): (13.4, None),
}

# Bytes per full-pool token at RATIOS, plain and with MTP (section 2 of the same).
BYTES_PER_TOKEN = {
    ("pro", "june", 0): (6608, 8582, 10994, 13735, 16476),
    ("pro", "june", 1): (7107, 9815, 13126, 16887, 20649),
    ("pro", "v0523", 0): (6492, 8123, 10115, 12380, 14644),
    ("pro", "v0523", 1): (6794, 8802, 11257, 14046, 16835),
    ("flash", "june", 0): (4621, 6009, 7705, 9633, 11561),
    ("flash", "june", 1): (5004, 6919, 9260, 11920, 14580),
    ("flash", "v0523", 0): (4537, 5684, 7087, 8680, 10274),
    ("flash", "v0523", 1): (4780, 6202, 7939, 9914, 11888),
}


@pytest.mark.parametrize(("model", "layout"), WEIGHTS_GB)
def test_weights_per_rank(model, layout):
    expected, expected_mtp = WEIGHTS_GB[model, layout]
    found = weight_bytes(MODELS[model], group(layout, mtp=1), GB300.sm)
    mtp = found.pop("mtp_layer")
    assert gb(sum(found.values())) == pytest.approx(expected, abs=0.06)
    if expected_mtp is not None:
        assert gb(mtp) == pytest.approx(expected_mtp, abs=0.06)


def test_hopper_keeps_one_projection_in_bf16():
    # sglang 0.5.15 below SM100: FP8 `wo_a` off, +4.09 GB Pro and +1.44 GB Flash over attention TP.
    for model, extra in ((PRO, 4.09), (FLASH, 1.44)):
        hopper, blackwell = (sum(weight_bytes(model, group("TP8"), sm).values()) for sm in (90, 103))
        assert gb(hopper - blackwell) == pytest.approx(extra / 8, abs=0.01)


def test_redundant_experts_cost_their_weight():
    plain = weight_bytes(PRO, group("DEP8"), 103)["routed_experts"]
    more = weight_bytes(PRO, group("DEP8", redundant_experts=16), 103)["routed_experts"]
    assert more / plain == pytest.approx((384 + 16) / 384)


@pytest.mark.parametrize(("model", "stack", "mtp"), BYTES_PER_TOKEN)
def test_bytes_per_full_token(model, stack, mtp):
    found = [
        bytes_per_full_token(
            MODELS[model], group("DEP8", mtp, swa_full_tokens_ratio=r), catalog_loader.stack(stack)
        )
        for r in RATIOS
    ]
    assert found == pytest.approx(BYTES_PER_TOKEN[model, stack, mtp], abs=0.51)


def test_bytes_per_full_token_at_release():
    # sgl-project/sglang#24523 logs 23,749.84 with the default ratio 0.1.
    found = bytes_per_full_token(PRO, group("DEP8"), DAY0)
    assert found == pytest.approx(23_749.84, abs=0.005)


@pytest.mark.parametrize(
    ("model", "mtp", "online", "expected_mb"),
    [
        ("pro", 0, False, 16.25),
        ("pro", 1, False, 32.5),
        ("pro", 0, True, 0.19),
        ("flash", 0, False, 10.5),
        ("flash", 1, False, 21.0),
        ("flash", 0, True, 0.12),
    ],
)
def test_state_per_request_slot(model, mtp, online, expected_mb):
    # Section 2: 4096 B x ring x 128:1 layers, "MB" to two digits.
    found = slot_state_bytes(MODELS[model], group("DEP8", mtp, online_compress=online), JUNE)
    assert found / 1e6 == pytest.approx(expected_mb, rel=0.025)


def test_online_compression_saves_nothing_with_mtp():
    both = slot_state_bytes(PRO, group("DEP8", mtp=1, online_compress=True), JUNE)
    assert both == slot_state_bytes(PRO, group("DEP8", mtp=1), JUNE)


@pytest.mark.parametrize(
    ("model", "tokens", "online", "expected_mb"),
    [
        ("pro", 8192, False, 57.4),
        ("flash", 8192, False, 40.1),
        ("pro", 8191, False, 73.6),
        ("pro", 8191, True, 57.5),
        ("flash", 8191, False, 50.6),
    ],
)
def test_transfer_of_one_prompt(model, tokens, online, expected_mb):
    # Section 4: 57.4 MB, about 74 when the prompt is not a multiple of 128 (16.25 MB of state more).
    found = transfer_bytes(MODELS[model], tokens, group("DEP4", online_compress=online))
    assert found / 1e6 == pytest.approx(expected_mb, abs=0.06)


@given(st.integers(129, 1 << 20))
def test_window_tail_is_one_or_two_pages(context):
    tail = swa_tail_tokens(context)
    assert 128 <= tail <= 383
    assert (context - tail) % PAGE_TOKENS == 0


def test_graph_bucket_lists():
    # Section 3: plain 1,2,4,8,12, 16-256 by 8, 272-512 by 16, then by 32; speculative denser below 256.
    assert PLAIN_BUCKETS[:8] == (1, 2, 4, 8, 12, 16, 24, 32)
    assert {256, 272, 512, 544} <= set(PLAIN_BUCKETS) and not {264, 528} & set(PLAIN_BUCKETS)
    assert SPECULATIVE_BUCKETS[:10] == (1, 2, 3, 4, 5, 6, 7, 8, 10, 12)
    assert {32, 40, 44, 64, 72, 256, 272, 288} <= set(SPECULATIVE_BUCKETS) and 36 not in SPECULATIVE_BUCKETS
    for buckets in (PLAIN_BUCKETS, SPECULATIVE_BUCKETS):
        assert list(buckets) == sorted(set(buckets))


def test_graph_buckets_are_clipped_to_the_slots():
    # The GB300 decode recipes ask for 1280 with 576 slots a rank.
    found = graph_buckets(group("DEP32", graph_max_batch_per_rank=1280, max_running_per_rank=576))
    assert found[-1] == 576
    assert graph_buckets(group("TP4", graph_max_batch_per_rank=100))[-1] == 64
    assert graph_buckets(group("TP4", graph_max_batch_per_rank=27))[-2:] == (24, 27)
    assert graph_buckets(group("TP4", graph_max_batch_per_rank=0)) == ()


def test_small_decode_workers_get_extra_slots():
    assert num_slots(group("TP4", max_running_per_rank=32), True) == 96
    assert num_slots(group("TP4", max_running_per_rank=32), False) == 32
    assert num_slots(group("TP4", max_running_per_rank=33), True) == 33


@given(
    layout=st.sampled_from(["TP4", "TP8", "DEP8", "DEP16"]),
    mtp=st.integers(0, 1),
    ratio=st.sampled_from(RATIOS),
    fraction=st.floats(0.6, 0.95),
    stack=st.sampled_from([DAY0, JUNE, V0523]),
)
def test_pools_are_whole_pages_and_fit(layout, mtp, ratio, fraction, stack):
    one = group(layout, mtp, swa_full_tokens_ratio=ratio, mem_fraction_static=fraction)
    for model in (PRO, FLASH):
        try:
            budget = memory_budget(model, one, GB300, stack, "decode")
        except Infeasible:
            continue
        assert budget.full_tokens % PAGE_TOKENS == 0 and budget.swa_tokens % PAGE_TOKENS == 0
        assert budget.swa_tokens <= budget.full_tokens * ratio < budget.swa_tokens + PAGE_TOKENS
        assert budget.pool_bytes + budget.slot_state_bytes <= budget.available_bytes
        page = PAGE_TOKENS * budget.bytes_per_token
        assert budget.pool_bytes + budget.slot_state_bytes > budget.available_bytes - page
        # What is left is the share of free memory that the engine was told not to touch.
        outside = (1 - fraction) * (GB300.hbm_bytes - 2 * BYTES_PER_GIB)
        assert outside <= budget.headroom_bytes <= outside + page


@given(
    smaller=st.floats(1.2e11, 3e11),
    factor=st.floats(1.0, 1.5),
    layout=st.sampled_from(["TP8", "DEP8", "DEP16"]),
    mtp=st.integers(0, 1),
)
def test_more_hbm_never_holds_fewer_tokens(smaller, factor, layout, mtp):
    def tokens(hbm: float) -> int:
        platform = GB300.model_copy(update={"hbm_bytes": hbm})
        try:
            return memory_budget(PRO, group(layout, mtp), platform, JUNE, "decode").full_tokens
        except Infeasible:
            return 0

    assert tokens(smaller) <= tokens(smaller * factor)


def test_a_cap_on_tokens_is_obeyed():
    capped = memory_budget(PRO, group("DEP8", max_total_tokens=100_000), GB300, JUNE, "decode")
    assert capped.full_tokens == 100_000 // PAGE_TOKENS * PAGE_TOKENS
    assert capped.swa_tokens <= capped.full_tokens * 0.1


def test_weights_that_do_not_fit_are_refused_with_the_numbers():
    h100 = catalog_loader.hardware("h100")
    with pytest.raises(Infeasible, match=r"weights 109\.9 GB.*mem_fraction_static"):
        memory_budget(PRO, group("TP8"), h100, JUNE, "aggregated")
