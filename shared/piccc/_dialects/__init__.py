"""The two dialects of the chat API: translation between neutral data types and wire formats, without I/O."""

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
    """A request in a dialect's wire format.

    Attributes:
        body: the body of the HTTP request.
        names: the original tool names, by the rewritten names that are sent.
        adapted: descriptions of what was changed in the request so that the server accepts it.
    """

    body: JSON
    names: Mapping[str, str]
    adapted: Sequence[str]


class Dialect(Protocol):
    """The wire format of one chat route."""

    name: DialectName
    path: str
    headers: tuple[tuple[str, str], ...]

    def encode(self, request: ChatRequest, *, stream: bool) -> EncodedRequest:
        """Encode a request; raise InvalidArgumentError or UnsupportedContentError if it cannot be sent."""
        ...

    def decode(self, payload: object, names: Mapping[str, str] = NO_NAMES) -> ChatReply:
        """Decode a complete reply; raise ResponseError if it is malformed. `names`: see `EncodedRequest`."""
        ...

    def reader(self, names: Mapping[str, str] = NO_NAMES) -> Reader:
        """Return a reader for one stream. `names`: see `EncodedRequest`."""
        ...


def dialect_named(name: str) -> Dialect:
    """Return the dialect with this name; raise ConfigurationError if there is none."""
    if name == "openai":
        from piccc._dialects.openai import OpenAIDialect

        return OpenAIDialect()
    if name == "anthropic":
        from piccc._dialects.anthropic import AnthropicDialect

        return AnthropicDialect()
    raise ConfigurationError(
        "dialect is neither 'openai' nor 'anthropic'.", hint="Choose one of the two chat routes."
    )
