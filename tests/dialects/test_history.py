"""Any conversation goes out in a form that strict servers accept, or is refused before it is sent."""

from __future__ import annotations

import json
import logging
from base64 import b64encode
from typing import Any

import pytest

from piccc._dialects import DialectName, dialect_named
from piccc.conversation import (
    Audio,
    CachePoint,
    ChatRequest,
    File,
    Image,
    InvalidToolCall,
    Message,
    NamedTool,
    Part,
    Raw,
    Reasoning,
    Refusal,
    Source,
    Text,
    Tool,
    ToolCall,
)
from piccc.errors import InvalidArgumentError, PicccError, UnsupportedContentError
from tests.dialects.replies import DIALECTS, WAYS, reply_of

JSON = dict[str, Any]
PNG = b64encode(b"\x89PNG\r\n\x1a\n" + bytes(16)).decode()
JPEG = b64encode(b"\xff\xd8\xff\xe0" + bytes(16)).decode()
PDF = b64encode(b"%PDF-1.7\n\xff").decode()
WORDS = b64encode("grüße".encode()).decode()
HI = Message("user", [Text("hi")])


def user(*parts: Part) -> Message:
    return Message("user", list(parts))


def said(*parts: Part) -> Message:
    return Message("assistant", list(parts))


def result(id: str, *parts: Part) -> Message:
    return Message("tool", list(parts or [Text(f"of {id}")]), tool_call_id=id)


def encode(dialect: DialectName, *messages: Message, **options: Any) -> JSON:
    return (
        dialect_named(dialect).encode(ChatRequest(model="m", messages=messages, **options), stream=False).body
    )


def outline(dialect: DialectName, body: JSON) -> list[Any]:
    """Say in the same words for both dialects what goes out: texts, calls and results, and other content."""
    lines: list[Any] = []
    if dialect == "anthropic" and (system := body.get("system")):
        lines.append(
            ("system", system if isinstance(system, str) else "".join(each["text"] for each in system))
        )
    for message in body["messages"]:
        role, content = message["role"], message["content"]
        if role == "tool":
            lines.append(("result", message["tool_call_id"], content))
            continue
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content or []
        lines += [_line(role, block) for block in blocks if block.get("text") != ""]
        for call in message.get("tool_calls", ()):
            function = call["function"]
            lines.append(("call", call["id"], function["name"], json.loads(function["arguments"])))
    return lines


def _line(role: str, block: JSON) -> Any:
    match block:
        case {"type": "text", "text": text} | {"type": "refusal", "refusal": text}:
            return (role, text)
        case {"type": "tool_use"}:
            return ("call", block["id"], block["name"], block["input"])
        case {"type": "tool_result"}:
            content = block.get("content", [])
            return (
                "result",
                block["tool_use_id"],
                "\n".join(each.get("text", each["type"]) for each in content),
            )
    return (role, {"image_url": "image", "document": "file"}.get(block["type"], block["type"]))


