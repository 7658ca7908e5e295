"""Structured output in LlamaIndex; `tests/test_structured.py` tests the shared engine."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from llama_index.core import get_response_synthesizer
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.llms import ChatMessage
from llama_index.core.program.function_program import FunctionCallingProgram
from llama_index.core.prompts import PromptTemplate
from llama_index.core.response_synthesizers import ResponseMode
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.core.types import PydanticProgramMode
from pydantic import BaseModel, Field, RootModel

from llama_index_piccc import Piccc, PicccStructuredLLM, StructuredOutputError
from piccc.emulator import Emulator, Scripted
from piccc.errors import ContextOverflowError, InvalidRequestError
from tests.llama_index.conftest import Async, Sync
from tests.llama_index.wire import llm_and_requests

Way = Sync | Async


class Kiln(BaseModel):
    """A kiln."""

    name: str = Field(description="its name")
    degrees: int


PROMPT = PromptTemplate("The kiln 'Blue Oven' reaches {degrees} degrees.")
BLUE_OVEN = Kiln(name="Blue Oven", degrees=1200)
VALID_JSON = BLUE_OVEN.model_dump_json()


class Names(RootModel[list[str]]):
    pass


def predict(way: Way, llm: Any, **kwargs: Any) -> Any:
    """Return the object predicted from the prompt."""
    return way.call(llm, "structured_predict", Kiln, PROMPT, degrees=1200, **kwargs)


def predict_stream(way: Way, llm: Any, **kwargs: Any) -> list[Any]:
    """Return the partial objects streamed for the prompt."""
    return way.stream(llm, "stream_structured_predict", Kiln, PROMPT, degrees=1200, **kwargs)


def methods_used(emulator: Emulator) -> list[str]:
    """Return the structured output method of each request."""
    return [_method_used(request.body) for request in emulator.requests]


def _method_used(body: dict[str, Any]) -> str:
    if "response_format" in body or "output_config" in body:
        return "schema"
    return "tool" if "tools" in body else "text"


def parameter_error(word: str) -> dict[str, Any]:
    """Return the error of a server that does not know a parameter."""
    error = {"message": f"Unknown parameter: {word}.", "type": "invalid_request_error", "code": None}
    return {"status": 400, "error": error}


def text_reply(content: str | None = None, finish_reason: str = "stop", **message: Any) -> dict[str, Any]:
    """Return a reply in the OpenAI dialect."""
    choice = {"index": 0, "message": {"content": content, **message}, "finish_reason": finish_reason}
    usage = {"prompt_tokens": 10, "completion_tokens": 4}
    return {"id": "chatcmpl-1", "model": "piccc-pro", "choices": [choice], "usage": usage}


def tool_call_reply(arguments: str) -> dict[str, Any]:
    """Return a reply that calls the tool with these arguments."""
    call = {"id": "c1", "type": "function", "function": {"name": "Kiln", "arguments": arguments}}
    return text_reply(None, "tool_calls", tool_calls=[call])


def test_an_object_is_predicted_with_and_without_streaming(way: Way, llm: Piccc) -> None:
    llm.coalesce = False
    assert predict(way, llm) == BLUE_OVEN
    partials = predict_stream(way, llm)
    assert partials[-1] == BLUE_OVEN
    assert len(partials) > 2


MODES = {
    PydanticProgramMode.DEFAULT: "schema",
    PydanticProgramMode.FUNCTION: "tool",
    PydanticProgramMode.LLM: "text",
}


@pytest.mark.parametrize("mode", MODES)
def test_the_program_mode_selects_the_output_method(
    way: Way, llm: Piccc, emulator: Emulator, mode: PydanticProgramMode
) -> None:
    llm.pydantic_program_mode = mode
    reply = Scripted(calls=[("Kiln", BLUE_OVEN.model_dump())]) if MODES[mode] == "tool" else VALID_JSON
    emulator.rule(lambda _: True, reply)
    assert predict(way, llm) == BLUE_OVEN
    assert predict_stream(way, llm)[-1] == BLUE_OVEN
    assert methods_used(emulator) == [MODES[mode]] * 2


def test_streamed_tool_arguments_yield_growing_objects(way: Way, llm: Piccc, emulator: Emulator) -> None:
    llm.pydantic_program_mode = PydanticProgramMode.FUNCTION
    llm.coalesce = False
    emulator.script([Scripted(calls=[("Kiln", BLUE_OVEN.model_dump())])])
    names = [kiln.name for kiln in predict_stream(way, llm)]
    assert names[0] != "Blue Oven"
    assert names[-1] == "Blue Oven"
    assert all("Blue Oven".startswith(name or "") for name in names)


def test_a_list_without_a_wrapper_object_needs_one_call(way: Way, llm: Piccc, emulator: Emulator) -> None:
    llm.pydantic_program_mode = PydanticProgramMode.FUNCTION
    emulator.rule(lambda _: True, Scripted(calls=[("Names", '["Anna"]')]))
    prompt = PromptTemplate("?")
    assert way.call(llm, "structured_predict", Names, prompt) == Names(["Anna"])
    assert way.stream(llm, "stream_structured_predict", Names, prompt)[-1] == Names(["Anna"])
    assert len(emulator.charges) == 2


def test_the_tool_is_forced_with_and_without_streaming(way: Way, llm: Piccc, emulator: Emulator) -> None:
    llm.pydantic_program_mode = PydanticProgramMode.FUNCTION
    emulator.rule(lambda _: True, Scripted(calls=[("Kiln", BLUE_OVEN.model_dump())]))
    predict(way, llm)
    predict_stream(way, llm)
    named = [json.dumps(request.body["tool_choice"]) for request in emulator.requests]
    assert len(named) == 2
    assert all('"name": "Kiln"' in choice for choice in named)


def test_structured_prediction_sends_the_system_prompt(way: Way, llm: Piccc, emulator: Emulator) -> None:
    llm.system_prompt = "You are a potter."
    predict(way, llm)
    predict_stream(way, llm)
    assert all("You are a potter." in json.dumps(request.body) for request in emulator.requests)


def test_llm_kwargs_are_sent_and_not_modified(way: Way, llm: Piccc, emulator: Emulator) -> None:
    kwargs = {"temperature": 0.5, "tool_choice": "auto", "tool_required": False}
    before = dict(kwargs)
    predict(way, llm, llm_kwargs=kwargs)
    predict_stream(way, llm, llm_kwargs=kwargs)
    assert kwargs == before
    assert [request.body["temperature"] for request in emulator.requests] == [0.5, 0.5]


@pytest.mark.parametrize(
    ("bodies", "methods"),
    [
        ([parameter_error("response_format"), tool_call_reply(VALID_JSON)], ["schema", "tool"]),
        (
            [parameter_error("response_format"), parameter_error("tools"), text_reply(VALID_JSON)],
            ["schema", "tool", "text"],
        ),
    ],
)
def test_an_unsupported_method_is_skipped_and_not_tried_again(bodies: Any, methods: list[str]) -> None:
    llm, requests = llm_and_requests(*[dict(body) for body in [*bodies, bodies[-1]]])
    assert predict(Sync(), llm) == BLUE_OVEN
    assert [_method_used(request) for request in requests] == methods
    assert predict(Sync(), llm) == BLUE_OVEN
    assert _method_used(requests[-1]) == methods[-1]
    assert len(requests) == len(methods) + 1


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ({"status": 400, "error": {"message": "no", "param": "temperature"}}, InvalidRequestError),
        (
            {"status": 400, "error": {"message": "tools too long", "code": "context_length_exceeded"}},
            ContextOverflowError,
        ),
    ],
)
def test_unrelated_request_errors_do_not_cause_a_fallback(error: Any, kind: type[Exception]) -> None:
    llm, requests = llm_and_requests(dict(error))
    with pytest.raises(kind):
        predict(Sync(), llm)
    assert len(requests) == 1


@pytest.mark.parametrize("mode", MODES)
def test_an_invalid_answer_is_repaired_once(
    way: Way, llm: Piccc, emulator: Emulator, mode: PydanticProgramMode
) -> None:
    llm.pydantic_program_mode = mode
    emulator.script(['{"name": "Blue Oven", "degrees": "hot"}', VALID_JSON])
    assert predict(way, llm) == BLUE_OVEN
    correction = json.dumps(emulator.requests[-1].body["messages"][-1])
    assert "degrees: Input should be a valid integer" in correction
    emulator.script(['{"name": "Blue Oven", "degrees": "hot"}', VALID_JSON])
    assert predict_stream(way, llm)[-1] == BLUE_OVEN
    assert len(emulator.requests) == 4


def test_a_call_that_stays_invalid_raises_an_error_with_its_arguments(
    way: Way, llm: Piccc, emulator: Emulator
) -> None:
    llm.pydantic_program_mode = PydanticProgramMode.FUNCTION
    emulator.rule(lambda _: True, Scripted(calls=[("Kiln", {"name": "Blue Oven"})]))
    with pytest.raises(StructuredOutputError, match="degrees: Field required") as caught:
        predict(way, llm)
    assert json.loads(caught.value.text) == {"name": "Blue Oven"}


def test_an_answer_that_stays_invalid_raises_an_error_with_its_text(
    way: Way, llm: Piccc, emulator: Emulator
) -> None:
    wrong = '{"name": "Blue Oven", "degrees": "hot"}'
    emulator.rule(lambda _: True, wrong)
    for run in (predict, predict_stream):
        with pytest.raises(StructuredOutputError, match="Kiln") as caught:
            run(way, llm)
        assert (caught.value.text, caught.value.finish_reason) == (wrong, "stop")
        assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)  # noqa: S301  our own data
    assert len(emulator.requests) == 4


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (Scripted('{"name": "Blue', finish_reason="length"), "max_tokens"),
        (Scripted(refusal="I will not."), "declined"),
    ],
)
def test_truncated_answers_and_refusals_are_not_repaired(
    way: Way, make: Callable[..., Piccc], emulator: Emulator, reply: Scripted, message: str
) -> None:
    emulator.rule(lambda _: True, reply)
    with pytest.raises(StructuredOutputError, match=message):
        predict(way, make())
    assert len(emulator.requests) == 1


class EventRecorder(BaseEventHandler):
    """An event handler that keeps the names of all events."""

    names: list[str] = []  # noqa: RUF012  pydantic copies it

    def handle(self, event: Any, **kwargs: Any) -> None:
        """Keep an event's name."""
        self.names.append(type(event).__name__)


