"""Nouns: copies are worked out anew."""

from __future__ import annotations

from search_spaces.workload import Workload


def test_a_copy_does_not_carry_what_was_worked_out_from_the_old_fields():
    one = Workload(isl=1024, osl=64)
    before = hash(one)
    other = one.model_copy(update={"isl": 2048})
    assert hash(other) == hash(Workload(isl=2048, osl=64)) != before
    assert hash(one.model_copy()) == before
