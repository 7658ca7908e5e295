"""A reply is read the same whether it arrives whole, event by event, or with all its events at once."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from piccc._dialects import DialectName, dialect_named
from piccc._dialects.reader import EventDecoder, as_events
from piccc.conversation import ChatReply, Part, Raw, Reasoning, Refusal, Text, ToolCall, Usage
from piccc.errors import ResponseError, StreamError
from tests.dialects.replies import DIALECTS, JSON, read

SEARCH: JSON = {"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {"query": "q"}}
FOUND: JSON = {"type": "web_search_tool_result", "tool_use_id": "s1", "content": []}
CITED: JSON = {
    "type": "char_location",
    "cited_text": "x",
    "document_index": 0,
    "document_title": None,
    "start_char_index": 0,
    "end_char_index": 1,
}
NOTED: JSON = {"type": "url_citation", "url_citation": {"url": "https://a.test", "title": "a"}}


def deltas(*pieces: JSON, end: str = "stop") -> list[Any]:
    chunks: list[JSON] = [{"delta": piece, "finish_reason": None} for piece in pieces]
    chunks.append({"delta": {}, "finish_reason": end})
    return [*({"id": "1", "choices": [chunk]} for chunk in chunks), "[DONE]"]


def completion(end: str = "stop", **message: Any) -> JSON:
    return {"id": "1", "choices": [{"message": message, "finish_reason": end}]}


def call(arguments: str = "", **fields: Any) -> JSON:
    function = {"arguments": arguments, **({"name": fields.pop("name")} if "name" in fields else {})}
    return {"tool_calls": [{"index": 0, "function": function, **fields}]}


def called(id: str, name: str, arguments: str) -> JSON:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def message(*blocks: JSON, end: str = "end_turn", **more: Any) -> JSON:
    return {"id": "1", "content": list(blocks), "stop_reason": end, **more}


def events(*blocks: tuple[JSON, list[JSON]], end: str = "end_turn", **more: Any) -> list[Any]:
    written: list[Any] = [{"type": "message_start", "message": {"id": "1"}}]
    for index, (block, pieces) in enumerate(blocks):
        written.append({"type": "content_block_start", "index": index, "content_block": block})
        written += [{"type": "content_block_delta", "index": index, "delta": piece} for piece in pieces]
        written.append({"type": "content_block_stop", "index": index})
    written.append({"type": "message_delta", "delta": {"stop_reason": end, **more}})
    return [*written, {"type": "message_stop"}]


def text(*pieces: str) -> list[JSON]:
    return [{"type": "text_delta", "text": piece} for piece in pieces]


def json_pieces(*pieces: str) -> list[JSON]:
    return [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]


def renumbered(written: list[Any], index: int | None) -> list[Any]:
    """Give all blocks the same index, or none."""
    plain = [{name: value for name, value in event.items() if name != "index"} for event in written]
    return [event if index is None or len(event) == 1 else {**event, "index": index} for event in plain]


LOOK = ToolCall("a", "weather", '{"at": 1}')
LOOKED: JSON = {"type": "tool_use", "id": "a", "name": "weather", "input": {"at": 1}}
SEVERAL = {"type": "text", "text": "so"}, LOOKED, {**LOOKED, "id": "b"}, {"type": "text", "text": "on"}

# The dialect, the whole reply, the events of its stream, and the parts that both yield.
CASES: dict[str, tuple[DialectName, JSON, list[Any], list[Part]]] = {
    "a name in two pieces": (
        "openai",
        completion("tool_calls", tool_calls=[called("a", "weather", '{"at": 1}')]),
        deltas(call(id="a", name="wea"), call(name="ther"), call('{"at"'), call(": 1}"), end="tool_calls"),
        [LOOK],
    ),
    "a name in two pieces, the second with the arguments": (
        "openai",
        completion("tool_calls", tool_calls=[called("a", "weather", '{"at": 1}')]),
        deltas(call(id="a", name="wea"), call('{"at": 1}', name="ther"), end="tool_calls"),
        [LOOK],
    ),
    "a name that repeats its earlier pieces": (
        "openai",
        completion("tool_calls", tool_calls=[called("a", "weather", '{"at": 1}')]),
        deltas(call(name="wea", id="a"), call(name="weather"), call('{"at": 1}', name="weather"), end="stop"),
        [LOOK],
    ),
    "an id that arrives after the name, without an index": (
        "openai",
        completion("tool_calls", tool_calls=[called("a", "weather", '{"at": 1}')]),
        deltas(
            {"tool_calls": [{"function": {"name": "weather", "arguments": ""}}]},
            {"tool_calls": [{"id": "a", "function": {"arguments": '{"at": 1}'}}]},
            end="tool_calls",
        ),
        [LOOK],
    ),
    "a whole reply as one event, and spaces around the end": (
        "openai",
        completion("tool_calls", content="so", tool_calls=[called("a", "weather", '{"at": 1}')]),
        [
            completion("tool_calls", content="so", tool_calls=[called("a", "weather", '{"at": 1}')]),
            " [DONE] ",
        ],
        [Text("so"), LOOK],
    ),
    "only a name": (
        "openai",
        completion("tool_calls", content="so", tool_calls=[called("a", "weather", "")]),
        deltas(call(id="a", name="weather"), {"content": "so"}, end="tool_calls"),
        [Text("so"), ToolCall("a", "weather", "{}")],
    ),
    "citations": (
        "openai",
        completion(content="so", annotations=[NOTED]),
        deltas({"content": "s"}, {"content": "o"}, {"annotations": [NOTED]}),
        [Text("so", [NOTED])],
    ),
    "citations of a document": (
        "anthropic",
        message({"type": "text", "text": "so", "citations": [CITED]}),
        events(
            (
                {"type": "text", "text": "", "citations": []},
                [*text("s", "o"), {"type": "citations_delta", "citation": CITED}],
            )
        ),
        [Text("so", [CITED])],
    ),
    "a tool that the server runs": (
        "anthropic",
        message(SEARCH, FOUND, {"type": "text", "text": "so"}),
        events(
            ({**SEARCH, "input": {}}, json_pieces('{"que', 'ry": "q"}')),
            (FOUND, []),
            ({"type": "text", "text": ""}, text("so")),
        ),
        [Raw(SEARCH), Raw(FOUND), Text("so")],
    ),
    "an input sent at the start": (
        "anthropic",
        message(LOOKED, end="tool_use"),
        events((LOOKED, []), end="tool_use"),
        [LOOK],
    ),
    "an input sent at the start and again": (
        "anthropic",
        message(LOOKED, end="tool_use"),
        events((LOOKED, json_pieces('{"at"', ": 1}")), end="tool_use"),
        [LOOK],
    ),
    "an input sent as an object instead of text": (
        "anthropic",
        message(LOOKED, end="tool_use"),
        events(
            ({**LOOKED, "input": {}}, [{"type": "input_json_delta", "partial_json": {"at": 1}}]),
            end="tool_use",
        ),
        [LOOK],
    ),
    **{
        f"a text, two calls and a text whose blocks have {name}": (
            "anthropic",
            message(*SEVERAL, end="tool_use"),
            change(
                events(
                    ({"type": "text", "text": ""}, text("s", "o")),
                    ({**LOOKED, "input": {}}, json_pieces('{"at"', ": 1}")),
                    ({**LOOKED, "id": "b"}, []),
                    ({"type": "text", "text": ""}, text("on")),
                    end="tool_use",
                )
            ),
            [Text("so"), LOOK, ToolCall("b", "weather", '{"at": 1}'), Text("on")],
        )
        for name, change in {
            "the index 0": lambda written: renumbered(written, 0),
            "no index": lambda written: renumbered(written, None),
            "no end": lambda written: [each for each in written if each.get("type") != "content_block_stop"],
            "indices and [DONE] at the end": lambda written: [*written, "[DONE]"],
            "indices and only [DONE] at the end": lambda written: [*written[:-1], "[DONE]"],
        }.items()
    },
    "reasoning without text": (
        "anthropic",
        message({"type": "thinking", "thinking": "", "signature": ""}, {"type": "text", "text": "so"}),
        events(
            (
                {"type": "thinking", "thinking": "", "signature": ""},
                [{"type": "thinking_delta", "thinking": ""}],
            ),
            ({"type": "text", "text": ""}, text("so")),
        ),
        [Text("so")],
    ),
    "a signature without text": (
        "anthropic",
        message({"type": "thinking", "thinking": "", "signature": "sig"}, {"type": "text", "text": "so"}),
        events(
            ({"type": "thinking", "thinking": ""}, [{"type": "signature_delta", "signature": "sig"}]),
            ({"type": "text", "text": ""}, text("so")),
        ),
        [Reasoning("", "sig"), Text("so")],
    ),
    "a refusal without text": (
        "anthropic",
        message(end="refusal"),
        events(end="refusal"),
        [Refusal("")],
    ),
    "a refusal after text": (
        "anthropic",
        message({"type": "text", "text": "so"}, end="refusal", stop_details={"explanation": "no"}),
        events(({"type": "text", "text": ""}, text("so")), end="refusal", stop_details={"explanation": "no"}),
        [Text("so"), Refusal("no")],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_reply_has_the_same_parts_whole_and_streamed(case: str) -> None:
    dialect, whole, stream, parts = CASES[case]
    assert dialect_named(dialect).decode(copy.deepcopy(whole)).parts == parts
    for at_once in (False, True):
        streamed, reply = read(dialect, stream, at_once=at_once)
        assert reply.parts == parts
        # Each part has its own block in the deltas, by which adapters separate parts.
        assert len({delta.block for delta in streamed}) == len(parts)
    # Some servers answer a request for a stream with a whole reply.
    sent = EventDecoder().feed(as_events(json.dumps(whole, indent=2).encode()))
    _, reply = read(dialect, [event.data for event in sent])
    assert (reply.parts, reply.finish_reason) == (parts, dialect_named(dialect).decode(whole).finish_reason)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_two_calls_with_the_same_id_are_kept_apart(dialect: DialectName) -> None:
    pair = [called("a", "weather", '{"at": 1}'), called("a", "weather", '{"at": 2}')]
    pieces = [
        {"tool_calls": [{"index": index, "id": "a", "function": {"name": "weather"}}]} for index in (0, 1)
    ]
    pieces += [
        {"tool_calls": [{"index": index, "id": "a", "function": {"arguments": f'{{"at": {index + 1}}}'}}]}
        for index in (0, 1)
    ]
    second = {**LOOKED, "input": {"at": 2}}
    replies: dict[str, tuple[JSON, list[Any]]] = {
        "openai": (completion("tool_calls", tool_calls=pair), deltas(*pieces, end="tool_calls")),
        "anthropic": (
            message(LOOKED, second, end="tool_use"),
            events(
                ({**LOOKED, "input": {}}, json_pieces('{"at": 1}')),
                ({**LOOKED, "input": {}}, json_pieces('{"at": 2}')),
                end="tool_use",
            ),
        ),
    }
    whole, stream = replies[dialect]
    for reply in (dialect_named(dialect).decode(whole), read(dialect, stream)[1]):
        assert [tool_call.parse() for tool_call in reply.tool_calls] == [{"at": 1}, {"at": 2}]
        assert len({tool_call.id for tool_call in reply.tool_calls}) == 2


def read_usages(dialect: DialectName, *usages: JSON) -> ChatReply:
    """Read a stream that reports its usage several times."""
    if dialect == "openai":
        return read(dialect, [{"choices": [{"delta": {}}], "usage": usage} for usage in usages])[1]
    start = {"type": "message_start", "message": {"usage": usages[0]}}
    return read(dialect, [start, *({"type": "message_delta", "usage": usage} for usage in usages[1:])])[1]


@pytest.mark.parametrize(
    ("dialect", "first", "second"),
    [
        (
            "openai",
            {"prompt_tokens": 25, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 20}},
            {"prompt_tokens": 0, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 0}},
        ),
        (
            "anthropic",
            {"input_tokens": 5, "output_tokens": 1, "cache_read_input_tokens": 20},
            {"input_tokens": 0, "output_tokens": 5, "cache_read_input_tokens": 0},
        ),
    ],
)
def test_a_later_zero_does_not_overwrite_a_token_count(
    dialect: DialectName, first: JSON, second: JSON
) -> None:
    usage = read_usages(dialect, first, second).usage
    assert usage == Usage(input_tokens=25, output_tokens=5, cache_read_tokens=20)
    assert read_usages(dialect, second, {**first, "completion_tokens": 5, "output_tokens": 5}).usage == usage


@pytest.mark.parametrize("total", [{"cache_creation_input_tokens": 12}, {}], ids=["total", "details alone"])
@pytest.mark.parametrize("way", ["whole", "stream"])
def test_cache_writes_are_counted_by_their_lifetime(way: str, total: JSON) -> None:
    given = {
        "input_tokens": 3,
        **total,
        "cache_creation": {"ephemeral_5m_input_tokens": 5, "ephemeral_1h_input_tokens": 7},
        "service_tier": "priority",
        "output_tokens": 0,
    }
    last = {"output_tokens": 2}
    if way == "whole":
        usage = dialect_named("anthropic").decode(message(usage={**given, **last})).usage
    else:
        usage = read_usages("anthropic", given, last).usage
    assert usage is not None
    assert (usage.input_tokens, usage.cache_creation_tokens) == (15, 12)
    assert (usage.cache_creation_5m_tokens, usage.cache_creation_1h_tokens) == (5, 7)
    assert usage.service_tier == "priority"
    assert usage.raw == {**given, **last}


def test_the_service_tier_of_a_completion_is_in_its_usage() -> None:
    whole = {**completion(content="so"), "service_tier": "flex", "usage": {"prompt_tokens": 1}}
    usage = dialect_named("openai").decode(whole).usage
    assert usage is not None
    assert (usage.service_tier, usage.raw) == ("flex", {"prompt_tokens": 1})


@pytest.mark.parametrize("name", ["content", "refusal"])
def test_log_probabilities_of_answers_and_refusals_are_kept(name: str) -> None:
    tokens = [{"token": "a", "logprob": -1.0}, {"token": "b", "logprob": -2.0}]
    whole = completion(content="ab")
    whole["choices"][0]["logprobs"] = {name: tokens}
    stream = deltas({"content": "a"}, {"content": "b"})
    for chunk, token in zip(stream, tokens, strict=False):
        chunk["choices"][0]["logprobs"] = {name: [token]}
    for reply in (dialect_named("openai").decode(whole), read("openai", stream)[1]):
        assert reply.extra["logprobs"][name] == tokens


def test_a_refusal_without_text_is_recognized() -> None:
    assert dialect_named("anthropic").decode(message(end="refusal")).is_refusal
    assert not dialect_named("anthropic").decode(message()).is_refusal


def test_a_notebook_shows_the_answer_and_usage_of_a_reply() -> None:
    parts = [Text("1 < 2"), ToolCall("call_1", "add", '{"a": 1}')]
    shown = ChatReply(parts, usage=Usage(7, 3), model="piccc-pro")._repr_mimebundle_()
    assert shown["text/plain"] == '1 < 2\nadd({"a": 1})\n(piccc-pro · 7 tokens in, 3 out)'
    assert ">1 &lt; 2\nadd(" in shown["text/html"]


@pytest.mark.parametrize(
    ("word", "neutral"),
    [
        *((word, "content_filter") for word in ("SAFETY", "content_filtered", "refusal")),
        *((word, "length") for word in ("MAX_TOKENS", "max_tokens", "model_length")),
        *((word, "stop") for word in ("end_turn", "STOP_SEQUENCE", "eos")),
        ("tool_use", "tool_calls"),
        ("of_its_own", "of_its_own"),
    ],
)
def test_finish_reasons_are_normalized_over_either_dialect(word: str, neutral: str) -> None:
    choice = {"index": 0, "message": {"content": "hi"}, "finish_reason": word}
    assert dialect_named("openai").decode({"choices": [choice]}).finish_reason == neutral
    assert dialect_named("anthropic").decode({"content": [], "stop_reason": word}).finish_reason == neutral


@pytest.mark.parametrize("dialect", DIALECTS)
def test_an_answer_that_was_cut_stays_cut_if_a_later_event_says_otherwise(dialect: DialectName) -> None:
    stream = {
        "openai": [*deltas(call('{"at": 1}', id="a", name="weather"), end="length")[:-1], *deltas()],
        "anthropic": [
            *events(({**LOOKED, "input": {}}, json_pieces('{"at": 1}')), end="max_tokens")[:-1],
            *events(end="end_turn")[1:],
        ],
    }[dialect]
    _, reply = read(dialect, stream)
    assert reply.finish_reason == "length"
    assert [each.reason for each in reply.invalid_calls] == ["cut"]


ERRORS_IN_200: dict[str, tuple[JSON, str, str | None]] = {
    "a code": ({"code": 500, "msg": "boom", "data": None}, "boom", "500"),
    "vLLM": (
        {"object": "error", "message": "boom", "type": "InternalServerError", "code": 500},
        "boom",
        "500",
    ),
    "MiniMax": (
        {"id": "1", "choices": None, "base_resp": {"status_code": 1008, "status_msg": "no balance"}},
        "no balance",
        "1008",
    ),
    "no success": ({"success": False, "message": "boom"}, "boom", None),
    "an error": ({"error": {"message": "boom", "code": 402}}, "boom", "402"),
    "a choice's error": (
        {"choices": [{"delta": {}, "message": {}, "error": {"message": "boom", "code": 502}}]},
        "boom",
        "502",
    ),
    "a failed choice": (
        {"choices": [{"delta": {"content": ""}, "message": {"content": ""}, "finish_reason": "error"}]},
        "no reason was given",
        "error",
    ),
}


@pytest.mark.parametrize(
    ("dialect", "case"),
    [
        (dialect, case)
        for case, (body, *_) in ERRORS_IN_200.items()
        for dialect in (("openai",) if body.get("choices") else DIALECTS)
    ],
)
def test_an_error_in_a_200_response_or_a_stream_is_raised_with_its_reason(
    dialect: DialectName, case: str
) -> None:
    body, reason, code = ERRORS_IN_200[case]
    with pytest.raises(ResponseError, match=f"200 with an error: {reason}") as whole:
        dialect_named(dialect).decode(body)
    with pytest.raises(StreamError, match=f"ended the stream: {reason}") as streamed:
        read(dialect, [body])
    assert whole.value.code == streamed.value.code == code


@pytest.mark.parametrize(
    "body",
    [
        {"code": 0, "msg": "ok", "usage": {"prompt_tokens": 1}},
        {"choices": [], "success": True},
        {"id": "1", "choices": [{"delta": {}}], "base_resp": {"status_code": 0, "status_msg": ""}},
        {"id": "1", "choices": None, "base_resp": {"status_code": 0, "status_msg": ""}},
    ],
)
def test_a_code_that_reports_success_does_not_end_a_stream(body: JSON) -> None:
    _, reply = read("openai", [*deltas({"content": "so"})[:-1], body, "[DONE]"])
    assert reply.text == "so"


@pytest.mark.parametrize(
    ("usage", "read", "written"),
    [
        (
            {
                "prompt_tokens_details": {
                    "cached_tokens": 8,
                    "cache_creation_tokens": 6,
                    "cache_creation_token_details": {"ephemeral_5m_input_tokens": 6},
                }
            },
            8,
            6,
        ),
        ({"prompt_tokens_details": {"cached_tokens": 8, "cache_write_tokens": 6}}, 8, 6),
        ({"cache_creation_input_tokens": 6, "cached_tokens": 8}, 8, 6),
        ({"prompt_cache_hit_tokens": 8}, 8, 0),
    ],
)
def test_cache_counts_are_read_from_the_formats_of_gateways(usage: JSON, read: int, written: int) -> None:
    choice = {"index": 0, "message": {"content": "hi"}, "finish_reason": "stop"}
    body = {"choices": [choice], "usage": {**usage, "service_tier": "flex"}}
    counted = dialect_named("openai").decode(body).usage
    assert counted is not None
    assert (counted.cache_read_tokens, counted.cache_creation_tokens) == (read, written)
    assert counted.service_tier == "flex"


def test_usage_with_the_field_names_of_other_routes_is_read() -> None:
    choice = {"index": 0, "message": {"content": "hi"}, "finish_reason": "stop"}
    body = {"choices": [choice], "usage": {"input_tokens": 7, "output_tokens": 3, "total_tokens": 10}}
    counted = dialect_named("openai").decode(body).usage
    assert counted is not None
    assert (counted.input_tokens, counted.output_tokens, counted.total_tokens) == (7, 3, 10)
