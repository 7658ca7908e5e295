"""Choosing: which tools a request speaks of, in which order, and what depends on what."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from piccc.emulator.conversation import Tool
from piccc.emulator.model.clause import request_of, subject_of
from piccc.emulator.model.reading import NAME, Reading
from piccc.emulator.model.shapes import is_text, properties
from piccc.emulator.model.words import ASKING, GENERIC, STOPWORDS, rarity, stemmed, stems

_THRESHOLD = 2.0
_HARD = re.compile(
    r"(?<=[.!?])\s+|(?<=[。！？；;])\s*|\n+"
    r"|[,，]?\s*\b(?:and )?(?:then|after(?:wards| that| which)|finally)\b[,:]?\s*"
    r"|[,，]?\s*(?:然后|接着|之后|最后|随后|再)",
    re.IGNORECASE,
)
_SOFT = re.compile(
    r"[,，;]?\s+(?:and(?: also)?|also|plus|as well as)\s+|[,，、]\s*(?:and\s+|以及|并且?|和|还有)?"
    r"|以及|并且|还有|并(?=[\u4e00-\u9fff])|和",
    re.IGNORECASE,
)
_HEAD = re.compile(r"\S+(?:\s+(?:for|on)\b)?(?:\s+(?!(?:in|on|with|of|for)\b)\S+){0,4}", re.IGNORECASE)
"""What a piece is of: `a bird in one picture` is a bird, no picture; a verb keeps its `for` or `on`."""
_AFTER = re.compile(
    r"\b(?:then|after (?:that|which)|afterwards|finally)\b|然后|接着|之后|最后|随后|再", re.IGNORECASE
)
_BACK = re.compile(
    r"\b(?:it|that|this|them|those|(?:the|that|this|its|their) (?:\w+ )?(?:result|output|answer|sum|product"
    r"|picture|image|photo|video|film|clip"
    r"|text|translation|summary|task|file|url|link|one)|the first|the previous|above)\b(?!\s+(?:is|was"
    r"|shows?|has)\b)|它|其|结果|这[张个段]|该",
    re.IGNORECASE,
)
_NEGATED = re.compile(
    r"\b(?:without|don't|do not|never|no need to|not)\s+(?:\w+\s+)?(?:call|calling|use|using|invoke|invoking"
    r"|run|running)\b|不要?(?:调用|使用)|不用",
    re.IGNORECASE,
)
_NEAR = r"[^.,;!?。，！？\n]{0,30}?"
_ANY_TOOL = re.compile(
    rf"{_NEAR}\b(?:tools?|functions?)\b|.{{0,6}}(?:工具|函数)|(?<!run)(?<!running)\W*$", re.IGNORECASE
)
"""What is not to be used: `don't use blue` speaks of no tool, nor does a horse that does not run."""
_FOLLOW_UP = re.compile(
    r"^(?:and|what about|how about|now|also|same for|那|还有)\b|^那|呢[？?]?$", re.IGNORECASE
)
_STATED = re.compile(
    r"^\s*(?:the|your|our|this|that|these|those)\s[^.,;:!?]{0,60}?\b(?:is|are|was|were|has been|have been)\s+"
    r"(?:already |now |still )?(?:finished|done|ready|completed?|made|running|queued|failed|refused|cancelled"
    r"|expired)\b",
    re.IGNORECASE,
)
"""What reports on something asks for nothing: `the image is finished` is no wish for an image."""
_LOOKING_UP = stemmed(
    "search retrieve retriever lookup query knowledge docs ask answer questions rag documents"
)
_ITEM = re.compile(r"^\s*(?:[-*•]|\(?\d+[.)])\s+")
_ENTITY = rf"(?:{NAME}|\"[^\"]+\"|'[^']+'|“[^”]+”|「[^」]+」)"
_PLACING = "in|at|for|of|near|from|to|on"
_COORDINATION = re.compile(
    rf"{_ENTITY}(?:(?:\s*[,，、]\s*|\s*[,，]?\s*(?:\b(?:and|or)|&)\s+|[和与])(?:also\s+)?(?:{_PLACING}|)\s*\b{_ENTITY})+"
)
_BETWEEN = re.compile(
    rf"(?:\b(?:and|or|also)\b|&|[和与])(?:\s+(?:also\s+)?(?:{_PLACING})\b)?|(?<=[,，、])\s*(?:{_PLACING})\b"
)
_WIDE_COORDINATION = re.compile(
    r"((?:(?!查询?一?下?|请问?|告诉我|帮我)[\u4e00-\u9fff]){2,5}?(?:[和与、，跟][\u4e00-\u9fff]{2,5}?)+)(?=的|今天|明天|现在|天气|气温)"
)


@dataclass(frozen=True, slots=True)
class Request:
    """One thing to do with a tool: the user's words for it, and whether it waits for what came before."""

    tool: Tool
    text: str
    waits: bool = False
    about: str = ""
    """What the request before was about, for one that only points back to it."""


