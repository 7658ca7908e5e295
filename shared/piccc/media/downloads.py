"""Download outputs: resume, renew expired addresses, check the type, write files whole or not at all."""

from __future__ import annotations

import base64
import contextlib
import glob
import hashlib
import io
import ipaddress
import json
import os
import re
import secrets
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypedDict, Unpack
from urllib.parse import unquote_to_bytes, urljoin, urlsplit

from piccc._http.backend import Backend, Failure, HTTPRequest, HTTPResponse, Outcome
from piccc._http.connections import retry_after
from piccc._version import __version__
from piccc.config import Config, origin_of
from piccc.errors import OutputError, OutputExpired, OutputTooLarge, OutputWrongType
from piccc.tasks import Output, Task, mime_type_of, suffix_of

if TYPE_CHECKING:
    from piccc.media.account import Account
    from piccc.media.stores import Place

HEAD_BYTES = 64
MAX_OUTPUT_BYTES = 2 * 1024**3
FETCH_SECONDS = 3600.0
MAX_REDIRECTS = 5
FRUITLESS_ATTEMPTS = 4
FIRST_BACKOFF = 0.5
BUFFER_BYTES = 128 * 1024
NOT_YET_SECONDS = 10.0
"""How long a 404 is waited through: an output may be announced before its store has it."""
NEW_SECONDS = 3600.0
"""How old a task may be for that; much, because clocks differ."""
NOT_YET_PAUSE = 1.0
STALE_PART_SECONDS = 2 * FETCH_SECONDS
LONGEST_NAME = 100
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
"""How a URL begins, also one of which pathlib has dropped a slash; a drive of Windows has one letter."""
_GONE = (400, 401, 403, 404, 410)
"""What stores answer for a signed address that has expired; S3 and GCS say 400 for an expired token."""
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_KINDS = ("image", "video", "audio")
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_LATER = (202, 408, 425, 429)
"""What is asked again; some stores answer 202 for a file that they are still writing."""


class FetchOptions(TypedDict, total=False):
    """The keywords of what fetches an output; `DownloadOptions` says what they mean."""

    max_bytes: int
    timeout: float
    any_type: bool


class SaveOptions(FetchOptions, total=False):
    """The keywords of what saves one: also whether to replace another file, and to write a note beside it."""

    overwrite: bool
    provenance: bool


