"""CPU time of this process, threads included."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable


def settle() -> None:
    """Leave to no figure the cost of collecting what importing has left, which falls now here, now there."""
    gc.collect()
    gc.freeze()


def cpu(work: Callable[[], object], units: int) -> float:
    """Return CPU microseconds per unit of a work."""
    settle()
    began = time.process_time()
    work()
    return (time.process_time() - began) / units * 1e6
