"""Objects as answers in LlamaIndex, on all paths alike; `tests/test_structured.py` has the engine."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.llms import ChatMessage
from llama_index.core.program.function_program import FunctionCallingProgram
from llama_index.core.prompts import PromptTemplate
from llama_index.core.types import PydanticProgramMode
from pydantic import BaseModel, Field, RootModel

from llama_index_piccc import Piccc, PicccStructuredLLM, StructuredOutputError
from piccc.emulator import Emulator, Scripted
from piccc.errors import ContextOverflowError, InvalidRequestError
from tests.llama_index.conftest import Async, Sync
from tests.llama_index.wire import recorded

Way = Sync | Async


class Kiln(BaseModel):
    """A kiln."""

    name: str = Field(description="its name")
    degrees: int


PROMPT = PromptTemplate("The kiln 'Blue Oven' reaches {degrees} degrees.")
WHOLE = Kiln(name="Blue Oven", degrees=1200)
FITS = WHOLE.model_dump_json()


class Names(RootModel[list[str]]):
    pass


def predict(way: Way, llm: Any, **kwargs: Any) -> Any:
    """Return the object that the model makes of the prompt."""
    return way.call(llm, "structured_predict", Kiln, PROMPT, degrees=1200, **kwargs)


def predict_stream(way: Way, llm: Any, **kwargs: Any) -> list[Any]:
    """Return the objects that the model makes of the prompt, bit by bit."""
    return way.stream(llm, "stream_structured_predict", Kiln, PROMPT, degrees=1200, **kwargs)


def ways_asked(emulator: Emulator) -> list[str]:
    """Name the way in which each request asked for its object."""
    return [_way_asked(each.body) for each in emulator.requests]


def _way_asked(body: dict[str, Any]) -> str:
    if "response_format" in body or "output_config" in body:
        return "schema"
    return "tool" if "tools" in body else "text"


def refusing(word: str) -> dict[str, Any]:
    """Return a server's refusal of a parameter."""
    error = {"message": f"Unknown parameter: {word}.", "type": "invalid_request_error", "code": None}
    return {"status": 400, "error": error}


def saying(content: str | None = None, finish_reason: str = "stop", **message: Any) -> dict[str, Any]:
    """Return a whole reply in the OpenAI dialect."""
    choice = {"index": 0, "message": {"content": content, **message}, "finish_reason": finish_reason}
    usage = {"prompt_tokens": 10, "completion_tokens": 4}
    return {"id": "chatcmpl-1", "model": "piccc-pro", "choices": [choice], "usage": usage}


def calling(arguments: str) -> dict[str, Any]:
    """Return a whole reply that calls the tool with these arguments."""
    call = {"id": "c1", "type": "function", "function": {"name": "Kiln", "arguments": arguments}}
    return saying(None, "tool_calls", tool_calls=[call])


def test_an_object_is_predicted_on_all_four_paths(way: Way, llm: Piccc) -> None:
    llm.coalesce = False
    assert predict(way, llm) == WHOLE
    seen = predict_stream(way, llm)
    assert seen[-1] == WHOLE
    assert len(seen) > 2


MODES = {
    PydanticProgramMode.DEFAULT: "schema",
    PydanticProgramMode.FUNCTION: "tool",
    PydanticProgramMode.LLM: "text",
}


@pytest.mark.parametrize("mode", MODES)
def test_the_program_mode_says_how_to_ask(
    way: Way, llm: Piccc, emulator: Emulator, mode: PydanticProgramMode
) -> None:
    llm.pydantic_program_mode = mode
    reply = Scripted(calls=[("Kiln", WHOLE.model_dump())]) if MODES[mode] == "tool" else FITS
    emulator.rule(lambda _: True, reply)
    assert predict(way, llm) == WHOLE
    assert predict_stream(way, llm)[-1] == WHOLE
    assert ways_asked(emulator) == [MODES[mode]] * 2


def test_objects_grow_in_a_stream_of_tool_arguments(way: Way, llm: Piccc, emulator: Emulator) -> None:
    llm.pydantic_program_mode = PydanticProgramMode.FUNCTION
    llm.coalesce = False
    emulator.script([Scripted(calls=[("Kiln", WHOLE.model_dump())])])
    names = [each.name for each in predict_stream(way, llm)]
    assert names[0] != "Blue Oven"
    assert names[-1] == "Blue Oven"
    assert all("Blue Oven".startswith(each or "") for each in names)


