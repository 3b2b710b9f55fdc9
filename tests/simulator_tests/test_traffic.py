"""Arrivals, sessions, shared prefixes and traces, before an engine sees them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search_spaces.errors import BadInput
from search_spaces.traces import open_trace, trace_rows
from search_spaces.workload import Workload
from simulator.traffic import NONE, traffic

MOONCAKE = [
    {"timestamp": 0, "input_length": 1300, "output_length": 50, "hash_ids": [1, 2, 3]},
    {"timestamp": 500, "input_length": 1400, "output_length": 60, "hash_ids": [1, 2, 4]},
    {"timestamp": 2000, "input_length": 600, "output_length": 1, "hash_ids": [1, 5]},
]
AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:50.9951690,396,109
"""


def written(tmp_path, text, name="trace"):
    path = tmp_path / name
    path.write_text(text)
    return str(path)


def mooncake(tmp_path):
    return open_trace(written(tmp_path, "\n".join(json.dumps(row) for row in MOONCAKE)))


def replay(trace, **changes):
    return Workload(isl=2000, osl=200, concurrency=9, trace=trace, **changes)


@settings(max_examples=40, deadline=None)
@given(
    turns=st.integers(1, 6),
    sessions=st.integers(1, 8),
    shared=st.integers(0, 90),
    groups=st.integers(1, 3),
    answers=st.booleans(),
    ratio=st.floats(0.5, 1),
)
def test_every_prompt_is_a_path_of_its_own_length(turns, sessions, shared, groups, answers, ratio):
    load = Workload(
        isl=200, osl=20, turns=turns, turn_tokens=30, shared_prefix_tokens=shared, prefix_groups=groups,
        num_prompts=turns * sessions, random_range_ratio=ratio,
    )  # fmt: skip
    found = traffic(load, 0, None, answers)
    assert len(found.isl) == turns * sessions
    if found.tree is None:
        assert turns == 1 and shared == 0
        return
    tree = found.tree
    assert (tree.tokens > 0).all()
    assert len(set(tree.prompt)) == len(found.isl), "a prompt's last node is its own"
    assert (tree.depth[tree.prompt] == found.isl).all()
    assert ((tree.parent < np.arange(len(tree.parent))) & (tree.parent >= NONE)).all()
    for request, follower in enumerate(found.follow):
        if follower == NONE:
            continue
        node, seen = tree.prompt[follower], set()
        while node != NONE:
            seen.add(node)
            node = tree.parent[node]
        assert tree.prompt[request] in seen
        assert (tree.answer[request] in seen) == (answers and found.osl[request] > 1)


def test_a_session_repeats_all_that_was_said():
    load = Workload(isl=100, osl=10, turns=3, turn_tokens=7, random_range_ratio=1, num_prompts=3)
    assert traffic(load, 0, None, True).isl.tolist() == [100, 117, 134]
    assert load.mean_isl == 117 and load.longest_tokens == 144


def test_answers_are_cut_to_the_context_of_the_engine():
    load = Workload(isl=100, osl=50, random_range_ratio=1, num_prompts=4)
    assert traffic(load, 0, 120, True).osl.tolist() == [20] * 4


@pytest.mark.parametrize(("shape", "spread"), [(1.0, 1.0), (0.25, 2.0), (4.0, 0.5)])
def test_gaps_between_arrivals_have_the_mean_and_spread_asked_for(shape, spread):
    load = Workload(isl=10, osl=2, request_rate=5.0, burstiness=shape, concurrency=10_000, num_prompts=20_000)
    gaps = np.diff(traffic(load, 1, None, False).start_s)
    assert gaps.mean() == pytest.approx(0.2, rel=0.05)
    assert gaps.std() / gaps.mean() == pytest.approx(spread, rel=0.06)


def test_requests_of_a_mooncake_trace_share_their_blocks(tmp_path):
    found = traffic(replay(mooncake(tmp_path)), 0, None, False)
    assert found.start_s.tolist() == [0, 0.5, 2.0] and found.isl.tolist() == [1300, 1400, 600]
    tree = found.tree
    assert tree is not None
    first, second, third = (tree.parent[node] for node in tree.prompt)
    assert first == second and tree.depth[first] == 1024, "two whole blocks are alike"
    assert tree.parent[first] == third and tree.depth[third] == 512
    assert tree.tokens[tree.prompt].tolist() == [276, 376, 88]


def test_a_trace_can_be_cut_and_sped_up(tmp_path):
    trace = open_trace(mooncake(tmp_path).path, rate_scale=4.0)
    found = traffic(replay(trace, num_prompts=2), 0, None, True)
    assert found.start_s.tolist() == [0, 0.125]


def test_an_azure_trace_has_lengths_and_times_only(tmp_path):
    trace = open_trace(written(tmp_path, AZURE))
    rows = trace_rows(trace)
    assert trace.format == "azure" and rows.isl.tolist() == [374, 396] and rows.osl.tolist() == [44, 109]
    assert rows.arrival_s[1] == pytest.approx(4.314579, abs=1e-6)
    assert traffic(replay(trace), 0, None, True).tree is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no column 'TIMESTAMP'"),
        ("a,b\n1,2\n", "no column 'TIMESTAMP'"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n", "holds no request"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\nx,1,2\n", "line 2"),
        ('{"timestamp": 1}', "line 1"),
        ('{"timestamp": 1, "input_length": 0, "output_length": 3}', "input tokens=0 must be above 0"),
        ("{", "line 1"),
    ],
)
def test_a_broken_trace_is_refused_with_the_place(tmp_path, text, message):
    with pytest.raises(BadInput, match=message):
        open_trace(written(tmp_path, text))


def test_a_missing_or_changed_trace_is_refused(tmp_path):
    with pytest.raises(BadInput, match="cannot be read"):
        open_trace(str(tmp_path / "none"))
    trace = mooncake(tmp_path)
    written(tmp_path, AZURE)
    with pytest.raises(BadInput, match="has changed"):
        trace_rows(trace.model_copy(update={"rate_scale": 2.0}))


def test_a_shared_prefix_must_fit_the_shortest_prompt():
    with pytest.raises(ValueError, match="must be below the shortest prompt of 80 tokens"):
        Workload(isl=100, osl=10, shared_prefix_tokens=80)
