"""Errors are both our type and LangChain's, and their `is_retryable` is right."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import httpx
import pytest
from langchain_core import exceptions as core
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.outputs import LLMResult
from langgraph.graph import MessagesState, StateGraph
from langgraph.types import RetryPolicy

from langchain_piccc import ChatPiccc
from langchain_piccc.errors import as_model_error
from piccc import errors
from tests.langchain.replay import Replay, chunks, completion, json_response, stream

STATUSES = [
    (400, errors.InvalidRequestError, core.ModelInvalidRequestError, False),
    (401, errors.AuthenticationError, core.ModelAuthenticationError, False),
    (402, errors.PaymentRequiredError, core.ModelPermissionDeniedError, False),
    (403, errors.PermissionDeniedError, core.ModelPermissionDeniedError, False),
    (404, errors.NotFoundError, core.ModelNotFoundError, False),
    (409, errors.ConflictError, core.ModelInvalidRequestError, False),
    (413, errors.InvalidRequestError, core.ModelInvalidRequestError, False),
    (422, errors.InvalidRequestError, core.ModelInvalidRequestError, False),
    (429, errors.RateLimitError, core.ModelRateLimitError, True),
    (500, errors.ServerError, core.ModelAPIError, True),
    (502, errors.ServerError, core.ModelAPIError, True),
    (503, errors.OverloadedError, core.ModelAPIError, True),
    (504, errors.GatewayTimeoutError, core.ModelAPIError, False),
    (529, errors.OverloadedError, core.ModelAPIError, True),
]


def error_response(status: int, message: str = "no", code: str | None = None) -> httpx.Response:
    return json_response({"error": {"message": message, "type": "t", "code": code}}, status=status)


async def raised(model: ChatPiccc, method: str) -> errors.PicccError:
    """Return the error that a call method raises."""

    async def ask() -> None:
        match method:
            case "invoke":
                model.invoke("?")
            case "ainvoke":
                await model.ainvoke("?")
            case "stream":
                list(model.stream("?"))
            case "astream":
                [chunk async for chunk in model.astream("?")]

    with pytest.raises(errors.PicccError) as caught:
        await ask()
    return caught.value


@pytest.mark.parametrize("method", ["invoke", "ainvoke", "stream", "astream"])
@pytest.mark.parametrize(("status", "piccc_type", "langchain_type", "retryable"), STATUSES)
async def test_a_status_raises_our_error_and_langchains(
    status: int, piccc_type: type, langchain_type: type, method: str, *, retryable: bool
) -> None:
    error = await raised(Replay(error_response(status)).model(max_retries=0), method)
    assert isinstance(error, piccc_type)
    assert isinstance(error, langchain_type)
    assert error.is_retryable is retryable
    assert (error.status, error.request_id) == (status, "req_1")


def test_a_too_long_conversation_raises_langchains_overflow_error() -> None:
    server = Replay(
        error_response(400, "This model's maximum context length is 8", "context_length_exceeded")
    )
    with pytest.raises(core.ContextOverflowError) as caught:
        server.model().invoke("?")
    assert isinstance(caught.value, errors.ContextOverflowError)
    assert caught.value.is_retryable is False


@pytest.mark.parametrize(
    ("failure", "retryable"), [(httpx.ConnectError("no"), True), (httpx.ReadError("cut"), False)]
)
def test_a_connection_error_is_retryable_only_if_nothing_was_sent(
    failure: Exception, *, retryable: bool
) -> None:
    with pytest.raises(core.ModelConnectionError) as caught:
        Replay(failure).model(max_retries=0).invoke("?")
    assert isinstance(caught.value, errors.APIConnectionError)
    assert caught.value.is_retryable is retryable


def test_a_timeout_after_sending_is_retryable_only_with_retry_unknown() -> None:
    for retry_unknown in (False, True):
        model = Replay(httpx.ReadTimeout("late")).model(max_retries=0, retry_unknown=retry_unknown)
        with pytest.raises(core.ModelTimeoutError) as caught:
            model.invoke("?")
        assert isinstance(caught.value, TimeoutError)
        assert caught.value.is_retryable is retry_unknown


@pytest.mark.parametrize("method", ["stream", "astream"])
async def test_a_truncated_stream_is_not_retryable_and_keeps_its_text(method: str) -> None:
    truncated = stream(chunks([{"content": "half"}])[:2])
    error = await raised(Replay(truncated).model(), method)
    assert isinstance(error, errors.StreamError)
    assert isinstance(error, core.ModelAPIError)
    assert error.is_retryable is False
    assert error.partial is not None
    assert error.partial.text == "half"


@pytest.mark.parametrize("options", [{"apikee": 1}, {"temprature": 1}])
def test_a_misspelled_option_is_rejected_before_sending(options: dict[str, Any]) -> None:
    server = Replay(json_response(completion({"content": "Hi"})))
    with pytest.raises(core.ModelInvalidRequestError, match="extra_body") as caught:
        server.model().invoke("?", **options)
    assert caught.value.is_retryable is False
    assert server.requests == []


def test_a_missing_key_is_an_authentication_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PICCC_API_KEY", raising=False)
    with pytest.raises(core.ModelAuthenticationError, match="PICCC_API_KEY"):
        ChatPiccc(base_url="http://127.0.0.1:9").invoke("?")


def test_callbacks_receive_status_request_id_and_body() -> None:
    class ErrorRecorder(BaseCallbackHandler):
        def on_llm_error(self, error: BaseException, *, response: LLMResult | None = None, **_: Any) -> None:
            self.response = response

    recorder = ErrorRecorder()
    with pytest.raises(errors.RateLimitError):
        Replay(error_response(429, "slow")).model(max_retries=0).invoke("?", config={"callbacks": [recorder]})
    assert recorder.response is not None
    metadata = recorder.response.generations[0][0].message.response_metadata  # type: ignore[union-attr]  # a chat generation
    assert metadata["status_code"] == 429
    assert metadata["request_id"] == "req_1"
    assert metadata["body"]["error"]["message"] == "slow"


@pytest.mark.parametrize("copier", [lambda error: pickle.loads(pickle.dumps(error)), copy.deepcopy])  # noqa: S301  our own data
def test_errors_survive_pickling_and_deep_copies(copier: Any) -> None:
    with pytest.raises(errors.APITimeoutError) as caught:
        Replay(httpx.ReadTimeout("late")).model(max_retries=0).invoke("?")
    copied_error = copier(caught.value)
    assert type(copied_error) is type(caught.value)
    assert str(copied_error) == str(caught.value)
    assert copied_error.is_retryable is False


def test_every_chat_error_has_a_langchain_counterpart() -> None:
    media = ("Task", "Output", "Submission", "Batch", "Spend", "MissingExtra", "Ledger")
    kinds = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.PicccError)
    ]
    for kind in kinds:
        if not kind.__name__.startswith(media):
            assert type(as_model_error(kind("x"))).__mro__[2] is kind


CUT = stream(chunks([{"content": "half"}])[:2])
RETRIED = [
    (error_response(400), 1),
    (error_response(401), 1),
    (error_response(402), 1),
    (error_response(403), 1),
    (error_response(404), 1),
    (error_response(422), 1),
    (error_response(429), 3),
    (error_response(500), 3),
    (error_response(503), 3),
    (error_response(504), 1),
    (error_response(524), 1),
    (CUT, 1),
    (json_response(b"<html>"), 1),
    (httpx.ConnectError("no"), 3),
    (httpx.ReadError("reset"), 1),
    (httpx.ReadTimeout("late"), 1),
]


@pytest.mark.parametrize("is_async", [False, True], ids=["invoke", "ainvoke"])
@pytest.mark.parametrize(("reply", "requests"), RETRIED)
async def test_langgraphs_default_retry_policy_retries_only_unbilled_errors(
    reply: httpx.Response | Exception, requests: int, *, is_async: bool
) -> None:
    server = Replay(reply)
    model = server.model(max_retries=0, streaming=reply is CUT)

    async def aask(state: MessagesState) -> MessagesState:
        return {"messages": [await model.ainvoke(state["messages"])]}

    def ask(state: MessagesState) -> MessagesState:
        return {"messages": [model.invoke(state["messages"])]}

    policy = RetryPolicy(initial_interval=0, jitter=False)
    graph = StateGraph(MessagesState)
    graph.add_node("ask", aask if is_async else ask, retry_policy=policy)
    graph.set_entry_point("ask")
    start: MessagesState = {"messages": [HumanMessage("?")]}
    with pytest.raises(errors.PicccError):
        await graph.compile().ainvoke(start) if is_async else graph.compile().invoke(start)
    assert len(server.requests) == requests


def test_with_fallbacks_switches_to_the_next_model() -> None:
    down = Replay(error_response(503)).model(max_retries=0)
    up = Replay(json_response(completion({"content": "Hi"}))).model()
    message = down.with_fallbacks([up]).invoke([HumanMessage("?")])
    assert isinstance(message, AIMessage)
    assert message.content == "Hi"