def test_a_list_costs_one_call_without_the_object_around_it(way: Way, llm: Piccc, emulator: Emulator) -> None:
    llm.pydantic_program_mode = PydanticProgramMode.FUNCTION
    emulator.rule(lambda _: True, Scripted(calls=[("Names", '["Anna"]')]))
    prompt = PromptTemplate("?")
    assert way.call(llm, "structured_predict", Names, prompt) == Names(["Anna"])
    assert way.stream(llm, "stream_structured_predict", Names, prompt)[-1] == Names(["Anna"])
    assert len(emulator.charges) == 2


def test_a_tool_is_forced_on_streams_too(way: Way, llm: Piccc, emulator: Emulator) -> None:
    llm.pydantic_program_mode = PydanticProgramMode.FUNCTION
    emulator.rule(lambda _: True, Scripted(calls=[("Kiln", WHOLE.model_dump())]))
    predict(way, llm)
    predict_stream(way, llm)
    named = [json.dumps(each.body["tool_choice"]) for each in emulator.requests]
    assert len(named) == 2
    assert all('"name": "Kiln"' in each for each in named)


def test_the_system_prompt_is_said_on_all_four_paths(way: Way, llm: Piccc, emulator: Emulator) -> None:
    llm.system_prompt = "You are a potter."
    predict(way, llm)
    predict_stream(way, llm)
    assert all("You are a potter." in json.dumps(each.body) for each in emulator.requests)


def test_the_callers_keywords_reach_the_call_and_stay_as_they_were(
    way: Way, llm: Piccc, emulator: Emulator
) -> None:
    kwargs = {"temperature": 0.5, "tool_choice": "auto", "tool_required": False}
    before = dict(kwargs)
    predict(way, llm, llm_kwargs=kwargs)
    predict_stream(way, llm, llm_kwargs=kwargs)
    assert kwargs == before
    assert [each.body["temperature"] for each in emulator.requests] == [0.5, 0.5]


@pytest.mark.parametrize(
    ("bodies", "asked"),
    [
        ([refusing("response_format"), calling(FITS)], ["schema", "tool"]),
        ([refusing("response_format"), refusing("tools"), saying(FITS)], ["schema", "tool", "text"]),
    ],
)
def test_what_the_server_cannot_do_is_stepped_over_and_not_asked_again(bodies: Any, asked: list[str]) -> None:
    llm, requests = recorded(*[dict(each) for each in [*bodies, bodies[-1]]])
    assert predict(Sync(), llm) == WHOLE
    assert [_way_asked(each) for each in requests] == asked
    assert predict(Sync(), llm) == WHOLE
    assert _way_asked(requests[-1]) == asked[-1]
    assert len(requests) == len(asked) + 1


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
def test_refusals_with_a_cause_of_their_own_are_not_stepped_over(error: Any, kind: type[Exception]) -> None:
    llm, requests = recorded(dict(error))
    with pytest.raises(kind):
        predict(Sync(), llm)
    assert len(requests) == 1


@pytest.mark.parametrize("mode", MODES)
def test_an_answer_that_does_not_fit_is_repaired_once(
    way: Way, llm: Piccc, emulator: Emulator, mode: PydanticProgramMode
) -> None:
    llm.pydantic_program_mode = mode
    emulator.script(['{"name": "Blue Oven", "degrees": "hot"}', FITS])
    assert predict(way, llm) == WHOLE
    complaint = json.dumps(emulator.requests[-1].body["messages"][-1])
    assert "degrees: Input should be a valid integer" in complaint
    emulator.script(['{"name": "Blue Oven", "degrees": "hot"}', FITS])
    assert predict_stream(way, llm)[-1] == WHOLE
    assert len(emulator.requests) == 4


def test_a_call_that_never_fits_is_an_error_with_its_arguments(
    way: Way, llm: Piccc, emulator: Emulator
) -> None:
    llm.pydantic_program_mode = PydanticProgramMode.FUNCTION
    emulator.rule(lambda _: True, Scripted(calls=[("Kiln", {"name": "Blue Oven"})]))
    with pytest.raises(StructuredOutputError, match="degrees: Field required") as caught:
        predict(way, llm)
    assert json.loads(caught.value.text) == {"name": "Blue Oven"}