def score(tool: Tool, text: str) -> float:
    """Weigh how well a text speaks of a tool: its name counts most, then its description and arguments."""
    if re.search(rf"(?<![\w-]){re.escape(tool.name)}(?![\w-])", text):
        return 100.0
    words = set(stems(text))
    name = set(stems(tool.name))
    own = name - GENERIC
    told = set(stems(f"{tool.description} {' '.join(_arguments(tool))}")) - GENERIC - own
    named = len(own & words)
    total = 3.0 * named * (0.5 + 0.5 * named / len(own)) if own else 0.0
    if own and named * 2 < len(own) and len(own) > 1:
        total *= 0.6
    total += min(len(told & words), 4) + 0.5 * len(name & GENERIC & words)
    if name & _LOOKING_UP and ASKING.search(text) and told & words:
        total += 1.5
    return total


def best(tools: Sequence[Tool], text: str, threshold: float = _THRESHOLD) -> Tool | None:
    """Give the tool that a text speaks of most, or None when it speaks of none."""
    weights = rarity([stems(f"{tool.name} {tool.description}") for tool in tools])
    words = set(stems(text))

    def rank(tool: Tool) -> tuple[float, float]:
        shared = words & set(stems(f"{tool.name} {tool.description}"))
        return score(tool, text), math.fsum(weights[word] for word in shared)

    top = max(tools, key=rank, default=None)
    return top if top is not None and score(top, text) >= threshold else None


def requests(tools: Sequence[Tool], text: str, before: str | None = None) -> list[Request]:
    """Read the requests out of a user's words, in order; `before` is the tool last called."""
    tools = _allowed(tools, text)
    found: list[Request] = []
    loose = ""
    for joint, whole, sequential in _parts(tools, text):
        part = _STATED.sub("", whole)
        tool = best(tools, part)
        if tool is not None:
            waits = bool(found) and (sequential or _BACK.search(part) is not None)
            found.append(Request(tool, part, waits, _about(found) or loose))
        elif found:
            found[-1] = replace(found[-1], text=f"{found[-1].text}{joint}{part}")
        else:
            loose = request_of(part)
    last = next((tool for tool in tools if tool.name == before), None)
    if not found and last is not None and len(text.split()) < 8 and _FOLLOW_UP.search(text.strip()):
        found = [Request(last, text)]
    return [one for request in found for one in _spread(request)]


def _allowed(tools: Sequence[Tool], text: str) -> list[Tool]:
    """Leave out what the words say not to use: the tools that they name there, or all."""
    allowed = list(tools)
    for found in _NEGATED.finditer(text):
        named = [
            tool
            for tool in tools
            if re.match(rf"{_NEAR}(?<![\w-]){re.escape(tool.name)}(?![\w-])", text[found.end() :])
        ]
        if not named and _ANY_TOOL.match(text, found.end()):
            return []
        allowed = [tool for tool in allowed if tool not in named]
    return allowed


def _about(found: list[Request]) -> str:
    if not found:
        return ""
    return subject_of(found[-1].text, stems(found[-1].tool.name)) or found[-1].about


def _parts(tools: Sequence[Tool], text: str) -> Iterator[tuple[str, str, bool]]:
    """Split the words where another request begins.

    Gives each part with what joins it to the one before, and whether it comes after that one.
    """
    heading, joint, sequential = "", "", False
    pieces = list(_cut(_HARD, text))
    for at, (piece, marker) in enumerate(pieces):
        bullet = _ITEM.match(piece)
        listed = at + 1 < len(pieces) and _ITEM.match(pieces[at + 1][0]) is not None
        if bullet and heading:
            yield " ", f"{heading}: {piece[bullet.end() :].strip()}", False
        elif listed and not bullet and best(tools, piece):
            heading = piece.strip().rstrip(":：").strip()
        elif piece.strip():
            heading = ""
            softly = _softly(tools, piece[bullet.end() :] if bullet else piece, sequential)
            yield from ((gap or joint, part, later) for gap, part, later in softly)
        joint = ("" if piece.strip() else joint) + (" " if "\n" in marker else marker)
        sequential = (sequential and not piece.strip()) or _AFTER.search(marker) is not None