@pytest.fixture
def recorder() -> Any:
    handler, dispatcher = EventRecorder(), get_dispatcher()
    before = list(dispatcher.event_handlers)
    dispatcher.add_event_handler(handler)
    yield handler
    dispatcher.event_handlers = before


@pytest.mark.parametrize("run", [predict, predict_stream])
def test_a_prediction_emits_predict_and_chat_events_once(
    way: Way, llm: Piccc, recorder: EventRecorder, run: Any
) -> None:
    run(way, llm)
    names = (
        "LLMStructuredPredictStartEvent",
        "LLMStructuredPredictEndEvent",
        "LLMChatStartEvent",
        "LLMChatEndEvent",
    )
    assert {name: recorder.names.count(name) for name in names} == dict.fromkeys(names, 1)


def test_cores_program_returns_complete_objects_with_and_without_streaming(
    way: Way, llm: Piccc, emulator: Emulator
) -> None:
    emulator.rule(lambda _: True, Scripted(calls=[("Kiln", BLUE_OVEN.model_dump())]))
    program = FunctionCallingProgram.from_defaults(Kiln, prompt=PROMPT, llm=llm)
    if isinstance(way, Sync):
        assert program(degrees=1200) == BLUE_OVEN
        assert list(program.stream_call(degrees=1200))[-1] == BLUE_OVEN
    else:
        assert way.stream(_AsyncProgram(program), "stream_call", degrees=1200)[-1] == BLUE_OVEN


