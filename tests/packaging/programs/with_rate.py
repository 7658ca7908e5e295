"""Use what [rate] adds: a limit on the request rate."""

from __future__ import annotations

from piccc import Client, RateLimit

limit = RateLimit("2/hour")
assert Client(rate=limit).chat.create("Name a colour.", model="piccc-pro").text
assert limit.acquire(blocking=False)
assert not limit.acquire(blocking=False)
