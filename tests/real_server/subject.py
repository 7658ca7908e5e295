"""One client against a real server: `python -m tests.real_server.subject NAME URL KEY COUNTED_AT`.

Runs every row that the client can do and prints a JSON object: for each row the number of calls, of
failures, and the first failure's text. A failure is one of protocol: an error where an answer is due, an
answer where an error is due, a wrong stop reason, missing usage. What a base model chooses to say is none.
"""

from __future__ import annotations

import asyncio
import json
import sys
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any, Literal

PROMPT = "The capital of France is"
SHORT = 2
"""Tokens of most answers."""
SCHEMA = {
    "title": "City",
    "type": "object",
    "properties": {"name": {"enum": ["Paris", "Rome"]}},
    "required": ["name"],
    "additionalProperties": False,
}
JSON_TOKENS = 100
"""Of an answer under the schema: a base model puts in all the white space that the grammar allows."""


class Subject:
    """A client under test.

    `has_grammar` is whether the server heeds a JSON Schema: llama.cpp's does not where the dialect is
    Anthropic's. `counted_by_server` returns how many tokens the server has made so far, by its own count.
    """

    has_grammar: bool
    counted_by_server: Callable[[], int]

    def call(self, prompt: str = PROMPT, max_tokens: int = SHORT, **options: Any) -> dict[str, Any]:
        """Return text, stop reason, input and output tokens of a whole reply."""
        raise NotImplementedError

    def offer_tool(self) -> object:
        """Return the reply of a model that may call a tool, which takes a City."""
        raise NotImplementedError

    def structured(self) -> object:
        """Return a City, as the server's grammar made the model write it."""
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

    def offer_tool(self) -> object:
        from piccc import Tool

        tool = Tool("visit", "Visit a city.", SCHEMA)
        return self.call(tools=[tool])["text"]

    def structured(self) -> object:
        from piccc import JSONSchema

        return json.loads(self.call(max_tokens=JSON_TOKENS, response_format=JSONSchema(SCHEMA))["text"])

    def stream(self, prompt: str = PROMPT, max_tokens: int = SHORT) -> Iterator[str]:
        with self._client.chat.stream(prompt, max_tokens=max_tokens) as stream:
            yield from stream.texts()

    async def acall(self) -> str:
        return (await self._async.chat.create(PROMPT, max_tokens=1)).text

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
        reply = self._model.invoke(prompt, max_tokens=max_tokens, **options)
        about = reply.response_metadata
        stop = {"max_tokens": "length", "end_turn": "stop", "stop_sequence": "stop"}
        said = about.get("finish_reason") or about.get("stop_reason")
        usage = reply.usage_metadata["input_tokens"], reply.usage_metadata["output_tokens"]
        return {"text": reply.text, "stop": stop.get(said, said), "usage": usage}

    def offer_tool(self) -> object:
        tool = {
            "title": "visit",
            "description": "Visit a city.",
            **{k: SCHEMA[k] for k in SCHEMA if k != "title"},
        }
        return self._model.bind_tools([tool]).bind(max_tokens=SHORT).invoke(PROMPT).text

    def structured(self) -> object:
        model = self._model.with_structured_output(SCHEMA, method="json_schema", max_tokens=JSON_TOKENS)
        return model.invoke(PROMPT)

    def stream(self, prompt: str = PROMPT, max_tokens: int = SHORT) -> Iterator[str]:
        for chunk in self._model.stream(prompt, max_tokens=max_tokens):
            yield chunk.text

    async def acall(self) -> str:
        return str((await self._model.ainvoke(PROMPT, max_tokens=1)).text)

    def with_key(self, key: str) -> Subject:
        return LangChain(*self._arguments, key)

    def is_own_error(self, error: Exception) -> bool:
        return type(error).__module__.partition(".")[0] in (
            "anthropic",
            "langchain_anthropic",
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
        usage = (
            reply.additional_kwargs.get("prompt_tokens", 0),
            reply.additional_kwargs.get("completion_tokens", 0),
        )
        return {"text": reply.message.content, "usage": usage}

    def offer_tool(self) -> object:
        from llama_index.core.tools import FunctionTool

        def visit(name: str) -> str:
            """Visit a city."""
            return name

        tools = [FunctionTool.from_defaults(visit)]
        return self._llm.chat_with_tools(tools, PROMPT, max_tokens=SHORT).message.content

    def structured(self) -> object:
        from llama_index.core.prompts import PromptTemplate
        from pydantic import BaseModel

        class City(BaseModel):
            """A city."""

            name: Literal["Paris", "Rome"]

        made = self._llm.structured_predict(
            City, PromptTemplate(PROMPT), llm_kwargs={"max_tokens": JSON_TOKENS}
        )
        return made.model_dump()

    def stream(self, prompt: str = PROMPT, max_tokens: int = SHORT) -> Iterator[str]:
        from llama_index.core.llms import ChatMessage

        for each in self._llm.stream_chat([ChatMessage(prompt)], max_tokens=max_tokens):
            yield each.delta or ""

    async def acall(self) -> str:
        from llama_index.core.llms import ChatMessage

        return str((await self._llm.achat([ChatMessage(PROMPT)], max_tokens=1)).message.content)

    def with_key(self, key: str) -> Subject:
        return LlamaIndex(*self._arguments, key)

    def is_own_error(self, error: Exception) -> bool:
        return type(error).__module__.partition(".")[0] in ("openai", "piccc", "llama_index_piccc")


def _counted_by_server(url: str, key: str) -> int:
    request = urllib.request.Request(f"{url}/metrics", headers={"authorization": f"Bearer {key}"})  # noqa: S310
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as reply:
        lines = reply.read().decode().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("llamacpp:tokens_predicted_total"))


