"""Reading events by a template yields what the parser yields, for any events."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from piccc._dialects import dialect_named, reader
from piccc._dialects.reader import Event, EventTemplate
from piccc.conversation import ChatReply, Delta
from piccc.errors import StreamError


class Never(EventTemplate):
    """Leave every event to the parser."""

    def read(self, event: Event) -> None:
        """Match no event."""


def read(name: str, *reads: list[Event], known: EventTemplate | None = None) -> tuple[list[Any], ChatReply]:
    reading: Any = dialect_named(name).reader()
    if known is not None:
        reading._template = known
    deltas: list[Delta | str] = []
    for events in reads:
        try:
            deltas += reading.feed(events)
        except StreamError as error:
            deltas.append(str(error))
            break
    deltas += reading.finish()
    return deltas, reading.reply()


WORDS = st.one_of(
    st.sampled_from(
        [
            "",
            " token",
            "chunk",
            "c1",
            "text",
            "a",
            "stop",
            "0",
            ", ",
            " 窯",
            "\u3000",
            "\n",
            '"',
            "\\",
            "\ud83d",
        ]
    ),
    st.text(max_size=4),
)
"""Some of them also occur elsewhere in an event."""


@st.composite
def openai_events(draw: st.DrawFn) -> str:
    text = draw(WORDS)
    delta = draw(
        st.sampled_from(
            [
                {"content": text},
                {"role": "assistant", "content": text},
                {"content": text, "reasoning_content": None, "tool_calls": None},
                {"reasoning_content": text},
                {"reasoning": text, "content": ""},
                {"content": [{"type": "text", "text": text}]},
                {"refusal": text},
                {"content": text, "tool_calls": [{"id": "c1", "function": {"arguments": text}}]},
                {"tool_calls": [{"index": 0, "id": "c1", "function": {"name": "a", "arguments": text}}]},
                {},
            ]
        )
    )
    choice: dict[str, Any] = {"index": draw(st.sampled_from([0, 0, 0, 1])), "delta": delta}
    choice |= draw(
        st.sampled_from([{}, {}, {"finish_reason": None, "logprobs": None}, {"finish_reason": "stop"}])
    )
    chunk: dict[str, Any] = {"id": "c1", "object": "chunk", "choices": [choice]}
    chunk |= draw(st.sampled_from([{}, {}, {"token": text}, {"usage": {"prompt_tokens": 3}}, {"error": "a"}]))
    return written(draw, chunk)


@st.composite
def anthropic_events(draw: st.DrawFn) -> str:
    text, index = draw(WORDS), draw(st.sampled_from([0, 0, 0, 1]))
    delta = draw(
        st.sampled_from(
            [
                {"type": "text_delta", "text": text},
                {"text": text, "type": "text_delta"},
                {"type": "thinking_delta", "thinking": text},
                {"type": "signature_delta", "signature": text},
                {"type": "input_json_delta", "partial_json": text},
            ]
        )
    )
    block = draw(
        st.sampled_from([{"type": "text", "text": text}, {"type": "tool_use", "id": "c1", "name": "a"}])
    )
    event = draw(
        st.sampled_from(
            [
                {"type": "content_block_delta", "index": index, "delta": delta},
                {"type": "content_block_delta", "index": index, "delta": delta},
                {"type": "content_block_start", "index": index, "content_block": block},
                {"type": "message_stop"},
            ]
        )
    )
    return written(draw, event)


def written(draw: st.DrawFn, body: dict[str, Any]) -> str:
    separators = draw(st.sampled_from([None, None, (",", ":")]))
    text = json.dumps(body, ensure_ascii=draw(st.booleans()), separators=separators)
    if draw(st.integers(0, 9)) == 0:  # a duplicate field: the last one wins
        text = text.replace('"content"', '"content": "a", "content"').replace(
            '"text":', '"text": "a", "text":'
        )
    return text.encode(errors="replace").decode()


@pytest.mark.parametrize(("name", "events"), [("openai", openai_events()), ("anthropic", anthropic_events())])
def test_a_template_reads_what_the_parser_reads(name: str, events: st.SearchStrategy[str]) -> None:
    @settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # the machine may be busy
    @given(
        st.lists(st.tuples(st.sampled_from(["message", "message", "delta", "error"]), events), max_size=12)
    )
    def check(given_: list[tuple[str, str]]) -> None:
        events = [Event(kind, data) for kind, data in given_]
        one_by_one = [[event] for event in events]
        expected = read(name, *one_by_one, known=Never())
        assert read(name, *one_by_one) == expected
        assert read(name, events)[1] == expected[1]

    check()


Count = Callable[[Any, str], list[Any]]


@pytest.fixture
def count(monkeypatch: pytest.MonkeyPatch) -> Count:
    """Return a function that records the calls of a module's function."""

    def count(module: Any, name: str) -> list[Any]:
        calls: list[Any] = []
        original = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *given: (calls.append(given), original(*given))[1])
        return calls

    return count


def text_event(text: str, **more: Any) -> Event:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    return Event("message", json.dumps({"id": "c1", "choices": [choice], **more}))


def test_the_same_words_elsewhere_are_not_mistaken_for_the_text() -> None:
    events = [
        Event("message", text_event(" word").data.replace("c1", id)) for id in ("c1", " word", " other")
    ]
    assert read("openai", events)[1].text == " word word word"


def test_similar_events_are_not_parsed(count: Count) -> None:
    parsed = count(reader, "read_event")
    deltas, reply = read("openai", [text_event(f" word{number}") for number in range(1000)])
    assert len(parsed) == 2  # the one that names the reply, and the one that the template is learned from
    assert reply.text == "".join(f" word{number}" for number in range(1000))
    assert len(deltas) == 1000


def test_similar_anthropic_events_are_not_parsed(count: Count) -> None:
    parsed = count(reader, "read_event")
    deltas = [{"type": "thinking_delta", "thinking": f" thought{number}"} for number in range(500)]
    deltas += [{"type": "text_delta", "text": f" word{number}"} for number in range(500)]
    bodies = [{"type": "content_block_delta", "index": 0, "delta": delta} for delta in deltas]
    read("anthropic", [Event("content_block_delta", json.dumps(body)) for body in bodies])
    assert len(parsed) == 2


def test_a_template_is_learned_only_once_if_all_events_differ(count: Count) -> None:
    tried = count(reader, "from_json")
    _, reply = read("openai", [text_event(" word", obfuscation="x" * number) for number in range(1000)])
    assert reply.text == " word" * 1000
    assert len(tried) == 1001


def test_a_template_is_learned_again_after_an_occasional_change(count: Count) -> None:
    parsed = count(reader, "read_event")
    read("openai", [text_event(" word", created=number // 100) for number in range(1000)])
    assert len(parsed) == 11