def test_an_answer_that_never_fits_is_a_typed_error_with_its_text(
    way: Way, llm: Piccc, emulator: Emulator
) -> None:
    wrong = '{"name": "Blue Oven", "degrees": "hot"}'
    emulator.rule(lambda _: True, wrong)
    for run in (predict, predict_stream):
        with pytest.raises(StructuredOutputError, match="Kiln") as caught:
            run(way, llm)
        assert (caught.value.text, caught.value.finish_reason) == (wrong, "stop")
        assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)  # noqa: S301  our own
    assert len(emulator.requests) == 4


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (Scripted('{"name": "Blue', finish_reason="length"), "max_tokens"),
        (Scripted(refusal="I will not."), "declined"),
    ],
)
def test_what_ended_early_is_not_repaired(
    way: Way, make: Callable[..., Piccc], emulator: Emulator, reply: Scripted, said: str
) -> None:
    emulator.rule(lambda _: True, reply)
    with pytest.raises(StructuredOutputError, match=said):
        predict(way, make())
    assert len(emulator.requests) == 1


class Heard(BaseEventHandler):
    """Keep the names of the events that were sent."""

    names: list[str] = []  # noqa: RUF012  pydantic copies it

    def handle(self, event: Any, **kwargs: Any) -> None:
        """Keep one event."""
        self.names.append(type(event).__name__)


@pytest.fixture
def heard() -> Any:
    handler, dispatcher = Heard(), get_dispatcher()
    before = list(dispatcher.event_handlers)
    dispatcher.add_event_handler(handler)
    yield handler
    dispatcher.event_handlers = before


@pytest.mark.parametrize("run", [predict, predict_stream])
def test_predicting_is_told_once_with_the_call_within(way: Way, llm: Piccc, heard: Heard, run: Any) -> None:
    run(way, llm)
    names = (
        "LLMStructuredPredictStartEvent",
        "LLMStructuredPredictEndEvent",
        "LLMChatStartEvent",
        "LLMChatEndEvent",
    )
    assert {name: heard.names.count(name) for name in names} == dict.fromkeys(names, 1)


def test_cores_own_program_gets_full_objects_from_streams(way: Way, llm: Piccc, emulator: Emulator) -> None:
    emulator.rule(lambda _: True, Scripted(calls=[("Kiln", WHOLE.model_dump())]))
    program = FunctionCallingProgram.from_defaults(Kiln, prompt=PROMPT, llm=llm)
    if isinstance(way, Sync):
        assert program(degrees=1200) == WHOLE
        assert list(program.stream_call(degrees=1200))[-1] == WHOLE
    else:
        assert way.stream(_Twin(program), "stream_call", degrees=1200)[-1] == WHOLE


class _Twin:
    """Give core's program the name that the others have for its awaited stream."""

    def __init__(self, program: Any) -> None:
        self.astream_call = program.astream_call


QUESTION = [ChatMessage(role="user", content="The kiln 'Blue Oven' reaches 1200 degrees. {So} hot.")]


@pytest.mark.parametrize("method", ["chat", "complete"])
def test_a_structured_model_answers_with_objects_and_usage(
    way: Way, llm: Piccc, emulator: Emulator, method: str
) -> None:
    structured = llm.as_structured_llm(Kiln)
    question = QUESTION if method == "chat" else QUESTION[0].content
    whole = way.call(structured, method, question)
    streamed = way.stream(structured, f"stream_{method}", question)
    for response, record in zip((whole, streamed[-1]), emulator.requests, strict=True):
        assert response.raw == WHOLE
        assert Kiln.model_validate_json(str(response).removeprefix("assistant: ")) == WHOLE
        assert response.additional_kwargs["prompt_tokens"] == record.prompt_tokens
        assert response.additional_kwargs["completion_tokens"] == record.completion_tokens
    assert "{So}" in json.dumps(emulator.requests[0].body)
    assert Kiln.model_validate_json("".join(each.delta for each in streamed)) == WHOLE


def test_a_structured_model_counts_the_tokens_of_a_repair(way: Way, llm: Piccc, emulator: Emulator) -> None:
    counter = TokenCountingHandler()
    llm.callback_manager = CallbackManager([counter])
    emulator.script(['{"name": "Blue Oven"}', FITS])
    facts = way.call(llm.as_structured_llm(Kiln), "chat", QUESTION).additional_kwargs
    assert facts["prompt_tokens"] == sum(each.prompt_tokens or 0 for each in emulator.requests)
    assert facts["total_tokens"] == counter.total_llm_token_count
    assert len(counter.llm_token_counts) == 2


def test_a_structured_model_is_one_of_cores(llm: Piccc) -> None:
    from llama_index.core.llms.structured_llm import StructuredLLM

    structured = llm.as_structured_llm(Kiln)
    assert isinstance(structured, PicccStructuredLLM)
    assert isinstance(structured, StructuredLLM)
    assert structured.metadata == llm.metadata