NOT_RUN = "There is no result because the call was not run."
CUT = InvalidToolCall("a", "look", '{"at": "i', "cut")
CASES: dict[str, tuple[list[Message], list[Any]]] = {
    "a call that was cut, without a result": (
        [HI, said(CUT), user(Text("so?"))],
        [
            ("user", "hi"),
            ("call", "a", "look", {"invalid_arguments": '{"at": "i'}),
            ("result", "a", CUT.error),
            ("user", "so?"),
        ],
    ),
    "a call that never got its arguments, with a result": (
        [HI, said(InvalidToolCall("a", "look", "", "cut")), result("a")],
        [("user", "hi"), ("call", "a", "look", {}), ("result", "a", "of a")],
    ),
    "a call without a name": (
        [HI, said(InvalidToolCall("a", "", "{}", "unnamed"))],
        [
            ("user", "hi"),
            ("call", "a", "unnamed", {}),
            ("result", "a", InvalidToolCall("a", "", "{}", "unnamed").error),
        ],
    ),
    "a call of our own making that is no object": (
        [HI, said(ToolCall("a", "look", "[1]")), result("a")],
        [("user", "hi"), ("call", "a", "look", {"invalid_arguments": "[1]"}), ("result", "a", "of a")],
    ),
    "a call at the end, without a result": (
        [HI, said(ToolCall("a", "look"))],
        [("user", "hi"), ("call", "a", "look", {}), ("result", "a", NOT_RUN)],
    ),
    "one of two calls without a result": (
        [HI, said(ToolCall("a", "look"), ToolCall("b", "look")), result("b"), user(Text("so?"))],
        [
            ("user", "hi"),
            ("call", "a", "look", {}),
            ("call", "b", "look", {}),
            ("result", "a", NOT_RUN),
            ("result", "b", "of b"),
            ("user", "so?"),
        ],
    ),
    "turns between a call and its result": (
        [HI, said(ToolCall("a", "look")), user(Text("wait")), said(Text("yes")), result("a")],
        [
            ("user", "hi"),
            ("call", "a", "look", {}),
            ("result", "a", "of a"),
            ("user", "wait"),
            ("assistant", "yes"),
        ],
    ),
    "two results of one call": (
        [HI, said(ToolCall("a", "look")), result("a", Text("one")), result("a", Text("two"))],
        [("user", "hi"), ("call", "a", "look", {}), ("result", "a", "one\ntwo")],
    ),
    "two calls with one id": (
        [
            HI,
            said(ToolCall("a", "look"), ToolCall("a", "see")),
            result("a", Text("1")),
            result("a", Text("2")),
        ],
        [
            ("user", "hi"),
            ("call", "a", "look", {}),
            ("call", "a_2", "see", {}),
            ("result", "a", "1"),
            ("result", "a_2", "2"),
        ],
    ),
    "one id again in a later turn": (
        [HI, said(ToolCall("a", "look")), result("a"), said(ToolCall("a", "see")), result("a", Text("2"))],
        [
            ("user", "hi"),
            ("call", "a", "look", {}),
            ("result", "a", "of a"),
            ("call", "a_2", "see", {}),
            ("result", "a_2", "2"),
        ],
    ),
    "one call object in two turns": (
        [HI, *[said(CUT), result("a")] * 2],
        [
            ("user", "hi"),
            ("call", "a", "look", {"invalid_arguments": '{"at": "i'}),
            ("result", "a", "of a"),
            ("call", "a_2", "look", {"invalid_arguments": '{"at": "i'}),
            ("result", "a_2", "of a"),
        ],
    ),
    "ids of other providers": (
        [HI, said(ToolCall("fc_1|call:2", "look"), ToolCall("", "look")), result("fc_1|call:2")],
        [
            ("user", "hi"),
            ("call", "fc_1_call_2", "look", {}),
            ("call", "call", "look", {}),
            ("result", "fc_1_call_2", "of fc_1|call:2"),
            ("result", "call", NOT_RUN),
        ],
    ),
    "line breaks and halves of characters in arguments": (
        [HI, said(ToolCall("a", "look", '{"at": "1\n2\\ud83d"}')), result("a")],
        [("user", "hi"), ("call", "a", "look", {"at": "1\n2\ufffd"}), ("result", "a", "of a")],
    ),
    "halves of characters in arguments of our own making": (
        [HI, said(ToolCall("a", "look", '{"at": "\ud83d"}')), result("a")],
        [("user", "hi"), ("call", "a", "look", {"at": "\ufffd"}), ("result", "a", "of a")],
    ),
    "an image in a system message": (
        [Message("system", [Text("Be kind."), Image(data=PNG)]), HI],
        [("system", "Be kind."), ("user", "image"), ("user", "hi")],
    ),
    "a system message that is a document": (
        [Message("system", [File(data=WORDS, name="a.txt")]), HI],
        [("user", "file"), ("user", "hi")],
    ),
    "a passage in a system message": (
        [Message("system", [Source("It is blue.", "Sky")]), HI],
        [("system", "Sky\nIt is blue."), ("user", "hi")],
    ),
    "an image in an answer": (
        [HI, said(Text("see"), Image(data=PNG), ToolCall("a", "look")), result("a")],
        [
            ("user", "hi"),
            ("assistant", "see"),
            ("call", "a", "look", {}),
            ("result", "a", "of a"),
            ("user", "image"),
        ],
    ),
    "what another provider's tools did": (
        [HI, said(Text("see"), Raw({"type": "web_search_call", "id": "ws"}, "openai")), user(Text("so?"))],
        [("user", "hi"), ("assistant", "see"), ("user", "so?")],
    ),
    "blocks that no dialect takes in an answer": (
        [HI, said(Text("see"), Raw({"type": "hologram"})), user(Text("so?"))],
        [("user", "hi"), ("assistant", "see"), ("user", "so?")],
    ),
    "unknown blocks in a result": (
        [
            HI,
            said(ToolCall("a", "look")),
            result("a", Raw({"type": "json", "json": {"a": 1}}), Refusal("no")),
        ],
        [
            ("user", "hi"),
            ("call", "a", "look", {}),
            ("result", "a", '{"type": "json", "json": {"a": 1}}\nno'),
        ],
    ),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_conversation_goes_out_as_servers_take_it(dialect: DialectName, case: str) -> None:
    messages, expected = CASES[case]
    assert outline(dialect, encode(dialect, *messages)) == expected


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_conversation_is_not_changed_by_being_sent(dialect: DialectName, case: str) -> None:
    messages, _ = CASES[case]
    before = repr(messages)
    assert encode(dialect, *messages) == encode(dialect, *messages)
    assert repr(messages) == before


REFUSED: dict[str, tuple[list[Message], JSON]] = {
    "no message": ([], {}),
    "a result without a call": ([HI, result("a")], {}),
    "a result that does not say of which call": ([HI, said(ToolCall("a", "look")), result("")], {}),
    "an empty image": ([user(Image())], {}),
    "an image of an unknown type": ([user(Image(data=WORDS))], {}),
    "an image that is no base64": ([user(Image(data="??", media_type="image/png"))], {}),
    "an empty file": ([user(File(name="a.pdf"))], {}),
    "a call in a user's message": ([user(ToolCall("a", "look"))], {}),
    "a tool without a name": ([HI], {"tools": [Tool("")]}),
    "a choice that is not on offer": ([HI], {"tools": [Tool("look")], "tool_choice": NamedTool("see")}),
    "a choice without tools": ([HI], {"tool_choice": "required"}),
    "several answers": ([HI], {"extra_body": {"n": 2}}),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_what_no_server_can_take_is_refused_before_it_is_sent(dialect: DialectName, case: str) -> None:
    messages, options = REFUSED[case]
    with pytest.raises((InvalidArgumentError, UnsupportedContentError)) as caught:
        encode(dialect, *messages, **options)
    assert caught.value.hint


REFUSED_BY_ANTHROPIC: dict[str, tuple[list[Message], JSON]] = {
    "only a system message": ([Message("system", [Text("Be kind.")])], {}),
    "nothing but blanks": ([user(Text(" \n"))], {}),
    "more than four cache marks": ([user(*[Text("a"), CachePoint()] * 5)], {}),
    "a seed": ([HI], {"seed": 1}),
    "audio": ([user(Audio("UklGRg==", "wav"))], {}),
    "a document of a type that it has no words for": (
        [user(File(data=b64encode(b"PK\x03\x04\xff").decode(), media_type="application/zip"))],
        {},
    ),
}


@pytest.mark.parametrize("case", REFUSED_BY_ANTHROPIC)
def test_what_only_the_anthropic_route_cannot_take_is_refused_there(case: str) -> None:
    messages, options = REFUSED_BY_ANTHROPIC[case]
    with pytest.raises(PicccError) as caught:
        encode("anthropic", *messages, **options)
    assert caught.value.hint
    encode("openai", *messages, **options)


def test_blanks_that_anthropics_server_refuses_are_left_out() -> None:
    body = encode(
        "anthropic",
        Message("system", [Text(" ")]),
        user(Text("a"), Text(" \n"), CachePoint()),
        said(Text("\n\n")),
        user(Text("b")),
        said(ToolCall("a", "look")),
        result("a", Text(" ")),
        said(Text("It is "), Text("\n")),
    )
    assert "system" not in body
    assert [each["role"] for each in body["messages"]] == ["user", "assistant", "user", "assistant"]
    first, last = body["messages"][0]["content"], body["messages"][-1]["content"]
    assert [each["text"] for each in first] == ["a", "b"]
    assert first[0]["cache_control"] == {"type": "ephemeral"}
    assert body["messages"][2]["content"] == [{"type": "tool_result", "tool_use_id": "a"}]
    assert last == "It is"


def test_a_thought_alone_is_not_sent() -> None:
    body = encode("anthropic", HI, said(Text("so"), Reasoning("hm", "sig")), user(Text("go on")))
    assert body["messages"][1]["content"] == "so"
    body = encode("anthropic", HI, said(Reasoning("hm", "sig")), user(Text("go on")))
    assert [each["role"] for each in body["messages"]] == ["user"]


@pytest.mark.parametrize("replay", [None, True])
def test_a_signature_goes_back_only_to_whom_it_came_from(replay: bool | None) -> None:
    ours, theirs = Reasoning("hm", "sig"), Reasoning("hm", "sig", provider="google")
    hidden = Reasoning(redacted="xyz", provider="anthropic")
    body = encode("anthropic", HI, said(theirs, hidden, ours, Text("so")), replay_reasoning=replay)
    assert [each["type"] for each in body["messages"][1]["content"]] == ["thinking", "text"]
    sent = encode("openai", HI, said(theirs, hidden, Text("so")), replay_reasoning=replay)["messages"][1]
    assert sent.get("reasoning_content") == ("hm" if replay else None)


def test_what_is_left_out_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "piccc"):
        encode("openai", HI, said(Raw({"type": "web_search_call"}, "openai"), Text("a")))
    assert "web_search_call" in caplog.text


def test_own_blocks_go_back_over_the_dialect_that_knows_them() -> None:
    used: list[Part] = [
        Raw({"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {}}),
        Raw({"type": "web_search_tool_result", "tool_use_id": "s1", "content": []}),
        Text("so", [{"type": "char_location", "cited_text": "x"}, {"type": "url_citation"}]),
    ]
    blocks = encode("anthropic", HI, said(*used))["messages"][1]["content"]
    assert [each["type"] for each in blocks] == ["server_tool_use", "web_search_tool_result", "text"]
    assert blocks[2]["citations"] == [{"type": "char_location", "cited_text": "x"}]
    assert encode("openai", HI, said(*used))["messages"][1]["content"] == "so"


def test_what_the_servers_own_tools_never_ended_goes_back_only_to_be_ended() -> None:
    search = Raw({"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {}})
    result = Raw({"type": "web_search_tool_result", "tool_use_id": "s1", "content": []})

    def kinds(*messages: Message) -> list[str]:
        content = encode("anthropic", HI, *messages)["messages"][1]["content"]
        return [block["type"] for block in content]

    assert kinds(said(Text("so"), search, Text("that")), HI) == ["text", "text"]
    assert kinds(said(Text("so"), search)) == ["text", "server_tool_use"]
    assert kinds(said(search), said(result), HI) == ["server_tool_use", "web_search_tool_result"]


@pytest.mark.parametrize(
    ("content", "declared", "real"),
    [
        (PNG, None, "image/png"),
        (JPEG, None, "image/jpeg"),
        (JPEG, "image/png", "image/jpeg"),
        (PDF, None, "application/pdf"),
        (PDF, "text/plain", "application/pdf"),
        (WORDS, None, "text/plain"),
        (WORDS, "application/pdf", "text/plain"),
        (WORDS, "text/markdown", "text/markdown"),
        (b64encode(b"PK\x03\x04\xff").decode(), None, "application/octet-stream"),
        (b64encode(b"PK\x03\x04\xff").decode(), "application/zip", "application/zip"),
    ],
)
@pytest.mark.parametrize("form", ["data", "url"])
def test_a_file_is_declared_as_what_it_is(content: str, declared: str | None, real: str, form: str) -> None:
    given = {"data": content} if form == "data" else {"url": f"data:{declared or ''};base64,{content}"}
    part = File(**given, media_type=declared, name="a name.x")
    [sent] = encode("openai", user(part))["messages"][0]["content"]
    assert sent["file"] == {"filename": "a name.x", "file_data": f"data:{real};base64,{content}"}
    if real.startswith("image/"):
        image = Image(**given, media_type=declared)
        [sent] = encode("openai", user(image))["messages"][0]["content"]
        assert sent["image_url"]["url"] == f"data:{real};base64,{content}"
        for each in (image, part):
            [sent] = encode("anthropic", user(each))["messages"][0]["content"]
            assert sent == {
                "type": "image",
                "source": {"type": "base64", "media_type": real, "data": content},
            }
    elif real == "application/pdf" or real.startswith("text/"):
        [sent] = encode("anthropic", user(part))["messages"][0]["content"]
        assert (sent["type"], sent["title"]) == ("document", "a name.x")
        source = {"type": "text", "media_type": "text/plain", "data": "grüße"}
        if real == "application/pdf":
            source = {"type": "base64", "media_type": real, "data": content}
        assert sent["source"] == source


def test_a_result_may_hold_what_its_dialect_cannot_show(caplog: pytest.LogCaptureFixture) -> None:
    call, sound = said(ToolCall("a", "play")), result("a", Text("here"), Audio("UklGRg==", "wav"))
    [block] = encode("anthropic", HI, call, sound)["messages"][2]["content"]
    assert [each["type"] for each in block["content"]] == ["text", "text"]
    assert "audio" in block["content"][1]["text"]
    assert "Audio" in caplog.text
    linked = result("a", File(url="https://a.test/b.pdf"))
    assert encode("openai", HI, call, linked)["messages"][2]["content"] == "https://a.test/b.pdf"


def test_speakers_have_names_that_servers_take() -> None:
    body = encode("openai", HI, Message("assistant", [Text("so")], name="research agent <1>"))
    assert body["messages"][1]["name"] == "research_agent_1_"


NAMES = ["files.read", "files_read", "читать", "x" * 80]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_names_of_tools_are_rewritten_and_mapped_back(dialect: DialectName, way: str) -> None:
    tools = [Tool(name) for name in NAMES]
    earlier = [HI, said(ToolCall("a", "files.read")), result("a")]
    request = ChatRequest(
        model="m", messages=earlier, tools=tools, tool_choice=NamedTool("files.read"), reasoning_effort=None
    )
    encoded = dialect_named(dialect).encode(request, stream=False)
    sent = [
        tool["function"]["name"] if "function" in tool else tool["name"] for tool in encoded.body["tools"]
    ]
    assert all(name.isascii() and len(name) <= 64 and "." not in name for name in sent)
    assert len(set(sent)) == len(NAMES)
    assert sent[1] == "files_read"
    assert sent[0] in json.dumps(encoded.body["tool_choice"])
    assert ("call", "a", sent[0], {}) in outline(dialect, encoded.body)
    assert len(encoded.adapted) == 3
    calls = [(f"c{at}", name, ["{}"]) for at, name in enumerate(sent)]
    reply = reply_of(dialect, way, calls, "tool_calls", names=encoded.names)
    assert [call.name for call in reply.tool_calls] == NAMES


FORCED: JSON = {"tools": [Tool("look")], "tool_choice": "required"}
ANY = {"type": "any"}
THINKING: JSON = {"thinking": {"type": "enabled", "budget_tokens": 2000}}


@pytest.mark.parametrize(
    ("options", "expected", "adapted"),
    [
        ({}, {"max_tokens": 4096}, []),
        ({"reasoning_effort": "none", **FORCED}, {"thinking": {"type": "disabled"}}, []),
        ({"reasoning_effort": "high"}, {"budget": 12288, "max_tokens": 12288 + 4096}, []),
        ({"reasoning_effort": "high", "max_tokens": 4096}, {"budget": 2048, "max_tokens": 4096}, []),
        ({"reasoning_effort": "low", "max_tokens": 1025}, {"budget": 1024, "max_tokens": 1025}, []),
        ({"reasoning_effort": "low", "max_tokens": 1024}, {"thinking": None}, ["max_tokens"]),
        (
            {"reasoning_effort": "low", **FORCED},
            {"thinking": None, "tool_choice": {"type": "any"}},
            ["forced"],
        ),
        (
            {"reasoning_effort": "low", "temperature": 0.1},
            {"budget": 1024, "temperature": None},
            ["temperature"],
        ),
        ({"reasoning_effort": "low", "temperature": 1}, {"budget": 1024, "temperature": 1}, []),
        ({"reasoning_effort": "low", "top_p": 0.5}, {"budget": 1024, "top_p": None}, ["top_p"]),
        ({"reasoning_effort": "low", "extra_body": {"max_tokens": 900}}, {"thinking": None}, ["max_tokens"]),
        ({"reasoning_effort": "high", "extra_body": {"max_tokens": 4096}}, {"budget": 2048}, []),
        (
            {"extra_body": {"thinking": {"type": "enabled", "budget_tokens": 9000}}, "temperature": 0.1},
            {"budget": 9000, "max_tokens": 9000 + 4096, "temperature": None},
            ["temperature"],
        ),
        ({"extra_body": {"thinking": {"type": "disabled"}}, "temperature": 0.1}, {"temperature": 0.1}, []),
        (
            {"reasoning_effort": "low", "extra_body": {"temperature": 0.1, "top_p": 0.5, "top_k": 9}},
            {"budget": 1024, "temperature": None, "top_p": None, "top_k": None},
            ["temperature", "top_p", "top_k"],
        ),
        (
            {"extra_body": {**THINKING, "temperature": 0.1, "top_p": 0.99, "top_k": 9}},
            {"budget": 2000, "temperature": None, "top_p": 0.99, "top_k": None},
            ["temperature", "top_k"],
        ),
        ({"extra_body": {"temperature": 0.1, "top_k": 9}}, {"temperature": 0.1, "top_k": 9}, []),
        (
            {"reasoning_effort": "low", "tools": [Tool("look")], "extra_body": {"tool_choice": ANY}},
            {"thinking": None, "tool_choice": ANY},
            ["forced"],
        ),
        ({"extra_body": THINKING, **FORCED}, {"thinking": None, "tool_choice": ANY}, ["forced"]),
        (
            {"extra_body": THINKING, "max_tokens": 1000},
            {"thinking": None, "max_tokens": 1000},
            ["max_tokens"],
        ),
        ({"extra_body": {**THINKING, "max_tokens": 2000}}, {"budget": 1024, "max_tokens": 2000}, ["1024"]),
        ({"extra_body": {"thinking": {"type": "enabled", "budget_tokens": 9}}}, {"budget": 1024}, ["1024"]),
        (
            {"extra_body": {"thinking": {"type": "adaptive"}}, "temperature": 0.1},
            {"thinking": {"type": "adaptive"}, "temperature": None},
            ["temperature"],
        ),
    ],
)
def test_reasoning_makes_requests_that_anthropics_server_takes(
    options: JSON, expected: JSON, adapted: list[str]
) -> None:
    request = ChatRequest(model="m", messages=[HI], **options)
    encoded = dialect_named("anthropic").encode(request, stream=False)
    found = {**encoded.body, "budget": (encoded.body.get("thinking") or {}).get("budget_tokens")}
    assert {name: found.get(name) for name in expected} == expected
    assert len(encoded.adapted) == len(adapted)
    assert all(word in note for word, note in zip(adapted, encoded.adapted, strict=True))


def test_reasoning_is_left_out_where_the_answer_is_begun() -> None:
    request = ChatRequest(model="m", messages=[HI, said(Text("It is"))], reasoning_effort="low")
    encoded = dialect_named("anthropic").encode(request, stream=False)
    assert "thinking" not in encoded.body
    assert len(encoded.adapted) == 1


@pytest.mark.parametrize("thought", [None, Reasoning("hm"), Reasoning("hm", "sig"), Reasoning(redacted="d")])
@pytest.mark.parametrize("further", [[], [HI], [said(Text("It rains.")), HI]])
def test_reasoning_is_left_out_while_calls_that_were_made_without_it_have_their_results_read(
    thought: Reasoning | None, further: list[Message]
) -> None:
    calling = said(*([thought] if thought else []), ToolCall("a", "look", "{}"))
    messages = [HI, calling, Message("tool", [Text("rain")], tool_call_id="a"), *further]
    request = ChatRequest(model="m", messages=messages, tools=[Tool("look")], reasoning_effort="low")
    encoded = dialect_named("anthropic").encode(request, stream=False)
    goes = len(further) > 1 or (thought is not None and bool(thought.signature or thought.redacted))
    assert ("thinking" in encoded.body) is goes
    assert len(encoded.adapted) == (not goes)


def test_one_limit_of_tokens_is_sent() -> None:
    body = encode("openai", HI, max_tokens=5, extra_body={"max_completion_tokens": 7})
    assert "max_tokens" not in body


@pytest.mark.parametrize(
    "messages",
    [
        [said(Text("Hello.")), HI],
        [Message("system", [Text("Be brief.")]), said(Text("Hello."))],
        [user(Text(" ")), said(Text("Hello.")), HI],
        [said(ToolCall("a", "look")), result("a")],
    ],
)
def test_a_conversation_that_the_assistant_begins_gets_a_users_turn(messages: list[Message]) -> None:
    request = ChatRequest(model="m", messages=messages)
    encoded = dialect_named("anthropic").encode(request, stream=False)
    first, second, *_ = encoded.body["messages"]
    assert (first["role"], second["role"]) == ("user", "assistant")
    assert first["content"].strip()
    assert len(encoded.adapted) == 1


def test_a_result_that_comes_first_is_told_before_sending() -> None:
    for dialect in DIALECTS:
        with pytest.raises(InvalidArgumentError, match="no such call before it"):
            encode(dialect, result("a"), HI)


@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
@pytest.mark.parametrize(
    "part",
    [
        Image(data=b64encode(b"%PDF-1.7\n1 0 obj").decode(), media_type="image/png"),
        Image(data=b64encode(b"<!doctype html><p>404").decode(), media_type="image/jpeg"),
        Image(url="/home/ann/cat.png"),
        Image(url="  "),
        Image(url="file:///cat.png"),
    ],
)
def test_no_medium_goes_out_as_what_it_is_not(dialect: DialectName, part: Any) -> None:
    with pytest.raises(InvalidArgumentError):
        encode(dialect, user(part))


@pytest.mark.parametrize("codec", ["utf-16", "utf-8-sig"])
def test_a_text_is_read_in_the_encoding_that_it_declares(codec: str) -> None:
    body = encode(
        "anthropic", user(File(data=b64encode("grün".encode(codec)).decode(), media_type="text/plain"))
    )
    assert body["messages"][0]["content"][0]["source"]["data"] == "grün"


def test_a_text_in_another_encoding_is_not_garbled() -> None:
    part = File(data=b64encode("grün".encode("latin-1")).decode(), media_type="text/csv")
    with pytest.raises(InvalidArgumentError, match="UTF-8"):
        encode("anthropic", user(part))
    assert encode("openai", user(part))  # the bytes as they are
