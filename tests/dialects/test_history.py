"""Any conversation is sent in a form that strict servers accept, or rejected before sending."""

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


def assistant(*parts: Part) -> Message:
    return Message("assistant", list(parts))


def result(id: str, *parts: Part) -> Message:
    return Message("tool", list(parts or [Text(f"of {id}")]), tool_call_id=id)


def encode(dialect: DialectName, *messages: Message, **options: Any) -> JSON:
    return (
        dialect_named(dialect).encode(ChatRequest(model="m", messages=messages, **options), stream=False).body
    )


def outline(dialect: DialectName, body: JSON) -> list[Any]:
    """Outline a request in the same terms for both dialects: texts, calls, results and other content."""
    lines: list[Any] = []
    if dialect == "anthropic" and (system := body.get("system")):
        lines.append(
            ("system", system if isinstance(system, str) else "".join(block["text"] for block in system))
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
                "\n".join(part.get("text", part["type"]) for part in content),
            )
    return (role, {"image_url": "image", "document": "file"}.get(block["type"], block["type"]))


NOT_RUN = "There is no result because the call was not run."
CUT = InvalidToolCall("a", "look", '{"at": "i', "cut")
CASES: dict[str, tuple[list[Message], list[Any]]] = {
    "a truncated call without a result": (
        [HI, assistant(CUT), user(Text("so?"))],
        [
            ("user", "hi"),
            ("call", "a", "look", {"invalid_arguments": '{"at": "i'}),
            ("result", "a", CUT.error),
            ("user", "so?"),
        ],
    ),
    "a truncated call without arguments, with a result": (
        [HI, assistant(InvalidToolCall("a", "look", "", "cut")), result("a")],
        [("user", "hi"), ("call", "a", "look", {}), ("result", "a", "of a")],
    ),
    "a call without a name": (
        [HI, assistant(InvalidToolCall("a", "", "{}", "unnamed"))],
        [
            ("user", "hi"),
            ("call", "a", "unnamed", {}),
            ("result", "a", InvalidToolCall("a", "", "{}", "unnamed").error),
        ],
    ),
    "a call whose arguments are not an object": (
        [HI, assistant(ToolCall("a", "look", "[1]")), result("a")],
        [("user", "hi"), ("call", "a", "look", {"invalid_arguments": "[1]"}), ("result", "a", "of a")],
    ),
    "a call at the end, without a result": (
        [HI, assistant(ToolCall("a", "look"))],
        [("user", "hi"), ("call", "a", "look", {}), ("result", "a", NOT_RUN)],
    ),
    "one of two calls without a result": (
        [HI, assistant(ToolCall("a", "look"), ToolCall("b", "look")), result("b"), user(Text("so?"))],
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
        [HI, assistant(ToolCall("a", "look")), user(Text("wait")), assistant(Text("yes")), result("a")],
        [
            ("user", "hi"),
            ("call", "a", "look", {}),
            ("result", "a", "of a"),
            ("user", "wait"),
            ("assistant", "yes"),
        ],
    ),
    "two results of one call": (
        [HI, assistant(ToolCall("a", "look")), result("a", Text("one")), result("a", Text("two"))],
        [("user", "hi"), ("call", "a", "look", {}), ("result", "a", "one\ntwo")],
    ),
    "two calls with the same id": (
        [
            HI,
            assistant(ToolCall("a", "look"), ToolCall("a", "see")),
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
    "the same id in a later turn": (
        [
            HI,
            assistant(ToolCall("a", "look")),
            result("a"),
            assistant(ToolCall("a", "see")),
            result("a", Text("2")),
        ],
        [
            ("user", "hi"),
            ("call", "a", "look", {}),
            ("result", "a", "of a"),
            ("call", "a_2", "see", {}),
            ("result", "a_2", "2"),
        ],
    ),
    "the same call object in two turns": (
        [HI, *[assistant(CUT), result("a")] * 2],
        [
            ("user", "hi"),
            ("call", "a", "look", {"invalid_arguments": '{"at": "i'}),
            ("result", "a", "of a"),
            ("call", "a_2", "look", {"invalid_arguments": '{"at": "i'}),
            ("result", "a_2", "of a"),
        ],
    ),
    "ids from other providers": (
        [HI, assistant(ToolCall("fc_1|call:2", "look"), ToolCall("", "look")), result("fc_1|call:2")],
        [
            ("user", "hi"),
            ("call", "fc_1_call_2", "look", {}),
            ("call", "call", "look", {}),
            ("result", "fc_1_call_2", "of fc_1|call:2"),
            ("result", "call", NOT_RUN),
        ],
    ),
    "line breaks and escaped half surrogate pairs in arguments": (
        [HI, assistant(ToolCall("a", "look", '{"at": "1\n2\\ud83d"}')), result("a")],
        [("user", "hi"), ("call", "a", "look", {"at": "1\n2\ufffd"}), ("result", "a", "of a")],
    ),
    "half a surrogate pair in arguments": (
        [HI, assistant(ToolCall("a", "look", '{"at": "\ud83d"}')), result("a")],
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
        [HI, assistant(Text("see"), Image(data=PNG), ToolCall("a", "look")), result("a")],
        [
            ("user", "hi"),
            ("assistant", "see"),
            ("call", "a", "look", {}),
            ("result", "a", "of a"),
            ("user", "image"),
        ],
    ),
    "blocks of another provider's tools": (
        [
            HI,
            assistant(Text("see"), Raw({"type": "web_search_call", "id": "ws"}, "openai")),
            user(Text("so?")),
        ],
        [("user", "hi"), ("assistant", "see"), ("user", "so?")],
    ),
    "blocks that no dialect accepts in an answer": (
        [HI, assistant(Text("see"), Raw({"type": "hologram"})), user(Text("so?"))],
        [("user", "hi"), ("assistant", "see"), ("user", "so?")],
    ),
    "unknown blocks in a result": (
        [
            HI,
            assistant(ToolCall("a", "look")),
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
def test_a_conversation_is_sent_in_a_form_that_servers_accept(dialect: DialectName, case: str) -> None:
    messages, expected = CASES[case]
    assert outline(dialect, encode(dialect, *messages)) == expected


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_encoding_does_not_change_a_conversation(dialect: DialectName, case: str) -> None:
    messages, _ = CASES[case]
    before = repr(messages)
    assert encode(dialect, *messages) == encode(dialect, *messages)
    assert repr(messages) == before


REJECTED: dict[str, tuple[list[Message], JSON]] = {
    "no message": ([], {}),
    "a result without a call": ([HI, result("a")], {}),
    "a result without a call id": ([HI, assistant(ToolCall("a", "look")), result("")], {}),
    "an empty image": ([user(Image())], {}),
    "an image of an unknown type": ([user(Image(data=WORDS))], {}),
    "an image that is not base64": ([user(Image(data="??", media_type="image/png"))], {}),
    "an empty file": ([user(File(name="a.pdf"))], {}),
    "a call in a user's message": ([user(ToolCall("a", "look"))], {}),
    "a tool without a name": ([HI], {"tools": [Tool("")]}),
    "a choice that is not among the tools": (
        [HI],
        {"tools": [Tool("look")], "tool_choice": NamedTool("see")},
    ),
    "a choice without tools": ([HI], {"tool_choice": "required"}),
    "several answers": ([HI], {"extra_body": {"n": 2}}),
}


@pytest.mark.parametrize("case", REJECTED)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_requests_that_no_server_accepts_are_rejected_before_sending(dialect: DialectName, case: str) -> None:
    messages, options = REJECTED[case]
    with pytest.raises((InvalidArgumentError, UnsupportedContentError)) as caught:
        encode(dialect, *messages, **options)
    assert caught.value.hint


REJECTED_BY_ANTHROPIC: dict[str, tuple[list[Message], JSON]] = {
    "only a system message": ([Message("system", [Text("Be kind.")])], {}),
    "only whitespace": ([user(Text(" \n"))], {}),
    "more than four cache points": ([user(*[Text("a"), CachePoint()] * 5)], {}),
    "a seed": ([HI], {"seed": 1}),
    "audio": ([user(Audio("UklGRg==", "wav"))], {}),
    "a document of an unsupported type": (
        [user(File(data=b64encode(b"PK\x03\x04\xff").decode(), media_type="application/zip"))],
        {},
    ),
}


@pytest.mark.parametrize("case", REJECTED_BY_ANTHROPIC)
def test_requests_invalid_only_for_anthropic_are_rejected_only_there(case: str) -> None:
    messages, options = REJECTED_BY_ANTHROPIC[case]
    with pytest.raises(PicccError) as caught:
        encode("anthropic", *messages, **options)
    assert caught.value.hint
    encode("openai", *messages, **options)


def test_blank_text_that_anthropics_server_rejects_is_omitted() -> None:
    body = encode(
        "anthropic",
        Message("system", [Text(" ")]),
        user(Text("a"), Text(" \n"), CachePoint()),
        assistant(Text("\n\n")),
        user(Text("b")),
        assistant(ToolCall("a", "look")),
        result("a", Text(" ")),
        assistant(Text("It is "), Text("\n")),
    )
    assert "system" not in body
    assert [message["role"] for message in body["messages"]] == ["user", "assistant", "user", "assistant"]
    first, last = body["messages"][0]["content"], body["messages"][-1]["content"]
    assert [block["text"] for block in first] == ["a", "b"]
    assert first[0]["cache_control"] == {"type": "ephemeral"}
    assert body["messages"][2]["content"] == [{"type": "tool_result", "tool_use_id": "a"}]
    assert last == "It is"


def test_a_turn_with_only_reasoning_is_not_sent() -> None:
    body = encode("anthropic", HI, assistant(Text("so"), Reasoning("hm", "sig")), user(Text("go on")))
    assert body["messages"][1]["content"] == "so"
    body = encode("anthropic", HI, assistant(Reasoning("hm", "sig")), user(Text("go on")))
    assert [message["role"] for message in body["messages"]] == ["user"]


@pytest.mark.parametrize("replay", [None, True])
def test_a_signature_is_replayed_only_to_its_provider(replay: bool | None) -> None:
    signed, foreign = Reasoning("hm", "sig"), Reasoning("hm", "sig", provider="google")
    hidden = Reasoning(redacted="xyz", provider="anthropic")
    body = encode("anthropic", HI, assistant(foreign, hidden, signed, Text("so")), replay_reasoning=replay)
    assert [block["type"] for block in body["messages"][1]["content"]] == ["thinking", "text"]
    sent = encode("openai", HI, assistant(foreign, hidden, Text("so")), replay_reasoning=replay)["messages"][
        1
    ]
    assert sent.get("reasoning_content") == ("hm" if replay else None)


def test_omitted_content_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "piccc"):
        encode("openai", HI, assistant(Raw({"type": "web_search_call"}, "openai"), Text("a")))
    assert "web_search_call" in caplog.text


def test_provider_blocks_are_replayed_only_over_their_own_dialect() -> None:
    used: list[Part] = [
        Raw({"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {}}),
        Raw({"type": "web_search_tool_result", "tool_use_id": "s1", "content": []}),
        Text("so", [{"type": "char_location", "cited_text": "x"}, {"type": "url_citation"}]),
    ]
    blocks = encode("anthropic", HI, assistant(*used))["messages"][1]["content"]
    assert [block["type"] for block in blocks] == ["server_tool_use", "web_search_tool_result", "text"]
    assert blocks[2]["citations"] == [{"type": "char_location", "cited_text": "x"}]
    assert encode("openai", HI, assistant(*used))["messages"][1]["content"] == "so"


def test_an_unfinished_server_tool_is_replayed_only_to_be_finished() -> None:
    search = Raw({"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {}})
    result = Raw({"type": "web_search_tool_result", "tool_use_id": "s1", "content": []})

    def kinds(*messages: Message) -> list[str]:
        content = encode("anthropic", HI, *messages)["messages"][1]["content"]
        return [block["type"] for block in content]

    assert kinds(assistant(Text("so"), search, Text("that")), HI) == ["text", "text"]
    assert kinds(assistant(Text("so"), search)) == ["text", "server_tool_use"]
    assert kinds(assistant(search), assistant(result), HI) == ["server_tool_use", "web_search_tool_result"]


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
def test_images_and_files_are_declared_by_their_content(
    content: str, declared: str | None, real: str, form: str
) -> None:
    given = {"data": content} if form == "data" else {"url": f"data:{declared or ''};base64,{content}"}
    part = File(**given, media_type=declared, name="a name.x")
    [sent] = encode("openai", user(part))["messages"][0]["content"]
    assert sent["file"] == {"filename": "a name.x", "file_data": f"data:{real};base64,{content}"}
    if real.startswith("image/"):
        image = Image(**given, media_type=declared)
        [sent] = encode("openai", user(image))["messages"][0]["content"]
        assert sent["image_url"]["url"] == f"data:{real};base64,{content}"
        for given_part in (image, part):
            [sent] = encode("anthropic", user(given_part))["messages"][0]["content"]
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


def test_unsupported_content_in_a_result_is_replaced_by_text(caplog: pytest.LogCaptureFixture) -> None:
    call, sound = assistant(ToolCall("a", "play")), result("a", Text("here"), Audio("UklGRg==", "wav"))
    [block] = encode("anthropic", HI, call, sound)["messages"][2]["content"]
    assert [inner["type"] for inner in block["content"]] == ["text", "text"]
    assert block["content"][1]["text"].startswith("[audio content, which cannot be shown here:")
    assert "A tool returned audio content that cannot be sent" in caplog.text
    linked = result("a", File(url="https://a.test/b.pdf"))
    assert encode("openai", HI, call, linked)["messages"][2]["content"] == "https://a.test/b.pdf"


def test_speaker_names_are_rewritten_to_valid_ones() -> None:
    body = encode("openai", HI, Message("assistant", [Text("so")], name="research agent <1>"))
    assert body["messages"][1]["name"] == "research_agent_1_"


NAMES = ["files.read", "files_read", "читать", "x" * 80]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_tool_names_are_rewritten_and_mapped_back(dialect: DialectName, way: str) -> None:
    tools = [Tool(name) for name in NAMES]
    earlier = [HI, assistant(ToolCall("a", "files.read")), result("a")]
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
    calls = [(f"c{index}", name, ["{}"]) for index, name in enumerate(sent)]
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
def test_reasoning_options_are_adapted_to_what_anthropics_server_accepts(
    options: JSON, expected: JSON, adapted: list[str]
) -> None:
    request = ChatRequest(model="m", messages=[HI], **options)
    encoded = dialect_named("anthropic").encode(request, stream=False)
    found = {**encoded.body, "budget": (encoded.body.get("thinking") or {}).get("budget_tokens")}
    assert {name: found.get(name) for name in expected} == expected
    assert len(encoded.adapted) == len(adapted)
    assert all(word in note for word, note in zip(adapted, encoded.adapted, strict=True))


def test_reasoning_is_omitted_if_the_answer_is_prefilled() -> None:
    request = ChatRequest(model="m", messages=[HI, assistant(Text("It is"))], reasoning_effort="low")
    encoded = dialect_named("anthropic").encode(request, stream=False)
    assert "thinking" not in encoded.body
    assert len(encoded.adapted) == 1


@pytest.mark.parametrize("thought", [None, Reasoning("hm"), Reasoning("hm", "sig"), Reasoning(redacted="d")])
@pytest.mark.parametrize("further", [[], [HI], [assistant(Text("It rains.")), HI]])
def test_reasoning_is_omitted_after_tool_calls_made_without_it(
    thought: Reasoning | None, further: list[Message]
) -> None:
    calling = assistant(*([thought] if thought else []), ToolCall("a", "look", "{}"))
    messages = [HI, calling, Message("tool", [Text("rain")], tool_call_id="a"), *further]
    request = ChatRequest(model="m", messages=messages, tools=[Tool("look")], reasoning_effort="low")
    encoded = dialect_named("anthropic").encode(request, stream=False)
    is_sent = len(further) > 1 or (thought is not None and bool(thought.signature or thought.redacted))
    assert ("thinking" in encoded.body) is is_sent
    assert len(encoded.adapted) == (not is_sent)


def test_only_one_token_limit_is_sent() -> None:
    body = encode("openai", HI, max_tokens=5, extra_body={"max_completion_tokens": 7})
    assert "max_tokens" not in body


@pytest.mark.parametrize(
    "messages",
    [
        [assistant(Text("Hello.")), HI],
        [Message("system", [Text("Be brief.")]), assistant(Text("Hello."))],
        [user(Text(" ")), assistant(Text("Hello.")), HI],
        [assistant(ToolCall("a", "look")), result("a")],
    ],
)
def test_a_conversation_that_starts_with_the_assistant_gets_a_user_turn(messages: list[Message]) -> None:
    request = ChatRequest(model="m", messages=messages)
    encoded = dialect_named("anthropic").encode(request, stream=False)
    first, second, *_ = encoded.body["messages"]
    assert (first["role"], second["role"]) == ("user", "assistant")
    assert first["content"].strip()
    assert len(encoded.adapted) == 1


def test_a_result_before_its_call_is_rejected_before_sending() -> None:
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
        Image(data="no base64"),
        Image(),
        File(),
    ],
)
def test_content_that_is_not_what_it_claims_is_rejected_or_described_if_a_tool_returned_it(
    dialect: DialectName, part: Any
) -> None:
    with pytest.raises(InvalidArgumentError) as error:
        encode(dialect, user(part))
    # An error would end the agent, and every later call with the same history.
    body = encode(dialect, HI, assistant(ToolCall("a", "look")), result("a", Text("seen:"), part))
    [(_, _, shown)] = [line for line in outline(dialect, body) if line[0] == "result"]
    kind = type(part).__name__.lower()
    assert f"[{kind} content, which cannot be shown here: {error.value.message}]" in str(shown)


@pytest.mark.parametrize("codec", ["utf-16", "utf-8-sig"])
def test_a_text_file_is_decoded_by_its_byte_order_mark(codec: str) -> None:
    body = encode(
        "anthropic", user(File(data=b64encode("grün".encode(codec)).decode(), media_type="text/plain"))
    )
    assert body["messages"][0]["content"][0]["source"]["data"] == "grün"


def test_a_text_file_in_another_encoding_is_not_garbled() -> None:
    part = File(data=b64encode("grün".encode("latin-1")).decode(), media_type="text/csv")
    with pytest.raises(InvalidArgumentError, match="UTF-8"):
        encode("anthropic", user(part))
    assert encode("openai", user(part))  # it sends the bytes unchanged
