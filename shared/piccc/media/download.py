"""Fetch an output into a file: streamed, bounded, whole or not at all, and never with the key."""

from __future__ import annotations

import ipaddress
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import urljoin, urlsplit

from piccc.config import Config, origin_of
from piccc.errors import OutputError, OutputExpired, OutputTooLarge
from piccc.transport.port import IO, Failure, HTTPRequest, HTTPResponse

if TYPE_CHECKING:
    from piccc.tasks import Output

MAX_OUTPUT_BYTES = 2 * 1024**3
MAX_REDIRECTS = 5


async def save(
    io: IO, config: Config, output: Output, path: str | os.PathLike[str], *, max_bytes: int = MAX_OUTPUT_BYTES
) -> Path:
    """Write an output to `path`, which appears when it is whole; return the path.

    Raise OutputExpired, OutputTooLarge (more than `max_bytes`) or OutputError; no half file stays.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    response = await _open(io, config, output)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            await _copy(io, config, output, response, file, max_bytes)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    finally:
        await response.close()
    return target


async def _open(io: IO, config: Config, output: Output) -> HTTPResponse:
    url = output.url
    for _ in range(MAX_REDIRECTS + 1):
        _check(url, config, output)
        by = None if config.timeout.total is None else io.now() + config.timeout.total
        headers = [("accept", "*/*"), ("accept-encoding", "identity")]
        try:
            response = await io.send(
                HTTPRequest("GET", url, headers, None, config.timeout.connect, config.timeout.idle, by)
            )
        except Failure as failure:
            raise _error(output, f"could not be fetched: {failure.reason}") from failure
        location = response.headers.get("location")
        if not (300 <= response.status < 400 and location):
            break
        await response.close()
        url = urljoin(url, location)
    if response.status == 200:
        return response
    await response.close()
    if response.status in (403, 404, 410):
        raise OutputExpired(
            f"The output of task {output.task_id} is gone (HTTP {response.status}).",
            hint=f"Read the task again for a fresh address: client.tasks.get({output.task_id!r}).",
            status=response.status,
            task_id=output.task_id,
        )
    raise _error(output, f"could not be fetched: HTTP {response.status}")


async def _copy(
    io: IO, config: Config, output: Output, response: HTTPResponse, file: BinaryIO, max_bytes: int
) -> None:
    size = 0
    announced = response.headers.get("content-length", "")
    by = None if config.timeout.total is None else io.now() + config.timeout.total
    try:
        while piece := await response.receive(by):
            size += len(piece)
            if size > max_bytes:
                raise OutputTooLarge(
                    f"The output of task {output.task_id} is larger than {max_bytes} bytes.",
                    hint="Raise max_bytes if that is expected.",
                    task_id=output.task_id,
                )
            file.write(piece)
    except Failure as failure:
        raise _error(output, f"broke off after {size} bytes: {failure.reason}") from failure
    if announced.isdigit() and size != int(announced):
        raise _error(output, f"broke off after {size} of {announced} bytes")


def _check(url: str, config: Config, output: Output) -> None:
    parts = urlsplit(url)
    if origin_of(url) == config.origin:
        return
    if parts.scheme != "https":
        raise _error(output, f"has an address that is not https: {parts.scheme}://{parts.hostname}")
    try:
        address = ipaddress.ip_address(parts.hostname or "")
    except ValueError:
        return
    if not address.is_global:
        raise _error(output, f"has a private address: {address}")


def _error(output: Output, what: str) -> OutputError:
    return OutputError(
        f"The output of task {output.task_id} {what}.",
        hint="Nothing is lost: fetch it again, as long as its address lasts.",
        task_id=output.task_id,
    )
