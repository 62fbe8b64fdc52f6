"""Kinds of option values that click doesn't have."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any, ClassVar

import click

if TYPE_CHECKING:
    _ParamType = click.ParamType[Any]
else:
    _ParamType = click.ParamType  # generic in newer releases of click only


class Count(_ParamType):
    """A whole number that isn't below `least`."""

    name = "integer"

    def __init__(self, least: int) -> None:
        self._least = least

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number, or stop with a line that says what was expected."""
        try:
            number = int(value)
        except ValueError:
            number = self._least - 1
        if number < self._least:
            self.fail(f"{value!r} isn't a whole number of at least {self._least}.", param, ctx)
        return number


class Alignment(_ParamType):
    """`auto`, or a whole number of at least 1."""

    name = "alignment"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        """Return the number or `auto`, or stop with a line that says what was expected."""
        if value == "auto":
            return "auto"
        try:
            number = int(value)
        except ValueError:
            number = 0
        if number < 1:
            self.fail(f"{value!r} is neither `auto` nor a whole number of at least 1.", param, ctx)
        return number


class Amount(_ParamType):
    """A whole number of at least 0, with k, M, G or T for its thousands: `1500000`, `1.5M`."""

    name = "amount"
    _BEYOND = 10**18
    _PREFIXES: ClassVar = {"k": 3, "K": 3, "M": 6, "G": 9, "T": 12}

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number, or stop with a line that shows the form expected."""
        text = str(value)
        digits = self._PREFIXES.get(text[-1:], 0)
        try:
            number = Decimal(text[:-1] if digits else text).scaleb(digits)
            fits = 0 <= number < self._BEYOND and number == int(number)
        except ArithmeticError:
            fits = False
        if not fits:
            self.fail(f"{text!r} isn't a whole number of at least 0; expected such as 1500000 or 1.5M.", param, ctx)
        return int(number)


class Fraction(_ParamType):
    """A fraction from 0 to 1, or the same as a percentage: `0.75`, `75%`."""

    name = "fraction"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the fraction, or stop with a line that shows the form expected."""
        text = str(value).strip()
        try:
            number = float(text[:-1]) / 100 if text.endswith("%") else float(text)
        except ValueError:
            number = -1.0
        if not 0.0 <= number <= 1.0:
            self.fail(f"{text!r} isn't a fraction; expected 0 to 1 or a percentage, such as 0.75 or 75%.", param, ctx)
        return number


class TimeSpan(_ParamType):
    """A time such as `90s`, `20m`, `1.5h`, or a bare number of seconds; hands over seconds."""

    name = "time"
    _UNITS: ClassVar = {"s": 1.0, "m": 60.0, "h": 3600.0}

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the seconds, or stop with a line that shows the form expected."""
        text = str(value)
        number, unit = (text[:-1], text[-1:]) if text[-1:] in self._UNITS else (text, "s")
        try:
            seconds = float(number) * self._UNITS[unit]
        except ValueError:
            seconds = 0.0
        if not 0 < seconds < float("inf"):
            self.fail(f"{text!r} isn't a time; expected such as 90s, 20m or 1.5h.", param, ctx)
        return seconds


class NumberList(_ParamType):
    """Comma-separated numbers, such as `0.485,0.456,0.406`; hands over a tuple."""

    name = "numbers"

    def __init__(self, kind: type[int | float], least: float | None = None) -> None:
        self._kind, self._least = kind, least

    @property
    def is_whole(self) -> bool:
        """Whether only whole numbers will do."""
        return self._kind is int

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the numbers, or stop with a line that shows the form expected."""
        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(self._kind(part) for part in str(value).split(","))
        except ValueError:
            kind = "whole numbers" if self._kind is int else "numbers"
            self.fail(f"{value!r} isn't a comma-separated list of {kind}.", param, ctx)
        if self._least is not None and min(numbers) < self._least:
            self.fail(f"{value!r} has a number below {self._least:g}.", param, ctx)
        return numbers
