"""The two dialects of the chat API: pure translation between the neutral conversation and the wire."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

from piccc.errors import ConfigurationError

if TYPE_CHECKING:
    from piccc._dialects.reader import Reader
    from piccc.conversation import JSON, ChatReply, ChatRequest

DialectName = Literal["openai", "anthropic"]


class Dialect(Protocol):
    """One chat route's words."""

    name: DialectName
    path: str
    headers: tuple[tuple[str, str], ...]

    def encode(self, request: ChatRequest, *, stream: bool) -> JSON:
        """Return the request's body."""
        ...

    def decode(self, payload: object) -> ChatReply:
        """Read a whole reply; raise ResponseError if it is none."""
        ...

    def reader(self) -> Reader:
        """Return a reader for one stream."""
        ...


def dialect_named(name: str) -> Dialect:
    """Return the dialect of that name; raise ConfigurationError for any other."""
    if name == "openai":
        from piccc._dialects.openai import OpenAIDialect

        return OpenAIDialect()
    if name == "anthropic":
        from piccc._dialects.anthropic import AnthropicDialect

        return AnthropicDialect()
    raise ConfigurationError("dialect is neither 'openai' nor 'anthropic'.", hint="It names a chat route.")
