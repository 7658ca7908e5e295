"""Tool choice: which tools a request speaks of, one step for each thing that it asks for."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from piccc.emulator.conversation import Tool
from piccc.emulator.model.context import rarity, stems
from piccc.emulator.model.schema import mapping

_GENERIC = {*stems("create get run tool call function data new set return value input output provide")}
_HARD = re.compile(
    r"(?i)(?<=[.!?])\s+|(?<=[。！？；;])\s*|\n+|[,，]?\s*\b(?:and )?then\b[,:]?\s*|[,，]?\s*(?:然后|接着|再)"
)
_SOFT = re.compile(r"(?i)[,，;]?\s+(?:and(?: also)?|also)\s+|[,，、；]\s*(?:and\s+)?|和|并")
_BACK = re.compile(
    r"(?i)\b(?:it|that|this|them|the (?:result|output|image|picture|video|film|link))\b(?!\s(?:is|was)\b)"
    r"|它|结果|这[张个段]"
)
_REPORT = re.compile(  # `The image is finished` asks for no image
    r"(?i)^\s*(?:the|your|this|that)\s[^.!?]{0,60}?\b(?:is|are|was|were|has been)\s+(?:\w+ly |now |still )?"
    r"(?:finished|done|ready|completed?|running|queued|failed|refused|cancelled|expired)\b"
)
_WHOLE = re.compile(r"“[^”]*”|「[^」]*」|\"[^\"]*\"|(?<!\w)'[^'\n]*'(?!\w)|https?://\S+")
_ENTITY = r"(?:[A-Z][\w'-]*(?:\s+(?:of\s+)?[A-Z][\w'-]*)*|\"[^\"]+\"|“[^”]+”)"
_LISTED = re.compile(
    rf"{_ENTITY}(?:(?:\s*,\s*(?:and\s+)?|\s+and\s+)(?:in\s+|for\s+|of\s+)?(?![A-Z]{{2}}\b){_ENTITY})+"
)
_WIDE_LISTED = re.compile(r"[\u4e00-\u9fff]{2,4}?(?:[和、][\u4e00-\u9fff]{2,4}?)+(?=的)")
_FREE_TEXT = {*stems("prompt query question input text description content message body")}


@dataclass(frozen=True, slots=True)
class Step:
    """One call to make: its tool, the words for it, and whether it needs what came before."""

    tool: Tool
    text: str
    waits: bool = False


def score(tool: Tool, text: str) -> float:
    """Weigh how well a text speaks of a tool: its name counts most, then its description and arguments."""
    if re.search(rf"(?<![\w-]){re.escape(tool.name)}(?![\w-])", text):
        return 100.0
    words, name = {*stems(text)}, {*stems(tool.name)}
    own = name - _GENERIC
    about = f"{tool.description} {' '.join(mapping(tool.parameters, 'properties'))}"
    told = {*stems(about)} - _GENERIC - own
    named = 3.0 * len(own & words) * (0.5 + 0.5 * len(own & words) / len(own)) if own else 0.0
    return named + min(len(told & words), 4) + 0.5 * len(name & _GENERIC & words)


def best(tools: Sequence[Tool], text: str, enough: float = 2.0) -> Tool | None:
    """Return the tool that a text speaks of most, or None when it speaks of none."""
    weights = rarity([f"{tool.name} {tool.description}" for tool in tools])

    def rank(tool: Tool) -> tuple[float, float]:
        shared = {*stems(text)} & {*stems(f"{tool.name} {tool.description}")}
        return score(tool, text), math.fsum(weights[stem] for stem in sorted(shared))

    top = max(tools, key=rank, default=None)
    return top if top is not None and score(top, text) >= enough else None


def steps(tools: Sequence[Tool], text: str) -> list[Step]:
    """Return the steps that a request asks for, in order."""
    found: list[Step] = []
    for joint, part, after in _parts(tools, text):
        if tool := best(tools, _REPORT.sub("", part)):
            found.append(Step(tool, part, bool(found) and (after or _BACK.search(part) is not None)))
        elif found:
            found[-1] = replace(found[-1], text=f"{found[-1].text}{joint}{part}")
    return [replace(step, text=one) for step in found for one in _each(step)]


def _parts(tools: Sequence[Tool], text: str) -> Iterator[tuple[str, str, bool]]:
    """Split a request: yield what joins a part to the one before, the part, and whether it comes after it.

    Sentences, lines and `then` always split; `and` and commas where the words after them name a tool.
    """
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
    """Yield the pieces between the matches, each with the match after it; quotations and links stay whole."""
    whole, at = [match.span() for match in _WHOLE.finditer(text)], 0
    for match in pattern.finditer(text):
        if not any(start < match.end() and match.start() < end for start, end in whole):
            yield text[at : match.start()], match[0]
            at = match.end()
    yield text[at:], ""


def _each(step: Step) -> list[str]:
    """Give one text for each of the names listed, when the tool takes one name at a time."""
    required = step.tool.parameters.get("required")
    parts = {name: mapping(step.tool.parameters, "properties").get(name) for name in required or ()}
    texts = [name for name, part in parts.items() if isinstance(part, dict) and part.get("type") == "string"]
    listed = _LISTED.search(step.text) or _WIDE_LISTED.search(step.text)
    if len(texts) != 1 or {*stems(texts[0])} & _FREE_TEXT or not listed:
        return [step.text]
    names = re.findall(_ENTITY, listed[0]) or re.split("[和、]", listed[0])
    return [f"{step.text[: listed.start()]}{name}{step.text[listed.end() :]}" for name in names]
