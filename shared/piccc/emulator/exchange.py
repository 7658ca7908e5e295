"""One request on its way through the emulator, and what is to befall it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from piccc.emulator.faults import Fault
from piccc.emulator.journal import RequestRecord
from piccc.emulator.problems import Problem


@dataclass(slots=True)
class Exchange:
    """A request: its record, its headers (names in lower case), its origin, its body, its faults."""

    record: RequestRecord
    headers: Mapping[str, str]
    base: str
    body: bytes = b""
    faults: list[Fault] = field(default_factory=list)

    def fault(self, *kinds: str) -> Fault | None:
        """Return the first fault of one of these kinds."""
        return next((fault for fault in self.faults if fault.kind in kinds), None)

    def json(self) -> Any:
        """Parse the body; a 400 Problem when it is not JSON, or holds half a character."""
        try:
            value = json.loads(self.body, parse_constant=_refuse_constant)
            if b"\\u" in self.body:
                json.dumps(value, ensure_ascii=False).encode()
            return value
        except (ValueError, RecursionError):
            raise Problem(400, "The body is not valid JSON.", code="invalid_json") from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
