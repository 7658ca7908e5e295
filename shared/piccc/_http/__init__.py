"""All network and clock access of the client."""

from __future__ import annotations
