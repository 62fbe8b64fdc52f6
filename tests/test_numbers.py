"""Figures and names as people read them."""

from __future__ import annotations

import pytest

from onnx_basisprune.numbers import (
    show_amount,
    show_change,
    show_count,
    show_interval,
    show_ms,
    show_name,
    show_percent,
    show_shape,
)
from onnx_basisprune.results import Interval, Speedup


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0, "0"),
        (7, "7"),
        (999, "999"),
        (999.6, "1.00 k"),
        (1000, "1.00 k"),
        (9_996, "10.0 k"),
        (12_345, "12.3 k"),
        (99_960, "100 k"),
        (999_499, "999 k"),
        (999_500, "1.00 M"),
        (40_551_040, "40.6 M"),
        (3_100_000_000, "3.10 G"),
        (5e15, "5000 T"),
    ],
)
def test_amounts_have_three_digits(value: float | None, text: str) -> None:
    assert show_amount(value) == text


def test_amounts_carry_their_unit() -> None:
    assert (show_amount(12, "B"), show_amount(686_249, "B")) == ("12 B", "686 kB")


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (0.0951, "0.095 ms"), (1.234, "1.23 ms"), (12.34, "12.3 ms"), (1234.5, "1234 ms")],
)
def test_times_have_three_digits(value: float | None, text: str) -> None:
    assert show_ms(value) == text


def test_shares_changes_and_counts() -> None:
    assert (show_percent(0.99333), show_percent(None)) == ("99.33 %", "-")
    assert (show_change(200, 100), show_change(100, 150)) == ("-50.0 %", "+50.0 %")
    assert (show_change(0, 1), show_change(1, None), show_change(None, 1)) == ("-", "-", "-")
    assert (show_count(1234567), show_count(None)) == ("1,234,567", "-")


def test_shapes_and_intervals() -> None:
    assert (show_shape((1, None, 3)), show_shape(()), show_shape(None)) == ("1x?x3", "", "?")
    assert show_interval(Interval(0.5, 0.25, 0.75), 100.0, 1, " %") == "95 % interval 25.0 to 75.0 %"
    assert show_interval(Speedup(1.5, 1.4, 1.6)) == "95 % interval 1.40 to 1.60"


def test_names_keep_no_control_characters() -> None:
    assert show_name("conv\x1b[2J\n'a'") == "conv\\x1b[2J\\n'a'"


def test_what_is_no_number_is_unknown() -> None:
    nan = float("nan")
    assert (show_amount(nan), show_ms(nan), show_percent(nan), show_change(1.0, nan)) == ("-", "-", "-", "-")
