"""HTTP clients: made when first needed, one per event loop and one for blocking calls, shared."""

from __future__ import annotations

import asyncio
import atexit
import importlib
import os
import ssl
import threading
import weakref
from collections import deque
from collections.abc import AsyncGenerator
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any
from urllib.request import getproxies

from piccc._http.asyncio_stream import install_asyncio_backend
from piccc._http.sync_stream import install_deadline_backend
from piccc.errors import ConfigurationError, MissingExtraError

if TYPE_CHECKING:
    import httpx

BACKEND_VARIABLE = "PICCC_HTTP_BACKEND"
MAX_CONNECTIONS = 100
KEEPALIVE_SECONDS = 60.0


def library_named(name: str | None = None) -> Any:
    """Return the module `httpx` or `httpx2`: as named, else as `PICCC_HTTP_BACKEND` says.

    Where nobody says, httpx2 if it is installed: its pool costs a fraction when many calls run at once.
    """
    name = name or os.environ.get(BACKEND_VARIABLE) or ("httpx2" if find_spec("httpx2") else "httpx")
    if name not in ("httpx", "httpx2"):
        raise ConfigurationError(f"{BACKEND_VARIABLE} is {name!r}.", hint="It is 'httpx' or 'httpx2'.")
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingExtraError(f"{name} is not installed.", hint=f"pip install {name}") from error


def _certificates() -> tuple[str | None, str | None]:
    return os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")


@cache
def _ssl_context(library: Any, certificates: tuple[str | None, str | None]) -> ssl.SSLContext:
    # Making one costs more than a hundred clients, so all share it; `certificates` is what it is made from.
    context: ssl.SSLContext = library.create_ssl_context()
    return context


def _settings(library: Any) -> dict[str, Any]:
    limits = library.Limits(
        max_connections=MAX_CONNECTIONS,
        max_keepalive_connections=MAX_CONNECTIONS,
        keepalive_expiry=KEEPALIVE_SECONDS,
    )
    return {"verify": _ssl_context(library, _certificates()), "limits": limits, "follow_redirects": False}


class Pool:
    """The clients that all ports with equal settings share."""

    def __init__(self, library: Any) -> None:
        self.library = library
        self.is_stale = False
        self._lock = threading.Lock()
        self._holders: weakref.WeakSet[Any] = weakref.WeakSet()
        self._blocking: httpx.Client | None = None
        self._running: dict[asyncio.AbstractEventLoop, tuple[httpx.AsyncClient, AsyncGenerator[None]]] = {}

    def blocking(self, holder: object) -> httpx.Client:
        """Return the client for blocking calls."""
        client = self._blocking
        if client is None or client.is_closed:
            with self._lock:
                client = self._blocking
                if client is None or client.is_closed:
                    client = self.library.Client(**_settings(self.library))
                    install_deadline_backend(client)
                    self._blocking = client
        self._holders.add(holder)
        return client

    async def running(self, holder: object) -> httpx.AsyncClient:
        """Return the client of the running event loop; it is closed when the loop shuts down."""
        loop = asyncio.get_running_loop()
        held = self._running.get(loop)
        if held is None or held[0].is_closed:
            client = self.library.AsyncClient(**_settings(self.library))
            install_asyncio_backend(client)
            keeper = self._keep(loop, client)
            with self._lock:
                self._forget_closed_loops()
                held = self._running[loop] = (client, keeper)
            await anext(keeper)
        self._holders.add(holder)
        return held[0]

    def close(self, holder: object) -> None:
        """Let go of the blocking client; the last holder closes it."""
        self._holders.discard(holder)
        if not self._holders:
            self.close_blocking()

    def close_blocking(self) -> None:
        """Close the blocking client, whoever holds it; the next call makes another."""
        client, self._blocking = self._blocking, None
        if client is not None:
            client.close()

    async def aclose(self, holder: object) -> None:
        """Let go of the running loop's client; the last holder closes it."""
        self._holders.discard(holder)
        held = self._running.get(asyncio.get_running_loop())
        if not self._holders and held is not None:
            await held[1].aclose()

    async def _keep(self, loop: asyncio.AbstractEventLoop, client: httpx.AsyncClient) -> AsyncGenerator[None]:
        # A loop that shuts down closes its asynchronous generators: so this one closes the client in time.
        try:
            yield
        finally:
            with self._lock:
                self._running.pop(loop, None)
            await client.aclose()

    def _forget_closed_loops(self) -> None:
        for loop in [each for each in self._running if each.is_closed()]:
            del self._running[loop]


_pools: dict[tuple[Any, ...], Pool] = {}
_pools_lock = threading.Lock()
_left_by_parent: list[Any] = []
abandoned: deque[Any] = deque()
"""Replies of blocking clients that were left half-read; the next call closes them."""


def shared_pool(library: Any) -> Pool:
    """Return the process's pool for this library under the present proxy and certificate environment."""
    key = (library.__name__, *_certificates(), *sorted(getproxies().items()))
    with _pools_lock:
        if key not in _pools:
            _pools[key] = Pool(library)
        return _pools[key]


def close_abandoned() -> None:
    """Close the replies that nobody wants any more, so that their places in the pools are free."""
    while True:
        try:
            response = abandoned.popleft()
        except IndexError:
            return
        response.close()


def _after_fork() -> None:
    # The parent's sockets are not ours to use, nor to close by collecting their clients.
    global _pools_lock
    _pools_lock = threading.Lock()
    for pool in _pools.values():
        pool.is_stale = True
    _left_by_parent.extend([dict(_pools), *abandoned])
    _pools.clear()
    abandoned.clear()


def _at_exit() -> None:
    for pool in _pools.values():
        pool.close_blocking()


atexit.register(_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
