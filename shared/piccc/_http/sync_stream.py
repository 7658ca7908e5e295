"""Blocking sockets that stop waiting when the call must be over, and whose streams can be read directly.

The HTTP libraries bound each single wait, with a figure that is fixed beforehand: a server that sends a byte
now and then is waited for without end. Here each wait is bounded anew by what is left of the call.
"""

from __future__ import annotations

import threading
import time
from typing import Any

from piccc._http.chunked import HeaderSplitter

READ_BYTES = 64 * 1024
WRITE_BYTES = 64 * 1024
_LEAST = 0.001
_UNKNOWN = -1.0


class _Moment(threading.local):
    by: float | None = None


current_deadline = _Moment()
"""When, on `time.monotonic`, what this thread now sends or receives must be done; None sets no bound."""


def install_deadline_backend(client: Any) -> None:
    """Bound the connections that a blocking client will open; transports of the caller's making are left."""
    for transport in (client._transport, *client._mounts.values()):
        pool: Any = getattr(transport, "_pool", None)
        backend = getattr(pool, "_network_backend", None)
        if backend is not None and not isinstance(backend, _Backend):
            pool._network_backend = _Backend(backend)


class _Backend:
    def __init__(self, backend: Any) -> None:
        self._backend = backend

    def connect_tcp(self, host: str, port: int, timeout: float | None = None, **options: Any) -> SyncStream:
        stream = self._backend.connect_tcp(host, port, _at_least(timeout), **options)
        return SyncStream(stream, stream.get_extra_info("socket"))

    def connect_unix_socket(self, path: str, timeout: float | None = None, **options: Any) -> SyncStream:
        stream = self._backend.connect_unix_socket(path, _at_least(timeout), **options)
        return SyncStream(stream, stream.get_extra_info("socket"))

    def sleep(self, seconds: float) -> None:
        self._backend.sleep(seconds)


class SyncStream:
    """One connection; `socket` is what its bytes can be read from directly, if they can."""

    def __init__(self, stream: Any, socket: Any) -> None:
        self._stream = stream
        self._socket = socket
        self._is_secure = False
        self._timeout: float | None = _UNKNOWN
        self.gate = HeaderSplitter()

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Return the next bytes for the HTTP library."""
        self._timeout = _UNKNOWN
        return self.gate.let_through(self.gate.take() or self._stream.read(max_bytes, _left(timeout)))

    def receive(self, timeout: float | None) -> bytes:
        """Return the next bytes, past the HTTP library; b"" when the server has closed the connection."""
        if held := self.gate.take():
            return held
        timeout = _left(timeout)
        if self._socket is not None and timeout != self._timeout:
            self._socket.settimeout(timeout)
            self._timeout = timeout
        data: bytes = (
            self._stream.read(READ_BYTES, timeout) if self._socket is None else self._socket.recv(READ_BYTES)
        )
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Send all bytes."""
        self._timeout = _UNKNOWN
        self.gate.notice(buffer)
        for start in range(0, len(buffer), WRITE_BYTES):
            self._stream.write(buffer[start : start + WRITE_BYTES], _left(timeout))

    def start_tls(
        self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None
    ) -> SyncStream:
        """Return the same connection under TLS."""
        stream = self._stream.start_tls(ssl_context, server_hostname, _at_least(timeout))
        # Of TLS within TLS the socket gives the outer one's bytes.
        secure = SyncStream(stream, None if self._is_secure else stream.get_extra_info("socket"))
        secure._is_secure = True
        return secure

    def get_extra_info(self, info: str) -> Any:
        """Return what the library's own stream knows."""
        return self._stream.get_extra_info(info)

    def close(self) -> None:
        """Close the connection."""
        self._stream.close()


def _left(timeout: float | None) -> float | None:
    if current_deadline.by is None:
        return timeout
    left = current_deadline.by - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left if timeout is None else min(left, timeout)


def _at_least(timeout: float | None) -> float | None:
    # A connection that is too late must fail in the library's own words, which say that nothing was sent.
    try:
        return _left(timeout)
    except TimeoutError:
        return _LEAST
