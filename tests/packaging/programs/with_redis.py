"""Use what [redis] gives: a ledger in Redis, here one that is out of reach, so that nothing is sent."""

from __future__ import annotations

from piccc import Client
from piccc.errors import LedgerUnavailable

said = ""
try:
    Client(ledger="redis://127.0.0.1:1/0").images.submit("a mug", model="piccc-image")
except LedgerUnavailable as error:
    said = str(error)
assert "127.0.0.1:1" in said
