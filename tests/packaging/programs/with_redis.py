"""Use what [redis] adds: a ledger in Redis, here an unreachable one, so that nothing is sent."""

from __future__ import annotations

from piccc import Client
from piccc.errors import LedgerUnavailable

message = ""
try:
    Client(ledger="redis://127.0.0.1:1/0").images.submit("a mug", model="piccc-image")
except LedgerUnavailable as error:
    message = str(error)
assert "127.0.0.1:1" in message