@dataclass(frozen=True, slots=True)
class DownloadOptions:
    """What a fetch may do.

    Attributes:
        max_bytes: how large an output may be.
        timeout: seconds for all of it.
        any_type: whether content that is neither image, video nor audio is taken too.
        private: whether plain http and addresses within private networks are allowed.
        is_new: whether its store may not have it yet.
    """

    max_bytes: int = MAX_OUTPUT_BYTES
    timeout: float = FETCH_SECONDS
    any_type: bool = False
    private: bool = False
    is_new: bool = True


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
        self._url = urljoin(f"{config.base_url}/", output.url)
        self._renewed_at = -1
        self._not_yet_until = io.now() + (NOT_YET_SECONDS if terms.is_new else 0.0)
        self._key_headers: list[tuple[str, str]] = []
        self._pieces: list[bytes] = []
        self._unwritten = 0
        self._deadline = io.now() + terms.timeout
        self._may_resume = True
        self._validator: str | None = None
        self._total: int | None = None
        self._size, self._head = 0, b""
        self._hash = hashlib.sha256()

    async def run(self) -> Content:
        """Fetch all of it; raise OutputExpired, OutputTooLarge, OutputWrongType or OutputError."""
        if self._url.startswith("data:"):
            await self._decode()
            return Content(self._size, self._hash.hexdigest(), self._check_type())
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

    async def _decode(self) -> None:
        about, _, content = self._url.partition(",")
        self._check_size(len(content) * 3 // 4)
        try:
            decode = base64_content if about.endswith(";base64") else unquote_to_bytes
            data = await self._io.run(decode, content)
        except ValueError as error:
            raise self._error("is data that is not base64") from error
        await self._take(data)
        await self._flush()

    async def _attempt(self) -> None:
        response = await self._open()
        try:
            await self._accept(response)
            await self._copy(response)
        finally:
            await self._flush()
            await response.close()
        if self._total is not None and self._size < self._total:
            raise _Broken(f"broke off after {self._size} of {self._total} bytes")

    async def _take_fresh_address(self, status: int) -> None:
        if status == 401 and not self._key_headers and origin_of(self._url) == self._config.origin:
            # Some servers guard outputs on their own origin with the key (OpenRouter's `unsigned_urls`).
            self._key_headers = await self._config.authorize(self._io.run)
            return
        fresh = await self._renew() if self._renewed_at < self._size else None
        if fresh is None or fresh == self._url:
            if status == 404 and self._io.now() < self._not_yet_until:
                self._renewed_at = self._size
                await self._io.sleep(NOT_YET_PAUSE)
                return
            if status == 400:
                raise self._error("could not be fetched: HTTP 400")
            raise OutputExpired(
                f"The output of task {self._output.task_id} is gone.",
                hint="Its task has no fresh address for it either.",
                status=status,
                task_id=self._output.task_id,
            )
        self._url, self._renewed_at = urljoin(f"{self._config.base_url}/", fresh), self._size

    async def _open(self) -> HTTPResponse:
        url = self._url
        for _ in range(MAX_REDIRECTS + 1):
            address = await self._checked_address(url)
            try:
                response = await self._io.send(self._request(url, address))
            except Failure as failure:
                if failure.outcome is Outcome.HOPELESS:
                    raise self._error(f"could not be fetched: {failure.reason}") from failure
                raise _Broken(f"could not be fetched: {failure.reason}") from failure
            location = response.headers.get("location")
            if not (300 <= response.status < 400 and location):
                return response
            await response.close()
            try:
                url = urljoin(url, location)
            except ValueError as error:
                raise self._error(f"is redirected to nonsense: {location[:100]!r}") from error
        raise self._error(f"is behind more than {MAX_REDIRECTS} redirects")

    def _request(self, url: str, address: str | None) -> HTTPRequest:
        headers = [("accept", "*/*"), ("accept-encoding", "identity")]
        if origin_of(url) == self._config.origin:
            headers += self._key_headers
        if self._size and self._may_resume:
            headers.append(("range", f"bytes={self._size}-"))
            if self._validator:
                headers.append(("if-range", self._validator))
        timeout = self._config.timeout
        request = HTTPRequest("GET", url, headers, None, timeout.connect, timeout.idle, self._deadline)
        request.address = address
        return request

    async def _accept(self, response: HTTPResponse) -> None:
        status, headers = response.status, response.headers
        if status == 200:
            announced = headers.get("content-length", "")
            is_plain = headers.get("content-encoding", "identity").lower() == "identity"
            await self._restart(int(announced[:18]) if announced.isdigit() and is_plain else None)
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
        total = int(match[3]) if match and match[3].isdigit() else None
        if match is None or int(match[1]) != self._size or (self._total and total and total != self._total):
            self._may_resume = False
            raise _Broken("changed while it was fetched")
        # RFC 9110, section 14.4: what comes ends where the range does.
        self._total = self._total or total or int(match[2]) + 1

    async def _copy(self, response: HTTPResponse) -> None:
        try:
            while piece := await response.receive(self._deadline):
                self._check_size(self._size + len(piece))
                if self._total is not None and self._size + len(piece) > self._total:
                    self._may_resume = False
                    raise _Broken(f"is more than the {self._total} bytes that were announced")
                await self._take(piece)
        except Failure as failure:
            raise _Broken(f"broke off after {self._size} bytes: {failure.reason}") from failure

    async def _take(self, piece: bytes) -> None:
        self._pieces.append(piece)
        self._unwritten += len(piece)
        self._size += len(piece)
        if self._unwritten >= BUFFER_BYTES:
            await self._flush()
        if len(self._head) < HEAD_BYTES:
            self._head += piece[: HEAD_BYTES - len(self._head)]
            if len(self._head) == HEAD_BYTES:
                self._check_type()

    async def _flush(self) -> None:
        """Write what has come, off the event loop: a disk may take its time."""
        pieces, self._pieces, self._unwritten = self._pieces, [], 0
        if pieces:
            await self._io.run(self._write, pieces)

    def _write(self, pieces: list[bytes]) -> None:
        for piece in pieces:
            self._file.write(piece)
            self._hash.update(piece)

    async def _restart(self, total: int | None) -> None:
        def empty() -> None:
            self._file.seek(0)
            self._file.truncate()

        await self._io.run(empty)
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
        declared = {self._output.type, (self._output.mime_type or "").partition("/")[0]} & set(_KINDS)
        if self._terms.any_type or (found and (not declared or found.partition("/")[0] in declared)):
            return found
        due = " or ".join(sorted(declared)) or "media"
        raise OutputWrongType(
            f"The output of task {self._output.task_id} should be {due}, "
            f"but its content is {found or 'neither image, video nor audio'}.",
            hint="Nothing was saved. If it is right all the same, pass any_type=True.",
            task_id=self._output.task_id,
        )

    async def _checked_address(self, url: str) -> str | None:
        """Return the address to connect to, None for any.

        The one that was checked is used: a second answer of the DNS could lead elsewhere.
        """
        try:
            parts = urlsplit(url)
            host = (parts.hostname or "").encode("idna").decode() if parts.hostname else ""
        except ValueError as error:  # UnicodeError too: labels that no host name may have
            raise self._error(f"has an address that cannot be read: {url[:100]!r}") from error
        if origin_of(url) == self._config.origin or self._terms.private:
            return None
        if parts.scheme != "https" or not host:
            raise self._error(
                f"has an address that is not https: {parts.scheme}://{host}",
                hint="If you trust that server, make the client with private_outputs=True.",
            )
        addresses = await self._addresses(host)
        for address in addresses:
            if not all(each.is_global and not each.is_multicast for each in embedded(address)):
                raise self._error(
                    f"has an address within a private network: {host} is {address}",
                    hint="If that is meant, make the client with private_outputs=True.",
                )
        return str(addresses[0]) if addresses else None

    async def _addresses(self, host: str) -> list[Address]:
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


def base64_content(text: str) -> bytes:
    """Decode base64, whose lines may be broken; raise ValueError where it is none."""
    return base64.b64decode("".join(text.split()).encode("ascii"), validate=True)


def embedded(address: Address) -> list[Address]:
    """Return an address and the IPv4 address within it: mapped, NAT64 (RFC 6052), 6to4, Teredo."""
    if not isinstance(address, ipaddress.IPv6Address):
        return [address]
    if address.ipv4_mapped:
        return [address.ipv4_mapped]
    inner = [address.sixtofour, *(address.teredo or ())]
    if address in _NAT64:
        inner.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return [address, *(each for each in inner if each is not None)]


FilePath = str | os.PathLike[str]
_PARAMETERS = ("aspect_ratio", "resolution", "duration_seconds", "seed", "usage", "cost")


def target_of(path: FilePath) -> str | Place:
    """Return where to save to: a path, or a place in an object store; raise where there is none."""
    text = os.fspath(path)
    if not _URL.match(text):
        return text
    from piccc.media.stores import place_of

    return place_of(text)


async def save(
    account: Account,
    task: Task,
    output: Output,
    path: FilePath,
    *,
    overwrite: bool = False,
    provenance: bool = False,
    **terms: Unpack[FetchOptions],
) -> Path | str:
    """Write an output to a file or an object, or into a folder under a name of its own; return where.

    `provenance` writes what it was made from beside it, as `NAME.json`. A file with the same content stays;
    another one in the way is an OutputError unless `overwrite`. No partial file stays.
    """
    options = DownloadOptions(**terms)
    try:
        target = await account.session.io.run(target_of, path)
        if not isinstance(target, str):
            return await _save_object(account, task, output, target, options, overwrite, provenance)
        return await _save(account, task, output, target, options, overwrite, provenance)
    except OSError as error:
        raise OutputError(
            f"The output of task {task.id} cannot be written: {error}",
            hint="Nothing is lost: save it again, or elsewhere.",
            task_id=task.id,
        ) from error


async def _save(
    account: Account,
    task: Task,
    output: Output,
    path: str,
    terms: DownloadOptions,
    overwrite: bool,
    provenance: bool,
) -> Path:
    run, stem = account.session.io.run, _stem(task, output)
    folder, name = await run(_prepared, path, stem)
    part = folder / f".{stem}.{secrets.token_hex(4)}.part"
    file = await run(part.open, "xb")
    try:
        content = await _fetch(account, task, output, file, terms)
        await run(_synced, file)
        target = folder / (name or f"{stem}{suffix_of(content.mime_type)}")
        await run(_moved, part, target, content, overwrite)
    finally:
        await run(_removed, file, part)
    if provenance:
        await run(_write_whole, target.with_name(f"{target.name}.json"), _provenance(task, output, content))
    return target


async def _save_object(
    account: Account,
    task: Task,
    output: Output,
    place: Place,
    terms: DownloadOptions,
    overwrite: bool,
    provenance: bool,
) -> str:
    # By way of a temporary file: an object that was begun could not be taken back where a fetch starts anew.
    run = account.session.io.run
    file = await run(tempfile.TemporaryFile)
    try:
        content = await _fetch(account, task, output, file, terms)
        place = place.named(f"{_stem(task, output)}{suffix_of(content.mime_type)}")
        await run(place.put, file, content.mime_type, content.sha256, overwrite)
        if provenance:
            note = io.BytesIO(_provenance(task, output, content))
            await run(place.beside(".json").put, note, "application/json", "", True)
    finally:
        await run(file.close)
    return str(place)


def _prepared(path: str, stem: str) -> tuple[Path, str | None]:
    """Make the directory, and remove what killed processes left in it; return it, and the name if given."""
    is_folder = path.endswith(("/", os.sep)) or Path(path).is_dir()
    folder = Path(path) if is_folder else Path(path).parent
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(f".{glob.escape(stem)}.*.part"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > STALE_PART_SECONDS:
                left.unlink()
    return folder, None if is_folder else Path(path).name


def _synced(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _moved(part: Path, target: Path, content: Content, overwrite: bool) -> None:
    if target.exists() and not overwrite:
        with target.open("rb") as file:
            is_same = hashlib.file_digest(file, "sha256").hexdigest() == content.sha256
        if is_same:
            return
        raise OutputError(
            f"{target} exists and holds something else.", hint="Pass overwrite=True, or another path."
        )
    part.replace(target)


def _removed(file: BinaryIO, part: Path) -> None:
    file.close()
    part.unlink(missing_ok=True)


async def load(account: Account, task: Task, output: Output, terms: DownloadOptions) -> bytes:
    """Return an output's content."""
    buffer = io.BytesIO()
    await _fetch(account, task, output, buffer, terms)
    return buffer.getvalue()


async def _fetch(
    account: Account, task: Task, output: Output, file: BinaryIO, terms: DownloadOptions
) -> Content:
    async def renew() -> str | None:
        fresh = await account.get(task, seconds=terms.timeout)
        return fresh.outputs[output.place].url if len(fresh.outputs) == len(task.outputs) else None

    is_new = task.completed_at is None or time.time() - task.completed_at < NEW_SECONDS
    terms = replace(terms, private=account.private_outputs, is_new=is_new)
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


def _stem(task: Task, output: Output) -> str:
    safe = "".join(each if each.isalnum() or each in "-_." else "_" for each in task.id).lstrip(".")
    number = f"-{output.place + 1}" if len(task.outputs) > 1 else ""
    return f"{safe[:LONGEST_NAME] or 'task'}{number}"


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
