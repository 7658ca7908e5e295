"""Blocking sockets that stop waiting when the call must be over.

The HTTP libraries bound each single wait, with a figure that is fixed beforehand: a server that sends a byte
now and then is waited for without end. Here each wait is bounded anew by what is left of the call.
"""

from __future__ import annotations

import threading
import time
from typing import Any

WRITE_BYTES = 64 * 1024
_LEAST = 0.001


class _Moment(threading.local):
    by: float | None = None


moment = _Moment()
"""When, on `time.monotonic`, what this thread now sends or receives must be done; None sets no bound."""


def guard(client: Any) -> None:
    """Bound the connections that a blocking client will open; transports of the caller's making are left."""
    for transport in (client._transport, *client._mounts.values()):
        pool: Any = getattr(transport, "_pool", None)
        backend = getattr(pool, "_network_backend", None)
        if backend is not None and not isinstance(backend, _Backend):
            pool._network_backend = _Backend(backend)


class _Backend:
    def __init__(self, backend: Any) -> None:
        self._backend = backend

    def connect_tcp(self, host: str, port: int, timeout: float | None = None, **options: Any) -> _Stream:
        return _Stream(self._backend.connect_tcp(host, port, _at_least(timeout), **options))

    def connect_unix_socket(self, path: str, timeout: float | None = None, **options: Any) -> _Stream:
        return _Stream(self._backend.connect_unix_socket(path, _at_least(timeout), **options))

    def sleep(self, seconds: float) -> None:
        self._backend.sleep(seconds)


class _Stream:
    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        data: bytes = self._stream.read(max_bytes, _left(timeout))
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        for start in range(0, len(buffer), WRITE_BYTES):
            self._stream.write(buffer[start : start + WRITE_BYTES], _left(timeout))

    def start_tls(
        self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None
    ) -> _Stream:
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, _at_least(timeout)))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)

    def close(self) -> None:
        self._stream.close()


def _left(timeout: float | None) -> float | None:
    if moment.by is None:
        return timeout
    left = moment.by - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left if timeout is None else min(left, timeout)


def _at_least(timeout: float | None) -> float | None:
    # A connection that is too late must fail in the library's own words, which say that nothing was sent.
    try:
        return _left(timeout)
    except TimeoutError:
        return _LEAST
