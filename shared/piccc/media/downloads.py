"""Download outputs: resume, renew expired addresses, check the type, write files whole or not at all."""

from __future__ import annotations

import hashlib
import io
import ipaddress
import json
import os
import re
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import urljoin, urlsplit

from piccc._http.backend import Backend, Failure, HTTPRequest, HTTPResponse, Outcome
from piccc._http.responses import retry_after
from piccc._version import __version__
from piccc.config import Config, origin_of
from piccc.errors import OutputError, OutputExpired, OutputTooLarge, OutputWrongType
from piccc.mime_types import mime_type_of, suffix_of
from piccc.tasks import Output, Task

if TYPE_CHECKING:
    from piccc.media.account import Account

HEAD_BYTES = 64
MAX_OUTPUT_BYTES = 2 * 1024**3
FETCH_SECONDS = 3600.0
MAX_REDIRECTS = 5
FRUITLESS_ATTEMPTS = 4
FIRST_BACKOFF = 0.5
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
_GONE = (401, 403, 404, 410)
_LATER = (408, 425, 429)


@dataclass(frozen=True, slots=True)
class DownloadOptions:
    """What a fetch may do.

    Attributes:
        max_bytes: how large an output may be.
        timeout: seconds for all of it.
        any_type: whether content that is neither picture nor film is taken too.
        private: whether addresses within private networks, and plain http to them, are allowed.
    """

    max_bytes: int = MAX_OUTPUT_BYTES
    timeout: float = FETCH_SECONDS
    any_type: bool = False
    private: bool = False


@dataclass(frozen=True, slots=True)
class Content:
    """What was fetched."""

    size: int
    sha256: str
    mime_type: str | None


class _Broken(Exception):
    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


