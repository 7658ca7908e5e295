"""How long the server asks to wait."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime

LONGEST = 366 * 86400.0
_NUMBER = re.compile(r"[0-9]{1,300}(\.[0-9]*)?")


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Read `retry-after-ms`, or `retry-after` as seconds or HTTP date; None where there is no sense in it.

    Negative, infinite and not-a-number values are no sense; a date that has passed means 0. A date counts
    from the reply's own `date`, so that a clock which is wrong here or there does no harm.
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    value = headers.get("retry-after")
    seconds = _number(value)
    return seconds if seconds is not None else _until(value, headers.get("date"))


def _number(value: str | None) -> float | None:
    return min(float(value), LONGEST) if value and _NUMBER.fullmatch(value.strip()) else None


def _until(value: str | None, since: str | None) -> float | None:
    moment = _moment(value)
    if moment is None:
        return None
    began = _moment(since)
    return min(max(0.0, moment - (time.time() if began is None else began)), LONGEST)


def _moment(value: str | None) -> float | None:
    try:
        date = parsedate_to_datetime(value or "")
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
