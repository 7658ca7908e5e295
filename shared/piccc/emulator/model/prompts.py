"""Prompts of the frameworks that tell in words which form the reply must take.

`reply` sees every conversation before the general rules of `respond`. What stands here is the frameworks' own
wording: it grows with them, and is no part of the rules.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from piccc.emulator.conversation import ModelRequest
from piccc.emulator.model.context import STOPWORDS, answered, rarity, stems
from piccc.emulator.model.schema import is_schema, json_objects, mapping

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


_SHORTEST = 40  # no prompt of a framework has fewer characters; people's words often have


def reply(request: ModelRequest) -> str | None:
    """Reply to a prompt whose form is known; None when it is not."""
    users = [turn for turn in request.turns if turn.role == "user"]
    if not users or request.tools or request.schema is not None or request.json_mode:
        return None
    text = users[-1].text
    if len(text) < _SHORTEST:
        return None
    return next((said for form in _FORMS if (said := form(text))), None) or _passages_ranked(request) or None


def schema_in(text: str) -> dict[str, Any] | None:
    """Return the last JSON Schema of an object that a text writes out."""
    if "{" not in text:
        return None
    text = _plain(text)
    found = [one for one, _, _ in json_objects(text)] if re.search(r"(?i)\bjson\b", text) else []
    return next((one for one in reversed(found) if is_schema(one)), None)


def without_schema(text: str) -> str:
    """Return a prompt without the schema that it quotes and the lines that introduce it."""
    text = _plain(text)
    for _, start, end in reversed([*json_objects(text)] if schema_in(text) else []):
        text = text[:start] + "schema" + text[end:]
    return "\n".join(
        line for line in text.splitlines() if not re.search(r"(?i)json|schema|```", line)
    ).strip()


def _plain(text: str) -> str:
    """Undo the braces that LlamaIndex doubles in the schema of `LLMTextCompletionProgram`."""
    doubled = re.search(r"JSON schema to follow:\n\{\{", text) is not None
    return text.replace("{{", "{").replace("}}", "}") if doubled else text


def ranked(text: str) -> list[tuple[int, str]]:
    """Give the numbered choices of a prompt with their words, the one that fits its question best first."""
    choices = [(int(match[1]), match[2].strip()) for match in _CHOICE.finditer(text)]
    question = _ABOUT.search(text)
    if not choices or question is None:
        return []
    scores = _scores(question[1], dict(choices))
    most = next((int(one) for match in _MOST.finditer(text) for one in match.groups() if one), 1)
    order = sorted(choices, key=lambda choice: (-scores[choice[0]], choice[0]))
    return [order[0], *(one for one in order[1:most] if scores[one[0]] > 0.5 * scores[order[0][0]])]


def _scores(question: str, texts: dict[int, str]) -> dict[int, float]:
    """Weigh how much each text shares with a question; rare words count most."""
    weights, wanted = rarity(list(texts.values())), {*stems(question)}
    return {
        at: math.fsum(weights[one] for one in sorted(wanted & {*stems(text)})) for at, text in texts.items()
    }


def selection(text: str, parameters: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the arguments of LlamaIndex's `SingleSelection` or `MultiSelection` for its prompt."""
    chosen = [{"index": number, "reason": f"It fits best: {words}"} for number, words in ranked(text)]
    names = {*mapping(parameters, "properties")}
    single = chosen[0] if chosen and names == {"index", "reason"} else None
    return {"selections": chosen} if chosen and names == {"selections"} else single


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
    if not re.search(r"\b(?:either )?YES or NO\b|\bYES/ ?NO\b", text):
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
    claim = next((one for one in reversed(told) if one.strip()), "")
    return "YES" if _holds(given[-1], claim) else "NO"


def _holds(context: str, claim: str) -> bool:
    """Return whether a context has all words of a claim; of a long one, a word may be another."""
    words = {*stems(claim)}
    missing = words - {*stems(context)}
    return (
        bool(words) and len(missing) <= len(words) // 8 and not any(re.search(r"\d", one) for one in missing)
    )


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


