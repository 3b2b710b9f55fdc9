"""One test per conversion factor, against a value anyone can check by hand."""

from __future__ import annotations

from search_spaces import units


def test_milliseconds() -> None:
    assert units.ms(1.5) == 1500.0


def test_seconds_from_milliseconds() -> None:
    assert units.seconds_from_ms(250.0) == 0.25


def test_seconds_from_microseconds() -> None:
    assert units.seconds_from_us(2_000_000.0) == 2.0


def test_gib() -> None:
    assert units.gib(80 * 2.0**30) == 80.0


def test_gb() -> None:
    assert units.gb(864.7e9) == 864.7


def test_mib_is_a_thousand_and_twenty_fourth_of_a_gib() -> None:
    assert units.BYTES_PER_MIB * 1024 == units.BYTES_PER_GIB


def test_tflops() -> None:
    assert 989 * units.FLOPS_PER_TFLOPS == 9.89e14


def test_params_per_million() -> None:
    assert 1573 * units.PARAMS_PER_MILLION == 1.573e9


def test_tokens_per_million() -> None:
    assert units.TOKENS_PER_MILLION == 1000 * 1000


def test_seconds_per_hour() -> None:
    assert units.SECONDS_PER_HOUR == 60 * 60
