"""Prompts of the frameworks that tell in words which form the reply must take.

`reply` sees every conversation before the general rules of `respond`. What stands here is the frameworks' own
wording: it grows with them, and is no part of the rules.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from piccc.emulator.conversation import ModelRequest
from piccc.emulator.model.context import STOPWORDS, answered, rarity, stems
from piccc.emulator.model.jsontext import json_objects
from piccc.emulator.model.schema import is_schema

_CHOICE = re.compile(
    r"^[ \t]*\((\d{1,9})\)\s*(.+?)(?=\n[ \t]*\(\d+\)|\n-{3,}|\n\n\n|\Z)", re.MULTILINE | re.DOTALL
)
_ABOUT = re.compile(
    r"\b(?:question|query)\s*(?:[:：]\s*)?['\"“](.+?)['\"”]\s*$", re.IGNORECASE | re.MULTILINE
)
_MOST = re.compile(r"no more than (\d{1,9})|up to (\d{1,9})|top (\d{1,9})", re.IGNORECASE)
_LABELLED = re.compile(r"format:?\s*['\"“](\w+):\s*<(\w+)>['\"”]", re.IGNORECASE)
_QUERIES = re.compile(r"\bgenerate (\d{1,9}) (?:search )?(?:queries|questions)\b", re.IGNORECASE)
_STANDALONE = re.compile(
    r"<?(?:follow[ -]?up|new) (?:input|message|question)>?(?:\s*:[ \t]*|[ \t]*\n)(\S.*?)\s*$",
    re.IGNORECASE | re.MULTILINE,
)


def reply(request: ModelRequest) -> str | None:
    """Reply to a prompt whose form is known; None when it is not."""
    users = [turn for turn in request.turns if turn.role == "user"]
    if not users or request.tools or request.schema is not None or request.json_mode:
        return None
    forms = (_selected, _sub_questions, _verdict, _labelled, _queries, _standalone, _refined, _cited)
    return next((said for form in forms if (said := form(users[-1].text))), None)


def schema_in(text: str) -> dict[str, Any] | None:
    """Return the last JSON Schema of an object that a text writes out."""
    found = [one for one, _, _ in json_objects(text)] if re.search(r"(?i)\bjson\b", text) else []
    return next((one for one in reversed(found) if is_schema(one)), None)


def without_schema(text: str) -> str:
    """Return a prompt without the schema that it quotes and the lines that introduce it."""
    for _, start, end in reversed([*json_objects(text)] if schema_in(text) else []):
        text = text[:start] + "schema" + text[end:]
    return "\n".join(
        line for line in text.splitlines() if not re.search(r"(?i)json|schema|```", line)
    ).strip()


def ranked(text: str) -> list[tuple[int, str]]:
    """Give the numbered choices of a prompt with their words, the one that fits its question best first."""
    choices = [(int(match[1]), match[2].strip()) for match in _CHOICE.finditer(text)]
    question = _ABOUT.search(text)
    if not choices or question is None:
        return []
    weights = rarity([words for _, words in choices])
    wanted = set(stems(question[1]))
    scores = {
        number: math.fsum(weights[word] for word in wanted & set(stems(words))) for number, words in choices
    }
    most = next((int(one) for match in _MOST.finditer(text) for one in match.groups() if one), 1)
    order = sorted(choices, key=lambda choice: (-scores[choice[0]], choice[0]))
    return [order[0], *(one for one in order[1:most] if scores[one[0]] > 0.5 * scores[order[0][0]])]


def _selected(text: str) -> str:
    chosen = ranked(text)
    if not chosen:
        return ""
    reasons = [(number, f"It fits the question best: {words.rstrip('.')}.") for number, words in chosen]
    if re.search(r"\"?choice\"?\s*:", text):
        return json.dumps(
            [{"choice": number, "reason": reason} for number, reason in reasons], ensure_ascii=False
        )
    numbers = ", ".join(str(number) for number, _ in reasons)
    label = re.search(r"['\"“](\w+):\s*<numbers?>", text)
    return f"{label[1]}: {numbers}\n{reasons[0][1]}" if label else f"{numbers}. {reasons[0][1]}"


def _sub_questions(text: str) -> str:
    """ModelRequest each tool that a prompt lists as JSON, in the form of the prompt's own example."""
    objects = [one for one, _, _ in json_objects(text)]
    examples = [(key, rows[0]) for one in objects for key, rows in one.items() if _is_rows(rows)]
    offered = [one for one in objects if one and all(isinstance(value, str) for value in one.values())]
    if not examples or not offered:
        return ""
    key, row = examples[-1]
    tool = next((name for name in row if "tool" in name.lower()), None)
    asked = next((name for name in row if name != tool), None)
    question = _last_question(text)
    if tool is None or asked is None or not question:
        return ""
    rows = [{asked: part, tool: name} for name, part in _shared_out(offered[-1], question)]
    return f"```json\n{json.dumps({key: rows}, ensure_ascii=False, indent=4)}\n```"