class _Gone(Exception):
    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class Fetch:
    """Fetch one output into a file; `renew` reads its task again for a fresh address."""

    def __init__(
        self,
        io: Backend,
        config: Config,
        output: Output,
        file: BinaryIO,
        terms: DownloadOptions,
        renew: Callable[[], Awaitable[str | None]],
    ) -> None:
        self._io = io
        self._config = config
        self._output = output
        self._file = file
        self._terms = terms
        self._renew = renew
        self._url = output.url
        self._renewed_at = -1
        self._deadline = io.now() + terms.timeout
        self._may_resume = True
        self._validator: str | None = None
        self._total: int | None
        self._restart()

    async def run(self) -> Content:
        """Fetch all of it; raise OutputExpired, OutputTooLarge, OutputWrongType or OutputError."""
        fruitless = most = 0
        while True:
            try:
                await self._attempt()
                break
            except _Gone as gone:
                await self._take_fresh_address(gone.status)
            except _Broken as broken:
                fruitless = 0 if self._size > most else fruitless + 1
                most = max(most, self._size)
                if fruitless >= FRUITLESS_ATTEMPTS or self._io.now() + broken.wait >= self._deadline:
                    raise self._error(str(broken)) from broken.__cause__
                await self._io.sleep(max(broken.wait, self._backoff(fruitless)))
        return Content(self._size, self._hash.hexdigest(), self._check_type())

    async def _attempt(self) -> None:
        response = await self._open()
        try:
            self._accept(response)
            await self._copy(response)
        finally:
            await response.close()
        if self._total is not None and self._size < self._total:
            raise _Broken(f"broke off after {self._size} of {self._total} bytes")

    async def _take_fresh_address(self, status: int) -> None:
        fresh = await self._renew() if self._renewed_at < self._size else None
        if fresh is None or fresh == self._url:
            raise OutputExpired(
                f"The output of task {self._output.task_id} is gone.",
                hint="Its task has no fresh address for it either.",
                status=status,
                task_id=self._output.task_id,
            )
        self._url, self._renewed_at = fresh, self._size

    async def _open(self) -> HTTPResponse:
        url = self._url
        for _ in range(MAX_REDIRECTS + 1):
            await self._check_address(url)
            try:
                response = await self._io.send(self._request(url))
            except Failure as failure:
                if failure.outcome is Outcome.HOPELESS:
                    raise self._error(f"could not be fetched: {failure.reason}") from failure
                raise _Broken(f"could not be fetched: {failure.reason}") from failure
            location = response.headers.get("location")
            if not (300 <= response.status < 400 and location):
                return response
            await response.close()
            url = urljoin(url, location)
        raise self._error(f"is behind more than {MAX_REDIRECTS} redirects")

    def _request(self, url: str) -> HTTPRequest:
        headers = [("accept", "*/*"), ("accept-encoding", "identity")]
        if self._size and self._may_resume:
            headers.append(("range", f"bytes={self._size}-"))
            if self._validator:
                headers.append(("if-range", self._validator))
        timeout = self._config.timeout
        return HTTPRequest("GET", url, headers, None, timeout.connect, timeout.idle, self._deadline)

    def _accept(self, response: HTTPResponse) -> None:
        status, headers = response.status, response.headers
        if status == 200:
            announced = headers.get("content-length", "")
            is_plain = headers.get("content-encoding", "identity").lower() == "identity"
            self._restart(int(announced) if announced.isdigit() and is_plain else None)
            etag = headers.get("etag", "")
            self._validator = etag if etag.startswith('"') else headers.get("last-modified")
            self._may_resume = is_plain
        elif status == 206 and self._size:
            self._continue(headers.get("content-range", ""))
        elif status == 416 and self._size:
            self._may_resume = False
            raise _Broken("broke off and cannot be resumed")
        elif status in _GONE:
            raise _Gone(status)
        elif status in _LATER or status >= 500:
            raise _Broken(f"could not be fetched: HTTP {status}", retry_after(headers) or 0.0)
        else:
            raise self._error(f"could not be fetched: HTTP {status}")
        self._check_size(self._total or 0)

    def _continue(self, content_range: str) -> None:
        match = _CONTENT_RANGE.fullmatch(content_range)
        total = int(match[2]) if match and match[2].isdigit() else None
        if match is None or int(match[1]) != self._size or (self._total and total and total != self._total):
            self._may_resume = False
            raise _Broken("changed while it was fetched")
        self._total = self._total or total

    async def _copy(self, response: HTTPResponse) -> None:
        try:
            while piece := await response.receive(self._deadline):
                self._check_size(self._size + len(piece))
                if self._total is not None and self._size + len(piece) > self._total:
                    self._may_resume = False
                    raise _Broken(f"is more than the {self._total} bytes that were announced")
                self._write(piece)
        except Failure as failure:
            raise _Broken(f"broke off after {self._size} bytes: {failure.reason}") from failure

    def _write(self, piece: bytes) -> None:
        self._file.write(piece)
        self._hash.update(piece)
        self._size += len(piece)
        if len(self._head) < HEAD_BYTES:
            self._head += piece[: HEAD_BYTES - len(self._head)]
            if len(self._head) == HEAD_BYTES:
                self._check_type()

    def _restart(self, total: int | None = None) -> None:
        self._file.seek(0)
        self._file.truncate()
        self._size, self._total, self._head = 0, total, b""
        self._hash = hashlib.sha256()

    def _check_size(self, size: int) -> None:
        if size > self._terms.max_bytes:
            raise OutputTooLarge(
                f"The output of task {self._output.task_id} is larger than {self._terms.max_bytes} bytes.",
                hint="Raise max_bytes if that is expected.",
                task_id=self._output.task_id,
            )

    def _check_type(self) -> str | None:
        found = mime_type_of(self._head)
        declared = self._output.type or (self._output.mime_type or "").partition("/")[0]
        if self._terms.any_type or (found and declared in ("", found.partition("/")[0])):
            return found
        raise OutputWrongType(
            f"The output of task {self._output.task_id} should be {declared or 'a picture or a film'}, "
            f"but its content is {found or 'neither picture nor film'}.",
            hint="Nothing was saved. If it is right all the same, pass any_type=True.",
            task_id=self._output.task_id,
        )

    async def _check_address(self, url: str) -> None:
        parts = urlsplit(url)
        if origin_of(url) == self._config.origin or self._terms.private:
            return
        if parts.scheme != "https" or not parts.hostname:
            raise self._error(f"has an address that is not https: {parts.scheme}://{parts.hostname}")
        for address in await self._addresses(parts.hostname):
            if not address.is_global or address.is_multicast:
                raise self._error(
                    f"has an address within a private network: {parts.hostname} is {address}",
                    hint="If that is meant, make the client with private_outputs=True.",
                )

    async def _addresses(self, host: str) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
        try:
            return [ipaddress.ip_address(host)]
        except ValueError:
            return [ipaddress.ip_address(each) for each in await self._io.resolve(host)]

    def _backoff(self, fruitless: int) -> float:
        return self._io.random() * FIRST_BACKOFF * 2.0**fruitless if fruitless else 0.0

    def _error(self, what: str, hint: str = "") -> OutputError:
        return OutputError(
            f"The output of task {self._output.task_id} {what}.",
            hint=hint or "Nothing is lost: fetch it again, as long as its address lasts.",
            task_id=self._output.task_id,
        )


