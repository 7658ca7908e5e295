"""The submissions that an emulator received, checked against its charges."""

from __future__ import annotations

from piccc import Polling
from piccc.emulator import Emulator

QUICK = Polling(min=0.001, max=0.002, requests_per_second=100_000)
"""Polling with almost no pauses."""


def made(emulator: Emulator) -> list[str]:
    """Return the kinds of all submissions, repeated ones included.

    For a repeated key the emulator returns the earlier task and charges nothing; other servers may charge.
    """
    sent = [
        request.path.split("/")[2].removesuffix("s")
        for request in emulator.requests
        if request.method == "POST" and request.path.endswith("/tasks")
    ]
    # Sorted, as two concurrent submissions may be charged in either order.
    assert sorted(sent) == sorted(charge.kind for charge in emulator.charges if charge.kind != "chat")
    return sent