def _is_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def _shared_out(tools: dict[str, str], question: str) -> Iterator[tuple[str, str]]:
    """Give each tool that a question speaks of, and the question put to it."""
    weights = rarity([f"{name} {told}" for name, told in tools.items()])
    wanted = set(stems(question))
    scores = {
        name: math.fsum(weights[word] for word in wanted & set(stems(f"{name} {told}")))
        for name, told in tools.items()
    }
    top = max(scores.values())
    for name in tools:
        if scores[name] >= 0.5 * top:
            own = (wanted & set(stems(name))) if len(tools) > 1 else set()
            focus = next((word for word in re.findall(r"\w+", question) if set(stems(word)) & own), "")
            yield name, f"{question.rstrip(' ?？.')} ({focus})?" if focus and top > 0 else question


def _last_question(text: str) -> str:
    labelled = re.findall(r"<?(?:user )?question>?\s*(?:[:：]\s*)?(\S.*)", text, re.IGNORECASE)
    return labelled[-1].strip() if labelled else ""


def _verdict(text: str) -> str:
    """Say YES or NO when one of both is asked for: whether the context holds the information's words."""
    if not re.search(r"\b(?:either )?YES or NO\b|\bYES/NO\b", text):
        return ""
    told = re.findall(
        r"(?:^|\n)(?:information|statement|response|answer|claim|query and response)"
        r"\s*:\s*(.+?)(?=\n[ \t]*\w+[ \t]*:|\Z)",
        text,
        re.IGNORECASE | re.DOTALL,
    )
    given = re.findall(
        r"(?:^|\n)context\s*:\s*(.+?)(?=\n[ \t]*(?:answer|information)[ \t]*:|\Z)",
        text,
        re.IGNORECASE | re.DOTALL,
    )
    if not told or not given:
        return ""
    claim = set(stems(next((one for one in reversed(told) if one.strip()), "")))
    return "YES" if claim and len(claim & set(stems(given[-1]))) * 2 >= len(claim) else "NO"


def _labelled(text: str) -> str:
    match = _LABELLED.search(text)
    if not match or "keyword" not in match[2].lower():
        return ""
    blocks = [block for block in re.split(r"-{5,}", text) if block.strip()]
    body = blocks[1] if len(blocks) > 1 else text
    most = next((int(one) for found in _MOST.finditer(text) for one in found.groups() if one), 10)
    words = [word.lower() for word in re.findall(r"[^\W\d_]{3,}", body) if word.lower() not in STOPWORDS]
    return f"{match[1]}: {', '.join(word for word, _ in Counter(words).most_common(most))}"


def _queries(text: str) -> str:
    match = _QUERIES.search(text)
    asked = re.findall(r"(?:query|question)[ \t]*:[ \t]*(\S.*?)\s*$", text, re.IGNORECASE | re.MULTILINE)
    if not match or not asked:
        return ""
    plain = asked[-1].rstrip("?？. ")
    ways = (
        "{}",
        "{} explained",
        "{} example",
        "{} reference",
        "how to: {}",
        "{} overview",
        "{} best practice",
        "{} in detail",
    )
    return "\n".join(ways[at % len(ways)].format(plain) for at in range(min(int(match[1]), 50)))


def _standalone(text: str) -> str:
    asked = _STANDALONE.findall(text)
    return asked[-1] if asked and re.search(r"standalone", text, re.IGNORECASE) else ""


_EXISTING = re.compile(r"(?i)(?:existing|original) answer\s*[:：]\s*(\S.*)")


def _refined(text: str) -> str:
    """Refine an answer: keep it, unless the new context shares more with the question."""
    existing = _EXISTING.search(text)
    question, said = answered(text) if existing else ("", "")
    if not existing or not question:
        return ""
    shared = [len({*stems(question)} & {*stems(one)}) for one in (said, existing[1])]
    return said if shared[0] > shared[1] else existing[1].strip()


def _cited(text: str) -> str:
    """Answer with the number of the source, where sources are numbered and citations asked for."""
    sources = re.findall(
        r"(?ms)^(?:Source|Document) (\d+):\s*(.*?)(?=^(?:Source|Document) \d+:|^---|\Z)", text
    )
    if not sources or not re.search(r"(?i)\bcit(?:e|ing|ation)", text):
        return ""
    _, said = answered(text)
    own = next((number for number, words in reversed(sources) if said and said in words), "")
    return f"{said} [{own}]" if own else said
