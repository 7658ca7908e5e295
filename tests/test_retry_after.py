"""What a server asks to wait is read in every form it comes in, and nonsense is no wish."""

from __future__ import annotations

import time
from email.utils import formatdate

import pytest

from piccc._http.connections import LONGEST, retry_after

SENT = {"date": formatdate(1_900_000_000, usegmt=True)}


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
        ({"retry-after": formatdate(1_900_000_007, usegmt=True), **SENT}, 7.0),
        ({"retry-after": formatdate(1_800_000_000, usegmt=True), **SENT}, 0.0),
        ({"retry-after": formatdate(1_990_000_000, usegmt=True), **SENT}, LONGEST),
        ({"retry-after": "Fri, 01 Mar 2030 00:00:07", "date": "Fri, 01 Mar 2030 00:00:00 GMT"}, 7.0),
    ],
)
def test_a_wish_is_read_in_every_form(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers) == seconds


@pytest.mark.parametrize(
    "nonsense",
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
def test_nonsense_is_no_wish(nonsense: str) -> None:
    assert retry_after({"retry-after": nonsense, **SENT}) is None
    assert retry_after({"retry-after-ms": nonsense}) is None


def test_a_date_counts_from_our_clock_where_the_reply_has_none() -> None:
    asked = retry_after({"retry-after": formatdate(time.time() + 3600, usegmt=True)})
    assert asked is not None
    assert 3500 < asked <= 3600
