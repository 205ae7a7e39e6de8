"""Columns of texts as exact integers, a few thousand at once.

A decimal text becomes its digits and how many of them stand behind the point,
zeros at the end not counted: "0.20000000" is 2 with 1 decimal. All texts of a
column are read as one buffer, in C; only a column with a fault is read again,
text by text, to name the line. No float is made on the way.
"""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from quants.lines import Column

Integers = npt.NDArray[np.int64]

DIGITS = 18  # of them always fit into int64, of 19 some
POWERS: Integers = 10 ** np.arange(DIGITS + 1, dtype=np.int64)
MOST = (1 << 63) - 1
FAR = 1 << 62  # ns: in the year 2116

DECIMAL = re.compile(r"-?[0-9]+(\.[0-9]+)?")
ISO = re.compile(
    r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)?",
    re.ASCII,
)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def decimals(column: Column) -> tuple[Integers, Integers]:
    """The digits of each decimal text, and how many are behind the point.

    Raises:
        RecordingError: a text is no plain decimal, or too long for int64.
    """
    characters = np.frombuffer(("\n".join(column.texts) + "\n").encode(), np.uint8)
    ends = np.flatnonzero(characters == ord("\n"))  # (n,)
    starts = np.append(0, ends[:-1] + 1)
    points = np.flatnonzero(characters == ord("."))
    owners = np.searchsorted(ends, points)  # whose points they are
    plain = len(ends) == len(column.texts)  # JSON may hide a line end in a text
    if not plain or not _plain(characters, starts, ends, points, owners):
        check(column, decimal_fault)
    behind = ends.copy()  # where the decimals begin
    behind[owners] = points + 1
    stops = np.maximum(_last_non_zero(characters)[ends - 1] + 1, behind)
    if (stops - starts).max() > DIGITS:
        check(column, decimal_fault)
    return _parsed(characters, stops, ends), stops - behind


def _plain(
    characters: npt.NDArray[np.uint8],
    starts: Integers,
    ends: Integers,
    points: Integers,
    owners: Integers,
) -> bool:
    """Whether each text is [-]digits or [-]digits.digits."""
    negative = characters[starts] == ord("-")
    before = ends - starts - negative  # digits before the point, here if none
    before[owners] = points - (starts + negative)[owners]
    behind = ends[owners] - points - 1
    # What is no newline, point or sign must be a digit; below "0" wraps to 2xx.
    digits = np.count_nonzero(characters - ord("0") < 10)
    others = len(ends) + len(points) + np.count_nonzero(negative)
    one_point_each = bool((np.diff(owners) > 0).all())
    filled = bool((before > 0).all() and (behind > 0).all())
    return one_point_each and filled and digits + others == len(characters)


def _last_non_zero(characters: npt.NDArray[np.uint8]) -> npt.NDArray[np.int32]:
    """For each place, the last one up to it that holds no zero."""
    places = np.arange(len(characters), dtype=np.int32)  # a block is far below 2^31
    places[characters == ord("0")] = 0
    return np.maximum.accumulate(places)


def _parsed(
    characters: npt.NDArray[np.uint8], stops: Integers, ends: Integers
) -> Integers:
    """The integers that are left without points, and without stops to ends."""
    step = np.zeros(len(characters), np.int8)
    step[ends] = 1
    step[stops] -= 1  # where nothing is left out they meet, and it is 0
    kept = characters[(step.cumsum(dtype=np.int8) == 0) & (characters != ord("."))]
    return np.fromstring(kept.tobytes().decode(), np.int64, sep="\n")


def check(column: Column, fault: Callable[[str], str]) -> None:
    """Look at each text by itself.

    Raises:
        RecordingError: one has a fault, which its line and a reason name.
    """
    for index, text in enumerate(column.texts):
        if reason := fault(text):
            raise column.refuse(index, reason)


def decimal_fault(text: str) -> str:
    """Why a text is no decimal that int64 holds; empty if it is one."""
    if not DECIMAL.fullmatch(text):
        return "is not a plain decimal; write it as digits, such as 0.00001"
    whole, _, fraction = text.lstrip("-").partition(".")
    fraction = fraction.rstrip("0")
    digits = (whole + fraction).lstrip("0")
    if len(digits) > DIGITS + 1 or int(digits or 0) > MOST or len(fraction) > DIGITS:
        return f"has over {DIGITS} digits, more than a tick holds; leave the line out"
    return ""


