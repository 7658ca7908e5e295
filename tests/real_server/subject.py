"""One client against real servers: `python -m tests.real_server.subject NAME KEY SERVERS COUNTED_AT`.

SERVERS is a JSON object of server names and URLs. COUNTED_AT is the URL of llama.cpp, which counts tokens.
Runs every row that the client and the server support. Prints JSON: for each server and row, the number of
calls, the number of failures, and the text of the first failure. A failure is a protocol failure: an error
instead of an answer, an answer instead of an error, a wrong stop reason, missing usage, or a tool call that
is lost. The text that the base model chooses does not count.
"""

from __future__ import annotations

import asyncio
import functools
import json
import operator
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

PROMPT = "The capital of France is"
SHORT = 2
"""The token limit of most answers."""
SCHEMA = {
    "title": "City",
    "type": "object",
    "properties": {"name": {"enum": ["Paris", "Rome"]}},
    "required": ["name"],
    "additionalProperties": False,
}
JSON_TOKENS = 100
"""The token limit under a schema: a base model adds all the white space that the grammar allows."""
WEATHER = {
    "title": "weather",
    "description": "Tell the weather.",
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
}
CITIES = [{"city": "Paris"}, {"city": "Rome"}]
ASK, STEPS = "What is the weather in both cities?", "Think step by step: is it mild?"
"""Prompts of aimock's fixtures: two calls and an answer; a thought, an observation and an answer."""
ANSWER = "Mild in Paris, warm in Rome."
VECTORS = Path(__file__).parents[2] / "build" / "vectors.json"
"""A real model's embeddings of the facts and the question, if they could be made."""
FACTS = [
    "The capital of France is Paris.",
    "A hedgehog sleeps through the winter.",
    "Steel rusts where it is wet.",
    "Bread is made of flour, water and salt.",
]
QUESTION = "Which animal hibernates?"


