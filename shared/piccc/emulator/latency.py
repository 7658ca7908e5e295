"""How fast the emulator works: task durations, and rate limits."""

from __future__ import annotations

import math
from dataclasses import dataclass

from piccc.emulator.tasks import Kind

_SHORTEST = 1e-6


@dataclass(frozen=True, slots=True)
class Latency:
    """Durations in seconds, divided by `speed`; `math.inf` waits for nothing."""

    speed: float = 1.0

    def __post_init__(self) -> None:
        if not self.speed > 0 or math.isnan(self.speed):
            raise ValueError(f"speed must be positive, not {self.speed}; math.inf waits for nothing")

    @property
    def first_token(self) -> float:
        """How long the model thinks before it says anything."""
        return 0.2 / self.speed

    @property
    def token(self) -> float:
        """How long each token takes."""
        return 0.006 / self.speed

    def task(self, kind: Kind) -> float:
        """How long a task takes to its end; never nothing, or nobody would have to poll."""
        return max(_SHORTEST, {"image": 3.0, "video": 6.0}[kind] / self.speed)

    def scaled(self, seconds: float) -> float:
        """Scale any other wait."""
        return seconds / self.speed


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
