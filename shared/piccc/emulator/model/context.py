"""Context: the sentences of a given text that answer a question best."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from itertools import pairwise

from piccc.emulator.model.words import ASKING, is_wide, rarity, sentences, stems

_QUESTION = re.compile(
    r"^[ \t]*[#*<\[]*(?:the )?(?:original |user(?:'s)? |input |follow[ -]?up |new )?(?:query|question"
    r"|human|用户问题|问题|提问|查询)(?: is)?(?: as follows)?[\]>*]*[ \t]*[:：\n]\s*(\S.*)",
    re.IGNORECASE | re.MULTILINE,
)
_QUOTED_QUESTION = re.compile(
    r"\b(?:question|query)\s*[:：]?\s*['\"“](.+?)['\"”](?=\s*(?:$|\n|\.))", re.IGNORECASE
)
_FENCE = re.compile(r"^[ \t]*(?:-{3,}|={3,}|\"{3}|#{3,}|\*{3,}|-{3,}\w+-{3,})[ \t]*$", re.MULTILINE)
_TAGGED = re.compile(
    r"<(context|document|documents|sources?|text|passage|data|article)\b[^>]*>(.*?)</\1>",
    re.IGNORECASE | re.DOTALL,
)
_LABEL = re.compile(
    r"(?:^|\n)[^\n]{0,300}?(?:\b(?:context|documents?|sources?|passages?|excerpts?|following|information"
    r"|text|article|notes)\b|上下文|资料|背景|参考|已知|文档|内容)"
    r"[^\n:：]{0,120}[:：.。]?[ \t]*(?:\n|(?<=[:：])\s)",
    re.IGNORECASE,
)
_EXISTING = re.compile(r"(?:existing|original|previous) answer\s*[:：]\s*(\S.*)", re.IGNORECASE)
_SOURCE = re.compile(r"^[ \t]*(?:source|document|\[)\s*(\d+)\]?\s*[:：.\n]", re.IGNORECASE | re.MULTILINE)
_SUMMARY = re.compile(
    r"\b(?:summar\w+|overview|what is (?:this|it|the (?:text|document)) about"
    r"|key (?:points|details)|tl;?dr)\b|总结|概括|摘要",
    re.IGNORECASE,
)
_TELLING = re.compile(
    r"^(?:please\s+|(?:can|could) you\s+)*(?:explain|describe|list|compare|define|outline|find|look up)\b"
    r"|什么|怎么|如何|为何|哪|谁|多少|多久|几|吗|解释|说明|介绍|列出|比较",
    re.IGNORECASE,
)
_HEADED = re.compile(r"\n|：|:\s")
_MOST = 3
_METADATA = re.compile(
    r"^(?:file_path|file_name|file_type|page_label|source|creation_date|last_modified_date|file_size)\s*:.*$",
    re.MULTILINE,
)
_LABEL_LINE = re.compile(r"^[\w' ]{1,40}[:：]$")


@dataclass(frozen=True, slots=True)
class Passage:
    """A block of context and the question to it; `existing` is the answer to refine, if any."""

    context: str
    question: str
    existing: str = ""
    cites: bool = False


def passage(text: str, system: str = "") -> Passage | None:
    """Recognise a context and a question in a prompt; the context may be in the system's words."""
    question, at, end = _question(text)
    block = _block(text, at, end)
    if block and question:
        existing = _EXISTING.search(text)
        cites = re.search(r"\bcit(?:e|ation|ing)\b|引用|\[1\]", f"{system} {text}", re.IGNORECASE) is not None
        return Passage(
            block, question, existing[1].strip() if existing else "", cites and bool(_SOURCE.search(block))
        )
    told = (
        _block(system, len(system), len(system))
        if re.search(r"context|上下文|资料|documents", system, re.IGNORECASE)
        else ""
    )
    if len(stems(told)) > 4 and _asks(text.strip()):
        return Passage(told, text.strip(), cites="[1]" in system and bool(_SOURCE.search(told)))
    asked = _SUMMARY.search(text[:200])
    headed = _HEADED.search(text, asked.end()) if asked else None
    if headed and len(stems(text[headed.end() :])) > 8:
        return Passage(text[headed.end() :].strip(), text[: headed.start()].strip())
    return None


def _asks(text: str) -> bool:
    return any(pattern.search(text) for pattern in (ASKING, _TELLING, _SUMMARY))


def answered(found: Passage) -> str:
    """Answer from a passage: its best sentences, the existing answer, or that it does not say."""
    said = answer(found.question, found.context, cites=found.cites)
    if found.existing:
        added = [one for one in sentences(said) if one not in found.existing]
        better = _fit(found.question, said) > _fit(found.question, found.existing)
        return said if better and added else found.existing
    if said:
        return said
    return "给出的内容没有提到这一点。" if is_wide(found.question) else "The context does not say."


