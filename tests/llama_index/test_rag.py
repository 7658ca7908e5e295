"""Questions about our guides: retrieval, response modes, query engines and chats on the emulator."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from llama_index.core import Document, SimpleKeywordTableIndex, SummaryIndex
from llama_index.core.chat_engine.types import ChatMode
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.node_parser import MarkdownNodeParser
from llama_index.core.query_engine import (
    CitationQueryEngine,
    RetrieverQueryEngine,
    RouterQueryEngine,
    SubQuestionQueryEngine,
)
from llama_index.core.response_synthesizers import ResponseMode
from llama_index.core.retrievers import BaseRetriever
from llama_index.core.schema import BaseNode
from llama_index.core.tools import QueryEngineTool
from llama_index.retrievers.bm25 import BM25Retriever
from pydantic import BaseModel, Field

from llama_index_piccc import Piccc, PicccQuestionGenerator
from piccc.emulator import Emulator
from tests.llama_index.conftest import Async, Sync

Way = Sync | Async
QUESTION = "What does RateLimitError stand for?"
FACT = "stands for status 429"
ABOUT = {
    "errors": "errors and retries",
    "media": "media tasks: images and videos",
    "testing": "testing with the emulator",
}


@pytest.fixture(scope="session")
def guides(documents: Path) -> list[Document]:
    """Read the guides."""
    files = sorted(documents.glob("*.md"))
    assert [path.stem for path in files] == list(ABOUT)
    return [Document(text=path.read_text("utf-8"), metadata={"file_name": path.name}) for path in files]


@pytest.fixture(scope="session")
def nodes(guides: list[Document]) -> list[BaseNode]:
    """Split the guides at their headings."""
    return list(MarkdownNodeParser().get_nodes_from_documents(guides))


@pytest.fixture
def keywords(nodes: list[BaseNode], llm: Piccc) -> SimpleKeywordTableIndex:
    """Index the guides by their keywords."""
    return SimpleKeywordTableIndex(nodes, llm=llm, max_keywords_per_chunk=60)


@pytest.fixture(params=["keyword", "bm25"])
def retriever(
    request: pytest.FixtureRequest, nodes: list[BaseNode], keywords: SimpleKeywordTableIndex
) -> BaseRetriever:
    """Return a retriever by keywords and one by BM25."""
    if request.param == "bm25":
        return BM25Retriever.from_defaults(nodes=nodes, similarity_top_k=3)
    return keywords.as_retriever(retriever_mode="simple", num_chunks_per_query=3)


@pytest.mark.parametrize("mode", [ResponseMode.COMPACT, ResponseMode.REFINE, ResponseMode.TREE_SUMMARIZE])
def test_a_question_is_answered_from_the_guides(
    way: Way, llm: Piccc, retriever: BaseRetriever, mode: ResponseMode
) -> None:
    engine = RetrieverQueryEngine.from_args(retriever, llm=llm, response_mode=mode)
    response = way.call(engine, "query", QUESTION)
    assert FACT in str(response)
    assert any(FACT in source.node.get_content() for source in response.source_nodes)


def test_an_answer_is_streamed_word_by_word(way: Way, llm: Piccc, retriever: BaseRetriever) -> None:
    llm.coalesce = False  # the emulator sends all words at once
    engine = RetrieverQueryEngine.from_args(retriever, llm=llm, streaming=True)
    if isinstance(way, Sync):
        tokens = list(engine.query(QUESTION).response_gen)
    else:
        tokens = way.stream(_Streaming(engine), "words", QUESTION)
    assert len(tokens) > 5
    assert FACT in "".join(tokens)


class _Streaming:
    """Adapter: streams the words of an async answer."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine

    async def awords(self, question: str) -> Any:
        """Return the words of the answer."""
        response: Any = await self._engine.aquery(question)
        return response.async_response_gen()


def test_citations_name_their_source(way: Way, llm: Piccc, retriever: BaseRetriever) -> None:
    engine = CitationQueryEngine.from_args(None, llm=llm, retriever=retriever)
    response = way.call(engine, "query", QUESTION)
    number = int(str(response).rpartition("[")[2].partition("]")[0])
    assert FACT in response.source_nodes[number - 1].node.get_content()


class Meaning(BaseModel):
    """What an error means."""

    error: str = Field(description="the error's name")
    status: int = Field(description="the HTTP status")


@pytest.mark.parametrize("mode", [ResponseMode.COMPACT, ResponseMode.TREE_SUMMARIZE])
def test_a_query_engine_answers_with_a_pydantic_object(
    way: Way, llm: Piccc, emulator: Emulator, retriever: BaseRetriever, mode: ResponseMode
) -> None:
    emulator.rule(lambda ask: ask.schema is not None, '{"error": "RateLimitError", "status": 429}')
    engine = RetrieverQueryEngine.from_args(retriever, llm=llm, response_mode=mode, output_cls=Meaning)
    response = way.call(engine, "query", QUESTION)
    assert Meaning.model_validate_json(str(response)) == Meaning(error="RateLimitError", status=429)


