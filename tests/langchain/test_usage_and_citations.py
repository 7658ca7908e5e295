"""Tokens at their own prices, and what an answer cites, reach LangChain whole and streamed."""

from __future__ import annotations

from typing import Any

import pytest

from langchain_piccc._replies import to_usage
from langchain_piccc._requests import to_messages
from piccc.conversation import Text, Usage
from tests.langchain.replay import Replay, stream, whole

pytestmark = pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainBetaWarning")  # v3 is in beta

# No token is in two details, as langchain-anthropic and langchain-openai count them.
DETAILS: list[tuple[Usage, dict[str, int], dict[str, int]]] = [
    (Usage(9, 3, cache_read_tokens=4, cache_creation_tokens=2), {"cache_read": 4, "cache_creation": 2}, {}),
    (
        Usage(9, 3, cache_creation_tokens=5, cache_creation_5m_tokens=2, cache_creation_1h_tokens=3),
        {"ephemeral_5m_input_tokens": 2, "ephemeral_1h_input_tokens": 3},
        {},
    ),
    (
        Usage(9, 3, cache_read_tokens=4, reasoning_tokens=1, service_tier="priority"),
        {"priority_cache_read": 4, "priority": 5},
        {"priority_reasoning": 1, "priority": 2},
    ),
    (Usage(9, 3, reasoning_tokens=1, service_tier="default"), {}, {"reasoning": 1}),
]


@pytest.mark.parametrize(("usage", "given", "made"), DETAILS)
def test_details_are_counted_once(usage: Usage, given: dict[str, int], made: dict[str, int]) -> None:
    counted = to_usage(usage)
    assert counted is not None
    assert (counted["input_tokens"], counted["output_tokens"], counted["total_tokens"]) == (9, 3, 12)
    assert counted.get("input_token_details", {}) == given
    assert counted.get("output_token_details", {}) == made


CITED = {"type": "char_location", "cited_text": "sunny", "document_index": 0}
HEAD = {"id": "m", "type": "message", "role": "assistant", "model": "piccc-pro"}


@pytest.mark.parametrize("way", ["invoke", "stream", "events"])
@pytest.mark.parametrize("version", [None, "v1"])
def test_a_citation_is_an_annotation_and_goes_back(way: str, version: Any) -> None:
    content = [{"type": "text", "text": "It is sunny.", "citations": [CITED]}]
    events = [
        {"type": "message_start", "message": {**HEAD, "content": []}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "It is sunny."}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "citations_delta", "citation": CITED}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}},
        {"type": "message_stop"},
    ]
    reply = (
        whole({**HEAD, "content": content, "stop_reason": "end_turn"}) if way == "invoke" else stream(events)
    )
    model = Replay(reply).model(dialect="anthropic", output_version=version)
    if way == "invoke":
        message = model.invoke("?")
    elif way == "events":
        message = model.stream_events("?", version="v3").output
    else:
        first, *rest = model.stream("?")
        message = first + rest
    assert message.text == "It is sunny."
    annotations = [each for block in message.content_blocks for each in block.get("annotations", [])]
    assert annotations == [{"type": "non_standard_annotation", "value": CITED}]
    [sent] = to_messages([message])
    assert sent.text == "It is sunny."
    cited = [each for part in sent.parts if isinstance(part, Text) for each in part.citations]
    assert cited == [CITED]
