"""Download outputs: resume, renew expired URLs, check content types, write files atomically."""

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
import shutil
import stat
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypedDict, Unpack
from urllib.parse import unquote, unquote_to_bytes, urljoin, urlsplit

from piccc._http.backend import Backend, Failure, HTTPRequest, HTTPResponse, Outcome
from piccc._http.connections import retry_after
from piccc._version import __version__
from piccc.config import Config, check_flags, check_wait, origin_of
from piccc.errors import InvalidArgumentError, OutputError, OutputExpired, OutputTooLarge, OutputWrongType
from piccc.tasks import Output, Task, mime_type_of, suffix_of

if TYPE_CHECKING:
    from piccc.media.account import Account
    from piccc.media.stores import Location

HEAD_BYTES = 64
MAX_OUTPUT_BYTES = 2 * 1024**3
FETCH_SECONDS = 3600.0
LONGEST_FETCH = 30 * 86_400.0
"""The limit of `timeout=inf`, because sockets cannot wait forever."""
MAX_REDIRECTS = 5
MAX_STALLED_ATTEMPTS = 4
FIRST_BACKOFF = 0.5
BUFFER_BYTES = 128 * 1024
WRITEBACK_BYTES = 1024 * 1024
"""How much of a file is written before the disk is asked to start on it."""
NOT_YET_SECONDS = 10.0
"""How long to retry a 404: an output may be announced before its store has it."""
NEW_SECONDS = 3600.0
"""Maximum age of a task for such retries; generous, because clocks differ."""
NOT_YET_PAUSE = 1.0
STALE_PART_SECONDS = 2 * FETCH_SECONDS
LONGEST_NAME = 100
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
"""The start of a URL, even if pathlib dropped a slash. One letter would be a Windows drive."""
_GONE = (400, 401, 403, 404, 410)
"""Stores' statuses for an expired signed URL; S3 and GCS return 400 for an expired token."""
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
KINDS = {"image": "an image", "video": "a video", "audio": "an audio file"}
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_LATER = (202, 408, 425, 429)
"""Statuses to retry; some stores return 202 for a file that they are still writing."""


class FetchOptions(TypedDict, total=False):
    """Keyword arguments for fetching an output; see `DownloadOptions`."""

    max_bytes: int
    timeout: float
    any_type: bool


class SaveOptions(FetchOptions, total=False):
    """Keyword arguments for saving an output: also whether to overwrite, and to write provenance."""

    overwrite: bool
    provenance: bool


@dataclass(frozen=True, slots=True)
class DownloadOptions:
    """Limits and permissions of a download.

    Attributes:
        max_bytes: the maximum size of an output.
        timeout: seconds for the whole download.
        any_type: whether to accept content other than images, videos and audio.
        private: whether to allow plain http and private network addresses.
        is_new: whether its store may not have it yet.
    """

    max_bytes: int = MAX_OUTPUT_BYTES
    timeout: float = FETCH_SECONDS
    any_type: bool = False
    private: bool = False
    is_new: bool = True

    def __post_init__(self) -> None:
        check_flags(InvalidArgumentError, any_type=self.any_type, private=self.private)
        check_wait(self.timeout)
        if self.timeout is None:
            object.__setattr__(self, "timeout", FETCH_SECONDS)
        if isinstance(self.max_bytes, bool) or not isinstance(self.max_bytes, int | float):
            raise InvalidArgumentError(
                f"max_bytes is {self.max_bytes!r:.80}.", hint="Pass a number of bytes."
            )


@dataclass(frozen=True, slots=True)
class Content:
    """The size, hash and type of downloaded content."""

    size: int
    sha256: str
    mime_type: str | None


class _AttemptFailed(Exception):
    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


