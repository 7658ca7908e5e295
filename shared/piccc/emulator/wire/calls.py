"""Calls of tools as both routes write them."""

from __future__ import annotations

import json

from piccc.emulator.conversation import Call


def written(call: Call) -> str:
    """Return a call's arguments as the JSON text that was made of them, which may have been cut short."""
    if call.partial is not None:
        return call.partial
    return json.dumps(call.arguments, ensure_ascii=False, separators=(",", ":"))