def tools(guides: list[Document], llm: Piccc) -> list[QueryEngineTool]:
    """Return a query tool for each guide."""
    query_tools = []
    for guide, (name, about) in zip(guides, ABOUT.items(), strict=True):
        index = SummaryIndex(MarkdownNodeParser().get_nodes_from_documents([guide]))
        engine = index.as_query_engine(llm=llm)
        query_tools.append(QueryEngineTool.from_defaults(engine, name=name, description=about))
    return query_tools


def test_a_router_sends_a_question_to_the_right_guide(
    way: Way, llm: Piccc, guides: list[Document], emulator: Emulator
) -> None:
    engine = RouterQueryEngine.from_defaults(tools(guides, llm), llm=llm)
    response = way.call(engine, "query", "About errors and retries: what does RateLimitError stand for?")
    assert response.metadata["selector_result"].ind == list(ABOUT).index("errors")
    assert FACT in str(response)
    assert emulator.requests[0].body["tool_choice"] != "auto"


def test_a_question_is_split_among_the_guides(
    way: Way, llm: Piccc, guides: list[Document], emulator: Emulator
) -> None:
    questions_by_guide = {"errors": QUESTION, "media": "How often does a wait poll a task?"}
    questions = [
        {"sub_question": question, "tool_name": name} for name, question in questions_by_guide.items()
    ]
    emulator.script([json.dumps({"items": questions})])
    engine = SubQuestionQueryEngine.from_defaults(
        tools(guides, llm),
        llm=llm,
        question_gen=PicccQuestionGenerator.from_defaults(llm),
        use_async=isinstance(way, Async),
        verbose=False,
    )
    response = way.call(engine, "query", f"{QUESTION} And how often does a wait poll a task?")
    contents = [source.node.get_content() for source in response.source_nodes[:2]]
    assert contents[0].startswith(f"Sub question: {QUESTION}")
    assert FACT in contents[0]
    assert "every 2 to 5 seconds" in contents[1]


def chat_engine(index: SimpleKeywordTableIndex, mode: ChatMode, llm: Piccc) -> Any:
    """Return a chat engine for the guides. The other kind of memory leaves its database open."""
    memory = ChatMemoryBuffer.from_defaults(token_limit=3000)
    options: Any = {"retriever_mode": "simple", "num_chunks_per_query": 3, "memory": memory}
    return index.as_chat_engine(chat_mode=mode, llm=llm, **options)


@pytest.mark.parametrize(
    "mode", [ChatMode.CONTEXT, ChatMode.CONDENSE_QUESTION, ChatMode.CONDENSE_PLUS_CONTEXT]
)
def test_a_chat_remembers_and_answers_from_the_guides(
    way: Way, llm: Piccc, keywords: SimpleKeywordTableIndex, mode: ChatMode
) -> None:
    engine = chat_engine(keywords, mode, llm)
    assert FACT in str(way.call(engine, "chat", QUESTION))
    way.call(engine, "chat", "What does OverloadedError stand for?")
    history = [message.content for message in engine.chat_history]
    assert history[0] == QUESTION
    assert FACT in (history[1] or "")
    assert len(history) == 4


def test_a_streamed_chat_answer_is_remembered(
    way: Way, llm: Piccc, keywords: SimpleKeywordTableIndex
) -> None:
    engine = chat_engine(keywords, ChatMode.CONTEXT, llm)
    if isinstance(way, Sync):
        words = list(engine.stream_chat(QUESTION).response_gen)
    else:
        words = way.stream(_Chatting(engine), "words", QUESTION)
    assert FACT in "".join(words)
    assert engine.chat_history[-1].content == "".join(words)


class _Chatting:
    """Adapter: streams the words of an async chat."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine

    async def awords(self, question: str) -> Any:
        """Return the words of the answer."""
        response: Any = await self._engine.astream_chat(question)
        return response.async_response_gen()


def test_memory_is_truncated_to_its_token_limit(
    way: Way, make: Callable[..., Piccc], emulator: Emulator
) -> None:
    from llama_index.core.chat_engine import SimpleChatEngine

    memory = ChatMemoryBuffer.from_defaults(token_limit=400)
    engine = SimpleChatEngine.from_defaults(llm=make(), memory=memory)
    for number in range(12):
        way.call(engine, "chat", f"Note number {number}: " + "clay " * 40)
    sent = emulator.requests[-1].body["messages"]
    assert 1 < len(sent) < 23
    assert "Note number 11" in sent[-1]["content"]
