"""Sign and verify deliveries as Standard Webhooks does: HMAC-SHA256 over id, timestamp and body.

That the provider signs like this is assumed: so a signature is checked only where a secret was set for it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping

TOLERANCE_SECONDS = 300.0


def sign(secret: str, id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """Return the headers of a delivery."""
    signature = base64.b64encode(_digest(secret, id, str(timestamp), body)).decode()
    return {"webhook-id": id, "webhook-timestamp": str(timestamp), "webhook-signature": f"v1,{signature}"}


def verify(secret: str, headers: Mapping[str, str], body: bytes, now: float) -> bool:
    """Tell whether a delivery was signed with the secret within five minutes. Header names are lower case."""
    id, timestamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not id or not timestamp.isdecimal() or abs(now - int(timestamp)) > TOLERANCE_SECONDS:
        return False
    expected = _digest(secret, id, timestamp, body)
    given = headers.get("webhook-signature", "").split()
    return any(hmac.compare_digest(_decoded(each), expected) for each in given)


def _digest(secret: str, id: str, timestamp: str, body: bytes) -> bytes:
    key = base64.b64decode(secret.removeprefix("whsec_"))
    return hmac.new(key, f"{id}.{timestamp}.".encode() + body, hashlib.sha256).digest()


def _decoded(signature: str) -> bytes:
    version, _, value = signature.partition(",")
    try:
        return base64.b64decode(value, validate=True) if version == "v1" else b""
    except (binascii.Error, ValueError):
        return b""
