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
from dataclasses import replace
from itertools import pairwise
from typing import Any

from piccc.emulator.conversation import Completion, ModelCall, ModelMessage, ModelRequest, Tool
from piccc.emulator.model.context import STOPWORDS, SUMMARY, best_sentences, is_wide, rarity, stems
from piccc.emulator.model.schema import flaw

_CHOICE = re.compile(
    r"^[ \t]*\((\d{1,9})\)\s*(.+?)(?=\n[ \t]*\(\d+\)|\n-{3,}|\n\n\n|\Z)", re.MULTILINE | re.DOTALL
)
_ABOUT = re.compile(
    r"\b(?:question|query)\s*(?:[:：]\s*)?['\"“](.+?)['\"”]\s*$", re.IGNORECASE | re.MULTILINE
)
_MOST = re.compile(r"no more than (\d{1,9})|up to (\d{1,9})|top (\d{1,9})", re.IGNORECASE)
_LABELLED = re.compile(r"format:?\s*['\"“](\w+):\s*<(\w+)>['\"”]", re.IGNORECASE)
_QUERIES = re.compile(r"\bgenerate (\d{1,9}) (?:search )?(?:queries|questions)\b", re.IGNORECASE)
# `keys for each city` names none; what is introduced may be any word: `keys: from, to`.
_KEYS = re.compile(
    r"\b(?:keys?|fields?|properties)\b"
    rf"(?:\s*(?:\b(?:named|called|are)\b|[:：])\s*|\s+(?!(?:{'|'.join(sorted(STOPWORDS))})\b))"
    r"((?:\w+(?:,\s*(?:and\s+)?|\s+and\s+)?)+)",
    re.IGNORECASE,
)
_STANDALONE = re.compile(
    r"<?(?:follow[ -]?up|new) (?:input|message|question)>?(?:\s*:[ \t]*|[ \t]*\n)(\S.*?)\s*$",
    re.IGNORECASE | re.MULTILINE,
)


def reply(request: ModelRequest) -> str | None:
    """Reply to a prompt whose form is known; None when it is not."""
    users = [turn for turn in request.turns if turn.role == "user"]
    if not users or request.tools or request.schema is not None or request.json_mode:
        return None
    forms = (_selected, _sub_questions, _verdict, _labelled, _queries, _standalone)
    return next((said for form in forms if (said := form(users[-1].text))), None)


def json_value(text: str, at: int = 0) -> tuple[Any, int]:
    """Return the JSON value at a place of a text and its end; raise ValueError where there is none.

    Numbers that JSON cannot write again and values that nest deeper than 50 levels are none.
    """
    try:
        value, end = json.JSONDecoder(parse_float=_finite, parse_constant=_finite).raw_decode(text, at)
    except RecursionError as error:
        raise ValueError("The JSON nests too deep.") from error
    level = [value]
    for _ in range(50):
        level = [one for one in level if isinstance(one, dict | list)]
        level = [inner for one in level for inner in (one.values() if isinstance(one, dict) else one)]
    if level:
        raise ValueError("The JSON nests too deep.")
    return value, end


def _finite(figure: str) -> float:
    if math.isfinite(value := float(figure)):
        return value
    raise ValueError(f"{figure} cannot be written as JSON.")


def json_or_text(text: str) -> Any:
    """Return the JSON value that a text is, or the text."""
    try:
        value, end = json_value(text := text.strip())
    except ValueError:
        return text
    return value if end == len(text) else text


def objects_in(text: str) -> list[dict[str, Any]]:
    """Return every JSON object within a text that is JSON, outermost first."""
    found = [json_or_text(text)]
    for one in found:  # it grows while it is read
        found += one.values() if isinstance(one, dict) else one if isinstance(one, list) else ()
    return [one for one in found if isinstance(one, dict)]


def json_objects(text: str) -> Iterator[tuple[dict[str, Any], int, int]]:
    """Yield the JSON objects that stand in a text with their places, outermost only."""
    end = 0
    for brace in re.finditer("{", text):
        if brace.start() >= end:
            try:
                value, end = json_value(text, brace.start())
            except ValueError:
                continue
            yield value, brace.start(), end


def schema_in(text: str) -> dict[str, Any] | None:
    """Give the last JSON Schema of an object that is written out in a text."""
    if not re.search(r"\bjson\b", text, re.IGNORECASE):
        return None
    shaped = [
        one for one, _, _ in json_objects(text) if isinstance(one.get("properties"), dict) and not flaw(one)
    ]
    return shaped[-1] if shaped else None


