"""What was ordered of an emulator, counted where it is paid."""

from __future__ import annotations

from piccc import Polling
from piccc.emulator import Emulator

QUICK = Polling(min=0.001, max=0.002, requests_per_second=100_000)
"""Ask about tasks without a pause worth the name."""


def made(emulator: Emulator) -> list[str]:
    """Return what was submitted, each time that it was sent.

    The emulator gives a repeated key its earlier task and charges nothing; another server may not.
    """
    sent = [
        each.path.split("/")[2].removesuffix("s")
        for each in emulator.requests
        if each.method == "POST" and each.path.endswith("/tasks")
    ]
    # Of two that are sent at once, the one that is heard first may be charged second.
    assert sorted(sent) == sorted(charge.kind for charge in emulator.charges if charge.kind != "chat")
    return sent
