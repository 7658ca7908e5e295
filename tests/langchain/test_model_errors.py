"""Errors are both ours and LangChain's, and say rightly whether another try makes sense."""

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
from tests.langchain.replay import Replay, chunks, completion, stream, whole

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


def refusal(status: int, message: str = "no", code: str | None = None) -> httpx.Response:
    return whole({"error": {"message": message, "type": "t", "code": code}}, status=status)


async def raised(model: ChatPiccc, way: str) -> errors.PicccError:
    """Return the error that a call raises, asked for in one of four ways."""

    async def ask() -> None:
        match way:
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


@pytest.mark.parametrize("way", ["invoke", "ainvoke", "stream", "astream"])
@pytest.mark.parametrize(("status", "ours", "theirs", "retryable"), STATUSES)
async def test_a_status_is_an_error_of_both_kinds(
    status: int, ours: type, theirs: type, way: str, *, retryable: bool
) -> None:
    error = await raised(Replay(refusal(status)).model(max_retries=0), way)
    assert isinstance(error, ours)
    assert isinstance(error, theirs)
    assert error.is_retryable is retryable
    assert (error.status, error.request_id) == (status, "req_1")


def test_too_long_a_conversation_is_langchains_overflow() -> None:
    server = Replay(refusal(400, "This model's maximum context length is 8", "context_length_exceeded"))
    with pytest.raises(core.ContextOverflowError) as caught:
        server.model().invoke("?")
    assert isinstance(caught.value, errors.ContextOverflowError)
    assert caught.value.is_retryable is False


@pytest.mark.parametrize(
    ("failure", "retryable"), [(httpx.ConnectError("no"), True), (httpx.ReadError("cut"), False)]
)
def test_only_what_cannot_have_been_billed_is_retryable(failure: Exception, *, retryable: bool) -> None:
    with pytest.raises(core.ModelConnectionError) as caught:
        Replay(failure).model(max_retries=0).invoke("?")
    assert isinstance(caught.value, errors.APIConnectionError)
    assert caught.value.is_retryable is retryable


def test_a_timeout_after_sending_is_not_retryable_unless_the_caller_says_so() -> None:
    for retry_unknown in (False, True):
        model = Replay(httpx.ReadTimeout("late")).model(max_retries=0, retry_unknown=retry_unknown)
        with pytest.raises(core.ModelTimeoutError) as caught:
            model.invoke("?")
        assert isinstance(caught.value, TimeoutError)
        assert caught.value.is_retryable is retry_unknown


@pytest.mark.parametrize("way", ["stream", "astream"])
async def test_a_cut_stream_is_not_retryable_and_keeps_what_came(way: str) -> None:
    cut = stream(chunks([{"content": "half"}])[:2])
    error = await raised(Replay(cut).model(), way)
    assert isinstance(error, errors.StreamError)
    assert isinstance(error, core.ModelAPIError)
    assert error.is_retryable is False
    assert error.partial is not None
    assert error.partial.text == "half"


@pytest.mark.parametrize("bad", [{"apikee": 1}, {"temprature": 1}])
def test_a_mistyped_option_is_refused_before_anything_is_sent(bad: dict[str, Any]) -> None:
    server = Replay(whole(completion({"content": "Hi"})))
    with pytest.raises(core.ModelInvalidRequestError, match="extra_body") as caught:
        server.model().invoke("?", **bad)
    assert caught.value.is_retryable is False
    assert server.requests == []


def test_a_missing_key_is_an_authentication_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PICCC_API_KEY", raising=False)
    with pytest.raises(core.ModelAuthenticationError, match="PICCC_API_KEY"):
        ChatPiccc(base_url="http://127.0.0.1:9").invoke("?")


def test_tracers_see_status_headers_and_body() -> None:
    class Ears(BaseCallbackHandler):
        def on_llm_error(self, error: BaseException, *, response: LLMResult | None = None, **_: Any) -> None:
            self.told = response

    ears = Ears()
    with pytest.raises(errors.RateLimitError):
        Replay(refusal(429, "slow")).model(max_retries=0).invoke("?", config={"callbacks": [ears]})
    assert ears.told is not None
    metadata = ears.told.generations[0][0].message.response_metadata  # type: ignore[union-attr]  # a chat's
    assert metadata["status_code"] == 429
    assert metadata["request_id"] == "req_1"
    assert metadata["body"]["error"]["message"] == "slow"


@pytest.mark.parametrize("copied", [lambda error: pickle.loads(pickle.dumps(error)), copy.deepcopy])  # noqa: S301  our own bytes
def test_errors_survive_copies(copied: Any) -> None:
    with pytest.raises(errors.APITimeoutError) as caught:
        Replay(httpx.ReadTimeout("late")).model(max_retries=0).invoke("?")
    twin = copied(caught.value)
    assert type(twin) is type(caught.value)
    assert str(twin) == str(caught.value)
    assert twin.is_retryable is False


def test_every_error_of_a_chat_has_a_counterpart() -> None:
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
REPEATED = [
    (refusal(400), 1),
    (refusal(401), 1),
    (refusal(402), 1),
    (refusal(403), 1),
    (refusal(404), 1),
    (refusal(422), 1),
    (refusal(429), 3),
    (refusal(500), 3),
    (refusal(503), 3),
    (refusal(504), 1),
    (refusal(524), 1),
    (CUT, 1),
    (whole(b"<html>"), 1),
    (httpx.ConnectError("no"), 3),
    (httpx.ReadError("reset"), 1),
    (httpx.ReadTimeout("late"), 1),
]


@pytest.mark.parametrize("asynchronous", [False, True], ids=["invoke", "ainvoke"])
@pytest.mark.parametrize(("reply", "requests"), REPEATED)
async def test_langgraphs_default_retry_policy_repeats_only_what_bills_nothing(
    reply: httpx.Response | Exception, requests: int, *, asynchronous: bool
) -> None:
    server = Replay(reply)
    model = server.model(max_retries=0, streaming=reply is CUT)

    async def aask(state: MessagesState) -> MessagesState:
        return {"messages": [await model.ainvoke(state["messages"])]}

    def ask(state: MessagesState) -> MessagesState:
        return {"messages": [model.invoke(state["messages"])]}

    policy = RetryPolicy(initial_interval=0, jitter=False)
    graph = StateGraph(MessagesState)
    graph.add_node("ask", aask if asynchronous else ask, retry_policy=policy)
    graph.set_entry_point("ask")
    start: MessagesState = {"messages": [HumanMessage("?")]}
    with pytest.raises(errors.PicccError):
        await graph.compile().ainvoke(start) if asynchronous else graph.compile().invoke(start)
    assert len(server.requests) == requests


def test_fallbacks_take_over() -> None:
    down = Replay(refusal(503)).model(max_retries=0)
    up = Replay(whole(completion({"content": "Hi"}))).model()
    message = down.with_fallbacks([up]).invoke([HumanMessage("?")])
    assert isinstance(message, AIMessage)
    assert message.content == "Hi"
