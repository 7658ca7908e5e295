"""Settings and clients shared by the chat model and the media tools."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, Self
from urllib.parse import unquote, urlsplit, urlunsplit

from langchain_core.utils import secret_from_env
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)

from langchain_piccc.errors import as_model_error
from piccc.config import KEY_VARIABLE, URL_VARIABLE, Timeout, is_secret_header
from piccc.errors import ConfigurationError
from piccc.options import wrong_settings

if TYPE_CHECKING:
    from piccc.client import AnyClient, AsyncClient, Client, ClientCache
    from piccc.config import Config

ApiKey = str | SecretStr | Callable[[], str] | Callable[[], Awaitable[str]]
Dialect = Literal["openai", "anthropic"]
STRICT = ConfigDict(
    arbitrary_types_allowed=True,
    defer_build=False,
    extra="forbid",
    hide_input_in_errors=True,
    protected_namespaces=(),
)
"""Reject unknown arguments without showing their values, which may be keys."""
_BASE = ConfigDict(**{**STRICT, "defer_build": True})
"""For base classes, which are never instantiated: building a schema would add 1.5 ms to every start."""


class StrictModel(BaseModel):
    """Base model that reports invalid arguments as PicccErrors."""

    model_config = _BASE

    if not TYPE_CHECKING:  # type checkers read the fields for the signature

        def __init__(self, **data):
            try:
                super().__init__(**data)
                self._check()
            except ValidationError as error:
                wrong = wrong_settings(type(self).__name__, error, type(self).model_fields.keys())
            except ConfigurationError as error:
                wrong = error.with_traceback(None)
            else:
                return
            del self, data  # error trackers show a frame's locals, and the key may be among these
            raise as_model_error(wrong) from None

    def _check(self) -> None:
        """Raise ConfigurationError for settings that pydantic cannot validate."""


class ClientSettings(StrictModel):
    """Connection settings, with clients created on first use.

    Keys, secret headers, logins in URLs and HTTP clients appear in no repr, dump or trace. A copy keeps them.
    A pickle does not: it reads `PICCC_API_KEY` again when it is loaded.
    """

    model_config = _BASE

    api_key: ApiKey | None = Field(default_factory=secret_from_env(KEY_VARIABLE, default=None))
    """The key, or a function (sync or async) called at each attempt. Default: `PICCC_API_KEY`."""
    base_url: str | None = None
    """The server's base URL, with or without `/v1`. Default: `PICCC_BASE_URL`."""
    url_login: SecretStr | None = Field(default=None, exclude=True, repr=False)
    """Login for a gateway in front of the server, as `user:password`; taken out of `base_url`."""
    timeout: float | Timeout | None = None
    """Seconds for a whole call, including retries and streaming (default: 600), or a `piccc.Timeout`."""
    max_retries: int = Field(default=2, ge=0)
    """Maximum number of retries of a request."""
    default_headers: Mapping[str, str | SecretStr] | None = Field(default=None, exclude=True, repr=False)
    """Headers for every request to the server."""
    auth: Literal["bearer", "x-api-key"] = "bearer"
    """Which documented header carries the key."""
    retry_unknown: bool = False
    """Retry requests that the server may have acted on; this may bill twice."""
    max_connections: int = Field(default=1000, ge=1)
    """Maximum number of connections to the server in use at once; further calls wait for a free one."""
    http_client: Any = Field(default=None, exclude=True, repr=False)
    """An `httpx.Client` (or httpx2's) to use for blocking calls."""
    http_async_client: Any = Field(default=None, exclude=True, repr=False)
    """An `httpx.AsyncClient` (or httpx2's) to use for asynchronous calls."""

    _clients: ClientCache | None = PrivateAttr(default=None)

    @field_validator("api_key")
    @classmethod
    def _hide_key(cls, value: ApiKey | None) -> ApiKey | None:
        return SecretStr(value) if isinstance(value, str) else value

    @field_validator("default_headers")
    @classmethod
    def _hide_headers(cls, value: Mapping[str, str | SecretStr] | None) -> Mapping[str, SecretStr] | None:
        return (
            None if value is None else {name: SecretStr(_in_clear(header)) for name, header in value.items()}
        )

    @model_validator(mode="before")
    @classmethod
    def _take_login_out_of_url(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        url = values.get("base_url")
        url = os.environ.get(URL_VARIABLE) if url is None else url
        if not isinstance(url, str):
            return values
        address, login = _split_login(url)
        return {**values, "base_url": address, **({"url_login": login} if login else {})}

    @property
    def lc_secrets(self) -> dict[str, str]:
        """The secret fields and the environment variables they are read from."""
        return {"api_key": KEY_VARIABLE}

    def model_post_init(self, context: Any, /) -> None:
        """Call the framework's hook, which pydantic's hook for private fields would otherwise replace."""
        super().model_post_init(context)

    def _check(self) -> None:
        self._config()

    def close(self) -> None:
        """Close the connections of blocking calls; they reopen when needed."""
        if self._clients is not None:
            self._clients.close()

    async def aclose(self) -> None:
        """Close the running event loop's connections; they reopen when needed."""
        if self._clients is not None:
            await self._clients.aclose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.aclose()

    def __getstate__(self) -> dict[Any, Any]:
        state = super().__getstate__()
        headers = {
            name: value for name, value in (self.default_headers or {}).items() if not is_secret_header(name)
        }
        public_fields = {
            **state["__dict__"],
            "api_key": None,
            "url_login": None,
            "default_headers": headers or None,
            "http_client": None,
            "http_async_client": None,
        }
        return {**state, "__dict__": public_fields}

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        shared = (self.http_client, self.http_async_client, self.api_key)
        return super().__deepcopy__({**(memo or {}), **{id(value): value for value in shared}})

    def _sync_client(self, dialect: Dialect = "openai") -> Client:
        from piccc.client import Client

        return self._client(Client, dialect, self.http_client)

    def _async_client(self, dialect: Dialect = "openai") -> AsyncClient:
        from piccc.client import AsyncClient

        return self._client(AsyncClient, dialect, self.http_async_client)

    def _client(self, kind: type[AnyClient], dialect: Dialect, http_client: Any) -> AnyClient:
        from piccc.client import ClientCache  # imported at the first call, to keep building chains fast

        settings = (
            self.api_key, self.base_url, self.url_login, self.timeout, self.max_retries,
            self.default_headers, self.auth, self.retry_unknown, self.max_connections,
        )  # fmt: skip
        if self._clients is None:
            self._clients = ClientCache()
        return self._clients.get(kind, dialect, http_client, settings, self._config)

    def _config(self) -> Config:
        from piccc.config import resolve

        return resolve(
            api_key=self.api_key,
            base_url=_with_login(self.base_url, self.url_login),
            timeout=self.timeout,
            max_retries=self.max_retries,
            default_headers={name: _in_clear(value) for name, value in (self.default_headers or {}).items()},
            auth=self.auth,
            retry_unknown=self.retry_unknown,
            max_connections=self.max_connections,
        )


def _in_clear(value: str | SecretStr) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else value


def _split_login(url: str) -> tuple[str, str | None]:
    parts = urlsplit(url)
    login, at, host = parts.netloc.rpartition("@")
    return (urlunsplit(parts._replace(netloc=host)), unquote(login)) if at else (url, None)


def _with_login(url: str | None, login: SecretStr | None) -> str | None:
    if not url or not login:
        return url
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{login.get_secret_value()}@{parts.netloc}"))
