"""A loopback proxy that opens tunnels, with or without TLS to the proxy itself."""

from __future__ import annotations

import asyncio
import ssl
import threading
from contextlib import suppress

PATIENCE = 10.0
TURNS = 5


class Tunnel:
    """Serves CONNECT in a background thread; enter it with `with`.

    `destinations` are the requested ones; every host leads to this machine.
    """

    def __init__(self, *, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="tunnel", daemon=True)
        self._serving: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self.destinations: set[str] = set()

    def __enter__(self) -> Tunnel:
        self._thread.start()
        starting = asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        self._server = asyncio.run_coroutine_threadsafe(starting, self._loop).result(PATIENCE)
        port = self._server.sockets[0].getsockname()[1]
        self.url = f"{'https' if self._tls else 'http'}://127.0.0.1:{port}"
        return self

    def __exit__(self, *exception: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(PATIENCE)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE)
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            authority = head.split(b" ", 2)[1].decode()
            self.destinations.add(authority)
            port = int(authority.rpartition(":")[2])
            upstream, to_upstream = await asyncio.open_connection("127.0.0.1", port)
            self._writers |= {writer, to_upstream}
            writer.write(b"HTTP/1.1 200 Go on\r\n\r\n")
            await asyncio.gather(_copy(reader, to_upstream), _copy(upstream, writer))
        except (asyncio.CancelledError, asyncio.IncompleteReadError):
            pass  # the client left, or the test is over
        finally:
            self._serving.discard(task)

    async def _stop(self) -> None:
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)
        for _ in range(TURNS):  # let closed connections go
            await asyncio.sleep(0)


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await source.read(65536):
            target.write(data)
            await target.drain()
    target.close()
