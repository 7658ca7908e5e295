"""What the model is set to and what one call asks for → one neutral request. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from langchain_core.messages import BaseMessage
from pydantic import SecretStr

from langchain_piccc._connection import Dialect
from langchain_piccc._input import to_messages
from langchain_piccc._tools import to_choice, to_format, to_tools
from piccc.chat import Audio, ChatRequest, File, Raw
from piccc.errors import InvalidArgumentError

if TYPE_CHECKING:
    from langchain_piccc.chat_models import ChatPiccc

SETTINGS = ("model", "temperature", "top_p", "max_tokens", "seed", "reasoning_effort", "replay_reasoning")
_OTHERS = (
    "extra_body", "extra_headers", "parallel_tool_calls", "response_format", "strict", "timeout",
    "tool_choice", "tools",
)  # fmt: skip
_IGNORED = ("stream",)


def to_request(
    model: ChatPiccc,
    messages: Sequence[BaseMessage],
    stop: Sequence[str] | str | None,
    options: Mapping[str, Any],
) -> ChatRequest:
    """Return the request; raise InvalidArgumentError for an option that does not exist."""
    if unknown := sorted(set(options) - {*SETTINGS, *_OTHERS, *_IGNORED}):
        raise InvalidArgumentError(
            f"Unknown options: {', '.join(unknown)}.",
            hint=f"Known are {', '.join((*SETTINGS, *_OTHERS))}, stop. "
            "What the server takes beyond these goes into extra_body={...}.",
        )
    stop = model.stop if stop is None else stop
    settings = {name: options[name] if name in options else getattr(model, name) for name in SETTINGS}
    return ChatRequest(
        messages=to_messages(messages),
        tools=to_tools(options.get("tools")),
        tool_choice=to_choice(options.get("tool_choice")),
        parallel_tool_calls=options.get("parallel_tool_calls"),
        response_format=to_format(options.get("response_format"), strict=options.get("strict")),
        stop=as_list(stop),
        extra_body={**(model.extra_body or {}), **(options.get("extra_body") or {})},
        extra_headers=in_clear(options.get("extra_headers")),
        **settings,
    )


def to_dialect(preferred: Dialect, request: ChatRequest) -> Dialect:
    """Return the preferred dialect, or the other one where only that has words for the content."""
    parts = [part for message in request.messages for part in message.parts]
    needs: set[Dialect] = set()
    if any(isinstance(part, Audio) for part in parts):
        needs.add("openai")
    if any(
        (isinstance(part, File) and part.url) or (isinstance(part, Raw) and "source" in part.data)
        for part in parts
    ):
        needs.add("anthropic")
    return needs.pop() if len(needs) == 1 else preferred


def as_list(stop: Sequence[str] | str | None) -> list[str]:
    """Return stop sequences as a list."""
    return [stop] if isinstance(stop, str) else list(stop or ())


def in_clear(headers: Mapping[str, str | SecretStr] | None) -> dict[str, str]:
    """Return headers as they are sent."""
    return {
        name: value.get_secret_value() if isinstance(value, SecretStr) else value
        for name, value in (headers or {}).items()
    }


def hidden(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a call's options with its headers wrapped, so that no trace or cache key shows them."""
    headers = options.get("extra_headers")
    if not headers:
        return dict(options)
    wrapped = {name: SecretStr(value) for name, value in in_clear(headers).items()}
    return {**options, "extra_headers": wrapped}