def _softly(tools: Sequence[Tool], text: str, sequential: bool) -> Iterator[tuple[str, str, bool]]:
    """Split at `and` and commas, but only where the right side asks for something by itself."""
    current = joint = gap = ""
    for piece, marker in _cut(_SOFT, text):
        if current and best(tools, current) and _begins(tools, piece):
            yield joint, current.strip(), sequential
            current, joint, sequential = piece, gap, False
        else:
            current += gap + piece
        gap = marker
    if current.strip():
        yield joint, current.strip(), sequential


def _cut(pattern: re.Pattern[str], text: str) -> Iterator[tuple[str, str]]:
    """Give the pieces between the matches, each with the match that follows it; quotes stay whole."""
    reading = Reading(text)
    whole = [(one.start, one.end) for one in (*reading.quoted, *reading.urls, *reading.code)]
    at = 0
    for match in pattern.finditer(text):
        if not any(start < match.end() and match.start() < end for start, end in whole):
            yield text[at : match.start()], match[0]
            at = match.end()
    yield text[at:], ""


def _begins(tools: Sequence[Tool], piece: str) -> bool:
    """Tell whether a piece begins a request of its own: its first words name a tool."""
    first = _HEAD.match(request_of(piece)) if " " in piece else None
    head = set(stems(first[0] if first else piece[:8]))
    names = [(set(stems(tool.name)) - GENERIC) for tool in tools]
    return any(head & name for name in names) and best(tools, piece) is not None


def _spread(request: Request) -> list[Request]:
    """Make one request for each of the things named side by side, when the tool takes one at a time."""
    texts = _colon_items(request) or _side_by_side(request)
    return [replace(request, text=text) for text in texts] or [request]


def _colon_items(request: Request) -> list[str]:
    head, colon, tail = request.text.partition(":") if ":" in request.text else request.text.partition("：")
    plural = re.search(
        r"\b(?:two|three|four|five|six|seven|eight|nine|ten|[2-9]|\d\d|these|some|several|following)\b"
        r"|[两三四五六七八九十]",
        head,
        re.IGNORECASE,
    )
    items = [
        one.strip()
        for one, _ in _cut(re.compile(r"\s*[,，、;；]\s*(?:and\s+)?(?:then\s+)?|\s+and\s+|和"), tail)
        if one.strip(" .。")
    ]
    if not colon or not plural or len(items) < 2 or _takes_list(request.tool) or re.match(r"\s*//|\d", tail):
        return []
    wanted = Reading(plural[0]).numbers
    if wanted and wanted[0].value != len(items):
        items = items if len(items) < wanted[0].value else []
    head = f"{head[: plural.start()]}{head[plural.end() :]}".strip()
    return [f"{head}: {item.rstrip('.。')}" for item in items]


def _side_by_side(request: Request) -> list[str]:
    if _takes_list(request.tool) or not _takes_one_name(request.tool):
        return []
    if match := _WIDE_COORDINATION.search(request.text):
        items = [one for one in re.split("[和与、，跟]", match[1]) if one]
        return [f"{request.text[: match.start(1)]}{item}{request.text[match.end(1) :]}" for item in items]
    for match in _COORDINATION.finditer(request.text):
        if re.search(r"\bbetween\s*$", request.text[: match.start()]):
            continue
        items = re.findall(_ENTITY, _BETWEEN.sub(",", match[0]))
        if len(items) > 1 and "or" not in match[0].lower().split():
            return [f"{request.text[: match.start()]}{item}{request.text[match.end() :]}" for item in items]
    return []


def _takes_list(tool: Tool) -> bool:
    known = properties(tool.parameters)
    parts = [known.get(name) for name in _required(tool)]
    return any(isinstance(part, Mapping) and part.get("type") == "array" for part in parts)


def _takes_one_name(tool: Tool) -> bool:
    """Tell whether a tool wants exactly one name: no free text, which may hold several, nor a pair."""
    texts = [name for name in _required(tool) if is_text(properties(tool.parameters).get(name))]
    return len(texts) == 1 and not set(stems(texts[0])) & _WHOLE_TEXTS


_WHOLE_TEXTS = stemmed("prompt query question q input description instruction task content body expression")


def _required(tool: Tool) -> list[str]:
    names = tool.parameters.get("required")
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []


def _arguments(tool: Tool) -> list[str]:
    return [name for name in properties(tool.parameters) if name not in STOPWORDS]