def make(name: str, url: str, key: str, counted_at: str) -> Subject:
    """Return the client of that name; the server that counts tokens may be behind the one that it asks."""
    subject: Subject
    if name.startswith("langchain-"):
        subject = LangChain(name, url, key)
    elif name.startswith("llama-index-"):
        subject = LlamaIndex(name, url, key)
    else:
        subject = Piccc("anthropic" if "anthropic" in name else "openai", url, key)
    # The emulator in front asks the server's OpenAI route whatever its client's dialect.
    subject.has_grammar = "anthropic" not in name or counted_at != url
    subject.counted_by_server = lambda: _counted_by_server(counted_at, key)
    return subject


Row = Callable[[Subject], Iterator[bool]]
"""Makes calls; yields after each whether it was right. An exception is a failure too, and the row goes on."""


def whole(subject: Subject) -> Iterator[Callable[[], object]]:
    """Whole replies, one after the other: text, and the stop reason of a cut one."""
    for _ in range(10):
        yield lambda: _cut(subject.call())


def _cut(reply: dict[str, Any]) -> None:
    assert isinstance(reply["text"], str), reply
    assert reply.get("stop", "length") in ("length", "stop"), reply
    assert min(reply.get("usage", (1, 1))) > 0, reply


def streams(subject: Subject) -> Iterator[Callable[[], object]]:
    """Streams, one after the other, at once."""
    for _ in range(20):
        yield lambda: _some("".join(subject.stream()))


def _some(text: str) -> None:
    assert isinstance(text, str)


def call_after_stream(subject: Subject) -> Iterator[Callable[[], object]]:
    """A whole reply right after a stream."""
    for _ in range(10):
        for _ in subject.stream():
            pass
        yield subject.call


def left_early(subject: Subject) -> Iterator[Callable[[], object]]:
    """A stream that is left after its first piece, then a whole reply."""
    for _ in range(5):

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


def tools(subject: Subject) -> Iterator[Callable[[], object]]:
    """A reply comes where a tool is on offer, whether or not the model calls it."""
    for _ in range(5):
        yield subject.offer_tool


def structured(subject: Subject) -> Iterator[Callable[[], object]]:
    """An answer under a JSON Schema satisfies it, for the server's grammar sees to that."""
    if subject.has_grammar:
        for _ in range(3):
            yield lambda: _city(subject.structured())


def _city(made: object) -> None:
    assert made in ({"name": "Paris"}, {"name": "Rome"}), made


def usage(subject: Subject) -> Iterator[Callable[[], object]]:
    """The output tokens of a reply are those that the server counted."""
    for tokens in (1, 2, 3, 5, 8):

        def check(tokens: int = tokens) -> None:
            before = subject.counted_by_server()
            _, counted = subject.call(max_tokens=tokens)["usage"]
            assert counted == subject.counted_by_server() - before

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
    "a tool on offer": tools,
    "an answer under a JSON Schema": structured,
    "usage as the server counted": usage,
    "stop sequence": stop_sequence,
    "context overflow": overflow,
    "wrong key": wrong_key,
}


def main(name: str, url: str, key: str, counted_at: str) -> None:
    """Run all rows and print what came."""
    subject = make(name, url, key, counted_at)
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
