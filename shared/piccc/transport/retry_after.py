"""How long the server asks to wait."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

LONGEST = 86400.0 * 366


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Read `retry-after-ms`, or `retry-after` as seconds or HTTP date; None where there is no sense in it.

    Negative, infinite and not-a-number values are no sense; a date that has passed means 0.
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    value = headers.get("retry-after")
    seconds = _number(value)
    return seconds if seconds is not None else _until(value)


def _number(value: str | None) -> float | None:
    try:
        number = float(value or "")
    except ValueError:
        return None
    return min(number, LONGEST) if math.isfinite(number) and number >= 0 else None


def _until(value: str | None) -> float | None:
    try:
        moment = parsedate_to_datetime(value or "").timestamp()
    except (ValueError, OverflowError):
        return None
    return min(max(0.0, moment - time.time()), LONGEST)
