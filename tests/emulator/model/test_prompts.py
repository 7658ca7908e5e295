"""The frameworks' own classes on the rule model: always the right format, mostly the right answer."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from itertools import product
from typing import Any, Literal

import pytest
from langchain.agents.middleware import LLMToolSelectorMiddleware, ModelRequest, SummarizationMiddleware
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tools import StructuredTool
from llama_index.core import (
    Document,
    KnowledgeGraphIndex,
    MockEmbedding,
    PromptTemplate,
    PropertyGraphIndex,
    SQLDatabase,
)
from llama_index.core.evaluation import (
    AnswerRelevancyEvaluator,
    ContextRelevancyEvaluator,
    CorrectnessEvaluator,
    FaithfulnessEvaluator,
    GuidelineEvaluator,
    PairwiseComparisonEvaluator,
    RelevancyEvaluator,
)
from llama_index.core.extractors import (
    KeywordExtractor,
    QuestionsAnsweredExtractor,
    SummaryExtractor,
    TitleExtractor,
)
from llama_index.core.indices.property_graph import (
    DynamicLLMPathExtractor,
    LLMSynonymRetriever,
    SchemaLLMPathExtractor,
    SimpleLLMPathExtractor,
)
from llama_index.core.postprocessor import LLMRerank, PIINodePostprocessor, StructuredLLMRerank
from llama_index.core.postprocessor.rankGPT_rerank import RankGPTRerank
from llama_index.core.program import FunctionCallingProgram, LLMTextCompletionProgram
from llama_index.core.query_engine import NLSQLTableQueryEngine
from llama_index.core.response_synthesizers import get_response_synthesizer
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from llama_index.core.selectors import (
    LLMMultiSelector,
    LLMSingleSelector,
    PydanticMultiSelector,
    PydanticSingleSelector,
)
from pydantic import BaseModel
from sqlalchemy import create_engine, text

from langchain_piccc import ChatPiccc
from llama_index_piccc import Piccc
from piccc.emulator import Emulator
from tests.emulator.model.items import (
    FACTS,
    GUIDELINES,
    ODD_ROWS,
    ODD_SQL,
    PERSONAL,
    ROWS,
    SELECTIONS,
    SQL,
    SUBJECTS,
    TOOLS_TO_SELECT,
    TWO_REQUESTS,
)
from tests.emulator.model.talk import TOOLS, ask

NUMBERS = range(len(FACTS))


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    with Emulator(speed=math.inf) as running:
        yield running


@pytest.fixture(scope="module")
def llm(emulator: Emulator) -> Any:
    return Piccc(model="piccc-pro", api_key=emulator.api_key, base_url=emulator.base_url)


@pytest.fixture(scope="module")
def chat_model(emulator: Emulator) -> Any:
    return ChatPiccc(model="piccc-pro", api_key=emulator.api_key, base_url=emulator.base_url)


def candidates(number: int) -> tuple[list[str], int]:
    """Return five texts and the index of the right one."""
    place = number % 5
    others = [FACTS[(number + 3 * step) % len(FACTS)][1] for step in range(1, 5)]
    return [*others[:place], FACTS[number][1], *others[place:]], place


@pytest.mark.parametrize(
    "kind", [LLMSingleSelector, LLMMultiSelector, PydanticSingleSelector, PydanticMultiSelector]
)
def test_selectors_choose_the_text_that_answers_the_question(llm: Any, kind: Any) -> None:
    selector, correct = kind.from_defaults(llm=llm), 0
    for number in NUMBERS:
        texts, place = candidates(number)
        correct += selector.select(texts, FACTS[number][0]).inds[0] == place
    assert correct >= 0.8 * len(FACTS)


@pytest.mark.parametrize("kind", [LLMRerank, StructuredLLMRerank, RankGPTRerank])
def test_rerankers_put_the_answering_text_first(llm: Any, kind: Any) -> None:
    reranker, correct = kind(llm=llm, top_n=3), 0
    for number in NUMBERS:
        texts, _ = candidates(number)
        nodes = [NodeWithScore(node=TextNode(text=text), score=0.0) for text in texts]
        ranked = reranker.postprocess_nodes(nodes, QueryBundle(FACTS[number][0]))
        assert ranked
        correct += ranked[0].node.get_content() == FACTS[number][1]
    assert correct >= 0.8 * len(FACTS)


@pytest.mark.parametrize("kind", [FaithfulnessEvaluator, RelevancyEvaluator])
def test_evaluators_pass_facts_and_fail_lies(llm: Any, kind: Any) -> None:
    evaluator, correct = kind(llm=llm), 0
    for number, (question, fact, lie) in enumerate(FACTS):
        contexts = [" ".join(candidates(number)[0])]
        result = evaluator.evaluate(query=question, response=lie if number % 2 else fact, contexts=contexts)
        correct += result.passing is (number % 2 == 0)
    assert correct >= 0.9 * len(FACTS)


def test_correct_answers_score_higher_than_lies(llm: Any) -> None:
    evaluator, correct = CorrectnessEvaluator(llm=llm), 0
    for question, fact, lie in FACTS:
        scores = [
            evaluator.evaluate(query=question, response=response, reference=fact).score
            for response in (fact, lie)
        ]
        assert None not in scores
        correct += scores[0] >= 4 > scores[1]
    assert correct >= 0.9 * len(FACTS)


def test_pairwise_comparison_prefers_the_correct_answer(llm: Any) -> None:
    evaluator, correct = PairwiseComparisonEvaluator(llm=llm), 0
    for question, fact, lie in FACTS:
        result = evaluator.evaluate(query=question, response=fact, second_response=lie, reference=fact)
        assert not result.invalid_result
        correct += result.score == 1.0
    assert correct >= 0.9 * len(FACTS)


def test_relevance_scores_drop_for_an_unrelated_answer_or_context(llm: Any) -> None:
    answers, contexts, correct = AnswerRelevancyEvaluator(llm=llm), ContextRelevancyEvaluator(llm=llm), 0
    for number, (question, fact, _) in enumerate(FACTS):
        other = FACTS[(number + 7) % len(FACTS)][1]
        pairs = [
            [answers.evaluate(query=question, response=text) for text in (fact, other)],
            [contexts.evaluate(query=question, contexts=[text]) for text in (fact, other)],
        ]
        assert not any(result.invalid_result for pair in pairs for result in pair)
        correct += all(pair[0].score > pair[1].score for pair in pairs)
    assert correct >= 0.8 * len(FACTS)


class Person(BaseModel):
    name: str
    age: int


def test_a_schema_in_double_braces_is_followed(llm: Any) -> None:
    program = LLMTextCompletionProgram.from_defaults(
        output_cls=Person, prompt_template_str="{name} is {age} years old.", llm=llm
    )
    names = [" ".join(fact.split()[1:3]).title() for _, fact, _ in FACTS]
    people = [program(name=name, age=20 + index) for index, name in enumerate(names)]
    assert [person.age for person in people] == [20 + index for index in NUMBERS]
    critic = GuidelineEvaluator(llm=llm, guidelines="The response names a number.")
    assert critic.evaluate(query="How tall is it?", response="It is 42 metres tall.").feedback


def test_guidelines_are_evaluated(llm: Any) -> None:
    correct = 0
    for guideline, response, passes in GUIDELINES:
        result = GuidelineEvaluator(llm=llm, guidelines=guideline).evaluate(
            query="Tell me.", response=response
        )
        assert result.feedback
        correct += result.passing is passes
    assert correct >= 0.9 * len(GUIDELINES)


def test_answer_filtering_drops_contexts_without_the_answer(llm: Any) -> None:
    synthesizer = get_response_synthesizer(llm=llm, response_mode="refine", structured_answer_filtering=True)
    correct = 0
    for number, (question, fact, _) in enumerate(FACTS):
        other = FACTS[(number + 7) % len(FACTS)][1]
        answer = synthesizer.get_response(question, [fact if number % 2 else other])
        correct += (fact in str(answer)) if number % 2 else (str(answer) == "Empty Response")
    assert correct >= 0.9 * len(FACTS)


@pytest.mark.parametrize(
    ("rows", "items"), [(ROWS, SQL), (ODD_ROWS, ODD_SQL)], ids=["plain names", "odd names"]
)
def test_sql_runs_on_the_given_schema_and_mostly_answers(
    llm: Any, rows: tuple[str, ...], items: tuple[tuple[str, object], ...]
) -> None:
    engine = create_engine("sqlite://")
    with engine.begin() as connection:
        for statement in rows:
            connection.execute(text(statement))
    queries, correct = (
        NLSQLTableQueryEngine(SQLDatabase(engine), llm=llm, embed_model=MockEmbedding(embed_dim=1)),
        0,
    )
    for question, answer in items:
        result = queries.query(question)
        assert result.metadata is not None
        with engine.connect() as connection:
            selected = connection.execute(text(result.metadata["sql_query"])).all()
        correct += [row[0] for row in selected] == [answer]
        assert str(result).startswith(("The result is", "The query has no result"))
    engine.dispose()
    assert correct >= 0.8 * len(items)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (SimpleLLMPathExtractor, {}),
        (DynamicLLMPathExtractor, {}),
        (SchemaLLMPathExtractor, {"strict": False}),
    ],
)
def test_path_extractors_find_the_subject_of_each_text(llm: Any, kind: Any, options: dict[str, Any]) -> None:
    nodes = kind(llm=llm, num_workers=1, **options)([TextNode(text=fact) for _, fact, _ in FACTS])
    correct = 0
    for node, subject in zip(nodes, SUBJECTS, strict=True):
        entities = [entity.name.lower() for entity in node.metadata["nodes"]]
        assert len(entities) >= 2
        assert node.metadata["relations"]
        correct += subject.lower() in entities
    assert correct >= 0.8 * len(FACTS)


EMPLOYERS = ("Globex", "Initech", "Nova Labs", "Umbra")
CITIES = ("Berlin", "Lagos", "Oslo", "Quito")
WORKERS = ("Anna Keller", "Bob Ray", "Maria Lopez", "Hank Wu")
TRIPLES = [
    *((f"{who} works at {firm}.", (who, "WORKS_AT", firm)) for who, firm in product(WORKERS[:3], EMPLOYERS)),
    *((f"{who} lives in {city}.", (who, "LIVES_IN", city)) for who, city in product(WORKERS[:2], CITIES)),
    *(
        (f"{firm} was founded by {who}.", (who, "FOUNDED", firm))
        for who, firm in zip(WORKERS, EMPLOYERS, strict=True)
    ),
    *(
        (f"{firm} is based in {city}.", (firm, "BASED_IN", city))
        for firm, city in product(EMPLOYERS[:2], CITIES)
    ),
]


def test_a_strict_path_schema_allows_only_its_type_triples(llm: Any) -> None:
    extractor = SchemaLLMPathExtractor(
        llm=llm,
        num_workers=1,
        possible_entities=Literal["PERSON", "COMPANY", "CITY"],  # type: ignore[arg-type]  # as in its own examples
        possible_relations=Literal["WORKS_AT", "LIVES_IN", "FOUNDED", "BASED_IN"],  # type: ignore[arg-type]
        kg_validation_schema=[
            ("PERSON", "WORKS_AT", "COMPANY"),
            ("PERSON", "LIVES_IN", "CITY"),
            ("PERSON", "FOUNDED", "COMPANY"),
            ("COMPANY", "BASED_IN", "CITY"),
        ],
    )
    assert len(TRIPLES) >= 30
    nodes = extractor([TextNode(text=sentence) for sentence, _ in TRIPLES])
    extracted = [
        [(relation.source_id, relation.label, relation.target_id) for relation in node.metadata["relations"]]
        for node in nodes
    ]
    correct = sum(triples == [expected] for triples, (_, expected) in zip(extracted, TRIPLES, strict=True))
    assert correct >= 0.9 * len(TRIPLES), extracted
    [other] = extractor([TextNode(text="Cats like fish.")])
    assert other.metadata["relations"] == []


def test_property_graph_queries_find_the_facts(llm: Any) -> None:
    index = PropertyGraphIndex.from_documents(
        [Document(text=fact) for _, fact, _ in FACTS],
        llm=llm,
        kg_extractors=[SimpleLLMPathExtractor(llm=llm, num_workers=1)],
        embed_kg_nodes=False,
        use_async=False,
    )
    retriever = LLMSynonymRetriever(index.property_graph_store, llm=llm, include_text=False)
    engine, correct = index.as_query_engine(llm=llm, sub_retrievers=[retriever], use_async=False), 0
    for question, fact, _ in FACTS:
        correct += fact.split()[-1].strip(".").lower() in str(engine.query(question)).lower()
    assert correct >= 0.8 * len(FACTS)


@pytest.mark.filterwarnings("ignore:Call to deprecated class K:DeprecationWarning")
def test_knowledge_graph_queries_find_the_facts(llm: Any, caplog: pytest.LogCaptureFixture) -> None:
    documents = [Document(text=fact) for _, fact, _ in FACTS]
    index = KnowledgeGraphIndex.from_documents(documents, llm=llm, embed_model=MockEmbedding(embed_dim=1))
    engine, correct = index.as_query_engine(llm=llm, include_text=True, response_mode="compact"), 0
    for question, fact, _ in FACTS:
        correct += fact.split()[-1].strip(".").lower() in str(engine.query(question)).lower()
    assert correct >= 0.8 * len(FACTS)
    caplog.clear()  # it warns that it uses no embeddings


def test_extracted_metadata_comes_from_the_text(llm: Any) -> None:
    texts = [" ".join(candidates(number)[0]) for number in NUMBERS]
    nodes = [TextNode(text=text) for text in texts]
    for extractor in (
        TitleExtractor(llm=llm, nodes=1, num_workers=1),
        KeywordExtractor(llm=llm, keywords=4, num_workers=1),
        QuestionsAnsweredExtractor(llm=llm, questions=3, num_workers=1),
        SummaryExtractor(llm=llm, summaries=["self"], num_workers=1),
    ):
        extractor.show_progress = False
        nodes = extractor.process_nodes(nodes)
    for node, words in zip(nodes, texts, strict=True):
        metadata = node.metadata
        title = metadata["document_title"].lower().split()  # from all nodes, as they have no document
        assert {*title} <= {*re.findall(r"[\w'’-]+", " ".join(texts).lower())}
        keywords = metadata["excerpt_keywords"].split(", ")
        assert len(keywords) == 4
        assert all(keyword in words.lower() for keyword in keywords)
        assert len(metadata["questions_this_excerpt_can_answer"].splitlines()) == 3
        assert all(part in words for part in re.split(r"(?<=[.])\s", metadata["section_summary"]))


def test_personal_data_is_masked(llm: Any) -> None:
    correct = 0
    for words, secrets in PERSONAL:
        [node] = PIINodePostprocessor(llm=llm).postprocess_nodes([NodeWithScore(node=TextNode(text=words))])
        mapping = node.node.metadata["__pii_node_info__"]
        correct += {*mapping.values()} == {*secrets} and not any(
            secret in node.node.text for secret in secrets
        )
    assert correct >= 0.9 * len(PERSONAL)


def test_a_streamed_program_returns_its_object(llm: Any) -> None:
    program = FunctionCallingProgram.from_defaults(
        output_cls=Person, prompt=PromptTemplate("{name} is {age} years old."), llm=llm
    )
    for number, (_, fact, _) in enumerate(FACTS):
        name = " ".join(fact.split()[1:3]).title().rstrip(".")
        *_, last = program.stream_call(name=name, age=20 + number)
        assert last.age == 20 + number


def test_the_tool_selector_picks_the_requested_tool(chat_model: Any) -> None:
    tools = [
        StructuredTool.from_function(
            lambda: "", name=name, description=description, args_schema={"type": "object"}
        )
        for name, description in TOOLS_TO_SELECT
    ]
    middleware, correct, chosen = LLMToolSelectorMiddleware(model=chat_model, max_tools=1), 0, list[str]()
    for words, expected in SELECTIONS:
        request = ModelRequest(model=chat_model, messages=[HumanMessage(words)], tools=tools, state={})
        middleware.wrap_model_call(
            request, lambda selected: chosen.append(selected.tools[0].name) or AIMessage("")
        )
        correct += chosen[-1] == expected
    assert len(chosen) == len(SELECTIONS)
    assert correct >= 0.8 * len(SELECTIONS)


def test_a_summarized_history_keeps_intent_facts_and_files(chat_model: Any) -> None:
    middleware = SummarizationMiddleware(chat_model, trigger=("messages", 4), keep=("messages", 1))
    for number, (question, fact, _) in enumerate(FACTS):
        messages = [
            HumanMessage(f"Write notes_{number}.md.", id="1"),
            AIMessage("Written.", id="2"),
            HumanMessage(question, id="3"),
            AIMessage(fact, id="4"),
            HumanMessage("Go on.", id="5"),
        ]
        update = middleware.before_model({"messages": messages}, None)
        summary = update["messages"][1].text
        sections = dict(re.findall(r"(?s)## ([A-Z ]+)\n(.*?)(?=\n\n##|\Z)", summary))
        assert sections.keys() == {"SESSION INTENT", "SUMMARY", "ARTIFACTS", "NEXT STEPS"}
        assert sections["SESSION INTENT"] == f"Write notes_{number}.md."
        assert fact in sections["SUMMARY"]
        assert sections["ARTIFACTS"] == f"- notes_{number}.md"


@pytest.mark.parametrize(
    "words",
    [
        "## SESSION INTENT <messages> ",
        "\nContext:\nx\nTask: Mask out the PII",
        "Text: a\nTriplets: b\n",
        "\nResponse: x\nGuidelines: y\nNow please provide",
        "Here is the context: ",
        "SQLQuery Table 'a' has columns: b (INT), c (TEXT)\nQuestion: d\nSQL Response: ",
        "A1 b@c ",
    ],
)
def test_prompt_patterns_finish_on_long_repetitive_input(words: str) -> None:
    # A pattern with quadratic run time would take hours.
    assert ask(words * (200_000 // len(words))).usage.completion_tokens


def test_two_requests_in_one_prompt_become_two_calls() -> None:
    called = [[call.name for call in ask(words, tools=TOOLS).calls] for words, *_ in TWO_REQUESTS]
    correct = sum(names[:1] == [first] for names, (_, first, _) in zip(called, TWO_REQUESTS, strict=True))
    both = sum(
        names == [first, second]
        for names, (words, first, second) in zip(called, TWO_REQUESTS, strict=True)
        if ". Then " not in words
    )
    assert correct >= 0.9 * len(TWO_REQUESTS)
    assert both >= 0.9 * len([words for words, *_ in TWO_REQUESTS if ". Then " not in words])


@pytest.mark.parametrize("choice", ["required", "named"])
def test_a_forced_tool_is_always_called(choice: str) -> None:
    for question, fact, lie in FACTS:
        for words in (question, fact, lie):
            named = "add" if choice == "named" else None
            calls = ask(words, tools=TOOLS, tool_choice=choice, named_tool=named).calls
            assert calls
            assert named in (None, calls[0].name)
