"""Use what [postgres] adds: a ledger in Postgres, here an unreachable one, so that nothing is sent."""

from __future__ import annotations

from piccc import Client
from piccc.errors import LedgerUnavailable

message = ""
try:
    Client(ledger="postgresql://127.0.0.1:1/db").images.submit("a mug", model="piccc-image")
except LedgerUnavailable as error:
    message = str(error)
assert "127.0.0.1:1" in message