class _AsyncProgram:
    """Adapter: exposes the async stream of core's program."""

    def __init__(self, program: Any) -> None:
        self.astream_call = program.astream_call


QUESTION = [ChatMessage(role="user", content="The kiln 'Blue Oven' reaches 1200 degrees. {So} hot.")]


@pytest.mark.parametrize("method", ["chat", "complete"])
def test_a_structured_llm_answers_with_objects_and_usage(
    way: Way, llm: Piccc, emulator: Emulator, method: str
) -> None:
    structured = llm.as_structured_llm(Kiln)
    question = QUESTION if method == "chat" else QUESTION[0].content
    complete_response = way.call(structured, method, question)
    streamed = way.stream(structured, f"stream_{method}", question)
    for response, record in zip((complete_response, streamed[-1]), emulator.requests, strict=True):
        assert response.raw == BLUE_OVEN
        assert Kiln.model_validate_json(str(response).removeprefix("assistant: ")) == BLUE_OVEN
        assert response.additional_kwargs["prompt_tokens"] == record.prompt_tokens
        assert response.additional_kwargs["completion_tokens"] == record.completion_tokens
    assert "{So}" in json.dumps(emulator.requests[0].body)
    assert Kiln.model_validate_json("".join(response.delta for response in streamed)) == BLUE_OVEN


