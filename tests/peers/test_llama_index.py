"""Our LLM gets the same answers and charges as the LlamaIndex LLMs for OpenAI's and Anthropic's APIs."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from llama_index.core.base.llms.types import ImageBlock, TextBlock, ToolCallBlock
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
from llama_index.core.llms import ChatMessage
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from PIL import Image
from pydantic import BaseModel

from llama_index_piccc import Piccc
from piccc.emulator import Emulator, Scripted

CLASH = "the peers need older SDKs than the other tests, so they run in separate environments"
openai_like = pytest.importorskip("llama_index.llms.openai_like", reason=CLASH)
anthropic = pytest.importorskip("llama_index.llms.anthropic", reason=CLASH)

# The Anthropic peer accepts only model names that it knows; the emulator accepts any.
NAME = "claude-opus-4-8"
QUESTIONS = ["What is a kiln?", "Write a caption for a mug. 🏺", "什么是陶瓷？", "Count to three."]


def multiply(a: int, b: int) -> int:
    """Multiply two whole numbers."""
    return a * b


TOOL = FunctionTool.from_defaults(multiply)


class Kiln(BaseModel):
    """A kiln."""

    name: str
    degrees: int


@pytest.fixture
def emulator() -> Iterator[Emulator]:
    """Run an emulator at full speed."""
    with Emulator(speed=math.inf, models=[NAME]) as running:
        yield running


Models = dict[str, Any]


@pytest.fixture
def models(emulator: Emulator) -> Models:
    """Create our LLM and its peer for each dialect."""
    url, key = emulator.base_url, emulator.api_key
    like = {"is_chat_model": True, "is_function_calling_model": True}
    return {
        "ours-openai": Piccc(model=NAME, base_url=url, api_key=key),
        "peer-openai": openai_like.OpenAILike(model=NAME, api_base=f"{url}/v1", api_key=key, **like),
        "ours-anthropic": Piccc(model=NAME, base_url=url, api_key=key, dialect="anthropic"),
        "peer-anthropic": anthropic.Anthropic(model=NAME, base_url=url, api_key=key),
    }


def per_model(models: Models, emulator: Emulator, ask: Callable[[Any], Any]) -> tuple[list[Any], list[Any]]:
    """Return each model's answer, and each model's charges."""
    answers, charges = [], []
    for llm in models.values():
        before = len(emulator.charges)
        answers.append(ask(llm))
        spent = emulator.charges[before:]
        charges.append([(each.prompt_tokens, each.completion_tokens) for each in spent])
    return answers, charges


@pytest.mark.parametrize("question", QUESTIONS)
def test_complete_answers_and_charges_match_the_peers(
    models: Models, emulator: Emulator, question: str
) -> None:
    answers, charges = per_model(
        models, emulator, lambda llm: llm.chat([ChatMessage(role="user", content=question)]).message.content
    )
    assert len(set(answers)) == 1
    assert len({str(each) for each in charges}) == 1


@pytest.mark.parametrize("question", QUESTIONS)
def test_streamed_answers_and_charges_match_the_peers(
    models: Models, emulator: Emulator, question: str
) -> None:
    def streamed(llm: Any) -> str:
        return "".join(
            each.delta or "" for each in llm.stream_chat([ChatMessage(role="user", content=question)])
        )

    answers, charges = per_model(models, emulator, streamed)
    assert len(set(answers)) == 1
    assert len({str(each) for each in charges}) == 1


def test_answers_to_a_history_with_a_system_message_match_the_peers(
    models: Models, emulator: Emulator
) -> None:
    history = [
        ChatMessage(role="system", content="You are a potter."),
        ChatMessage(role="user", content="I am Ada."),
        ChatMessage(role="assistant", content="Hello Ada."),
        ChatMessage(role="user", content="Who am I?"),
    ]
    answers, _ = per_model(models, emulator, lambda llm: llm.chat(history).message.content)
    assert len(set(answers)) == 1


def test_tool_calls_match_the_peers(models: Models, emulator: Emulator) -> None:
    def called(llm: Any) -> Any:
        response = llm.chat_with_tools([TOOL], user_msg="Multiply 6 and 7")
        return [(each.tool_name, each.tool_kwargs) for each in llm.get_tool_calls_from_response(response)]

    answers, _ = per_model(models, emulator, called)
    assert answers == [[("multiply", {"a": 6, "b": 7})]] * 4


def test_tool_calls_in_a_streams_last_message_match_the_peers(models: Models, emulator: Emulator) -> None:
    def called(llm: Any) -> Any:
        *_, last = llm.stream_chat_with_tools([TOOL], user_msg="Multiply 6 and 7")
        return [(each.tool_name, each.tool_kwargs) for each in llm.get_tool_calls_from_response(last)]

    answers, _ = per_model(models, emulator, called)
    assert answers == [[("multiply", {"a": 6, "b": 7})]] * 4


def test_structured_outputs_match_the_peers(models: Models, emulator: Emulator) -> None:
    whole = Kiln(name="Blue Oven", degrees=1200)
    emulator.rule(lambda ask: bool(ask.tools), Scripted(calls=[("Kiln", whole.model_dump())]))
    emulator.rule(lambda ask: ask.schema is not None, whole.model_dump_json())
    prompt = PromptTemplate("The kiln 'Blue Oven' reaches 1200 degrees.")
    answers, _ = per_model(models, emulator, lambda llm: llm.structured_predict(Kiln, prompt))
    assert answers == [whole] * 4


@pytest.mark.parametrize("method", ["complete", "stream_complete"])
def test_our_token_counts_equal_the_charges(models: Models, emulator: Emulator, method: str) -> None:
    for name in ("ours-openai", "ours-anthropic"):
        counter = TokenCountingHandler()
        models[name].callback_manager = CallbackManager([counter])
        before = len(emulator.charges)
        for question in QUESTIONS:
            answer = getattr(models[name], method)(question)
            if method.startswith("stream"):
                assert [*answer][-1].text
        charged = emulator.charges[before:]
        assert counter.prompt_llm_token_count == sum(each.prompt_tokens for each in charged)
        assert counter.completion_llm_token_count == sum(each.completion_tokens for each in charged)
        assert len(counter.llm_token_counts) == len(charged) == len(QUESTIONS)


def test_images_and_tool_results_are_sent_like_the_peer_sends_them(
    models: Models, emulator: Emulator
) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), "red").save(buffer, "JPEG")
    call = ToolCallBlock(tool_call_id="call_1", tool_name="multiply", tool_kwargs={"a": 2, "b": 3})
    history = [
        ChatMessage(role="user", blocks=[TextBlock(text="See:"), ImageBlock(image=buffer.getvalue())]),
        ChatMessage(role="assistant", blocks=[call]),
        ChatMessage(role="tool", content="6", additional_kwargs={"tool_call_id": "call_1"}),
        ChatMessage(role="user", content="And?"),
    ]
    sent = {}
    for name in ("ours-openai", "peer-openai"):
        models[name].chat_with_tools([TOOL], chat_history=history)
        question, answer, result, _ = emulator.requests[-1].body["messages"]
        (call_sent,) = answer["tool_calls"]
        sent[name] = (
            question["content"][-1]["image_url"]["url"],
            (call_sent["id"], call_sent["function"]["name"], json.loads(call_sent["function"]["arguments"])),
            (result["tool_call_id"], result["content"]),
        )
    assert sent["ours-openai"] == sent["peer-openai"]


def test_log_probabilities_match_the_peer() -> None:
    token = {"token": "Hot", "logprob": -0.5, "bytes": [72]}
    tokens = [{**token, "top_logprobs": [token]}]
    message = {"role": "assistant", "content": "Hot"}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": {"content": tokens}}
    body = {"id": "1", "object": "chat.completion", "created": 1, "model": NAME, "choices": [choice]}
    client = httpx.Client(transport=httpx.MockTransport(lambda _: httpx.Response(200, json=body)))
    ours = Piccc(base_url="http://server.test", api_key="k", http_client=client)
    options = {"is_chat_model": True, "logprobs": True, "http_client": client}
    peer = openai_like.OpenAILike(model=NAME, api_base="http://server.test/v1", api_key="k", **options)
    question = [ChatMessage(role="user", content="Hot?")]
    assert ours.chat(question).logprobs
    assert ours.chat(question).logprobs == peer.chat(question).logprobs


TRUNCATED = Scripted(calls=[("multiply", '{"a": 6, "b')], finish_reason="length")
# Responses that the peers parse correctly, so ours must get the same arguments.
PARSED: dict[str, tuple[Scripted, dict[str, Any]]] = {
    "whole": (Scripted(calls=[("multiply", {"a": 6, "b": 7})]), {"a": 6, "b": 7}),
    "no arguments": (Scripted(calls=[("multiply", "")]), {}),
}


@pytest.mark.parametrize("case", PARSED)
def test_tool_call_arguments_are_parsed_like_the_peers_parse_them(
    models: Models, emulator: Emulator, case: str
) -> None:
    reply, expected = PARSED[case]
    emulator.rule(lambda _: True, reply)

    def called(llm: Any) -> Any:
        response = llm.chat_with_tools([TOOL], user_msg="Multiply 6 and 7")
        return [each.tool_kwargs for each in llm.get_tool_calls_from_response(response)]

    answers, _ = per_model(models, emulator, called)
    assert answers == [[expected]] * 4


@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
def test_a_truncated_tool_call_is_not_returned(models: Models, emulator: Emulator, dialect: str) -> None:
    emulator.rule(lambda _: True, TRUNCATED)
    ours = models[f"ours-{dialect}"]
    response = ours.chat_with_tools([TOOL], user_msg="Multiply 6 and 7")
    assert ours.get_tool_calls_from_response(response, error_on_no_tool_call=False) == []
