"""Every reply, in every form of a message, can be sent back to a strict server in both dialects."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from langchain_core.load import dumpd
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    ToolMessage,
    message_to_dict,
    messages_from_dict,
)

from langchain_piccc import ChatPiccc
from piccc.emulator import Emulator, Scripted

pytestmark = pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainBetaWarning")  # v3 is in beta

REPLIES = {
    "text": Scripted("Hello 你好. "),
    "white space": Scripted(" \n"),
    "nothing": Scripted(""),
    "reasoning": Scripted("Four.", reasoning="Two and two."),
    "only reasoning": Scripted(reasoning="Two and", finish_reason="length"),
    "calls": Scripted("I see.", calls=[("look", {"at": "it"}), ("look", {"at": "them"})]),
    "calls with one id": Scripted(
        calls=[("look", {"at": "it"}, "call_0"), ("look", {"at": "them"}, "call_0")]
    ),
    "a truncated call": Scripted(calls=[("look", '{"at": "i')], finish_reason="length"),
    "a malformed call": Scripted(calls=[("look", '{"at": it}')]),
    "a call without a name": Scripted(calls=[("", {"at": "it"})]),
    "a refusal": Scripted(refusal="I will not."),
    "an empty refusal": Scripted(refusal=""),
}


def forms(emulator: Emulator, dialect: Any, reply: Scripted) -> Iterator[tuple[str, BaseMessage]]:
    """Yield the reply in every form of a message."""
    for version in (None, "v1"):
        model = ChatPiccc(
            base_url=emulator.base_url, api_key=emulator.api_key, dialect=dialect, output_version=version
        )
        emulator.script([reply] * 2)
        yield f"invoke {version}", model.invoke("?")
        first, *rest = model.stream("?")
        yield f"stream {version}", first + rest
    emulator.script([reply])
    message = model.stream_events("?", version="v3").output
    yield "events", message
    yield "stored", messages_from_dict([message_to_dict(message)])[0]


@pytest.mark.parametrize("case", REPLIES)
def test_a_reply_can_be_sent_back(own_emulator: Emulator, dialect: Any, case: str) -> None:
    models = [
        ChatPiccc(base_url=own_emulator.base_url, api_key=own_emulator.api_key, dialect=dialect)
        for dialect in ("openai", "anthropic")
    ]
    for form, message in list(forms(own_emulator, dialect, REPLIES[case])):
        assert isinstance(message, AIMessage)
        results = [ToolMessage("seen", tool_call_id=call["id"]) for call in message.tool_calls]
        for model in models:
            assert model.invoke([HumanMessage("?"), message, *results, HumanMessage("Go on.")]), form
        assert dumpd(message)


NON_JSON_ARGUMENTS: list[dict[str, Any]] = [
    {"on": date(2026, 11, 25)},
    {"sum": Decimal("1.50")},
    {"sum": float("nan")},
    {"at": "a\ud83d"},
    {"at": {1, 2}},
]


@pytest.mark.parametrize(
    "arguments",
    NON_JSON_ARGUMENTS,
    ids=[str(arguments)[:20].encode("ascii", "replace").decode() for arguments in NON_JSON_ARGUMENTS],
)
def test_arguments_that_are_not_json_can_be_sent(
    emulator: Emulator, dialect: Any, arguments: dict[str, Any]
) -> None:
    model = ChatPiccc(base_url=emulator.base_url, api_key=emulator.api_key, dialect=dialect)
    message = AIMessage("", tool_calls=[{"name": "look", "args": arguments, "id": "c1"}])
    assert model.invoke([HumanMessage("?"), message, ToolMessage("seen\ud83d", tool_call_id="c1")])
