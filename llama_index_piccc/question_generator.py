"""`PicccQuestionGenerator`, for sub-question engines without another package."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Self

from llama_index.core import Settings
from llama_index.core.llms import ChatMessage
from llama_index.core.llms.llm import LLM
from llama_index.core.prompts import BasePromptTemplate, ChatPromptTemplate, PromptTemplate
from llama_index.core.prompts.mixin import PromptDictType
from llama_index.core.prompts.prompt_type import PromptType
from llama_index.core.question_gen.types import BaseQuestionGenerator, SubQuestion
from llama_index.core.schema import QueryBundle
from llama_index.core.tools.types import ToolMetadata
from pydantic import BaseModel, Field, create_model

_SYSTEM = """\
Split the user's question into the sub-questions whose answers together answer it. Each goes to the one tool \
that can answer it. A question that one tool can answer stays whole.

Tools:
{tools_str}
"""
_NAME = "question_gen_prompt"


class PicccQuestionGenerator(BaseQuestionGenerator):
    """Question generator that splits a question into sub-questions for tools.

    Pass it to `SubQuestionQueryEngine.from_defaults`. A sub-question can only name an existing tool, because
    the names are part of the schema.

    Examples:
        >>> from llama_index.core.schema import QueryBundle
        >>> from llama_index.core.tools import ToolMetadata
        >>> from llama_index_piccc import Piccc, PicccQuestionGenerator
        >>> generator = PicccQuestionGenerator.from_defaults(llm=Piccc())
        >>> tools = [ToolMetadata("Sizes of mugs", name="sizes")]
        >>> [each.tool_name for each in generator.generate(tools, QueryBundle("How large is a mug?"))]
        ['sizes']
    """

    def __init__(self, llm: LLM, prompt: BasePromptTemplate) -> None:
        self._llm = llm
        self._prompt = prompt

    @classmethod
    def from_defaults(cls, llm: LLM | None = None, prompt_template_str: str | None = None) -> Self:
        """Return a generator.

        Args:
            llm: the LLM to ask; by default `Settings.llm`.
            prompt_template_str: a custom prompt with `{tools_str}` and `{query_str}`.
        """
        return cls(llm or Settings.llm, _prompt(prompt_template_str))

    def generate(self, tools: Sequence[ToolMetadata], query: QueryBundle) -> list[SubQuestion]:
        """Return the sub-questions for a query."""
        output_cls = _questions_for(tools)
        return _read(self._llm.structured_predict(output_cls, self._prompt, **_variables(tools, query)))

    async def agenerate(self, tools: Sequence[ToolMetadata], query: QueryBundle) -> list[SubQuestion]:
        """Return the sub-questions for a query."""
        output_cls = _questions_for(tools)
        return _read(
            await self._llm.astructured_predict(output_cls, self._prompt, **_variables(tools, query))
        )

    def _get_prompts(self) -> PromptDictType:
        return {_NAME: self._prompt}

    def _update_prompts(self, prompts: PromptDictType) -> None:
        self._prompt = prompts.get(_NAME, self._prompt)


def _prompt(template: str | None) -> BasePromptTemplate:
    if template:
        return PromptTemplate(template, prompt_type=PromptType.SUB_QUESTION)
    messages = [ChatMessage(role="system", content=_SYSTEM), ChatMessage(role="user", content="{query_str}")]
    return ChatPromptTemplate(messages, prompt_type=PromptType.SUB_QUESTION)


def _questions_for(tools: Sequence[ToolMetadata]) -> type[BaseModel]:
    names: Any = Literal[tuple(tool.get_name() for tool in tools)]
    question: Any = create_model(
        "SubQuestion",
        sub_question=(str, Field(description="A question that is complete in itself.")),
        tool_name=(names, Field(description="The tool that can answer it.")),
    )
    return create_model("SubQuestions", items=(list[question], Field(description="The sub-questions.")))


def _variables(tools: Sequence[ToolMetadata], query: QueryBundle) -> dict[str, str]:
    lines = [f"- {tool.get_name()}: {tool.description}" for tool in tools]
    return {"tools_str": "\n".join(lines), "query_str": query.query_str}


def _read(questions: Any) -> list[SubQuestion]:
    return [SubQuestion(sub_question=item.sub_question, tool_name=item.tool_name) for item in questions.items]
