"""ReAct: prompts that offer tools in their text and want Thought, Action and Action Input back."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

from piccc.emulator.conversation import Completion, ModelCall, ModelMessage, ModelRequest, Tool
from piccc.emulator.model.reading import json_objects
from piccc.emulator.model.schema import flaw

_FORM = re.compile(r"^[ \t]*Action:[ \t]*(.*)\n\s*Action Input:[ \t]*(.*)$", re.MULTILINE)
_STEP = re.compile(
    r"Action:[ \t]*(?P<name>[^\n]+)\n\s*Action Input:[ \t]*(?P<input>.*?)"
    r"\n[ \t]*Observation:[ \t]*(?P<seen>.*?)(?=\n[ \t]*(?:Thought|Action|Question)[ \t]*:|\Z)",
    re.DOTALL,
)
_NAMES = re.compile(
    r"one of(?: (?:the|these|following|available|tools?|actions?)\b)*:?\s*([\[(]?)\s*([\w, .'\"`-]+)"
)


def offered(ask: ModelRequest) -> tuple[ModelRequest, str] | None:
    """Read a ReAct prompt as the ask with tools that it stands for, and the text of its instructions."""
    told = next(
        (turn.text for turn in ask.turns if turn.role in ("system", "user") and _FORM.search(turn.text)), None
    )
    form = _FORM.search(told) if told else None
    if told is None or form is None or ask.tools:
        return None
    tools = _tools(told, form)
    turns = _turns(ask, told)
    return (
        (replace(ask, tools=tools, turns=turns, parallel_tool_calls=False, stop=(), max_tokens=None), told)
        if tools and turns
        else None
    )


def written(answer: Completion, told: str) -> str:
    """Write an answer in the form that the instructions ask for."""
    if not answer.calls:
        label = "Final Answer" if "Final Answer:" in told else "Answer"
        return f"Thought: I can answer without using any more tools.\n{label}: {answer.text}"
    call = answer.calls[0]
    plain = (
        next(iter(call.arguments.values()), "")
        if len(call.arguments) < 2 and not _wants_json(told)
        else call.arguments
    )
    text = plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False)
    thought = "I need to use a tool to help me answer the question."
    return f"Thought: {thought}\nAction: {call.name}\nAction Input: {text}"


def _wants_json(told: str) -> bool:
    form = _FORM.search(told)
    return form is not None and "json" in form[2].lower()


def _tools(told: str, form: re.Match[str]) -> tuple[Tool, ...]:
    found = []
    for name, sure in _listed(form[1]):
        at = re.search(
            rf"(?:Tool Name:\s*|^[>\t *-]*){re.escape(name)}\b"
            r"(.*?)(?=\n[ \t]*>?[ \t]*Tool Name:|\n[ \t]*\n|\n[\w.-]+[ \t]*[:(]|\Z)",
            told,
            re.MULTILINE | re.DOTALL,
        )
        if at is None and not sure:
            continue
        words = at[1] if at else ""
        parameters = next(
            (one for one in json_objects(words) if "properties" in one and not flaw(one)), None
        ) or _signature(words)
        found.append(
            Tool(
                name,
                re.sub(r"\{.*\}|Tool (?:Description|Args):", " ", words, flags=re.DOTALL).strip(" :-\n"),
                parameters,
            )
        )
    return tuple(found)


def _listed(told: str) -> list[tuple[str, bool]]:
    """Give the names of `one of [weather, search]`: sure in brackets, else perhaps words of a sentence."""
    listed = _NAMES.search(told)
    if listed is None:
        return []
    parts = re.split(r",|\bor\b|\band\b", listed[2].split(" if ")[0])
    names = dict.fromkeys(part.strip(" .'\"`") for part in parts)
    return [(name, bool(listed[1]) and " " not in name) for name in names if name]


def _signature(words: str) -> dict[str, Any]:
    """Read the arguments of `name(city: str, days: int = 3)`; without any, one text."""
    listed = re.match(r"\(([^)]*)\)", words)
    found = re.findall(r"(\w+)\s*:\s*(\w+)([^,]*)", listed[1]) if listed else []
    properties = {name: {"type": _TYPES.get(kind, "string")} for name, kind, _ in found}
    required = [name for name, _, rest in found if "=" not in rest]
    return {"type": "object", "properties": properties, "required": required} if found else _SINGLE


_TYPES = {"int": "integer", "float": "number", "bool": "boolean"}
_SINGLE: dict[str, Any] = {
    "type": "object",
    "properties": {"input": {"type": "string"}},
    "required": ["input"],
}


def _turns(ask: ModelRequest, told: str) -> tuple[ModelMessage, ...]:
    """Give the question with the steps taken so far as calls and results."""
    texts = [(turn.role, turn.text) for turn in ask.turns if turn.role != "system" and turn.text != told]
    asking = [
        at
        for at, (role, text) in enumerate(texts)
        if role == "user" and not text.lstrip().startswith("Observation:")
    ]
    if asking:
        question, since = texts[asking[-1]][1], "\n".join(text for _, text in texts[asking[-1] + 1 :])
    else:
        begun = re.split(r"\bBegin!", told)[-1]
        last = re.findall(r"(?:Question|Query|Input|Human)\s*:[ \t]*(.+)", begun)
        question, since = (last[-1] if last else ""), begun
    turns = [ModelMessage("user", question)] if question else []
    for number, step in enumerate(_STEP.finditer(since)):
        call = ModelCall(
            f"step_{number}",
            step["name"].strip(),
            next(iter(json_objects(step["input"])), {"input": step["input"].strip()}),
        )
        turns += [
            ModelMessage("assistant", calls=(call,)),
            ModelMessage("tool", step["seen"].strip(), call_id=call.id),
        ]
    return tuple(turns)
