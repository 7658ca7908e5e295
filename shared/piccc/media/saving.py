"""Keep an output in memory, or in a file that appears when it is whole, with a note of its origin."""

from __future__ import annotations

import io
import json
import os
import secrets
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import urlsplit

from piccc._version import __version__
from piccc.errors import OutputError
from piccc.media.download import Content, Fetch, Terms
from piccc.media.sniffing import suffix_of
from piccc.tasks import Output, Task

if TYPE_CHECKING:
    from piccc.media.account import Account

FilePath = str | os.PathLike[str]
_PARAMETERS = ("aspect_ratio", "resolution", "duration_seconds", "seed", "usage", "cost")


async def save(
    account: Account, task: Task, output: Output, path: FilePath, terms: Terms, *, provenance: bool = False
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


async def load(account: Account, task: Task, output: Output, terms: Terms) -> bytes:
    """Return an output's content."""
    buffer = io.BytesIO()
    await _fetch(account, task, output, buffer, terms)
    return buffer.getvalue()


async def _fetch(account: Account, task: Task, output: Output, file: BinaryIO, terms: Terms) -> Content:
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
