"""Token details and citations reach LangChain with and without streaming."""

from __future__ import annotations

from typing import Any

import pytest

from langchain_piccc._replies import to_usage
from langchain_piccc._requests import to_messages
from piccc.conversation import Text, Usage
from tests.langchain.replay import Replay, json_response, stream

pytestmark = pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainBetaWarning")  # v3 is in beta

# Each token is in one detail only, as in langchain-anthropic and langchain-openai.
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


@pytest.mark.parametrize(("usage", "input_details", "output_details"), DETAILS)
def test_usage_details_count_each_token_once(
    usage: Usage, input_details: dict[str, int], output_details: dict[str, int]
) -> None:
    metadata = to_usage(usage)
    assert metadata is not None
    assert (metadata["input_tokens"], metadata["output_tokens"], metadata["total_tokens"]) == (9, 3, 12)
    assert metadata.get("input_token_details", {}) == input_details
    assert metadata.get("output_token_details", {}) == output_details


CITED = {"type": "char_location", "cited_text": "sunny", "document_index": 0}
HEAD = {"id": "m", "type": "message", "role": "assistant", "model": "piccc-pro"}


@pytest.mark.parametrize("method", ["invoke", "stream", "events"])
@pytest.mark.parametrize("version", [None, "v1"])
def test_a_citation_becomes_an_annotation_and_is_sent_back(method: str, version: Any) -> None:
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
        json_response({**HEAD, "content": content, "stop_reason": "end_turn"})
        if method == "invoke"
        else stream(events)
    )
    model = Replay(reply).model(dialect="anthropic", output_version=version)
    if method == "invoke":
        message = model.invoke("?")
    elif method == "events":
        message = model.stream_events("?", version="v3").output
    else:
        first, *rest = model.stream("?")
        message = first + rest
    assert message.text == "It is sunny."
    annotations = [citation for block in message.content_blocks for citation in block.get("annotations", [])]
    assert annotations == [{"type": "non_standard_annotation", "value": CITED}]
    [sent] = to_messages([message])
    assert sent.text == "It is sunny."
    citations = [citation for part in sent.parts if isinstance(part, Text) for citation in part.citations]
    assert citations == [CITED]
