"""Retry-After is read in every form; invalid values are ignored."""

from __future__ import annotations

import time
from email.utils import formatdate

import pytest

from piccc._http.connections import LONGEST, retry_after

DATE_HEADER = {"date": formatdate(1_900_000_000, usegmt=True)}


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": "12"}, 12.0),
        ({"retry-after": " 12 "}, 12.0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after-ms": "250"}, 0.25),
        ({"retry-after-ms": "0.5", "retry-after": "9"}, 0.0005),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9.0),
        ({"retry-after": "9" * 30}, LONGEST),
        ({"retry-after": formatdate(1_900_000_007, usegmt=True), **DATE_HEADER}, 7.0),
        ({"retry-after": formatdate(1_800_000_000, usegmt=True), **DATE_HEADER}, 0.0),
        ({"retry-after": formatdate(1_990_000_000, usegmt=True), **DATE_HEADER}, LONGEST),
        ({"retry-after": "Fri, 01 Mar 2030 00:00:07", "date": "Fri, 01 Mar 2030 00:00:00 GMT"}, 7.0),
    ],
)
def test_retry_after_is_read_in_every_form(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers) == seconds


@pytest.mark.parametrize(
    "invalid",
    [
        "",
        "-1",
        "+5",
        "nan",
        "inf",
        "-inf",
        "1e5",
        "1_000",
        "５",
        "soon",
        "1" * 400,
        "Fri, 99 Xyz 2030 00:00",
    ],
)
def test_invalid_retry_after_values_are_ignored(invalid: str) -> None:
    assert retry_after({"retry-after": invalid, **DATE_HEADER}) is None
    assert retry_after({"retry-after-ms": invalid}) is None


def test_without_a_date_header_a_retry_date_is_relative_to_our_clock() -> None:
    delay = retry_after({"retry-after": formatdate(time.time() + 3600, usegmt=True)})
    assert delay is not None
    assert 3500 < delay <= 3600
