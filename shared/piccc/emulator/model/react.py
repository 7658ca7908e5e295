"""ReAct prompts: parsing them into requests with tools, and formatting the answers."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

from piccc.emulator.conversation import Completion, ModelCall, ModelMessage, ModelRequest, Tool
from piccc.emulator.model.schema import is_schema, json_objects

_FORM = re.compile(r"^[ \t]*Action:[ \t]*(.*)\n\s*Action Input:[ \t]*(.*)$", re.MULTILINE)
_NAMES = re.compile(r"one of(?: the following)?:?\s*[\[(]?([\w, .'\"`-]+)")
_STEP = re.compile(
    r"(?s)Action:[ \t]*(?P<name>[^\n]+)\n\s*Action Input:[ \t]*(?P<input>.*?)\n[ \t]*Observation:[ \t]*"
    r"(?P<seen>.*?)(?=\n[ \t]*(?:Thought|Action|Question)[ \t]*:|\Z)"
)
_ENDS = r"(.*?)(?=\n[ \t]*>?[ \t]*Tool Name:|\n[ \t]*\n|\n[\w.-]+[ \t]*[:(]|\Z)"
_TYPES = {"int": "integer", "float": "number", "bool": "boolean"}


def react_request(request: ModelRequest) -> tuple[ModelRequest, str] | None:
    """Parse a ReAct prompt into the equivalent request with tools, and its instructions."""
    texts = (turn.text for turn in request.turns if turn.role in ("system", "user"))
    told = next((text for text in texts if _FORM.search(text)), None)
    if told is None or request.tools:
        return None
    tools, turns = _tools(told), _turns(request, told)
    meant = replace(request, tools=tools, turns=turns, parallel_tool_calls=False, stop=(), max_tokens=None)
    return (meant, told) if tools and turns else None


def react_reply(answer: Completion, told: str) -> str:
    """Format an answer as the instructions require."""
    if not answer.calls:
        label = "Final Answer" if "Final Answer:" in told else "Answer"
        return f"Thought: I can answer without using any more tools.\n{label}: {answer.text}"
    [call] = answer.calls
    form = _FORM.search(told)
    plain = len(call.arguments) == 1 and form is not None and "json" not in form[2].lower()
    given: Any = next(iter(call.arguments.values())) if plain else call.arguments
    text = given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)
    return f"Thought: I need to use a tool to answer the question.\nAction: {call.name}\nAction Input: {text}"


def _tools(told: str) -> tuple[Tool, ...]:
    """Return the tools described in the instructions."""
    form, found = _FORM.search(told), dict[str, Tool]()
    names = _NAMES.search(form[1]) if form else None
    for part in re.split(r",|\bor\b", names[1]) if names else ():
        name = part.strip(" .'\"`")
        at = (
            re.search(rf"(?ms)(?:Tool Name:\s*|^[>\t *-]*){re.escape(name)}\b{_ENDS}", told) if name else None
        )
        if at:
            schemas = (one for one, _, _ in json_objects(at[1]) if is_schema(one))
            plain = re.sub(r"(?s)\{.*\}|Tool (?:Description|Args):", " ", at[1]).strip(" :-\n")
            listed = re.match(r"\(([^)]*)\)", at[1])  # `name(city: str, days: int = 3)`
            given = re.findall(r"(\w+)\s*:\s*(\w+)([^,]*)", listed[1] if listed else "input: str")
            parts = {one: {"type": _TYPES.get(kind, "string")} for one, kind, _ in given}
            required = [one for one, _, rest in given if "=" not in rest]
            plainest = {"type": "object", "properties": parts, "required": required}
            found[name] = Tool(name, plain, next(schemas, plainest))
    return tuple(found.values())


def _turns(request: ModelRequest, told: str) -> tuple[ModelMessage, ...]:
    """Return the question, and the previous steps as calls and results."""
    question, since = "", told.split("Begin!")[-1]
    for turn in (one for one in request.turns if one.role != "system" and one.text != told):
        if turn.role == "user" and not turn.text.lstrip().startswith("Observation:"):
            question, since = turn.text, ""
        else:
            since += f"\n{turn.text}"
    labelled = re.findall(r"(?:Question|Query|Input|Human)\s*:[ \t]*(.+)", since)
    question = question or (labelled[-1] if labelled else "")
    turns = [ModelMessage("user", question)] if question else []
    for number, step in enumerate(_STEP.finditer(since)):
        given = next((one for one, _, _ in json_objects(step["input"])), {"input": step["input"].strip()})
        call = ModelCall(f"step_{number}", step["name"].strip(), given)
        turns.append(ModelMessage("assistant", calls=(call,)))
        turns.append(ModelMessage("tool", step["seen"].strip(), call_id=call.id))
    return tuple(turns)
