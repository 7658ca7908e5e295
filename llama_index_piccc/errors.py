"""What only this package raises; all are in piccc's one tree, and ValueErrors as core expects."""

from __future__ import annotations

from typing import Any

from llama_index.core.base.llms.types import ChatResponse

from piccc.errors import ResponseError
from piccc.structured import StructuredOutputError

__all__ = ["NoToolCallError", "StructuredOutputError", "shown"]

_SHOWN = 200


class _AnswerError(ResponseError, ValueError):
    """An answer that came whole, but not as it was asked for."""

    text: str = ""
    finish_reason: str | None = None

    def __init__(self, message: str, *, response: ChatResponse | None = None, **details: Any) -> None:
        if response is not None:
            facts = response.additional_kwargs
            details = {
                "text": response.message.content or "",
                "finish_reason": facts.get("finish_reason"),
                "request_id": facts.get("request_id"),
                "may_have_been_billed": True,
                **details,
            }
        super().__init__(message, **details)


class NoToolCallError(_AnswerError):
    """A tool call was expected, and the model answered without one.

    Attributes:
        text: the model's words.
        finish_reason: why it stopped, such as `stop` or `length`.
    """

    def __init__(self, message: str, *, response: ChatResponse | None = None, **details: Any) -> None:
        hint = "Pass tool_required=True, or error_on_no_tool_call=False where an answer in words will do."
        super().__init__(message, response=response, **{"hint": hint, **details})


def shown(text: str) -> str:
    """Return the beginning of a text, quoted."""
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…")
