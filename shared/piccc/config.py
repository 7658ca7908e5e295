"""Client settings, and the redaction of secrets in logs and messages."""

from __future__ import annotations

import asyncio
import inspect
import ipaddress
import math
import os
import re
from base64 import b64encode
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable
from urllib.parse import urlsplit, urlunsplit

from piccc.errors import ConfigurationError, InvalidArgumentError, PicccError

if TYPE_CHECKING:
    from collections.abc import Iterable

HIDDEN = "[redacted]"
SHORTEST_SECRET = 6

_PATTERNS = (
    (re.compile(r"pcc_[A-Za-z]+_[A-Za-z0-9_\-]{4,}"), HIDDEN),
    (re.compile(r"\b(sk|pk|gh[a-z]|github_pat|xox[a-z]|glpat)[-_][A-Za-z0-9_\-]{10,}"), HIDDEN),
    (re.compile(r"\beyJ[A-Za-z0-9_\-]+\.[A-Za-z0-9_\-]+\.[A-Za-z0-9_\-]*"), HIDDEN),  # a JWT, RFC 7519
    (re.compile(r"(?<=://)[^/\s@]+@"), f"{HIDDEN}@"),
)
_SCHEME = re.compile(r"\b(Bearer|Basic)\s+[A-Za-z0-9._~+/=\-]{8,}", re.IGNORECASE)
# Match whole words only: x-portkey-provider does not contain the word "key".
_SECRET_HEADER = re.compile(
    r"(?!x-ratelimit-|idempotency-key$)(.*[-_.])?(api|access|auth|csrf|secret|session|subscription)?"
    r"(auth|authorization|key|token|secret|cookie|password|signature|credentials?)([-_.].*)?",
    re.IGNORECASE,
)
_ALWAYS_SECRET = ("authorization", "proxy-authorization", "x-api-key")


def is_loopback(host: str) -> bool:
    """Return whether a host name or address is this machine (RFC 6761, section 6.3)."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        name = host.lower().rstrip(".")
        return name == "localhost" or name.endswith(".localhost")
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def redact(text: str, secrets: Iterable[str] = (), *, is_prose: bool = False) -> str:
    """Replace known secrets, strings that look like keys, and credentials in URLs and headers.

    In prose there are no headers, so phrases such as "basic understanding" are kept.
    """
    for secret in secrets:
        text = text.replace(secret, HIDDEN)
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text if is_prose else _SCHEME.sub(rf"\1 {HIDDEN}", text)


def secrets_in(headers: Iterable[tuple[str, str]]) -> list[str]:
    """Return the values of secret headers, with and without their auth scheme, the longest first.

    Ordinary words (`x-auth-mode: openai`) are not secrets: redacting them would garble messages.
    """
    values = set()
    for name, value in headers:
        if is_secret_header(name) and (name.lower() in _ALWAYS_SECRET or not _is_word(value)):
            values |= {value, value.partition(" ")[2]}
    return sorted((value for value in values if len(value) >= SHORTEST_SECRET), key=len, reverse=True)


def _is_word(value: str) -> bool:
    return value.isalpha() and len(value) < 2 * SHORTEST_SECRET


@lru_cache(maxsize=256)
def is_secret_header(name: str) -> bool:
    """Return whether a header of this name usually carries a secret."""
    return _SECRET_HEADER.fullmatch(name) is not None


def redact_causes(error: BaseException | None, secrets: Sequence[str]) -> None:
    """Redact secrets in the arguments of an error and of its chain of causes."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        error.args = tuple(redact(arg, secrets) if isinstance(arg, str) else arg for arg in error.args)
        error = error.__cause__ or error.__context__


def redact_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Copy headers, hiding the values of those that usually carry a secret."""
    return {name: HIDDEN if is_secret_header(name) else redact(value) for name, value in headers.items()}


PLACEHOLDER_URL = "https://api.example.com"
KEY_VARIABLE = "PICCC_API_KEY"
URL_VARIABLE = "PICCC_BASE_URL"
LONGEST = 366 * 86400.0
_FOR_EMULATOR = ("av", "httptools", "jsonschema", "PIL", "rich", "snowballstemmer", "typer")


def ways_out() -> str:
    """Return what to do if no server is configured."""
    from importlib.util import find_spec

    install = "" if all(map(find_spec, _FOR_EMULATOR)) else 'pip install "piccc[cli,emulator]" && '
    return (
        f"Set {URL_VARIABLE} (or pass base_url=) to your server's URL, "
        f"or start the emulator: {install}piccc emulator"
    )


@runtime_checkable
class SecretString(Protocol):
    """A wrapped secret, such as pydantic's SecretStr."""

    def get_secret_value(self) -> str:
        """Return the secret as plain text."""
        ...