class Subject:
    """A client under test.

    `has_grammar` tells whether the server enforces a JSON Schema; llama.cpp does not in the Anthropic
    dialect. `counted_by_server` returns the number of tokens that the server has generated so far, and
    `tokens_of` the number of tokens in a prompt. `share` is the fraction of a row's calls to make.
    """

    has_grammar: bool
    share: float
    counted_by_server: Callable[[], int]
    tokens_of: Callable[[str], int]

    def times(self, count: int) -> range:
        """Return this client's share of a number of calls."""
        return range(max(1, round(count * self.share)))

    def call(self, prompt: str = PROMPT, max_tokens: int = SHORT, **options: Any) -> dict[str, Any]:
        """Return the text, stop reason, and input and output tokens of a complete reply."""
        raise NotImplementedError

    def offer_tool(self, *, force: bool = False) -> object:
        """Return the reply of a model that may, or must, call a tool that takes a City."""
        raise NotImplementedError

    def tool_calls(self, *, stream: bool) -> list[dict[str, Any]]:
        """Return the arguments of the calls that the model makes for `ASK`."""
        raise NotImplementedError

    def agents(self, weather: Callable[[str], str]) -> Iterator[Callable[[], str]]:
        """Yield functions that each run a kind of agent with a tool and return its answer."""
        return iter(())

    def retrieve(self, vectors: dict[str, list[float]]) -> tuple[str, str] | None:
        """Ask `QUESTION` about `FACTS`; return the fact found and the answer, or None without a framework."""
        return None

    def streamed_usage(self, max_tokens: int) -> tuple[int, int]:
        """Return input and output tokens of a streamed reply."""
        raise NotImplementedError

    def structured(self) -> object:
        """Return a City, which the server's grammar enforces."""
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
        """Return whether an error is one of the client's own."""
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

    def offer_tool(self, *, force: bool = False) -> object:
        from piccc import Tool

        tool = Tool("visit", "Visit a city.", SCHEMA)
        return self.call(tools=[tool], tool_choice="required" if force else "auto")["text"]

    def tool_calls(self, *, stream: bool) -> list[dict[str, Any]]:
        from piccc import Tool

        options: Any = {"max_tokens": 100, "tools": [Tool("weather", parameters=WEATHER)]}
        if not stream:
            return [each.parse() for each in self._client.chat.create(ASK, **options).tool_calls]
        with self._client.chat.stream(ASK, **options) as opened:
            for _ in opened:
                pass
            return [each.parse() for each in opened.reply.tool_calls]

    def streamed_usage(self, max_tokens: int) -> tuple[int, int]:
        with self._client.chat.stream(PROMPT, max_tokens=max_tokens) as stream:
            for _ in stream:
                pass
            usage = stream.reply.usage
        assert usage is not None
        return usage.input_tokens, usage.output_tokens

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
        reason = about.get("finish_reason") or about.get("stop_reason")
        usage = reply.usage_metadata["input_tokens"], reply.usage_metadata["output_tokens"]
        return {"text": reply.text, "stop": stop.get(reason, reason), "usage": usage}

    def offer_tool(self, *, force: bool = False) -> object:
        tool = {
            "title": "visit",
            "description": "Visit a city.",
            **{k: SCHEMA[k] for k in SCHEMA if k != "title"},
        }
        bound = self._model.bind_tools([tool], tool_choice="any" if force else None)
        return bound.bind(max_tokens=SHORT).invoke(PROMPT).text

    def tool_calls(self, *, stream: bool) -> list[dict[str, Any]]:
        bound = self._model.bind_tools([WEATHER])
        message = functools.reduce(operator.add, bound.stream(ASK)) if stream else bound.invoke(ASK)
        return [each["args"] for each in message.tool_calls]

    def agents(self, weather: Callable[[str], str]) -> Iterator[Callable[[], str]]:
        from langchain.agents import create_agent

        yield lambda: str(
            create_agent(self._model, [weather]).invoke({"messages": [("user", ASK)]})["messages"][-1].text
        )

    def retrieve(self, vectors: dict[str, list[float]]) -> tuple[str, str] | None:
        from langchain_core.embeddings import Embeddings
        from langchain_core.vectorstores import InMemoryVectorStore

        class Known(Embeddings):
            def embed_documents(self, texts: list[str]) -> list[list[float]]:
                return [vectors[text] for text in texts]

            def embed_query(self, text: str) -> list[float]:
                return vectors[text]

        (found,) = InMemoryVectorStore.from_texts(FACTS, Known()).similarity_search(QUESTION, k=1)
        prompt = f"{found.page_content}\n{QUESTION}"
        return found.page_content, str(self._model.invoke(prompt, max_tokens=8).text)

    def streamed_usage(self, max_tokens: int) -> tuple[int, int]:
        usage = functools.reduce(
            operator.add, self._model.stream(PROMPT, max_tokens=max_tokens)
        ).usage_metadata
        return usage["input_tokens"], usage["output_tokens"]

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
        self._asks_for_usage = name != "llama-index-llms-openai-like"
        if name == "llama-index-llms-openai-like":
            from llama_index.llms.openai_like import OpenAILike

            self._llm: Any = OpenAILike(
                model="piccc-pro",
                api_base=f"{url}/v1",
                api_key=key,
                is_chat_model=True,
                is_function_calling_model=True,
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

    def offer_tool(self, *, force: bool = False) -> object:
        from llama_index.core.tools import FunctionTool

        def visit(name: str) -> str:
            """Visit a city."""
            return name

        tools = [FunctionTool.from_defaults(visit)]
        reply = self._llm.chat_with_tools(tools, PROMPT, tool_required=force, max_tokens=SHORT)
        return reply.message.content

    def tool_calls(self, *, stream: bool) -> list[dict[str, Any]]:
        from llama_index.core.tools import FunctionTool

        def weather(city: str) -> str:
            """Tell the weather."""
            return city

        tools = [FunctionTool.from_defaults(weather)]
        if stream:
            *_, last = self._llm.stream_chat_with_tools(tools, ASK, allow_parallel_tool_calls=True)
        else:
            last = self._llm.chat_with_tools(tools, ASK, allow_parallel_tool_calls=True)
        return [each.tool_kwargs for each in self._llm.get_tool_calls_from_response(last)]

    def agents(self, weather: Callable[[str], str]) -> Iterator[Callable[[], str]]:
        from llama_index.core.agent.workflow import FunctionAgent, ReActAgent

        async def run(kind: Any, question: str) -> str:
            return str(await kind(tools=[weather], llm=self._llm).run(question))

        yield lambda: asyncio.run(run(FunctionAgent, ASK))
        yield lambda: asyncio.run(run(ReActAgent, STEPS))

    def retrieve(self, vectors: dict[str, list[float]]) -> tuple[str, str] | None:
        from llama_index.core import Document, VectorStoreIndex
        from llama_index.core.embeddings import BaseEmbedding

        class Known(BaseEmbedding):
            def _get_text_embedding(self, text: str) -> list[float]:
                return vectors[text]

            _get_query_embedding = _get_text_embedding

            async def _aget_query_embedding(self, query: str) -> list[float]:
                return vectors[query]

        index = VectorStoreIndex.from_documents([Document(text=each) for each in FACTS], embed_model=Known())
        reply = index.as_query_engine(llm=self._llm, similarity_top_k=1).query(QUESTION)
        return reply.source_nodes[0].text, str(reply)

    def streamed_usage(self, max_tokens: int) -> tuple[int, int]:
        from llama_index.core.llms import ChatMessage

        # OpenAILike does not request usage by default.
        asks = {} if self._asks_for_usage else {"stream_options": {"include_usage": True}}
        *_, last = self._llm.stream_chat([ChatMessage(PROMPT)], max_tokens=max_tokens, **asks)
        found = last.additional_kwargs
        return found["prompt_tokens"], found["completion_tokens"]

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


def _read(url: str, key: str, payload: object = None) -> bytes:
    data = None if payload is None else json.dumps(payload).encode()
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    request = urllib.request.Request(url, data, headers)  # noqa: S310  the server's own address
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as reply:
        return bytes(reply.read())


def _counted_by_server(url: str, key: str) -> int:
    lines = _read(f"{url}/metrics", key).decode().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("llamacpp:tokens_predicted_total"))


