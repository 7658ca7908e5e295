"""The names of the dialects."""

from __future__ import annotations

from typing import Literal

DialectName = Literal["openai", "anthropic"]
