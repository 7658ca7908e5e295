"""Where the server is, with which key, and how patient to be: argument, else environment, else default."""

from __future__ import annotations

import inspect
import math
import os
from base64 import b64encode
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable
from urllib.parse import urlsplit, urlunsplit

from piccc.errors import ConfigurationError
from piccc.redaction import HIDDEN, redact_headers

PLACEHOLDER_URL = "https://api.example.com"
KEY_VARIABLE = "PICCC_API_KEY"
URL_VARIABLE = "PICCC_BASE_URL"
WAYS_OUT = (
    f"Set {URL_VARIABLE} (or pass base_url=) to your server's address, "
    'or start the emulator: pip install "piccc[cli,emulator]" && piccc emulator'
)


@runtime_checkable
class SecretString(Protocol):
    """A wrapped secret, such as pydantic's SecretStr."""

    def get_secret_value(self) -> str:
        """Return the secret in clear."""
        ...


ApiKey = str | SecretString | Callable[[], "str | Awaitable[str]"]
"""A key, a wrapped key, or a function (plain or async) that is asked for the key at each attempt."""


class Key:
    """Hold a key so that it shows nowhere: not in repr, not in a pickle.

    A key that was pickled is read from `PICCC_API_KEY` again where it is loaded.
    """

    __slots__ = ("_source",)

    def __init__(self, source: ApiKey | None = None) -> None:
        self._source = source

    async def ask(self) -> str:
        """Return the key in clear; raise ConfigurationError where there is none."""
        source: Any = self._source or os.environ.get(KEY_VARIABLE)
        if callable(source) and not isinstance(source, SecretString):
            source = source()
            if inspect.isawaitable(source):
                source = await source
        return _clear(source)

    @property
    def is_fixed(self) -> bool:
        """Whether asking again can give no other key."""
        return not callable(self._source)

    def __repr__(self) -> str:
        return f"Key({HIDDEN})" if self._source else "Key()"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Key) and self._source == other._source

    def __hash__(self) -> int:
        return hash(Key)

    def __deepcopy__(self, memo: dict[int, Any]) -> Key:
        return self

    def __reduce__(self) -> tuple[type[Key], tuple[()]]:
        return (Key, ())


def _clear(source: Any) -> str:
    value = source.get_secret_value() if isinstance(source, SecretString) else source
    if not isinstance(value, str) or not value.strip():
        raise ConfigurationError(
            "No API key.",
            hint=f"Pass api_key=, or set {KEY_VARIABLE}. Keys are not pickled: set the variable where "
            "a model is loaded. To try without a key, start the emulator: piccc emulator",
        )
    value = value.strip()
    if not value.isascii() or not value.isprintable():
        raise ConfigurationError(
            "The API key has characters that no HTTP header can carry.", hint="Copy it again."
        )
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeout:
    """How long each part of a call may take, in seconds; None sets no bound.

    Attributes:
        total: the whole call with its retries, waits and stream.
        connect: opening one connection.
        first_event: from sending to the first event of a stream; keep-alive comments do not count.
        idle: between two arrivals on a stream.
    """

    total: float | None = 600.0
    connect: float | None = 10.0
    first_event: float | None = 300.0
    idle: float | None = 120.0

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if value is not None and not (
                isinstance(value, int | float) and value > 0 and not math.isnan(value)
            ):
                raise ConfigurationError(
                    f"timeout: {name} is {value!r}.", hint="Give seconds above 0, or None."
                )