def _consulted(text: str) -> str:
    """Give LlamaIndex's `Doc: 9, Relevance: 7` for the documents that share words with the question."""
    if "Doc: 9, Relevance: 7" not in text:
        return ""
    shown = text.split("Let's try this now:")[-1]
    listed = re.findall(r"(?ms)^Document (\d+):\s*(.*?)(?=^Document \d+:|^Question: )", shown)
    scores = _scores(shown.rpartition("Question: ")[2], {int(number): words for number, words in listed})
    top = max(scores.values(), default=0.0)
    order = sorted((at for at in scores if scores[at] > 0.3 * top), key=lambda at: -scores[at])
    return "\n".join(f"Doc: {at}, Relevance: {max(1, round(10 * scores[at] / top))}" for at in order)


def _passages_ranked(request: ModelRequest) -> str:
    """Give RankGPT's `[2] > [1]` for the passages, one a message."""
    users = [turn.text for turn in request.turns if turn.role == "user"]
    asked = re.match(r"Search Query: (.*?)\. ?\nRank the \d+ passages above", users[-1], re.DOTALL)
    shown = (
        [match for text in users[:-1] if (match := re.match(r"(?s)\[(\d+)\] (.*)", text))] if asked else []
    )
    scores = _scores(asked[1] if asked else "", {int(match[1]): match[2] for match in shown})
    return " > ".join(f"[{at}]" for at in sorted(scores, key=lambda at: -scores[at]))


_CORRECTNESS = re.compile(r"(?s)## User Query\n(.*)\n## Reference Answer\n(.*)\n## Generated Answer\n(.*)")


def _graded(text: str) -> str:
    """Give LlamaIndex's correctness: a line with a score from 1 to 5, then the reason."""
    if not (parts := _CORRECTNESS.search(text)):
        return ""
    query, reference, said = parts.groups()
    if _holds(f"{query} {reference}", said) and stems(said):
        return "5.0\nThe answer says what the reference says."
    shared = {*stems(said)} & {*stems(f"{query} {reference}")}
    return "2.0\nThe answer differs from the reference." if shared else "1.0\nThe answer is not relevant."


def _scored(text: str) -> str:
    """Give LlamaIndex's `[RESULT]` for the relevance of a response (of 2) or of a context (of 4)."""
    parts = re.search(r"(?s)Query: ?\n (.*?)\n(Response|Context): ?\n (.*)\nFeedback:$", text.strip())
    if not parts or "[RESULT]" not in text:
        return ""
    wanted = {*stems(parts[1])}
    part = len(wanted & {*stems(parts[3])}) / max(len(wanted), 1)
    points = (part > 0) + (part >= 0.5)
    return f"The {parts[2].lower()} shares {part:.0%} of the query's words. [RESULT] " + (
        f"{2.0 * points}" if parts[2] == "Context" else f"{points}"
    )


_ANSWERS = r"\[The Start of Assistant {0}.s Answer\]\s*(.*?)\s*\[The End of Assistant {0}.s Answer\]"


def _compared(text: str) -> str:
    """Give LlamaIndex's `[[A]]`, `[[B]]` or `[[C]]`: the answer that keeps closer to the reference."""
    answers = [re.search(_ANSWERS.format(name), text, re.DOTALL) for name in "AB"]
    told = text.partition("[The Start of Assistant A")[0]
    marks = [
        (_holds(told, one[1]), len({*stems(told)} & {*stems(one[1])})) for one in answers if one is not None
    ]
    if len(marks) < 2:
        return ""
    winner = "C" if marks[0] == marks[1] else "AB"[marks[1] > marks[0]]
    return f"Compared by the words that they share with the question and the reference. [[{winner}]]"


_FORMS = (
    *(_selected, _sub_questions, _consulted, _graded, _scored, _compared),
    *(_verdict, _labelled, _queries, _standalone, _refined, _cited),
)
