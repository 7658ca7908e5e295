"""Values as the bytes of the wire."""

from __future__ import annotations

import json
from typing import Any


def encoded(value: Any) -> bytes:
    """Return JSON, escaped to ASCII only when it holds half a character, which UTF-8 cannot."""
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":")).encode()
