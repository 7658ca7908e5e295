"""The two dialects of the chat API: pure translation between the neutral conversation and the wire."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, Protocol

from piccc.errors import ConfigurationError

if TYPE_CHECKING:
    from piccc._dialects.reader import Reader
    from piccc.conversation import JSON, ChatReply, ChatRequest

DialectName = Literal["openai", "anthropic"]


NO_NAMES: Mapping[str, str] = MappingProxyType({})


@dataclass(slots=True)
class EncodedRequest:
    """A request in a dialect's words.

    Attributes:
        body: of the HTTP request.
        names: the tools' own names, by those that were sent in their place.
        adapted: what was changed of what was asked for, so that the server accepts it, in words.
    """

    body: JSON
    names: Mapping[str, str]
    adapted: Sequence[str]


class Dialect(Protocol):
    """One chat route's words."""

    name: DialectName
    path: str
    headers: tuple[tuple[str, str], ...]

    def encode(self, request: ChatRequest, *, stream: bool) -> EncodedRequest:
        """Return what is sent; raise InvalidArgumentError or UnsupportedContentError for what cannot be."""
        ...

    def decode(self, payload: object, names: Mapping[str, str] = NO_NAMES) -> ChatReply:
        """Read a whole reply; raise ResponseError if it is none. `names` are those of the request."""
        ...

    def reader(self, names: Mapping[str, str] = NO_NAMES) -> Reader:
        """Return a reader for one stream. `names` are those of the request."""
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
