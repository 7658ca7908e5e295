"""A reply yields the same message in both dialects."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import AIMessage
from langchain_core.tracers._streaming import _V2StreamingCallbackHandler
from langchain_core.tracers.base import BaseTracer
from langchain_core.utils.function_calling import convert_to_openai_tool

from langchain_piccc import ChatPiccc
from piccc.emulator import Emulator, Scripted
from tests.langchain.replay import Replay, completion, json_response, stream

REPLIES = {
    "text": Scripted("Hello 你好."),
    "reasoning": Scripted("Four.", reasoning="Two and two."),
    "calls": Scripted("I see.", calls=[("look", {"at": "it"}), ("look", {"at": "them"})]),
    "refusal": Scripted(refusal="I will not."),
    "truncated": Scripted("Half", finish_reason="length"),
}


def look(at: str) -> str:
    """Look at something."""
    return at


def comparable_parts(message: AIMessage) -> dict[str, Any]:
    """Return the parts of a message that must match: call ids and token details differ between servers."""
    usage = message.usage_metadata or {}
    calls = [(call["name"], call["args"]) for call in message.tool_calls]
    reasoning = [block["reasoning"] for block in message.content_blocks if block["type"] == "reasoning"]
    return {
        "text": message.text,
        "calls": calls,
        "reasoning": reasoning,
        "usage": [usage[name] for name in ("input_tokens", "output_tokens", "total_tokens")],
        "kinds": [block["type"] for block in message.content_blocks],
        "finish_reason": message.response_metadata["finish_reason"],
        "model": message.response_metadata["model_name"],
    }


@pytest.mark.parametrize("name", [name for name in REPLIES if name != "refusal"])
async def test_a_reply_yields_the_same_message_in_both_dialects(own_emulator: Emulator, name: str) -> None:
    summaries = []
    for dialect in ("openai", "anthropic"):
        model = ChatPiccc(
            base_url=own_emulator.base_url,
            api_key=own_emulator.api_key,
            dialect=dialect,
            reasoning_effort="low",
        ).bind(tools=[convert_to_openai_tool(look)])
        own_emulator.script([REPLIES[name]] * 4)
        first, *rest = model.stream("?")
        afirst, *arest = [chunk async for chunk in model.astream("?")]
        messages = [model.invoke("?"), await model.ainvoke("?"), first + rest, afirst + arest]
        summaries += [comparable_parts(message) for message in messages]
    assert all(summary == summaries[0] for summary in summaries), summaries


DETAILS = {"type": "refusal", "category": "cyber", "explanation": "I will not."}


@pytest.mark.parametrize("method", ["invoke", "stream", "events"])
@pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainBetaWarning")  # v3 is in beta
def test_a_final_refusal_becomes_a_block_in_the_anthropic_dialect(method: str) -> None:
    head = {
        "id": "m",
        "type": "message",
        "role": "assistant",
        "model": "piccc-pro",
        "usage": {"input_tokens": 1},
    }
    end = {"stop_reason": "refusal", "stop_details": DETAILS}
    events = [
        {"type": "message_start", "message": {**head, "content": []}},
        {"type": "message_delta", "delta": end, "usage": {"output_tokens": 1}},
        {"type": "message_stop"},
    ]
    if method == "invoke":
        message = Replay(json_response({**head, "content": [], **end})).model(dialect="anthropic").invoke("?")
    elif method == "stream":
        first, *rest = Replay(stream(events)).model(dialect="anthropic").stream("?")
        message = first + rest
    else:
        message = Replay(stream(events)).model(dialect="anthropic").stream_events("?", version="v3").output
    (block,) = message.content_blocks
    assert "I will not." in str(block)
    assert message.additional_kwargs["refusal"] == "I will not."
    assert message.response_metadata["finish_reason"] == "content_filter"


def test_a_refusal_becomes_a_block_in_the_openai_dialect() -> None:
    message = (
        Replay(json_response(completion({"content": None, "refusal": "I will not."}))).model().invoke("?")
    )
    (block,) = message.content_blocks
    assert "I will not." in str(block)


def test_an_invoke_with_a_stream_handler_emits_our_events(own_emulator: Emulator, dialect: str) -> None:
    class Watcher(BaseTracer, _V2StreamingCallbackHandler):
        def __init__(self) -> None:
            super().__init__()
            self.events: list[Any] = []

        def on_stream_event(self, event: Any, **_: Any) -> None:
            self.events.append(event)

        def _persist_run(self, run: Any) -> None:
            pass

    watcher = Watcher()
    own_emulator.script([REPLIES["calls"]])
    model = ChatPiccc(base_url=own_emulator.base_url, api_key=own_emulator.api_key, dialect=dialect)
    message = model.invoke("?", config={"callbacks": [watcher]})
    assert [call["args"] for call in message.tool_calls] == [{"at": "it"}, {"at": "them"}]
    kinds = [event["event"] for event in watcher.events]
    assert (kinds[0], kinds[-1]) == ("message-start", "message-finish")
    assert kinds.count("content-block-finish") == 3
