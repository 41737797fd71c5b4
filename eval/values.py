"""What people, models and files may hold, made safe to print and to compute with: text and numbers of any kind."""

from __future__ import annotations

import math
import re
from typing import Any

BAD = "unreadable"  # the key under which a row that is no row says so
# Controls apart from tab and line feed, lone surrogates, and marks that turn the direction of the text around them.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_BLANKS = re.compile(r"[\t\n]+")
_NUMBER = re.compile(r"[+-]?(\d{1,3}(,\d{3})+|\d+|(?=\.\d))(\.\d*)?([eE][+-]?\d+)?")


def plain(text: str) -> str:
    """Text that every encoding of Unicode and every page can hold: what cannot be printed becomes U+FFFD."""
    return _UNPRINTABLE.sub("\ufffd", text.replace("\r\n", "\n"))


def one_line(text: str) -> str:
    """As `plain`, on one line."""
    return _BLANKS.sub(" ", plain(text))


def number_of(value: Any) -> float:
    """A measured value as a float: infinite past the range of floats, NaN for what is no number at all."""
    if not isinstance(value, int | float):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _bare(text: str) -> str:
    return text.strip().replace("\u2212", "-").removesuffix("%").rstrip()


def printed(text: str) -> float:
    """A number as papers print it, e.g. "1,234", "-0.5", "12.5 %", "1.0e-5"; NaN for what is none."""
    bare = _bare(text)
    return float(bare.replace(",", "")) if _NUMBER.fullmatch(bare) else math.nan


def half_unit(text: str) -> float:
    """Half a unit of the last printed digit: 0.0740 -> 0.00005, 500 -> 0.5, 1.0e-5 -> 5e-7."""
    mantissa, _, exponent = _bare(text).lower().partition("e")
    return float(f"0.5e{int(exponent or 0) - len(mantissa.partition('.')[2])}")