def without_schema(text: str) -> str:
    """Return a prompt without the schema that it quotes and the lines that introduce it."""
    if schema_in(text) is None:
        return text
    for _, start, end in reversed(list(json_objects(text))):
        text = text[:start] + text[end:]
    kept = [line for line in text.splitlines() if not re.search(r"json|schema|```", line, re.IGNORECASE)]
    return "\n".join(kept).strip()


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


def keys_in(text: str) -> list[str]:
    """Give the keys that a prompt names for a JSON object: the quoted words, else the words after `keys`."""
    quoted = re.findall(r"[\"'`“]([A-Za-z_]\w{0,40})[\"'`”]", text)
    if quoted:
        return list(dict.fromkeys(quoted))[:50]
    named = _KEYS.search(text)
    words = re.split(r",\s*(?:and\s+)?|\s+and\s+|\s+", named[1]) if named else []
    return [word for word in dict.fromkeys(words) if word]


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


_QUESTION = re.compile(
    r"^[ \t]*[#*<\[]*(?:the |original |user )*(?:query|question|问题)(?: is)?(?: as follows)?"
    r"[\]>*]*[ \t]*[:：\n]"
    r"[ \t]*([^\s<{].*)",
    re.IGNORECASE | re.MULTILINE,
)
_FENCE = re.compile(r"^[ \t]*(?:-{3,}|={3,}|\"{3}|#{3,}|\*{3,})[ \t]*$", re.MULTILINE)
_TAGGED = re.compile(
    r"<(context|documents?|sources?|text|passage)\b[^>]*>(.*?)</\1>", re.IGNORECASE | re.DOTALL
)
_LABEL = re.compile(
    r"(?:^|\n)[^\n]{0,300}?(?:\b(?:context|documents?|sources?|passages?|text)\b|上下文|资料)[^\n:：]{0,120}"
    r"(?:[:：][ \t]|[:：.。]?[ \t]*\n)",
    re.IGNORECASE,
)
_EXISTING = re.compile(r"(?:existing|original) answer\s*[:：]\s*(\S.*)", re.IGNORECASE)


def from_context(text: str, system: str = "") -> str:
    """Answer from the context that a prompt or the system message gives; "" when neither gives one.

    Recognised are the prompts of retrieval: a context between tags or lines of dashes or after a label such
    as `Context:`, with a question; an existing answer to refine; a text to summarise.
    """
    question, rest = _question(text)
    context = _block(rest) if question else ""
    if not context and SUMMARY.search(text[:200]):
        question, _, context = re.split(r"(\n|：|:\s)", f"{text}\n", maxsplit=1)
    cites = re.search(r"\bcit(?:e|ing|ation)|引用", f"{system} {text}", re.IGNORECASE) is not None
    if not context.strip():
        return best_sentences(text, _block(system), cites=cites)
    said = best_sentences(question, context, cites=cites)
    if existing := _EXISTING.search(text):
        shared = [len(set(stems(question)) & set(stems(one))) for one in (said, existing[1])]
        return said if shared[0] > shared[1] else existing[1].strip()
    return said or ("给出的内容没有提到这一点。" if is_wide(question) else "The context does not say.")


def _question(text: str) -> tuple[str, str]:
    """Return the question, labelled or as the last or first line, and the text without it."""
    if labelled := list(_QUESTION.finditer(text)):
        last = labelled[-1]
        return last[1].strip(), max(text[: last.start()], text[last.end() :], key=len)
    lines = [line for line in text.strip().splitlines() if line.strip()]
    for line in (lines[-1], lines[0]) if len(lines) > 1 else ():
        if re.search(r"[?？]\s*$", line) or SUMMARY.search(line):
            return line.strip(), text.replace(line, "", 1)
    return "", text


def _block(text: str) -> str:
    """Return the context in a prompt: between tags or lines of signs, after a label, or the whole if long."""
    if tagged := [match[2] for match in _TAGGED.finditer(text)]:
        return "\n".join(tagged)
    fences = list(_FENCE.finditer(text))
    if len(fences) > 1:
        return max((text[one.end() : two.start()] for one, two in pairwise(fences)), key=len).strip()
    label = next((match for match in _LABEL.finditer(text) if len(text) - match.end() > 20), None)
    return text[label.end() :].strip() if label else text if len(stems(text)) > 25 else ""