def _tokens_of(url: str, key: str, prompt: str) -> int:
    messages = [{"role": "user", "content": prompt}]
    written = json.loads(_read(f"{url}/apply-template", key, {"messages": messages}))["prompt"]
    payload = {"content": written, "add_special": True, "parse_special": True}
    return len(json.loads(_read(f"{url}/tokenize", key, payload))["tokens"])


def make(name: str, url: str, key: str, counted_at: str, share: float = 1.0) -> Subject:
    """Return the named client; the server that counts tokens may be behind the one at `url`."""
    subject: Subject
    if name.startswith("langchain-"):
        subject = LangChain(name, url, key)
    elif name.startswith("llama-index-"):
        subject = LlamaIndex(name, url, key)
    else:
        subject = Piccc("anthropic" if "anthropic" in name else "openai", url, key)
    # The emulator always calls the server's OpenAI route, whatever the client's dialect.
    subject.has_grammar, subject.share = "anthropic" not in name or "emulator" in name, share
    subject.counted_by_server = lambda: _counted_by_server(counted_at, key)
    subject.tokens_of = lambda prompt: _tokens_of(counted_at, key, prompt)
    return subject


def whole(subject: Subject) -> Iterator[Callable[[], object]]:
    """Complete replies in sequence: text, and the stop reason of a truncated reply."""
    for _ in subject.times(10):
        yield lambda: _cut(subject.call())


def _cut(reply: dict[str, Any]) -> None:
    assert isinstance(reply["text"], str), reply
    assert reply.get("stop", "length") in ("length", "stop"), reply
    # Separate rows compare token counts with the server's; aimock's Anthropic route reports none.
    assert min(reply.get("usage", (0, 0))) >= 0, reply


def streams(subject: Subject) -> Iterator[Callable[[], object]]:
    """Streams in sequence, without pauses."""
    for _ in subject.times(20):
        yield lambda: "".join(subject.stream())


def call_after_stream(subject: Subject) -> Iterator[Callable[[], object]]:
    """A complete reply right after a stream."""
    for _ in subject.times(10):
        for _ in subject.stream():
            pass
        yield subject.call


def left_early(subject: Subject) -> Iterator[Callable[[], object]]:
    """A stream left after its first chunk, then a complete reply."""
    for _ in subject.times(5):

        def leave() -> None:
            pieces = subject.stream(max_tokens=100)
            next(pieces)
            pieces.close()  # type: ignore[attr-defined]  # a generator
            subject.call()

        yield leave


def concurrent(subject: Subject) -> Iterator[Callable[[], object]]:
    """Calls, eight at a time, each counted separately."""

    async def run() -> list[BaseException | str]:
        slots = asyncio.Semaphore(8)

        async def one() -> str:
            async with slots:
                return await subject.acall()

        return await asyncio.gather(*[one() for _ in subject.times(200)], return_exceptions=True)

    for outcome in asyncio.run(run()):

        def check(outcome: BaseException | str = outcome) -> None:
            if isinstance(outcome, BaseException):
                raise outcome

        yield check


def tools(subject: Subject) -> Iterator[Callable[[], object]]:
    """A reply to a request with a tool, whether or not the model calls it."""
    for _ in subject.times(5):
        yield subject.offer_tool


def forced_tool(subject: Subject) -> Iterator[Callable[[], object]]:
    """A reply to a request that requires a tool call, even if the server's template does not enforce it."""
    for _ in subject.times(5):
        yield lambda: subject.offer_tool(force=True)


def parallel_calls(subject: Subject) -> Iterator[Callable[[], object]]:
    """Two tool calls in one reply, complete and streamed."""

    def check(*, stream: bool) -> None:
        assert (made := subject.tool_calls(stream=stream)) == CITIES, made

    for _ in subject.times(5):
        yield functools.partial(check, stream=False)
        yield functools.partial(check, stream=True)


def agents(subject: Subject) -> Iterator[Callable[[], object]]:
    """Agents, by tool calls and by ReAct: they run the tool and end with the model's answer."""
    cities: list[str] = []

    def weather(city: str) -> str:
        """Tell the weather."""
        cities.append(city)
        return "mild"

    def check(run: Callable[[], str]) -> None:
        cities.clear()
        assert run() == ANSWER
        assert "Paris" in cities, cities

    for run in subject.agents(weather):
        yield functools.partial(check, run)