def integers(column: Column) -> Integers:
    """Whole numbers without a sign.

    Raises:
        RecordingError: a text is none, or too large for int64.
    """
    joined = "".join(column.texts)
    lengths = list(map(len, column.texts))
    digits = joined.isascii() and joined.isdigit()
    if not (digits and min(lengths) > 0 and max(lengths) <= DIGITS):
        check(column, integer_fault)
    return np.fromstring("\n".join(column.texts), np.int64, sep="\n")


def trade_ids(column: Column) -> Integers:
    """Whole numbers, each of which another can follow.

    Raises:
        RecordingError: a text is no such number.
    """
    ids = integers(column)
    if len(ids) and ids.max() == MOST:
        reason = "is the last that 64 bits hold; correct the line"
        raise column.refuse(int(ids.argmax()), reason)
    return ids


def integer_fault(text: str) -> str:
    """Why a text is no whole number that int64 holds; empty if it is one."""
    if re.fullmatch(f"[0-9]{{1,{DIGITS + 1}}}", text) and int(text) <= MOST:
        return ""
    return "is not a whole number that 64 bits hold; correct the line"


def without_zeros(values: Integers, places: int) -> tuple[Integers, Integers]:
    """Fixed-point integers as their digits and decimals, without zeros at the end."""
    values, left = values.copy(), np.full(len(values), places)
    for _ in range(places):
        zero = (values % 10 == 0) & (left > 0)
        values[zero] //= 10
        left[zero] -= 1
    return values, left


def ns_times(column: Column) -> Integers:
    """Whole ns since 1970."""
    values = integers(column)
    return scaled(column, values, np.zeros_like(values))


def epoch_times(column: Column) -> Integers:
    """Time since 1970 in s, ms, us or ns, which its size tells, as ns.

    Seconds up to 5138, milliseconds from 1973 to 5138 and so on.
    """
    values, places = decimals(column)
    # Seconds have 10 digits, each finer unit three more.
    units = np.searchsorted(POWERS[[11, 14, 17]], values // POWERS[places], "right")
    exponents = 9 - 3 * units - places
    if exponents.min() < 0:
        raise column.refuse(int(exponents.argmin()), "is finer than 1 ns; shorten it")
    return scaled(column, values, exponents)


def day_times(column: Column, midnight_ns: int) -> Integers:
    """Seconds after a midnight, as ns since 1970."""
    values, places = decimals(column)
    if places.max() > 9:
        raise column.refuse(int(places.argmax()), "is finer than 1 ns; shorten it")
    return scaled(column, values, 9 - places) + midnight_ns


def scaled(column: Column, values: Integers, exponents: Integers) -> Integers:
    """Times in ns: values x 10^exponents.

    Raises:
        RecordingError: a time is before 1970 or after 2116.
    """
    beyond = (values < 0) | (values > FAR // POWERS[exponents])
    if beyond.any():
        reason = "is before 1970 or after 2116; correct the line"
        raise column.refuse(int(beyond.argmax()), reason)
    return values * POWERS[exponents]


def iso_times(column: Column) -> Integers:
    """Times such as 2025-01-01T00:00:00.123456Z, as ns; no zone means UTC.

    Raises:
        RecordingError: a text is no such time.
    """
    try:
        return np.array(list(map(iso_ns, column.texts)), np.int64)
    except ValueError:
        check(column, iso_fault)
        raise


def iso_ns(text: str) -> int:
    """The ns since 1970 of one ISO time."""
    match = ISO.fullmatch(text)
    if not match:
        raise ValueError(text)
    day, clock, fraction, zone = match.groups()
    time_ns = _second_ns(day, clock, zone) + int((fraction or "").ljust(9, "0"))
    if not 0 <= time_ns < FAR:
        raise ValueError(text)
    return time_ns


@lru_cache(maxsize=1 << 12)  # many trades share a second
def _second_ns(day: str, clock: str, zone: str | None) -> int:
    moment = datetime.fromisoformat(f"{day}T{clock}{zone or '+00:00'}")
    return (moment - EPOCH) // timedelta(seconds=1) * 10**9


def iso_fault(text: str) -> str:
    """Why a text is no ISO time from 1970 to 2116; empty if it is one."""
    try:
        iso_ns(text)
    except ValueError:
        return "is no time; write it as 2025-01-01T00:00:00.123456Z"
    return ""
