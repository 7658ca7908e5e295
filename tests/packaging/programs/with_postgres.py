"""Use what [postgres] gives: a ledger in Postgres, here one that is out of reach, so that nothing is sent."""

from __future__ import annotations

from piccc import Client
from piccc.errors import LedgerUnavailable

said = ""
try:
    Client(ledger="postgresql://127.0.0.1:1/db").images.submit("a mug", model="piccc-image")
except LedgerUnavailable as error:
    said = str(error)
assert "127.0.0.1:1" in said