ApiKey = str | SecretString | Callable[[], "str | Awaitable[str]"]
"""A key, a wrapped key, or a function (plain or async) that returns the key and is called at each attempt.

Only asynchronous clients accept an async function; they call a plain one in a thread. If the call's timeout
passes while the function runs, nothing is sent, but only an asynchronous client returns right away.
"""

Run = Callable[[Callable[[], Any]], Awaitable[Any]]
"""Runs a function that may block, without blocking the event loop."""


class Key:
    """A key that is left out of reprs and pickles.

    An unpickled key is read from `PICCC_API_KEY` again.
    """

    __slots__ = ("_is_unpickled", "_source")

    def __init__(self, source: ApiKey | None = None, is_unpickled: bool = False) -> None:
        self._source = source
        self._is_unpickled = is_unpickled

    async def ask(self, run: Run | None = None) -> str:
        """Return the key as plain text; raise ConfigurationError if it is missing or malformed."""
        key = await self._obtain(run)
        error = _key_error(key, is_unpickled=self._is_unpickled)
        if error is None:
            return key
        del key  # tracebacks with local variables must not show it
        raise error

    async def _obtain(self, run: Run | None) -> str:
        source: Any = os.environ.get(KEY_VARIABLE) if self._source is None else self._source
        if not self.is_fixed:
            source = await _call(source, run)
        if hasattr(source, "get_secret_value"):
            source = source.get_secret_value()
        return source.strip() if isinstance(source, str) else ""

    @property
    def is_fixed(self) -> bool:
        """Whether the key always stays the same."""
        return isinstance(self._source, str) or not callable(self._source)

    def __repr__(self) -> str:
        return f"Key({HIDDEN})" if self._source else "Key()"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Key) and self._source == other._source

    def __hash__(self) -> int:
        return hash(Key)

    def __copy__(self) -> Key:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Key:
        return self

    def __reduce__(self) -> tuple[type[Key], tuple[None, bool]]:
        return (Key, (None, True))


class Suspended(BaseException):
    """Raised where code suspends in a blocking call; not an Exception, which a retry there would catch."""


async def _call(source: Callable[[], str | SecretString | Awaitable[str]], run: Run | None) -> Any:
    is_async = inspect.iscoroutinefunction(source)
    try:
        key = source() if run is None or is_async else await run(source)
        if inspect.isawaitable(key):
            is_async = True
            key = await key
        return key
    except PicccError:
        raise
    except Suspended:
        raise suspended() from None
    except Exception as error:
        hint = "See the cause."
        if is_async:
            try:
                asyncio.get_running_loop()
            except RuntimeError:
                hint += " Only the asynchronous client accepts an async function."
        raise ConfigurationError(f"The api_key function raised {type(error).__name__}.", hint=hint) from error


def suspended() -> ConfigurationError:
    """Return the error for asynchronous code in a blocking call."""
    return ConfigurationError(
        "A blocking call ran asynchronous code.",
        hint="Pass a plain function as api_key: only the asynchronous client supports async ones.",
    )


def _key_error(key: str, *, is_unpickled: bool) -> ConfigurationError | None:
    if not key:
        hint = (
            f"Pass api_key=, or set {KEY_VARIABLE}. To try without a key, start the emulator: piccc emulator"
        )
        if is_unpickled:
            hint = f"Keys are not pickled: set {KEY_VARIABLE} where the client is loaded."
        return ConfigurationError("No API key.", hint=hint)
    if not key.isascii() or not key.isprintable():
        return ConfigurationError(
            "The API key has characters that are not allowed in an HTTP header.", hint="Copy it again."
        )
    if " " in key or key[0] in "'\"":
        return ConfigurationError(
            "The API key contains a space or a quotation mark.",
            hint='Pass only the key, without "Bearer" or quotation marks.',
        )
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeout:
    """Timeouts for the parts of a call, in seconds; None or more than a year means no limit.

    Attributes:
        total: the whole call including retries, waits and streaming.
        connect: opening one connection; in blocking calls, DNS lookup is not included.
        first_event: from sending to the first event of a stream; keep-alive comments do not count.
        idle: between two chunks of a stream.
    """

    total: float | None = 600.0
    connect: float | None = 10.0
    first_event: float | None = 300.0
    idle: float | None = 120.0

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
                shown = value if isinstance(value, int | float) else type(value).__name__
                raise ConfigurationError(
                    f"timeout: {name} is {shown}.",
                    hint="Pass a number of seconds above 0, or None.",
                )
            if value > LONGEST:
                object.__setattr__(self, name, None)


