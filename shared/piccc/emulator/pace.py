"""How long things take."""

from __future__ import annotations

import math
from dataclasses import dataclass

from piccc.emulator.tasks import Kind

_SHORTEST = 1e-6


@dataclass(frozen=True, slots=True)
class Pace:
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
