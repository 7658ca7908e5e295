"""What of a setting may be saved, pickled and shown."""

from __future__ import annotations

from typing import Any

from piccc.config import split_url
from piccc.redaction import is_secret_header, redact_headers


def public(name: str, value: Any) -> Any:
    """Return a setting without the secrets that an address or headers may hold."""
    if not value:
        return value
    match name:
        case "base_url":
            return split_url(value)[0]
        case "default_headers":
            return redact_headers(value)
        case "additional_kwargs" if value.get("extra_headers"):
            headers = {
                name: each for name, each in value["extra_headers"].items() if not is_secret_header(name)
            }
            return {**value, "extra_headers": headers}
    return value
