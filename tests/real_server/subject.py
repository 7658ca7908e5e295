"""One client against a real server: `python -m tests.real_server.subject NAME URL KEY`.

Runs every row that the client can do and prints a JSON object: for each row the number of calls, of
failures, and the first failure's text. A failure is one of protocol: an error where an answer is due, an
answer where an error is due, a wrong stop reason, missing usage. What a base model chooses to say is none.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

PROMPT = "The capital of France is"
SHORT = 4
"""Tokens of most answers."""
SCHEMA = {
    "title": "City",
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}},
    "required": ["name"],
    "additionalProperties": False,
}


class Subject:
    """A client under test. Text of a call, pieces of a stream, and the facts of the last reply."""

    async_call: Callable[[], Awaitable[str]]

    def call(self, prompt: str = PROMPT, max_tokens: int = SHORT, **options: Any) -> dict[str, Any]:
        """Return text, stop reason, input and output tokens of a whole reply."""
        raise NotImplementedError

    def stream(self, prompt: str = PROMPT, max_tokens: int = SHORT) -> Iterator[str]:
        """Yield the pieces of a streamed reply."""
        raise NotImplementedError

    async def acall(self) -> str:
        """Return a reply's text."""
        raise NotImplementedError

    def with_key(self, key: str) -> Subject:
        """Return the same client with another key."""
        raise NotImplementedError

    def is_own_error(self, error: Exception) -> bool:
        """Return whether an error is of the client's own kind."""
        raise NotImplementedError


class Piccc(Subject):
    """The plain client."""

    def __init__(self, dialect: str, url: str, key: str) -> None:
        from piccc import AsyncClient, Client

        self._arguments = dialect, url
        options: Any = {"dialect": dialect, "base_url": url, "api_key": key}
        self._client, self._async = Client(**options), AsyncClient(**options)

    def call(self, prompt: str = PROMPT, max_tokens: int = SHORT, **options: Any) -> dict[str, Any]:
        reply = self._client.chat.create(prompt, max_tokens=max_tokens, **options)
        assert reply.usage is not None
        usage = reply.usage.input_tokens, reply.usage.output_tokens
        return {"text": reply.text, "stop": reply.finish_reason, "usage": usage}

    def stream(self, prompt: str = PROMPT, max_tokens: int = SHORT) -> Iterator[str]:
        with self._client.chat.stream(prompt, max_tokens=max_tokens) as stream:
            yield from stream.texts()

    async def acall(self) -> str:
        return (await self._async.chat.create(PROMPT, max_tokens=SHORT)).text

    def with_key(self, key: str) -> Subject:
        return Piccc(*self._arguments, key)

    def is_own_error(self, error: Exception) -> bool:
        from piccc import PicccError

        return isinstance(error, PicccError)


class LangChain(Subject):
    """A LangChain chat model."""

    def __init__(self, name: str, url: str, key: str) -> None:
        self._arguments = name, url
        match name:
            case "langchain-openai":
                from langchain_openai import ChatOpenAI

                self._model: Any = ChatOpenAI(
                    model="piccc-pro", base_url=f"{url}/v1", api_key=key, stream_usage=True
                )  # type: ignore[arg-type]
            case "langchain-anthropic":
                from langchain_anthropic import ChatAnthropic

                self._model = ChatAnthropic(model="piccc-pro", base_url=url, api_key=key)  # type: ignore[call-arg, arg-type]
            case _:
                from langchain_piccc import ChatPiccc

                dialect: Any = "anthropic" if name.endswith("anthropic dialect") else "openai"
                self._model = ChatPiccc(model="piccc-pro", base_url=url, api_key=key, dialect=dialect)

    def call(self, prompt: str = PROMPT, max_tokens: int = SHORT, **options: Any) -> dict[str, Any]:
        schema = options.pop("schema", None)
        tools = options.pop("tools", None)
        model = self._model.bind_tools(tools) if tools else self._model
        if schema:
            made = self._model.bind(max_tokens=max_tokens).with_structured_output(
                schema, method="json_schema"
            )
            return {"text": json.dumps(made.invoke(prompt))}
        reply = model.invoke(prompt, max_tokens=max_tokens, **options)
        about = reply.response_metadata
        stop = {"max_tokens": "length", "end_turn": "stop", "stop_sequence": "stop"}
        said = about.get("finish_reason") or about.get("stop_reason")
        usage = reply.usage_metadata["input_tokens"], reply.usage_metadata["output_tokens"]
        return {"text": reply.text, "stop": stop.get(said, said), "usage": usage}

    def stream(self, prompt: str = PROMPT, max_tokens: int = SHORT) -> Iterator[str]:
        for chunk in self._model.stream(prompt, max_tokens=max_tokens):
            yield chunk.text

    async def acall(self) -> str:
        return str((await self._model.ainvoke(PROMPT, max_tokens=SHORT)).text)

    def with_key(self, key: str) -> Subject:
        return LangChain(*self._arguments, key)

    def is_own_error(self, error: Exception) -> bool:
        return type(error).__module__.partition(".")[0] in (
            "anthropic",
            "langchain_core",
            "langchain_openai",
            "langchain_piccc",
            "openai",
            "piccc",
        )