def as_timeout(value: float | Timeout | None, default: Timeout | None = None) -> Timeout:
    """Convert a number of seconds to a total timeout; None returns the default."""
    if value is None:
        return default or Timeout()
    if isinstance(value, Timeout):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigurationError(
            f"timeout is of type {type(value).__name__}.",
            hint="Pass a number of seconds, or piccc.Timeout(total=…).",
        )
    return Timeout(total=value)


_ROUTE = re.compile(
    r"(/v1)?/(chat/completions|completions|messages|responses|models|(images|videos)/tasks|tasks)$"
)


class Rate(Protocol):
    """A request rate limiter, such as `piccc.RateLimit`. Its methods may block."""

    def take(self) -> float:
        """Take a permit and return 0, or return how many seconds to wait before trying again."""
        ...

    def block(self, seconds: float) -> None:
        """Pause all requests for some seconds because the server asked for it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The settings shared by all calls of a client; create it with `resolve`.

    Attributes:
        base_url: scheme, host, port and path prefix, without `/v1`, a trailing slash or credentials.
        key: the API key.
        auth: which documented header carries the key.
        timeout: timeouts in seconds.
        max_retries: how many times a request may be retried.
        headers: sent with every request to the server.
        retry_unknown: also retry requests that the server may have acted on (may bill twice).
        basic: credentials from the URL, for a gateway in front of the server.
        max_connections: how many connections to the server may be in use at once.
        rate: the rate limiter, or None.
    """

    base_url: str = PLACEHOLDER_URL
    key: Key = field(default_factory=Key)
    auth: Literal["bearer", "x-api-key"] = "bearer"
    timeout: Timeout = field(default_factory=Timeout)
    max_retries: int = 2
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    retry_unknown: bool = False
    basic: Key | None = None
    max_connections: int = 1000
    rate: Rate | None = None

    def __repr__(self) -> str:
        return (
            f"Config(base_url={redact(self.base_url)!r}, key={self.key!r}, timeout={self.timeout!r}, "
            f"max_retries={self.max_retries}, headers={redact_headers(self.headers)!r})"
        )

    def __copy__(self) -> Config:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Config:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        # Secrets are not pickled: `authorize` raises if one is missing after loading.
        values = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "basic"}
        return _unpickle, ({**values, "headers": redact_headers(self.headers)},)

    @property
    def origin(self) -> tuple[str, str, int]:
        """Scheme, host and port, the only origin that the key may be sent to."""
        return origin_of(self.base_url)

    @property
    def is_placeholder(self) -> bool:
        """Whether no server is configured, so that no call can succeed."""
        return self.base_url == PLACEHOLDER_URL

    async def authorize(self, run: Run | None = None) -> list[tuple[str, str]]:
        """Return the headers that carry the key; raise ConfigurationError if a secret is missing."""
        if any(HIDDEN in value for value in self.headers.values()):
            raise ConfigurationError(
                "A default header contained a secret, which was not pickled.",
                hint="Pass default_headers again where the model is loaded.",
            )
        key = await self.key.ask(run)
        if self.basic is not None:
            return [("authorization", f"Basic {await self.basic.ask()}"), ("x-api-key", key)]
        if self.auth == "x-api-key":
            return [("x-api-key", key)]
        return [("authorization", f"Bearer {key}")]


def _unpickle(values: dict[str, Any]) -> Config:
    """Restore a pickled configuration, with the credentials in `PICCC_BASE_URL` if it has the same URL."""
    try:
        url, basic = split_url(os.environ.get(URL_VARIABLE, ""))
    except ConfigurationError:
        url, basic = "", None
    return Config(**values, basic=basic if url == values["base_url"] else None)


