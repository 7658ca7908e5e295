"""The frameworks' own classes, run on the model: the right form always, and mostly the right choice."""

from __future__ import annotations

import math
from typing import Any

import pytest
from llama_index.core.evaluation import (
    AnswerRelevancyEvaluator,
    ContextRelevancyEvaluator,
    CorrectnessEvaluator,
    FaithfulnessEvaluator,
    GuidelineEvaluator,
    PairwiseComparisonEvaluator,
    RelevancyEvaluator,
)
from llama_index.core.postprocessor import LLMRerank
from llama_index.core.postprocessor.rankGPT_rerank import RankGPTRerank
from llama_index.core.program import LLMTextCompletionProgram
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from llama_index.core.selectors import (
    LLMMultiSelector,
    LLMSingleSelector,
    PydanticMultiSelector,
    PydanticSingleSelector,
)
from pydantic import BaseModel

from llama_index_piccc import Piccc
from piccc.emulator import Emulator
from tests.emulator.model.items import FACTS

NUMBERS = range(len(FACTS))


@pytest.fixture(scope="module")
def llm() -> Any:
    with Emulator(speed=math.inf) as emulator:
        yield Piccc(model="piccc-pro", api_key=emulator.api_key, base_url=emulator.base_url)


def shown(number: int) -> tuple[list[str], int]:
    """Return five texts, and where the right one stands."""
    place = number % 5
    others = [FACTS[(number + 3 * step) % len(FACTS)][1] for step in range(1, 5)]
    return [*others[:place], FACTS[number][1], *others[place:]], place


@pytest.mark.parametrize(
    "kind", [LLMSingleSelector, LLMMultiSelector, PydanticSingleSelector, PydanticMultiSelector]
)
def test_selectors_choose_the_text_that_answers(llm: Any, kind: Any) -> None:
    selector, right = kind.from_defaults(llm=llm), 0
    for number in NUMBERS:
        texts, place = shown(number)
        right += selector.select(texts, FACTS[number][0]).inds[0] == place
    assert right >= 0.8 * len(FACTS)


@pytest.mark.parametrize("kind", [LLMRerank, RankGPTRerank])
def test_rerankers_put_the_text_that_answers_first(llm: Any, kind: Any) -> None:
    reranker, right = kind(llm=llm, top_n=3), 0
    for number in NUMBERS:
        texts, _ = shown(number)
        nodes = [NodeWithScore(node=TextNode(text=text), score=0.0) for text in texts]
        ranked = reranker.postprocess_nodes(nodes, QueryBundle(FACTS[number][0]))
        assert ranked
        right += ranked[0].node.get_content() == FACTS[number][1]
    assert right >= 0.8 * len(FACTS)


@pytest.mark.parametrize("kind", [FaithfulnessEvaluator, RelevancyEvaluator])
def test_facts_pass_and_lies_do_not(llm: Any, kind: Any) -> None:
    evaluator, right = kind(llm=llm), 0
    for number, (question, fact, lie) in enumerate(FACTS):
        contexts = [" ".join(shown(number)[0])]
        said = evaluator.evaluate(query=question, response=lie if number % 2 else fact, contexts=contexts)
        right += said.passing is (number % 2 == 0)
    assert right >= 0.9 * len(FACTS)


def test_correct_answers_score_above_lies(llm: Any) -> None:
    evaluator, right = CorrectnessEvaluator(llm=llm), 0
    for question, fact, lie in FACTS:
        scores = [
            evaluator.evaluate(query=question, response=one, reference=fact).score for one in (fact, lie)
        ]
        assert None not in scores
        right += scores[0] >= 4 > scores[1]
    assert right >= 0.9 * len(FACTS)


def test_of_two_answers_the_right_one_wins(llm: Any) -> None:
    evaluator, right = PairwiseComparisonEvaluator(llm=llm), 0
    for question, fact, lie in FACTS:
        said = evaluator.evaluate(query=question, response=fact, second_response=lie, reference=fact)
        assert not said.invalid_result
        right += said.score == 1.0
    assert right >= 0.9 * len(FACTS)


def test_relevance_is_a_score_and_falls_with_another_subject(llm: Any) -> None:
    answers, contexts, right = AnswerRelevancyEvaluator(llm=llm), ContextRelevancyEvaluator(llm=llm), 0
    for number, (question, fact, _) in enumerate(FACTS):
        other = FACTS[(number + 7) % len(FACTS)][1]
        pairs = [
            [answers.evaluate(query=question, response=one) for one in (fact, other)],
            [contexts.evaluate(query=question, contexts=[one]) for one in (fact, other)],
        ]
        assert not any(one.invalid_result for pair in pairs for one in pair)
        right += all(pair[0].score > pair[1].score for pair in pairs)
    assert right >= 0.8 * len(FACTS)


class Person(BaseModel):
    name: str
    age: int


def test_a_schema_in_doubled_braces_is_followed(llm: Any) -> None:
    program = LLMTextCompletionProgram.from_defaults(
        output_cls=Person, prompt_template_str="{name} is {age} years old.", llm=llm
    )
    names = [" ".join(fact.split()[1:3]).title() for _, fact, _ in FACTS]
    made = [program(name=name, age=20 + at) for at, name in enumerate(names)]
    assert [one.age for one in made] == [20 + at for at in NUMBERS]
    critic = GuidelineEvaluator(llm=llm, guidelines="The response names a number.")
    assert critic.evaluate(query="How tall is it?", response="It is 42 metres tall.").feedback
