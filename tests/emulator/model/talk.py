"""Helpers for the model tests: compact tools, single questions, and conversations run to the end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from piccc.emulator.conversation import Completion, ModelCall, ModelMessage, ModelRequest, Tool
from piccc.emulator.model import RuleModel

MODEL = RuleModel()
STRING: dict[str, Any] = {"type": "string"}
INTEGER: dict[str, Any] = {"type": "integer"}
NUMBER: dict[str, Any] = {"type": "number"}
BOOLEAN: dict[str, Any] = {"type": "boolean"}
STRINGS: dict[str, Any] = {"type": "array", "items": STRING}


def one_of(*values: str) -> dict[str, Any]:
    return {"type": "string", "enum": list(values)}


def tool(name: str, description: str, required: str = "", **properties: dict[str, Any]) -> Tool:
    return Tool(name, description, {"type": "object", "properties": properties, "required": required.split()})


RATIO, SIZE = one_of("1:1", "16:9", "9:16", "4:3"), one_of("1K", "2K", "4K")
TOOLS = (
    tool(
        "get_weather",
        "Get the current weather in a city.",
        "city",
        city=STRING,
        unit=one_of("celsius", "fahrenheit"),
    ),
    tool(
        "create_image",
        "Create a picture with Piccc.",
        "prompt",
        prompt=STRING,
        aspect_ratio=RATIO,
        resolution=SIZE,
        n=INTEGER,
    ),
    tool(
        "create_video",
        "Create a film with Piccc, from words or from an image.",
        "prompt",
        prompt=STRING,
        duration_seconds=INTEGER,
        aspect_ratio=RATIO,
        with_audio=BOOLEAN,
        image_url=STRING,
    ),
    tool("add", "Add two numbers.", "a b", a=INTEGER, b=INTEGER),
    tool("subtract", "Subtract the second number from the first.", "a b", a=INTEGER, b=INTEGER),
    tool("multiply", "Multiply two numbers.", "a b", a=INTEGER, b=INTEGER),
    tool("translate", "Translate a text.", "text target_language", text=STRING, target_language=STRING),
    tool("search_docs", "Search the documentation.", "query", query=STRING, top_k=INTEGER),
    tool(
        "send_email",
        "Send an email.",
        "to subject body",
        to={**STRING, "format": "email"},
        subject=STRING,
        body=STRING,
    ),
    tool(
        "create_event",
        "Put an event into the calendar.",
        "title date",
        title=STRING,
        date={**STRING, "format": "date"},
        time=STRING,
        attendees=STRINGS,
    ),
    tool(
        "book_flight",
        "Book a flight.",
        "origin destination",
        origin=STRING,
        destination=STRING,
        passengers=INTEGER,
        date=STRING,
    ),
    tool("set_timer", "Set a timer.", "minutes", minutes=INTEGER),
    tool("get_task", "Look up the status of a task.", "task_id", task_id=STRING),
    tool(
        "convert_currency",
        "Convert an amount of money.",
        "amount from_currency to_currency",
        amount=NUMBER,
        from_currency=STRING,
        to_currency=STRING,
    ),
    tool("read_file", "Read a file from disk.", "path", path=STRING),
)


def ask(text: str, **more: Any) -> Completion:
    return MODEL.answer(ModelRequest("piccc-pro", (ModelMessage("user", text),), **more))


def calls(text: str, tools: tuple[Tool, ...] = TOOLS, **more: Any) -> list[tuple[str, dict[str, Any]]]:
    return [(call.name, call.arguments) for call in ask(text, tools=tools, **more).calls]


def converse(
    text: str, result: Callable[[ModelCall], str], tools: tuple[Tool, ...] = TOOLS, **more: Any
) -> tuple[list[list[tuple[str, dict[str, Any]]]], str]:
    """Answer every call until the model returns text; return the rounds of calls and that text."""
    turns = [ModelMessage("user", text)]
    rounds: list[list[tuple[str, dict[str, Any]]]] = []
    for _ in range(10):
        answer = MODEL.answer(ModelRequest("piccc-pro", tuple(turns), tools=tools, **more))
        if not answer.calls:
            return rounds, answer.text
        rounds.append([(call.name, call.arguments) for call in answer.calls])
        turns.append(ModelMessage("assistant", calls=answer.calls))
        turns += [ModelMessage("tool", result(call), call_id=call.id) for call in answer.calls]
    raise AssertionError(f"no final text after {len(rounds)} rounds")