class LlamaIndex(Subject):
    """A LlamaIndex LLM."""

    def __init__(self, name: str, url: str, key: str) -> None:
        self._arguments = name, url
        if name == "llama-index-llms-openai-like":
            from llama_index.llms.openai_like import OpenAILike

            self._llm: Any = OpenAILike(
                model="piccc-pro", api_base=f"{url}/v1", api_key=key, is_chat_model=True
            )
        else:
            from llama_index_piccc import Piccc as PicccLLM

            dialect: Any = "anthropic" if name.endswith("anthropic dialect") else "openai"
            self._llm = PicccLLM(model="piccc-pro", base_url=url, api_key=key, dialect=dialect)

    def call(self, prompt: str = PROMPT, max_tokens: int = SHORT, **options: Any) -> dict[str, Any]:
        from llama_index.core.llms import ChatMessage

        reply = self._llm.chat([ChatMessage(prompt)], max_tokens=max_tokens, **options)
        return {"text": reply.message.content}

    def stream(self, prompt: str = PROMPT, max_tokens: int = SHORT) -> Iterator[str]:
        from llama_index.core.llms import ChatMessage

        for each in self._llm.stream_chat([ChatMessage(prompt)], max_tokens=max_tokens):
            yield each.delta or ""

    async def acall(self) -> str:
        from llama_index.core.llms import ChatMessage

        return str((await self._llm.achat([ChatMessage(PROMPT)], max_tokens=SHORT)).message.content)

    def with_key(self, key: str) -> Subject:
        return LlamaIndex(*self._arguments, key)

    def is_own_error(self, error: Exception) -> bool:
        return type(error).__module__.partition(".")[0] in ("openai", "piccc", "llama_index_piccc")


def make(name: str, url: str, key: str) -> Subject:
    """Return the client of that name."""
    if name.startswith("langchain-"):
        return LangChain(name, url, key)
    if name.startswith("llama-index-"):
        return LlamaIndex(name, url, key)
    return Piccc("anthropic" if name.endswith("anthropic dialect") else "openai", url, key)


Row = Callable[[Subject], Iterator[bool]]
"""Makes calls; yields after each whether it was right. An exception is a failure too, and the row goes on."""


def whole(subject: Subject) -> Iterator[Callable[[], object]]:
    """Whole replies, one after the other: text, and the stop reason of a cut one."""
    for _ in range(20):
        yield lambda: _cut(subject.call())


def _cut(reply: dict[str, Any]) -> None:
    assert isinstance(reply["text"], str), reply
    assert reply.get("stop", "length") in ("length", "stop"), reply
    assert min(reply.get("usage", (1, 1))) > 0, reply


def streams(subject: Subject) -> Iterator[Callable[[], object]]:
    """Streams, one after the other, at once."""
    for _ in range(30):
        yield lambda: _some("".join(subject.stream()))


def _some(text: str) -> None:
    assert isinstance(text, str)


def call_after_stream(subject: Subject) -> Iterator[Callable[[], object]]:
    """A whole reply right after a stream."""
    for _ in range(20):
        for _ in subject.stream():
            pass
        yield subject.call


def left_early(subject: Subject) -> Iterator[Callable[[], object]]:
    """A stream that is left after its first piece, then a whole reply."""
    for _ in range(10):

        def leave() -> None:
            pieces = subject.stream(max_tokens=100)
            next(pieces)
            pieces.close()  # type: ignore[attr-defined]  # a generator
            subject.call()

        yield leave


def concurrent(subject: Subject) -> Iterator[Callable[[], object]]:
    """200 calls, eight at a time; each one counts."""

    async def run() -> list[BaseException | str]:
        slots = asyncio.Semaphore(8)

        async def one() -> str:
            async with slots:
                return await subject.acall()

        return await asyncio.gather(*[one() for _ in range(200)], return_exceptions=True)

    for outcome in asyncio.run(run()):

        def check(outcome: BaseException | str = outcome) -> None:
            if isinstance(outcome, BaseException):
                raise outcome

        yield check


def stop_sequence(subject: Subject) -> Iterator[Callable[[], object]]:
    """A reply that ends at a stop sequence does not contain it."""
    for _ in range(5):

        def check() -> None:
            text = subject.call(max_tokens=30, stop=["a"])["text"]
            assert "a" not in text, text

        yield check


def overflow(subject: Subject) -> Iterator[Callable[[], object]]:
    """A prompt beyond the context is an error of the client's own kind."""
    yield lambda: _refused(subject, lambda: subject.call("word " * 9000))


def wrong_key(subject: Subject) -> Iterator[Callable[[], object]]:
    """A wrong key is an error of the client's own kind, whole and streamed."""
    other = subject.with_key("sk-wrong")
    yield lambda: _refused(subject, other.call)
    yield lambda: _refused(subject, lambda: list(other.stream()))


def _refused(subject: Subject, call: Callable[[], object]) -> None:
    try:
        answer = call()
    except Exception as error:
        if not subject.is_own_error(error):
            raise
        return
    raise AssertionError(f"an answer where an error is due: {answer!r}")


ROWS = {
    "whole replies": whole,
    "streams one after the other": streams,
    "a call right after a stream": call_after_stream,
    "a stream left early, then a call": left_early,
    "200 calls, eight at a time": concurrent,
    "stop sequence": stop_sequence,
    "context overflow": overflow,
    "wrong key": wrong_key,
}


def main(name: str, url: str, key: str) -> None:
    """Run all rows and print what came."""
    subject = make(name, url, key)
    found = {}
    for row, steps in ROWS.items():
        calls, failures, first = 0, 0, ""
        for step in steps(subject):
            calls += 1
            try:
                step()
            except Exception as error:
                failures += 1
                first = first or f"{type(error).__name__}: {error}"[:300]
        found[row] = {"calls": calls, "failures": failures, "first": first}
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
