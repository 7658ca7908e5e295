"""Tool choice: which tools a request needs, one step for each thing it asks for."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from piccc.emulator.conversation import Tool
from piccc.emulator.model.context import stems
from piccc.emulator.model.schema import mapping

_GENERIC = {*stems("create get run tool call function data new set return value input output provide")}
_HARD = re.compile(
    r"(?i)(?<=[.!?])\s+|(?<=[。！？；;])\s*|\n+|[,，]?\s*(?:\b(?:and )?then\b[,:]?\s*|然后|接着|再)"
)
_SOFT = re.compile(r"(?i)[,，;]?\s+(?:and(?: also)?|also)\s+|[,，、；]\s*(?:and\s+)?|和|并")
_BACK = re.compile(
    r"(?i)\b(?:it|that|this|them|the (?:result|image|picture|video))\b(?!\s(?:is|was)\b)|它|结果"
)
_WHOLE = re.compile(r"“[^”]*”|「[^」]*」|\"[^\"]*\"|(?<!\w)'[^'\n]*'(?!\w)|https?://\S+")
# A report of a finished task must not trigger a new one.
_REPORT = re.compile(
    r"(?i)\b(?:is|was|has been) (?:finished|completed|done|ready|failed|cancelled|expired)\b"
)


class Step(NamedTuple):
    """One call to make: its tool, its words in the request, and whether it needs the previous result."""

    tool: Tool
    text: str
    waits: bool = False


def best(tools: Sequence[Tool], text: str, enough: float = 2.0) -> Tool | None:
    """Return the tool that best matches a text by name, then description, or None."""
    words = {*stems(text)}

    def score(tool: Tool) -> float:
        if re.search(rf"(?<![\w-]){re.escape(tool.name)}(?![\w-])", text):
            return 100.0
        name, about = {*stems(tool.name)}, " ".join(mapping(tool.parameters, "properties"))
        own = name - _GENERIC
        named = 3.0 * len(own & words) * (0.5 + 0.5 * len(own & words) / len(own)) if own else 0.0
        told = ({*stems(f"{tool.description} {about}")} - _GENERIC - own) & words
        return named + min(len(told), 4) + 0.5 * len(name & _GENERIC & words)

    top = max(tools, key=score, default=None)
    return top if top is not None and score(top) >= enough else None


def steps(tools: Sequence[Tool], text: str) -> list[Step]:
    """Return the requested steps in order."""
    found: list[Step] = []
    for joint, part, after in _parts(tools, text):
        if (tool := best(tools, part)) and not _REPORT.search(part):
            found.append(Step(tool, part, bool(found) and (after or _BACK.search(part) is not None)))
        elif found:
            found[-1] = found[-1]._replace(text=f"{found[-1].text}{joint}{part}")
    return found


def _parts(tools: Sequence[Tool], text: str) -> Iterator[tuple[str, str, bool]]:
    """Yield a request's parts, each with the text joining it to the last one and whether it needs that."""
    # Always split at sentences, lines and `then`; at `and` and commas only if a tool's name follows.
    joint, after = "", False
    for piece, mark in _split(_HARD, text):
        current = gap = ""
        for part, soft in _split(_SOFT, piece):
            head = {*stems(" ".join(part.split(" in ")[0].split()[:5]) if " " in part else "")}
            begins = any(head & ({*stems(tool.name)} - _GENERIC) for tool in tools) and best(tools, part)
            if current and begins and best(tools, current):
                yield joint, current.strip(), after
                current, joint, after = part, gap, False
            else:
                current += gap + part
            gap = soft
        if current.strip():
            yield joint, current.strip(), after
        joint, after = mark, re.search(r"then|然后|接着|再", mark, re.I) is not None


def _split(pattern: re.Pattern[str], text: str) -> Iterator[tuple[str, str]]:
    """Yield the pieces between matches, each with the match after it; keep quotations and links whole."""
    whole, at = [match.span() for match in _WHOLE.finditer(text)], 0
    for match in pattern.finditer(text):
        if not any(start < match.end() and match.start() < end for start, end in whole):
            yield text[at : match.start()], match[0]
            at = match.end()
    yield text[at:], ""