class _Gone(Exception):
    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class Fetch:
    """A download of one output into a file; `renew` reads its task again for a new URL."""

    def __init__(
        self,
        io: Backend,
        config: Config,
        output: Output,
        file: BinaryIO,
        options: DownloadOptions,
        renew: Callable[[], Awaitable[str | None]],
    ) -> None:
        self._io = io
        self._config = config
        self._output = output
        self._file = file
        self._options = options
        self._renew = renew
        self._url = urljoin(f"{config.base_url}/", output.url)
        self._renewed_at = -1
        self._not_yet_until = io.now() + (NOT_YET_SECONDS if options.is_new else 0.0)
        self._key_headers: list[tuple[str, str]] = []
        self._pieces: list[bytes] = []
        self._unwritten = self._advised = 0
        self._deadline = io.now() + min(options.timeout, LONGEST_FETCH)
        self._may_resume = True
        self._validator: str | None = None
        self._total: int | None = None
        self._size, self._head = 0, b""
        self._hash = hashlib.sha256()

    async def run(self) -> Content:
        """Download the output; raise OutputExpired, OutputTooLarge, OutputWrongType or OutputError."""
        if self._url[:5].lower() == "data:":
            await self._decode()
            return Content(self._size, self._hash.hexdigest(), self._check_type())
        stalled = largest = 0
        while True:
            try:
                await self._attempt()
                break
            except _Gone as gone:
                await self._renew_url(gone.status)
            except _AttemptFailed as failed:
                stalled = 0 if self._size > largest else stalled + 1
                largest = max(largest, self._size)
                if stalled >= MAX_STALLED_ATTEMPTS or self._io.now() + failed.wait >= self._deadline:
                    raise self._error(str(failed)) from failed.__cause__
                await self._io.sleep(max(failed.wait, self._backoff(stalled)))
        return Content(self._size, self._hash.hexdigest(), self._check_type())

    async def _decode(self) -> None:
        about, _, content = self._url.partition(",")
        self._check_size(len(content) * 3 // 4)
        try:
            decode = base64_content if about.lower().endswith(";base64") else unquote_to_bytes
            data = await self._io.run(decode, content)
        except ValueError as error:
            raise self._error("is a data URL with invalid base64") from error
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
            raise _AttemptFailed(f"was cut off after {self._size} of {self._total} bytes")

    async def _renew_url(self, status: int) -> None:
        if status == 401 and not self._key_headers and origin_of(self._url) == self._config.origin:
            # Some servers require the API key for outputs on their own origin (OpenRouter's `unsigned_urls`).
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
                f"The output of task {self._output.task_id} is no longer available.",
                hint="The task has no new URL for it. Save outputs soon after they are created.",
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
                raise _AttemptFailed(f"could not be fetched: {failure.reason}") from failure
            location = response.headers.get("location")
            if not (300 <= response.status < 400 and location):
                return response
            await response.close()
            try:
                url = urljoin(url, location)
            except ValueError as error:
                raise self._error(f"redirects to an invalid URL: {location[:100]!r}") from error
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
            raise _AttemptFailed("was interrupted and cannot be resumed")
        elif status in _GONE:
            raise _Gone(status)
        elif status in _LATER or status >= 500:
            raise _AttemptFailed(f"could not be fetched: HTTP {status}", retry_after(headers) or 0.0)
        else:
            raise self._error(f"could not be fetched: HTTP {status}")
        self._check_size(self._total or 0)

    def _continue(self, content_range: str) -> None:
        match = _CONTENT_RANGE.fullmatch(content_range)
        total = int(match[3]) if match and match[3].isdigit() else None
        if match is None or int(match[1]) != self._size or (self._total and total and total != self._total):
            self._may_resume = False
            raise _AttemptFailed("changed during the download")
        # RFC 9110, section 14.4: the content ends where the range does.
        self._total = self._total or total or int(match[2]) + 1

    async def _copy(self, response: HTTPResponse) -> None:
        try:
            while piece := await response.receive(self._deadline):
                self._check_size(self._size + len(piece))
                if self._total is not None and self._size + len(piece) > self._total:
                    self._may_resume = False
                    raise _AttemptFailed(f"is larger than the announced {self._total} bytes")
                await self._take(piece)
        except Failure as failure:
            raise _AttemptFailed(f"was cut off after {self._size} bytes: {failure.reason}") from failure

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
        """Write buffered data off the event loop, because disks can be slow."""
        pieces, self._pieces, self._unwritten = self._pieces, [], 0
        if pieces:
            await self._io.run(self._write, pieces)

    def _write(self, pieces: list[bytes]) -> None:
        for piece in pieces:
            self._file.write(piece)
            self._hash.update(piece)
        # Linux starts writing what it is told will not be needed. Otherwise `fsync` waits for the whole file.
        is_synced = isinstance(self._file, io.BufferedWriter) and hasattr(os, "posix_fadvise")
        if is_synced and (fresh := self._file.tell() - self._advised) >= WRITEBACK_BYTES:
            with contextlib.suppress(OSError):  # only advice
                os.posix_fadvise(self._file.fileno(), self._advised, fresh, os.POSIX_FADV_DONTNEED)
            self._advised += fresh

    async def _restart(self, total: int | None) -> None:
        def empty() -> None:
            self._file.seek(0)
            self._file.truncate()

        await self._io.run(empty)
        self._size, self._total, self._head, self._advised = 0, total, b"", 0
        self._hash = hashlib.sha256()

    def _check_size(self, size: int) -> None:
        if size > self._options.max_bytes:
            raise OutputTooLarge(
                f"The output of task {self._output.task_id} is larger than {self._options.max_bytes} bytes.",
                hint="Increase max_bytes if you expect this size.",
                task_id=self._output.task_id,
            )

    def _check_type(self) -> str | None:
        found = mime_type_of(self._head)
        declared = {self._output.type, (self._output.mime_type or "").partition("/")[0]} & KINDS.keys()
        if self._options.any_type or (found and (not declared or found.partition("/")[0] in declared)):
            return found
        expected = " or ".join(KINDS[kind] for kind in sorted(declared)) or "media"
        raise OutputWrongType(
            f"The output of task {self._output.task_id} should be {expected}, "
            f"but its content is {found or 'not an image, video or audio file'}.",
            hint="Nothing was saved. To accept it anyway, pass any_type=True.",
            task_id=self._output.task_id,
        )

    async def _checked_address(self, url: str) -> str | None:
        """Return the IP address to connect to, or None for any.

        Connect to the address that was checked, because a second DNS lookup could return another one.
        """
        try:
            parts = urlsplit(url)
            host = (parts.hostname or "").encode("idna").decode() if parts.hostname else ""
        except ValueError as error:  # includes UnicodeError, for labels invalid in a host name
            raise self._error(f"has an invalid URL: {url[:100]!r}") from error
        if origin_of(url) == self._config.origin or self._options.private:
            return None
        if parts.scheme != "https" or not host:
            raise self._error(
                f"has a URL that is not https: {parts.scheme}://{host}",
                hint="If you trust that server, create the client with private_outputs=True.",
            )
        addresses = await self._addresses(host)
        for address in addresses:
            if not all(inner.is_global and not inner.is_multicast for inner in embedded(address)):
                raise self._error(
                    f"has a URL in a private network: {host} is {address}",
                    hint="If this is intended, create the client with private_outputs=True.",
                )
        return str(addresses[0]) if addresses else None

    async def _addresses(self, host: str) -> list[Address]:
        try:
            return [ipaddress.ip_address(host)]
        except ValueError:
            return [ipaddress.ip_address(address) for address in await self._io.resolve(host)]

    def _backoff(self, stalled: int) -> float:
        return self._io.random() * FIRST_BACKOFF * 2.0**stalled if stalled else 0.0

    def _error(self, what: str, hint: str = "") -> OutputError:
        return OutputError(
            f"The output of task {self._output.task_id} {what}.",
            hint=hint or "Nothing is lost: fetch it again while its URL is valid.",
            task_id=self._output.task_id,
        )


_STANDARD_ALPHABET = str.maketrans("-_", "+/")


def base64_content(text: str) -> bytes:
    """Decode base64 of either alphabet; raise ValueError if it is invalid. Padding may be missing."""
    plain = "".join(unquote(text).split()).rstrip("=").translate(_STANDARD_ALPHABET)
    return base64.b64decode(f"{plain}{'=' * (-len(plain) % 4)}".encode("ascii"), validate=True)


def embedded(address: Address) -> list[Address]:
    """Return an address and any IPv4 address embedded in it: mapped, NAT64 (RFC 6052), 6to4, Teredo."""
    if not isinstance(address, ipaddress.IPv6Address):
        return [address]
    if address.ipv4_mapped:
        return [address.ipv4_mapped]
    inner = [address.sixtofour, *(address.teredo or ())]
    if address in _NAT64:
        inner.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return [address, *filter(None, inner)]


FilePath = str | os.PathLike[str]
_PARAMETERS = ("aspect_ratio", "resolution", "duration_seconds", "seed", "usage", "cost")


def target_of(path: FilePath) -> str | Location:
    """Return the path, or the location in an object store, to save to; raise if it is invalid."""
    try:
        text = os.fspath(path)
        is_path = isinstance(text, str) and bool(text) and b"\0" not in os.fsencode(text)
    except (TypeError, UnicodeEncodeError):
        is_path = False
    if not is_path:
        raise InvalidArgumentError(f"{path!r:.80} is not a path.", hint="Pass a string or a pathlib.Path.")
    if not _URL.match(text):
        return text
    from piccc.media.stores import location_of

    return location_of(text)


def check_target(path: FilePath, *, is_folder: bool) -> None:
    """Raise InvalidArgumentError or ConfigurationError, before paying, if nothing can be saved there."""
    target = target_of(path)
    if not isinstance(target, str):
        return
    place = Path(target) if is_folder or is_stream(target) else Path(target).parent
    while not os.access(place, os.F_OK) and place != place.parent:
        place = place.parent
    is_right = place.is_dir() or is_stream(place)
    if not is_right or not os.access(place, os.W_OK | (os.X_OK if place.is_dir() else 0)):
        raise InvalidArgumentError(
            f"Nothing can be saved as {target}: {place} is not {'writable' if is_right else 'a folder'}.",
            hint="Nothing was sent. Choose another place.",
        )


def is_stream(path: FilePath) -> bool:
    """Return whether a path is a device, a pipe, or a standard stream, whatever that is redirected to."""
    place = Path(path)
    try:
        mode = place.stat().st_mode
    except OSError:
        return False
    is_standard = place.is_symlink() and place.as_posix().startswith(("/dev/", "/proc/"))
    return not stat.S_ISDIR(mode) and (is_standard or not stat.S_ISREG(mode))


async def save(
    account: Account,
    task: Task,
    output: Output,
    path: FilePath,
    *,
    overwrite: bool = False,
    provenance: bool = False,
    **fetch_options: Unpack[FetchOptions],
) -> Path | str:
    """Save an output to a file or object, or into a folder with a generated name; return the location.

    `provenance` also writes `NAME.json`, which records how it was made. A file with the same content is kept;
    different content raises OutputError unless `overwrite`. Partial files are removed.
    """
    check_flags(InvalidArgumentError, overwrite=overwrite, provenance=provenance)
    options = DownloadOptions(**fetch_options)
    try:
        target = await account.session.io.run(target_of, path)
        if not isinstance(target, str):
            return await _save_object(account, task, output, target, options, overwrite, provenance)
        return await _save(account, task, output, target, options, overwrite, provenance)
    except OutputError as error:
        error.task_id = task.id
        raise
    except OSError as error:
        raise OutputError(
            f"The output of task {task.id} could not be written: {error}",
            hint="Nothing is lost: try again, or save it elsewhere.",
            task_id=task.id,
        ) from error


async def _save(
    account: Account,
    task: Task,
    output: Output,
    path: str,
    options: DownloadOptions,
    overwrite: bool,
    provenance: bool,
) -> Path:
    run, stem = account.session.io.run, _stem(task, output)
    if await run(is_stream, path):
        if provenance:
            raise InvalidArgumentError(
                f"{path} cannot have a file beside it.", hint="Leave out provenance, or save to a file."
            )
        return await _save_in_place(account, task, output, Path(path), options)
    folder, name = await run(_prepare, path, stem)
    part = folder / f".{stem}.{secrets.token_hex(4)}.part"
    file = await run(part.open, "xb")
    try:
        content = await _fetch(account, task, output, file, options)
        await run(_sync, file)
        target = folder / (name or f"{stem}{suffix_of(content.mime_type)}")
        await run(_move, part, target, content, overwrite)
    finally:
        await run(_remove, file, part)
    if provenance:
        await run(_write_whole, target.with_name(f"{target.name}.json"), _provenance(task, output, content))
    return target


async def _save_in_place(
    account: Account, task: Task, output: Output, path: Path, options: DownloadOptions
) -> Path:
    # Use a temporary file: a download may have to restart, and what is in a pipe could not be undone. A
    # rename would replace the device.
    run = account.session.io.run
    file = await run(tempfile.TemporaryFile)
    try:
        await _fetch(account, task, output, file, options)
        await run(_append, file, path)
    finally:
        await run(file.close)
    return path


async def _save_object(
    account: Account,
    task: Task,
    output: Output,
    location: Location,
    options: DownloadOptions,
    overwrite: bool,
    provenance: bool,
) -> str:
    # Use a temporary file: a download may have to restart, and a started upload could not be undone.
    run = account.session.io.run
    file = await run(tempfile.TemporaryFile)
    try:
        content = await _fetch(account, task, output, file, options)
        location = location.named(f"{_stem(task, output)}{suffix_of(content.mime_type)}")
        await run(location.put, file, content.mime_type, content.sha256, overwrite)
        if provenance:
            note = io.BytesIO(_provenance(task, output, content))
            await run(location.beside(".json").put, note, "application/json", "", True)
    finally:
        await run(file.close)
    return str(location)


def _prepare(path: str, stem: str) -> tuple[Path, str | None]:
    """Create the directory and remove stale partial files; return it and the file name, if given."""
    is_folder = path.endswith(("/", os.sep)) or Path(path).is_dir()
    folder = Path(path) if is_folder else Path(path).parent
    folder.mkdir(parents=True, exist_ok=True)
    for part in folder.glob(f".{glob.escape(stem)}.*.part"):
        with contextlib.suppress(OSError):
            if time.time() - part.stat().st_mtime > STALE_PART_SECONDS:
                part.unlink()
    return folder, None if is_folder else Path(path).name


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _append(file: BinaryIO, path: Path) -> None:
    file.seek(0)
    with path.open("ab") as stream:  # truncating would undo the shell's >>
        shutil.copyfileobj(file, stream)


def _move(part: Path, target: Path, content: Content, overwrite: bool) -> None:
    if target.exists() and not overwrite:
        with target.open("rb") as file:
            is_same = hashlib.file_digest(file, "sha256").hexdigest() == content.sha256
        if is_same:
            return
        raise OutputError(
            f"{target} already exists with different content.", hint="Pass overwrite=True, or another path."
        )
    part.replace(target)


def _remove(file: BinaryIO, part: Path) -> None:
    file.close()
    part.unlink(missing_ok=True)


async def load(account: Account, task: Task, output: Output, options: DownloadOptions) -> bytes:
    """Return an output's content."""
    buffer = io.BytesIO()
    await _fetch(account, task, output, buffer, options)
    return buffer.getvalue()


async def _fetch(
    account: Account, task: Task, output: Output, file: BinaryIO, options: DownloadOptions
) -> Content:
    async def renew() -> str | None:
        fresh = await account.get(task, seconds=options.timeout)
        return fresh.outputs[output.place].url if len(fresh.outputs) == len(task.outputs) else None

    is_new = task.completed_at is None or time.time() - task.completed_at < NEW_SECONDS
    options = replace(options, private=account.private_outputs, is_new=is_new)
    session = account.session
    content = await Fetch(session.io, session.config, output, file, options, renew).run()
    if output.sha256 not in (None, content.sha256):
        raise OutputError(
            f"The output of task {task.id} differs from the one fetched before.",
            hint="Its content changed on the server: do not rely on it.",
            task_id=task.id,
        )
    output.sha256 = content.sha256
    return content


def _stem(task: Task, output: Output) -> str:
    safe = "".join(char if char.isalnum() or char in "-_." else "_" for char in task.id).lstrip(".")
    name = safe[:LONGEST_NAME] or "task"
    if name != task.id:  # other ids may become the same name
        name += f"-{hashlib.sha256(task.id.encode('utf-8', 'replace')).hexdigest()[:8]}"
    number = f"-{output.place + 1}" if len(task.outputs) > 1 else ""
    return f"{name}{number}"


def _provenance(task: Task, output: Output, content: Content) -> bytes:
    # Leave out the output's URL: it is signed, and it expires.
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
