"""How many requests a minute are let through, and the headers that say so (assumed)."""

from __future__ import annotations

import math
from dataclasses import dataclass

_WINDOW = 60.0


@dataclass(slots=True)
class RateLimit:
    """Count requests in windows of a minute; each begins with the first request after the last one."""

    per_minute: int
    used: int = 0
    ends_at: float = 0.0

    def take(self, now: float) -> bool:
        """Count a request; False when it is one too many."""
        if now >= self.ends_at:
            self.used, self.ends_at = 0, now + _WINDOW
        self.used += 1
        return self.used <= self.per_minute

    def headers(self, now: float) -> dict[str, str]:
        """Return what every reply says about the limit."""
        return {
            "x-ratelimit-limit-requests": str(self.per_minute),
            "x-ratelimit-remaining-requests": str(max(0, self.per_minute - self.used)),
            "x-ratelimit-reset-requests": f"{self.wait(now)}s",
        }

    def wait(self, now: float) -> int:
        """Return how many whole seconds remain until the next window."""
        return max(0, math.ceil(self.ends_at - now))