def answers_from_facts(subject: Subject) -> Iterator[Callable[[], object]]:
    """An answer from a fact that is retrieved with a real model's embeddings."""
    if not VECTORS.exists():
        return
    vectors = json.loads(VECTORS.read_text())
    if subject.retrieve(vectors) is None:
        return

    def check() -> None:
        found, _ = subject.retrieve(vectors) or ("", "")
        assert found == FACTS[1]

    yield check


def structured(subject: Subject) -> Iterator[Callable[[], object]]:
    """An answer that satisfies a JSON Schema, which the server's grammar enforces."""
    if subject.has_grammar:
        for _ in subject.times(3):
            yield lambda: _city(subject.structured())


def _city(made: object) -> None:
    assert made in ({"name": "Paris"}, {"name": "Rome"}), made


def usage(subject: Subject) -> Iterator[Callable[[], object]]:
    """The output tokens of a reply, equal to the server's count."""
    for tokens in (1, 2, 3, 5, 8):

        def check(tokens: int = tokens) -> None:
            before = subject.counted_by_server()
            _, counted = subject.call(max_tokens=tokens)["usage"]
            assert counted == subject.counted_by_server() - before

        yield check


def input_tokens(subject: Subject) -> Iterator[Callable[[], object]]:
    """The input tokens of a reply, equal to the server's count for the prompt, including cached tokens."""
    for prompt in (PROMPT, PROMPT, "Hedgehogs 🦔 sleep.", "word " * 300):

        def check(prompt: str = prompt) -> None:
            counted, _ = subject.call(prompt)["usage"]
            assert counted == (expected := subject.tokens_of(prompt)), (counted, expected)

        yield check


def usage_of_streams(subject: Subject) -> Iterator[Callable[[], object]]:
    """The tokens of a streamed reply, equal to the server's count."""
    for tokens in (1, 2, 5):

        def check(tokens: int = tokens) -> None:
            before = subject.counted_by_server()
            found = subject.streamed_usage(tokens)
            expected = subject.tokens_of(PROMPT), subject.counted_by_server() - before
            assert found == expected, (found, expected)

        yield check


def stop_sequence(subject: Subject) -> Iterator[Callable[[], object]]:
    """A reply that ends at a stop sequence, and does not contain it."""
    for _ in subject.times(5):

        def check() -> None:
            text = subject.call(max_tokens=30, stop=["a"])["text"]
            assert "a" not in text, text

        yield check


def overflow(subject: Subject) -> Iterator[Callable[[], object]]:
    """A prompt larger than the context, which raises one of the client's own errors."""
    yield lambda: _refused(subject, lambda: subject.call("word " * 9000))


def wrong_key(subject: Subject) -> Iterator[Callable[[], object]]:
    """A wrong key, which raises one of the client's own errors, complete and streamed."""
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
    raise AssertionError(f"an answer instead of an error: {answer!r}")


PLAIN = {
    "whole replies": whole,
    "streams one after the other": streams,
    "a call right after a stream": call_after_stream,
    "a stream left early, then a call": left_early,
    "calls, eight at a time": concurrent,
}
REFUSED = {"context overflow": overflow, "wrong key": wrong_key}
ROWS: dict[str, dict[str, Callable[[Subject], Iterator[Callable[[], object]]]]] = {
    "llama.cpp": {
        **PLAIN,
        "a tool on offer": tools,
        "a forced tool": forced_tool,
        "an answer under a JSON Schema": structured,
        "output tokens as the server counted": usage,
        "input tokens as the server counts": input_tokens,
        "tokens of streams": usage_of_streams,
        "stop sequence": stop_sequence,
        "answers from retrieved facts": answers_from_facts,
        **REFUSED,
    },
    "LiteLLM": {**PLAIN, "a tool on offer": tools, **REFUSED},
    "aimock": {**PLAIN, "two calls of one reply": parallel_calls, "agents": agents},
}
"""The rows of each server. aimock does not check keys; LiteLLM and llama.cpp count tokens differently."""
SHARES = {"LiteLLM": 0.25}
"""The fraction of calls to make to a slow server."""


def main(name: str, key: str, servers: str, counted_at: str) -> None:
    """Run all rows and print the results."""
    found: dict[str, dict[str, object]] = {}
    for server, url in json.loads(servers).items():
        subject = make(name, url, key, counted_at, SHARES.get(server, 1.0))
        found[server] = {}
        for row, steps in ROWS[server].items():
            calls, failures, first = 0, 0, ""
            for step in steps(subject):
                calls += 1
                try:
                    step()
                except Exception as error:
                    failures += 1
                    first = first or f"{type(error).__name__}: {error}"[:300]
            found[server][row] = {"calls": calls, "failures": failures, "first": first}
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