FilePath = str | os.PathLike[str]
_PARAMETERS = ("aspect_ratio", "resolution", "duration_seconds", "seed", "usage", "cost")


async def save(
    account: Account,
    task: Task,
    output: Output,
    path: FilePath,
    terms: DownloadOptions,
    *,
    provenance: bool = False,
) -> Path:
    """Write an output to a file, or into a directory under a name of its own; return the file's path.

    `provenance` writes beside it, as `NAME.json`, what it was made from. No half file stays.
    """
    folder = Path(path) if _is_folder(path) else Path(path).parent
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f".{secrets.token_hex(8)}.part"
    try:
        with part.open("xb") as file:
            content = await _fetch(account, task, output, file, terms)
            file.flush()
            os.fsync(file.fileno())
        target = folder / _name(task, output, content) if _is_folder(path) else Path(path)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    if provenance:
        _write_whole(target.with_name(f"{target.name}.json"), _provenance(task, output, content))
    return target


async def load(account: Account, task: Task, output: Output, terms: DownloadOptions) -> bytes:
    """Return an output's content."""
    buffer = io.BytesIO()
    await _fetch(account, task, output, buffer, terms)
    return buffer.getvalue()


async def _fetch(
    account: Account, task: Task, output: Output, file: BinaryIO, terms: DownloadOptions
) -> Content:
    async def renew() -> str | None:
        return _same_output(await account.get(task, seconds=terms.timeout), output)

    terms = replace(terms, private=account.private_outputs)
    session = account.session
    content = await Fetch(session.io, session.config, output, file, terms, renew).run()
    if output.sha256 not in (None, content.sha256):
        raise OutputError(
            f"The output of task {task.id} is not the one that was fetched before.",
            hint="Its content has changed on the server: do not rely on it.",
            task_id=task.id,
        )
    output.sha256 = content.sha256
    return content


def place_of(output: Output) -> tuple[str, str]:
    """Return what stays the same when an output's address is renewed: host and path."""
    parts = urlsplit(output.url)
    return parts.netloc, parts.path


def _same_output(task: Task, output: Output) -> str | None:
    """Return the present address of an output: the one with its path, else its task's only one."""
    same = [each.url for each in task.outputs if place_of(each) == place_of(output)]
    found = same or [each.url for each in task.outputs]
    return found[0] if len(found) == 1 else None


def _is_folder(path: FilePath) -> bool:
    return Path(path).is_dir() or os.fspath(path).endswith(("/", os.sep))


def _name(task: Task, output: Output, content: Content) -> str:
    safe = "".join(each if each.isalnum() or each in "-_." else "_" for each in task.id).lstrip(".")
    place = [each.url for each in task.outputs].index(output.url) if output in task.outputs else 0
    number = f"-{place + 1}" if len(task.outputs) > 1 else ""
    return f"{safe or 'task'}{number}{suffix_of(content.mime_type)}"


def _provenance(task: Task, output: Output, content: Content) -> bytes:
    # The output's address is left out: it is signed, and it expires.
    known: dict[str, Any] = {
        "task_id": task.id,
        "type": output.type or task.type,
        "model": task.model,
        "prompt": task.prompt,
        **{name: task.raw.get(name) for name in _PARAMETERS},
        "created_at": task.created_at,
        "completed_at": task.completed_at,
        "mime_type": content.mime_type,
        "bytes": content.size,
        "sha256": content.sha256,
        "made_by": f"piccc/{__version__}",
    }
    return json.dumps(
        {name: value for name, value in known.items() if value not in (None, "")},
        ensure_ascii=False,
        indent=2,
    ).encode("utf-8", "replace")


def _write_whole(path: Path, content: bytes) -> None:
    part = path.with_name(f".{secrets.token_hex(8)}.part")
    part.write_bytes(content)
    part.replace(path)
