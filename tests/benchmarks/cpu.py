"""CPU time of this process, including threads."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable


def settle() -> None:
    """Collect garbage left by imports now, so that it does not affect a random measurement."""
    gc.collect()
    gc.freeze()


def cpu(work: Callable[[], object], units: int) -> float:
    """Return the CPU microseconds per unit of work."""
    settle()
    began = time.process_time()
    work()
    return (time.process_time() - began) / units * 1e6