_REACT_FORM = re.compile(r"^[ \t]*Action:[ \t]*(.*)\n\s*Action Input:[ \t]*(.*)$", re.MULTILINE)
_REACT_STEP = re.compile(
    r"Action:[ \t]*(?P<name>[^\n]+)\n\s*Action Input:[ \t]*(?P<input>.*?)"
    r"\n[ \t]*Observation:[ \t]*(?P<seen>.*?)(?=\n[ \t]*(?:Thought|Action|Question)[ \t]*:|\Z)",
    re.DOTALL,
)
_REACT_NAMES = re.compile(
    r"one of(?: (?:the|these|following|available|tools?|actions?)\b)*:?\s*([\[(]?)\s*([\w, .'\"`-]+)"
)
_TYPES = {"int": "integer", "float": "number", "bool": "boolean"}
_TEXT: dict[str, Any] = {"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]}


def react_request(request: ModelRequest) -> tuple[ModelRequest, str] | None:
    """Read a ReAct prompt as the request with tools that it stands for, and the text of its instructions."""
    texts = (turn.text for turn in request.turns if turn.role in ("system", "user"))
    told = next((text for text in texts if _REACT_FORM.search(text)), None)
    if told is None or request.tools:
        return None
    tools, turns = _react_tools(told), _react_turns(request, told)
    if not tools or not turns:
        return None
    return replace(
        request, tools=tools, turns=turns, parallel_tool_calls=False, stop=(), max_tokens=None
    ), told


def react_reply(answer: Completion, told: str) -> str:
    """Write an answer in the form that the instructions ask for."""
    if not answer.calls:
        label = "Final Answer" if "Final Answer:" in told else "Answer"
        return f"Thought: I can answer without using any more tools.\n{label}: {answer.text}"
    [call] = answer.calls
    form = _REACT_FORM.search(told)
    plain = len(call.arguments) == 1 and form is not None and "json" not in form[2].lower()
    given: Any = next(iter(call.arguments.values())) if plain else call.arguments
    text = given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)
    thought = "I need to use a tool to help me answer the question."
    return f"Thought: {thought}\nAction: {call.name}\nAction Input: {text}"


def _react_tools(told: str) -> tuple[Tool, ...]:
    form = _REACT_FORM.search(told)
    listed = _REACT_NAMES.search(form[1]) if form else None
    if listed is None:
        return ()
    found = []
    names = [part.strip(" .'\"`") for part in re.split(r",|\bor\b|\band\b", listed[2].split(" if ")[0])]
    for name in filter(None, dict.fromkeys(names)):
        at = re.search(
            rf"(?:Tool Name:\s*|^[>\t *-]*){re.escape(name)}\b"
            r"(.*?)(?=\n[ \t]*>?[ \t]*Tool Name:|\n[ \t]*\n|\n[\w.-]+[ \t]*[:(]|\Z)",
            told,
            re.MULTILINE | re.DOTALL,
        )
        if at is None and (not listed[1] or " " in name):
            continue  # without brackets it may be a word of a sentence
        words = at[1] if at else ""
        schemas = (one for one, _, _ in json_objects(words) if "properties" in one and not flaw(one))
        plain = re.sub(r"\{.*\}|Tool (?:Description|Args):", " ", words, flags=re.DOTALL).strip(" :-\n")
        found.append(Tool(name, plain, next(schemas, {}) or _signature(words)))
    return tuple(found)


def _signature(words: str) -> dict[str, Any]:
    """Read the arguments of `name(city: str, days: int = 3)`; without any, one text."""
    listed = re.match(r"\(([^)]*)\)", words)
    found = re.findall(r"(\w+)\s*:\s*(\w+)([^,]*)", listed[1]) if listed else []
    properties = {name: {"type": _TYPES.get(kind, "string")} for name, kind, _ in found}
    required = [name for name, _, rest in found if "=" not in rest]
    return {"type": "object", "properties": properties, "required": required} if found else _TEXT


def _react_turns(request: ModelRequest, told: str) -> tuple[ModelMessage, ...]:
    """Return the question, and the steps taken so far as calls and results."""
    texts = [(turn.role, turn.text) for turn in request.turns if turn.role != "system" and turn.text != told]
    asking = [
        at
        for at, (role, text) in enumerate(texts)
        if role == "user" and not text.lstrip().startswith("Observation:")
    ]
    if asking:
        question, since = texts[asking[-1]][1], "\n".join(text for _, text in texts[asking[-1] + 1 :])
    else:
        since = re.split(r"\bBegin!", told)[-1]
        question = (re.findall(r"(?:Question|Query|Input|Human)\s*:[ \t]*(.+)", since) or [""])[-1]
    turns = [ModelMessage("user", question)] if question else []
    for number, step in enumerate(_REACT_STEP.finditer(since)):
        given = next((one for one, _, _ in json_objects(step["input"])), {"input": step["input"].strip()})
        call = ModelCall(f"step_{number}", step["name"].strip(), given)
        turns += [
            ModelMessage("assistant", calls=(call,)),
            ModelMessage("tool", step["seen"].strip(), call_id=call.id),
        ]
    return tuple(turns)
