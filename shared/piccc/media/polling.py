"""How often to ask about tasks: every 2 to 5 seconds, as the provider advises (documented)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from piccc.errors import ConfigurationError


@dataclass(frozen=True, slots=True, kw_only=True)
class Polling:
    """How often to ask about tasks.

    Attributes:
        min, max: seconds between two looks at a task; each pause is drawn at random between them.
        requests_per_second: at most so many requests for all waits of the account together.
        use_list: page through the task list where that costs less than asking for each task.
        timeout: seconds after which a wait that was given no timeout ends.
    """

    min: float = 2.0
    max: float = 5.0
    requests_per_second: float = 50.0
    use_list: bool = True
    timeout: float = 3600.0

    def __post_init__(self) -> None:
        if not 0 <= self.min <= self.max or self.requests_per_second <= 0 or self.timeout <= 0:
            raise ConfigurationError(
                f"{self!r} makes no sense.", hint="min is at most max, and the others are above 0."
            )


def joint(pollings: Iterable[Polling]) -> Polling:
    """Return the quickest pace and the smallest budget of several, for waits that ask as one."""
    several = list(pollings)
    return Polling(
        min=min(each.min for each in several),
        max=min(each.max for each in several),
        requests_per_second=min(each.requests_per_second for each in several),
        use_list=all(each.use_list for each in several),
        timeout=max(each.timeout for each in several),
    )
