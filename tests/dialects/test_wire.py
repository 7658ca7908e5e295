"""JSON from and to the wire: any value yields a reply or a typed error."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from piccc._dialects import dialect_named
from piccc._dialects.common import LARGE_TEXT, LargeBody, large, parse, request_body, serialize
from piccc._dialects.content import image_source
from piccc._dialects.reader import Event
from piccc.conversation import Image
from piccc.errors import ConfigurationError, InvalidArgumentError, PicccError

NAMES = st.sampled_from(
    [
        "arguments",
        "choices",
        "code",
        "content",
        "content_block",
        "delta",
        "error",
        "finish_reason",
        "function",
        "id",
        "index",
        "input",
        "logprobs",
        "message",
        "message_start",
        "message_delta",
        "content_block_start",
        "content_block_delta",
        "message_stop",
        "model",
        "name",
        "partial_json",
        "prompt_tokens_details",
        "reasoning_content",
        "refusal",
        "signature",
        "stop_reason",
        "text",
        "thinking",
        "tool_calls",
        "tool_use",
        "type",
        "usage",
        "input_tokens",
        "completion_tokens_details",
        "output_tokens_details",
        "text_delta",
    ]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | NAMES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=5),
    max_leaves=25,
)


@pytest.mark.parametrize("name", ["openai", "anthropic"])
@given(payload=VALUES)
def test_any_json_yields_a_reply_or_a_typed_error(name: str, payload: Any) -> None:
    try:
        reply = dialect_named(name).decode(payload)
    except PicccError:
        return
    json.dumps(reply.text).encode()


@pytest.mark.parametrize("name", ["openai", "anthropic"])
@given(payloads=st.lists(VALUES, max_size=5), kind=NAMES)
def test_any_events_yield_deltas_or_a_typed_error(name: str, payloads: list[Any], kind: str) -> None:
    reader = dialect_named(name).reader()
    try:
        for payload in payloads:
            reader.feed([Event(kind, json.dumps(payload))])
    except PicccError:
        pass
    reader.finish()
    reader.reply().text.encode()


@given(VALUES)
def test_the_slow_parser_reads_the_same_as_the_fast_one(value: Any) -> None:
    text = json.dumps(value)
    assert json.dumps(parse(text)) == json.dumps(parse("\ufeff".encode() + text.encode()))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (r'"\ud83d\ude00"', "😀"),
        (r'"a\ud83d"', "a\ufffd"),
        (r'"\ude00a"', "\ufffda"),
        (b"\xef\xbb\xbf[]", []),
        (b'"a\xff"', "a\ufffd"),
    ],
)
def test_parsed_text_has_no_half_surrogate_pairs(text: str | bytes, value: Any) -> None:
    assert parse(text) == value


REJECTED: dict[str, str | bytes] = {
    "nothing": "",
    "truncated": "{",
    "not JSON": "nonsense",
    "deep": "[" * 300 + "]" * 300,
    "endlessly deep": "[" * 100_000,
    "deep after half a surrogate pair": '["\\ud83d",' + "[" * 900 + "]" * 901,
    "too many values": "[" + "0," * 1_000_001 + "0]",
}


@pytest.mark.parametrize("text", REJECTED.values(), ids=REJECTED)
def test_invalid_or_too_deep_json_is_a_value_error(text: str | bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse(text)


class Odd:
    pass


def _circular() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


UNREPRESENTABLE: dict[str, Any] = {
    "nan": float("nan"),
    "inf": float("inf"),
    "an object": Odd(),
    "an object inside": {"a": {"b": Odd()}},
    "a circular reference": _circular(),
}


@pytest.mark.parametrize("value", UNREPRESENTABLE.values(), ids=UNREPRESENTABLE)
def test_values_that_json_cannot_represent_are_rejected_before_sending(value: Any) -> None:
    with pytest.raises(InvalidArgumentError):
        serialize({"value": value})


def test_any_text_can_be_sent() -> None:
    for text in ("NaN", "Infinity", "😀", "\x00"):
        assert json.loads(serialize({"text": text})) == {"text": text}


def test_nan_within_base64_does_not_need_the_slow_serializer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("piccc._dialects.common.as_json", None)  # used by the slow serializer
    assert serialize({"url": "data:image/png;base64,aNaN+Infinity/NaN"}).endswith(b'Infinity/NaN"}')


def test_a_data_url_is_sent_unchanged_and_not_copied() -> None:
    url = "data:image/png;base64,iVBORw0KGgo="
    assert image_source(Image(url=url)).url is url
    assert image_source(Image(url=url.replace("png", "gif"))).url == url
    assert image_source(Image(url=url.replace("=", "\n="))).url == url


@pytest.mark.parametrize("end", ["", '"', "\\", "\n", "\x00", "\x7f", "é", "😀", "\ud83d"])
def test_a_large_text_is_serialized_like_any_other(end: str) -> None:
    head, text = "data:image/png;base64,", "A" * LARGE_TEXT + end
    whole = {"first": f"{head}{text}", "then": ["\x00é", text, text], "last": 1}
    apart = large(text)
    body = request_body({"first": large(head, text), "then": ["\x00é", apart, apart], "last": 1})
    assert bytes(body) == serialize(whole)
    assert len(body) == len(bytes(body))


def test_a_large_text_is_not_copied_before_sending() -> None:
    body = request_body({"text": large("A" * LARGE_TEXT)})
    assert isinstance(body, LargeBody)
    for _ in range(2):  # each attempt iterates again
        assert list(body) == [b'{"text":"', b"A" * LARGE_TEXT, b'"}']
    assert request_body({"text": large("A")}) == b'{"text":"A"}'


def test_halves_of_surrogate_pairs_are_joined_or_replaced_before_sending() -> None:
    sent = serialize({"text": ["\ud83d", "\ud83d\ude00"], "\udc00": 1}).decode()
    assert json.loads(sent) == {"text": ["\ufffd", "😀"], "\ufffd": 1}


def test_an_unknown_dialect_is_rejected() -> None:
    with pytest.raises(ConfigurationError, match="'anthropic'"):
        dialect_named("esperanto")