def resolve(
    *,
    api_key: ApiKey | None = None,
    base_url: str | None = None,
    timeout: float | Timeout | None = None,
    max_retries: int = 2,
    default_headers: Mapping[str, str] | None = None,
    auth: Literal["bearer", "x-api-key"] = "bearer",
    retry_unknown: bool = False,
    max_connections: int = 1000,
) -> Config:
    """Resolve the settings from arguments, `PICCC_API_KEY` and `PICCC_BASE_URL`, and defaults, in this order.

    Raise ConfigurationError for malformed values. A missing key raises at the first call, not here.
    """
    if api_key is not None and not (isinstance(api_key, str | SecretString) or callable(api_key)):
        raise ConfigurationError(
            f"api_key is of type {type(api_key).__name__}.",
            hint="Pass a string, a SecretStr, or a function.",
        )
    if isinstance(max_retries, bool) or not isinstance(max_retries, int) or max_retries < 0:
        raise ConfigurationError(
            "max_retries is not a non-negative integer.", hint="Pass the number of retries."
        )
    if isinstance(max_connections, bool) or not isinstance(max_connections, int) or max_connections < 1:
        raise ConfigurationError(
            "max_connections is not a positive integer.", hint="Pass the number of connections."
        )
    check_flags(ConfigurationError, retry_unknown=retry_unknown)
    if auth not in ("bearer", "x-api-key"):
        raise ConfigurationError("auth is neither 'bearer' nor 'x-api-key'.", hint="'bearer' is recommended.")
    if not isinstance(default_headers, Mapping | None):
        raise ConfigurationError(
            f"default_headers is of type {type(default_headers).__name__}.",
            hint="Pass a dict of names and values.",
        )
    headers = dict(default_headers or {})
    check_headers(headers)
    # An empty string may be an unset variable: another account's key or server must not take its place.
    if base_url is None:
        base_url = os.environ.get(URL_VARIABLE) or PLACEHOLDER_URL
    url, basic = split_url(str(base_url))
    return Config(
        base_url=url,
        key=Key(os.environ.get(KEY_VARIABLE) if api_key is None else api_key),
        auth=auth,
        timeout=as_timeout(timeout),
        max_retries=max_retries,
        headers=headers,
        retry_unknown=retry_unknown,
        basic=basic,
        max_connections=max_connections,
    )


def check_flags(error: type[ConfigurationError | InvalidArgumentError], **flags: object) -> None:
    """Raise this error unless each flag is True or False: any other value, such as "no", counts as true."""
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise error(f"{name} is of type {type(value).__name__}.", hint="Pass True or False.")


def check_wait(timeout: object, callback: object = None) -> None:
    """Raise InvalidArgumentError unless a wait's timeout is a number or None, and its callback callable."""
    if timeout is not None and (
        isinstance(timeout, bool)
        or not isinstance(timeout, int | float)
        or not (timeout < 1e15 or timeout == math.inf)  # neither NaN, nor an int that no float can hold
    ):
        raise InvalidArgumentError(
            f"timeout is {timeout!r:.80}.", hint="Pass a number of seconds, or None for the default."
        )
    if callback is not None and not callable(callback):
        raise InvalidArgumentError(f"{callback!r:.80} is not a function.", hint="Pass a function, or None.")


def check_headers(headers: Mapping[str, str]) -> None:
    """Raise ConfigurationError for invalid HTTP headers, without showing their values."""
    for name, value in headers.items():
        if not isinstance(name, str) or not isinstance(value, str) or not _is_header(name, value):
            # A name with other characters may be a misplaced key.
            shown = name if isinstance(name, str) and name.replace("-", "").isalpha() else HIDDEN
            raise ConfigurationError(
                f"The header {shown!r} has a name or value that is not valid in HTTP.",
                hint="Use printable ASCII text for names and values.",
            )


def _is_header(name: str, value: str) -> bool:
    return bool(name) and f"{name}{value}".isascii() and f"{name}{value}".isprintable() and " " not in name


def split_url(url: str) -> tuple[str, Key | None]:
    """Strip credentials, `/v1` and slashes from a base URL; raise ConfigurationError if it is invalid."""
    try:
        parts = urlsplit(url.strip())
        host, port = parts.hostname, parts.port
    except ValueError:
        parts, host, port = urlsplit(""), None, None
    if parts.scheme not in ("http", "https") or not host:
        raise ConfigurationError(
            "base_url is not an http(s) URL.", hint="Write it as https://host or https://host:port/prefix."
        )
    if parts.query or parts.fragment:
        raise ConfigurationError("base_url has a query or a fragment.", hint="Remove it.")
    basic = None
    if parts.username is not None:
        basic = Key(b64encode(f"{parts.username}:{parts.password or ''}".encode()).decode())
    netloc = f"[{host}]" if ":" in host else host
    if port is not None:
        netloc += f":{port}"
    path = parts.path.rstrip("/")
    if route := _ROUTE.search(path):
        raise ConfigurationError(
            f"base_url ends with {route[0]}, which is one of the API's routes.",
            hint="Remove it: the client adds each call's route.",
        )
    path = path.removesuffix("/v1").rstrip("/")
    return urlunsplit((parts.scheme, netloc, path, "", "")), basic


@lru_cache(maxsize=256)
def origin_of(url: str) -> tuple[str, str, int]:
    """Return scheme, host and port of a URL; one that has credentials or is malformed matches no other."""
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80}.get(parts.scheme, 443)
    except ValueError:
        return "", url, 0
    return parts.scheme, parts.netloc if "@" in parts.netloc else (parts.hostname or "").lower(), port
