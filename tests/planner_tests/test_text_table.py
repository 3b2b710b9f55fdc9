"""Plain text tables."""

from __future__ import annotations

import pytest

from planner.text_table import number, percent, table


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (5565.56, "5,566"), (618.57, "618.6"), (9.6621, "9.662"), (0.27075, "0.2707"),
     (-12.5, "-12.50"), (1e6, "1,000,000"), (1e-9, "0.000000")],
)  # fmt: skip
def test_numbers_keep_about_four_digits(value, text):
    assert number(value) == text


def test_percent():
    assert (percent(0.123), percent(0.123, signed=True), percent(None)) == ("12.3 %", "+12.3 %", "-")


def test_numbers_are_right_aligned_and_words_left():
    text = table([("a", "1.5"), ("long", "-"), ("b", "-22")], ("name", "value"), indent=0)
    assert text.splitlines() == ["name  value", "a       1.5", "long      -", "b       -22"]
    assert table([]) == ""
