"""A host that serves one file with configurable faults and records its requests."""

from __future__ import annotations

import json
import re
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

IMAGE = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 2


@dataclass
class FileHost:
    """A file and the faults in serving it. Each download first takes a status from `statuses`, if any."""

    content: bytes = IMAGE
    headers: dict[str, str] = field(default_factory=dict)
    etag: str | None = '"one"'
    cut_after: int | None = None
    cuts: int = 10_000
    declared_size: int | None = None
    supports_ranges: bool = True
    excess: bytes = b""
    """Extra bytes sent after the end of a resumed file."""
    statuses: list[int] = field(default_factory=list)
    redirect: str | None = None
    task: dict[str, Any] = field(default_factory=dict)
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    on_request: Callable[[], None] = lambda: None
    url: str = ""

    @property
    def downloads(self) -> list[dict[str, str]]:
        """The headers of each request for the file."""
        return [headers for path, headers in self.requests if path.startswith("/file")]

    def respond(self, path: str, headers: dict[str, str]) -> tuple[bytes, bytes]:
        """Return the response head and body; the body may be truncated."""
        self.requests.append((path, headers))
        self.on_request()
        if path.startswith("/v1/tasks/"):
            return _response(200, json.dumps(self.task).encode(), {"content-type": "application/json"})
        if self.statuses:
            return _response(self.statuses.pop(0), b"no", {})
        if self.redirect:
            return _response(302, b"", {"location": self.redirect})
        return self._file(headers)

    def _file(self, headers: dict[str, str]) -> tuple[bytes, bytes]:
        start = self._start(headers)
        total = len(self.content) if self.declared_size is None else self.declared_size
        body, sent_headers = self.content[start:], {"etag": self.etag} if self.etag else {}
        sent_headers = {**sent_headers, "content-length": str(total - start)}
        if start >= len(self.content) > 0:
            return _response(416, b"", {"content-range": f"bytes */{len(self.content)}"})
        if start:
            sent_headers["content-range"] = f"bytes {start}-{total - 1}/{total}"
            body += self.excess
            sent_headers["content-length"] = str(total - start + len(self.excess))
        if self.cut_after is not None and self.cuts:
            self.cuts -= 1
            body = body[: self.cut_after]
        return _response(206 if start else 200, body, {**sent_headers, **self.headers})

    def _start(self, headers: dict[str, str]) -> int:
        match = re.fullmatch(r"bytes=(\d+)-", headers.get("range", ""))
        is_unchanged = headers.get("if-range", self.etag) == self.etag
        return int(match[1]) if match and is_unchanged and self.supports_ranges else 0


def _response(status: int, body: bytes, headers: dict[str, str]) -> tuple[bytes, bytes]:
    headers = {"content-length": str(len(body)), **headers, "connection": "close"}
    lines = [f"HTTP/1.1 {status} X", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    return "\r\n".join(lines).encode(), body


@contextmanager
def serving(host: FileHost) -> Iterator[FileHost]:
    """Serve a host on the loopback interface."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            request = self.rfile.readline().decode().split()
            headers = {}
            while line := self.rfile.readline().decode().strip():
                name, _, value = line.partition(":")
                headers[name.lower()] = value.strip()
            head, body = host.respond(request[1], headers)
            try:
                self.wfile.write(head + body)
            except OSError:
                return  # the client closed the connection

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        host.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield host
        server.shutdown()
        thread.join()