def answer(question: str, context: str, *, cites: bool = False) -> str:
    """Give the sentences of a text that answer a question best, in their order; "" when none does."""
    units = _units(context)
    weights = rarity([stems(f"{heading} {text}") for text, heading, _ in units])
    wanted = set(stems(question))
    if _SUMMARY.search(question):
        wanted = set(weights)
    scores = [_weigh(text, heading, wanted, weights, question) for text, heading, _ in units]
    top = max(scores, default=0.0)
    if top <= 0.0:
        return ""
    floor = top * (0.3 if _SUMMARY.search(question) else 0.7)
    ranked = sorted(range(len(units)), key=lambda at: -scores[at])[:_MOST]
    chosen = sorted(at for at in ranked if scores[at] >= floor)
    said = [
        f"{units[at][0].rstrip()}{f' [{units[at][2]}]' if cites and units[at][2] else ''}" for at in chosen
    ]
    return ("" if is_wide(context) else " ").join(dict.fromkeys(said))


def _weigh(text: str, heading: str, wanted: set[str], weights: dict[str, float], question: str) -> float:
    words, above = set(stems(text)), set(stems(heading))
    total = math.fsum(weights.get(word, 0.0) for word in wanted & words) + math.fsum(
        0.5 * weights.get(word, 0.0) for word in (wanted & above) - words
    )
    if total and re.search(
        r"\b(?:how (?:many|much|long|old|far|often|big)|when|what (?:year|date|time))\b"
        r"|多少|多久|几|什么时候",
        question,
        re.IGNORECASE,
    ):
        total += 0.7 * bool(re.search(r"\d", text))
    return float(total / (1 + 0.02 * len(words)))


def _fit(question: str, text: str) -> int:
    return len(set(stems(question)) & set(stems(text)))


def _units(context: str) -> list[tuple[str, str, str]]:
    """Split a text into sentences, each with the heading it stands under and the number of its source."""
    found: list[tuple[str, str, str]] = []
    heading = source = ""
    for block in re.split(r"(```.*?```)", _METADATA.sub("", context), flags=re.DOTALL):
        if block.startswith("```"):
            found.append((block, heading, source))
            continue
        for line in block.splitlines():
            plain = line.strip().strip("|*> ").strip()
            if number := _SOURCE.match(f"{line}\n"):
                source, plain = number[1], line[number.end() :].strip() if number.end() <= len(line) else ""
            if line.lstrip().startswith("#") or _LABEL_LINE.match(plain):
                heading = plain.lstrip("# ").rstrip(":：")
            elif re.search(r"\w", plain):
                found += [
                    (one, heading, source) for one in sentences(re.sub(r"^(?:[-*•]|\d+[.)])\s+", "", plain))
                ]
    return _unwrapped(found)


def _unwrapped(units: list[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    """Join the lines of a paragraph that was broken at a width."""
    found: list[tuple[str, str, str]] = []
    for text, heading, source in units:
        if (
            found
            and found[-1][1:] == (heading, source)
            and text[:1].islower()
            and not re.search(r"[.!?。！？:|]$", found[-1][0])
        ):
            found[-1] = (f"{found[-1][0]} {text}", heading, source)
        else:
            found.append((text, heading, source))
    return found


def _question(text: str) -> tuple[str, int, int]:
    """Give the question and where it stands: labelled, else quoted, else the last line when it asks."""
    labelled = [match for match in _QUESTION.finditer(text) if not match[1].startswith(("<", "{"))]
    if labelled:
        return labelled[-1][1].strip(), labelled[-1].start(), labelled[-1].end()
    quoted = list(_QUOTED_QUESTION.finditer(text))
    if quoted:
        return quoted[-1][1], quoted[-1].start(), quoted[-1].end()
    lines = [line for line in text.strip().splitlines() if line.strip()]
    for line in (lines[-1:] + lines[:1]) if len(lines) > 1 else []:
        last = sentences(line)[-1]
        last = last if last in line else line.strip()
        if re.search(r"[?？]\s*$", last) or _SUMMARY.search(last):
            return last, text.rfind(last), text.rfind(last) + len(last)
    return "", len(text), len(text)


def _block(text: str, at: int, end: int) -> str:
    """Give the context: between tags or lines of signs, else after a label, else the rest."""
    tagged = [match[2] for match in _TAGGED.finditer(text)]
    if tagged:
        return "\n".join(tagged).strip()
    fences = list(_FENCE.finditer(text))
    if len(fences) > 1:
        between = [text[one.end() : two.start()].strip() for one, two in pairwise(fences)]
        return max(between, key=len)
    before, after = text[:at], text[end:]
    label = next((match for match in _LABEL.finditer(before) if len(before) - match.end() > 20), None)
    if label:
        return before[label.end() :].strip()
    rest = max(before, after, key=len).strip()
    return rest if len(stems(rest)) > 25 and end > at else ""
