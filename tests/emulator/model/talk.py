"""Asks in few words: tools from a line, and a conversation carried on to its end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from piccc.emulator.conversation import Completion, ModelCall, ModelMessage, ModelRequest, Tool
from piccc.emulator.model import RuleModel

MODEL = RuleModel()
TEXT: dict[str, Any] = {"type": "string"}
WHOLE: dict[str, Any] = {"type": "integer"}
NUMBER: dict[str, Any] = {"type": "number"}
SWITCH: dict[str, Any] = {"type": "boolean"}
TEXTS: dict[str, Any] = {"type": "array", "items": TEXT}


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
        city=TEXT,
        unit=one_of("celsius", "fahrenheit"),
    ),
    tool(
        "create_image",
        "Create a picture with Piccc.",
        "prompt",
        prompt=TEXT,
        aspect_ratio=RATIO,
        resolution=SIZE,
        n=WHOLE,
    ),
    tool(
        "create_video",
        "Create a film with Piccc, from words or from an image.",
        "prompt",
        prompt=TEXT,
        duration_seconds=WHOLE,
        aspect_ratio=RATIO,
        with_audio=SWITCH,
        image_url=TEXT,
    ),
    tool("add", "Add two numbers.", "a b", a=WHOLE, b=WHOLE),
    tool("subtract", "Subtract the second number from the first.", "a b", a=WHOLE, b=WHOLE),
    tool("multiply", "Multiply two numbers.", "a b", a=WHOLE, b=WHOLE),
    tool("translate", "Translate a text.", "text target_language", text=TEXT, target_language=TEXT),
    tool("search_docs", "Search the documentation.", "query", query=TEXT, top_k=WHOLE),
    tool(
        "send_email",
        "Send an email.",
        "to subject body",
        to={**TEXT, "format": "email"},
        subject=TEXT,
        body=TEXT,
    ),
    tool(
        "create_event",
        "Put an event into the calendar.",
        "title date",
        title=TEXT,
        date={**TEXT, "format": "date"},
        time=TEXT,
        attendees=TEXTS,
    ),
    tool(
        "book_flight",
        "Book a flight.",
        "origin destination",
        origin=TEXT,
        destination=TEXT,
        passengers=WHOLE,
        date=TEXT,
    ),
    tool("set_timer", "Set a timer.", "minutes", minutes=WHOLE),
    tool("get_task", "Look up the status of a task.", "task_id", task_id=TEXT),
    tool(
        "convert_currency",
        "Convert an amount of money.",
        "amount from_currency to_currency",
        amount=NUMBER,
        from_currency=TEXT,
        to_currency=TEXT,
    ),
    tool("read_file", "Read a file from disk.", "path", path=TEXT),
)


def ask(text: str, **more: Any) -> Completion:
    return MODEL.answer(ModelRequest("piccc-pro", (ModelMessage("user", text),), **more))


def calls(text: str, tools: tuple[Tool, ...] = TOOLS, **more: Any) -> list[tuple[str, dict[str, Any]]]:
    return [(call.name, call.arguments) for call in ask(text, tools=tools, **more).calls]


def carry_on(
    text: str, result: Callable[[ModelCall], str], tools: tuple[Tool, ...] = TOOLS, **more: Any
) -> tuple[list[list[tuple[str, dict[str, Any]]]], str]:
    """Answer every call with its result until the model says something: the rounds of calls, and the text."""
    turns = [ModelMessage("user", text)]
    rounds: list[list[tuple[str, dict[str, Any]]]] = []
    for _ in range(10):
        answer = MODEL.answer(ModelRequest("piccc-pro", tuple(turns), tools=tools, **more))
        if not answer.calls:
            return rounds, answer.text
        rounds.append([(call.name, call.arguments) for call in answer.calls])
        turns.append(ModelMessage("assistant", calls=answer.calls))
        turns += [ModelMessage("tool", result(call), call_id=call.id) for call in answer.calls]
    raise AssertionError(f"no end after {len(rounds)} rounds")