def as_timeout(value: float | Timeout | None, default: Timeout | None = None) -> Timeout:
    """Read a number of seconds as the bound on the whole call; None keeps the default."""
    if value is None:
        return default or Timeout()
    if isinstance(value, Timeout):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigurationError(
            f"timeout is {type(value).__name__}.", hint="Give seconds as a number, or piccc.Timeout(total=…)."
        )
    return Timeout(total=value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """All that is fixed for every call; make it with `resolve`.

    Attributes:
        base_url: scheme, host, port and path prefix, without `/v1`, a trailing slash or credentials.
        key: the API key.
        auth: which documented header carries the key.
        timeout: bounds in seconds.
        max_retries: how many times more than once a request may be sent.
        headers: sent with every request to the server.
        retry_unknown: send again what may have been acted on already (may bill twice).
        basic: credentials that stood in the URL, for a gateway in front of the server.
    """

    base_url: str = PLACEHOLDER_URL
    key: Key = field(default_factory=Key)
    auth: Literal["bearer", "x-api-key"] = "bearer"
    timeout: Timeout = field(default_factory=Timeout)
    max_retries: int = 2
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    retry_unknown: bool = False
    basic: Key | None = None

    def __repr__(self) -> str:
        return (
            f"Config(base_url={self.base_url!r}, key={self.key!r}, timeout={self.timeout!r}, "
            f"max_retries={self.max_retries}, headers={redact_headers(self.headers)!r})"
        )

    @property
    def origin(self) -> tuple[str, str, int]:
        """Scheme, host and port: the only place the key may go."""
        return origin_of(self.base_url)

    @property
    def is_placeholder(self) -> bool:
        """Whether no server was named, so that no call can succeed."""
        return self.base_url == PLACEHOLDER_URL

    async def authorize(self) -> list[tuple[str, str]]:
        """Return the headers that carry the key; raise ConfigurationError where there is none."""
        key = await self.key.ask()
        if self.basic is not None:
            return [("authorization", f"Basic {await self.basic.ask()}"), ("x-api-key", key)]
        if self.auth == "x-api-key":
            return [("x-api-key", key)]
        return [("authorization", f"Bearer {key}")]


def resolve(
    *,
    api_key: ApiKey | None = None,
    base_url: str | None = None,
    timeout: float | Timeout | None = None,
    max_retries: int = 2,
    default_headers: Mapping[str, str] | None = None,
    auth: Literal["bearer", "x-api-key"] = "bearer",
    retry_unknown: bool = False,
) -> Config:
    """Settle the configuration: argument, else `PICCC_API_KEY` and `PICCC_BASE_URL`, else default.

    Raise ConfigurationError for a malformed value. A missing key is an error at the first call, not here.
    """
    if isinstance(max_retries, bool) or not isinstance(max_retries, int) or max_retries < 0:
        raise ConfigurationError(f"max_retries is {max_retries!r}.", hint="Give a whole number, 0 or more.")
    if auth not in ("bearer", "x-api-key"):
        raise ConfigurationError(f"auth is {auth!r}.", hint="It is 'bearer' (recommended) or 'x-api-key'.")
    url, basic = split_url(base_url or os.environ.get(URL_VARIABLE) or PLACEHOLDER_URL)
    return Config(
        base_url=url,
        key=Key(api_key or os.environ.get(KEY_VARIABLE)),
        auth=auth,
        timeout=as_timeout(timeout),
        max_retries=max_retries,
        headers=dict(default_headers or {}),
        retry_unknown=retry_unknown,
        basic=basic,
    )


def split_url(url: str) -> tuple[str, Key | None]:
    """Cut credentials, `/v1` and trailing slashes off a base URL; raise ConfigurationError if it is none."""
    parts = urlsplit(url.strip())
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment:
        raise ConfigurationError(
            "base_url is not an http(s) address.", hint="Give it as https://host or https://host:port/prefix."
        )
    basic = None
    if parts.username is not None:
        basic = Key(b64encode(f"{parts.username}:{parts.password or ''}".encode()).decode())
    netloc = f"[{host}]" if ":" in host else host
    if port is not None:
        netloc += f":{port}"
    path = parts.path.rstrip("/").removesuffix("/v1").rstrip("/")
    return urlunsplit((parts.scheme, netloc, path, "", "")), basic


def origin_of(url: str) -> tuple[str, str, int]:
    """Return scheme, host and port of an absolute URL."""
    parts = urlsplit(url)
    return parts.scheme, (parts.hostname or "").lower(), parts.port or {"http": 80}.get(parts.scheme, 443)