def test_a_structured_llm_counts_the_tokens_of_a_repair(way: Way, llm: Piccc, emulator: Emulator) -> None:
    counter = TokenCountingHandler()
    llm.callback_manager = CallbackManager([counter])
    emulator.script(['{"name": "Blue Oven"}', VALID_JSON])
    usage = way.call(llm.as_structured_llm(Kiln), "chat", QUESTION).additional_kwargs
    assert usage["prompt_tokens"] == sum(request.prompt_tokens or 0 for request in emulator.requests)
    assert usage["total_tokens"] == counter.total_llm_token_count
    assert len(counter.llm_token_counts) == 2


def test_a_structured_llm_subclasses_cores_structured_llm(llm: Piccc) -> None:
    from llama_index.core.llms.structured_llm import StructuredLLM

    structured = llm.as_structured_llm(Kiln)
    assert isinstance(structured, PicccStructuredLLM)
    assert isinstance(structured, StructuredLLM)
    assert structured.metadata == llm.metadata


@pytest.mark.parametrize("mode", [ResponseMode.COMPACT, ResponseMode.REFINE, ResponseMode.TREE_SUMMARIZE])
def test_a_response_mode_raises_or_logs_the_error(
    emulator: Emulator, caplog: pytest.LogCaptureFixture, mode: ResponseMode
) -> None:
    emulator.rule(lambda request: True, "I cannot say.")
    llm = Piccc(base_url=emulator.base_url, api_key=emulator.api_key)
    synthesizer = get_response_synthesizer(llm=llm, response_mode=mode, output_cls=Kiln)
    nodes = [NodeWithScore(node=TextNode(text="The Blue Oven reaches 1200 degrees."))]
    if mode == ResponseMode.TREE_SUMMARIZE:
        with pytest.raises(StructuredOutputError, match="contains no JSON"):
            synthesizer.synthesize("Which kiln?", nodes)
        return
    assert str(synthesizer.synthesize("Which kiln?", nodes)) == "Empty Response"
    (warning,) = (each for each in caplog.records if each.name.endswith(".refine"))
    assert "contains no JSON" in warning.getMessage()
