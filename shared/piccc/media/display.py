"""How tasks look in a notebook: a card that follows its task, a gallery for a batch; plain text elsewhere."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Iterable
from html import escape
from importlib import import_module
from typing import Any
from urllib.parse import urlsplit

from piccc.media.preview import Preview, complete
from piccc.tasks import Output, Task

_COLORS = {"completed": "#2a7", "failed": "#c33", "cancelled": "#888", "expired": "#888"}
_RUNNING_COLOR = "#37b"
_PROMPT_LENGTH = 120
_MEDIA = "width:100%;border-radius:6px"


def mimebundle(task: Task) -> dict[str, str]:
    """Return a task as HTML, with copies of its pictures, and as plain text."""
    _complete([task])
    return {"text/html": card(task), "text/plain": line(task)}


def line(task: Task) -> str:
    """Return a task in one line."""
    progress = "" if task.progress is None or task.is_terminal else f" {task.progress:.0f}%"
    return f"{task.type or 'task'} {task.id}: {task.status}{progress}"


def card(task: Task, width: int = 420) -> str:
    """Return a task as an HTML card: its status and progress, then its pictures and films."""
    color = _COLORS.get(task.status, _RUNNING_COLOR)
    prompt = task.prompt if len(task.prompt) <= _PROMPT_LENGTH else f"{task.prompt[:_PROMPT_LENGTH]}…"
    frame = f"max-width:{width}px;border:1px solid #8886;border-radius:8px;padding:10px;margin:4px 0"
    parts = [
        f'<div style="{frame}">',
        f'<div><b style="color:{color}">{escape(task.status)}</b> <code>{escape(task.id)}</code></div>',
        f'<div style="opacity:.8">{escape(prompt)}</div>' if prompt else "",
        _bar(task),
        f"<div>{escape(task.error_message)}</div>" if task.error_message else "",
        *(_media(output, task.prompt) for output in task.outputs),
        "</div>",
    ]
    return "".join(parts)


def gallery(tasks: Iterable[Task]) -> str:
    """Return tasks as HTML cards in rows, with copies of their pictures."""
    tasks = list(tasks)
    _complete(tasks)
    cards = "".join(card(task, width=260) for task in tasks)
    return f'<div style="display:flex;flex-wrap:wrap;gap:8px">{cards}</div>'


class Card:
    """A task's card in a notebook, which can be changed where it stands."""

    def __init__(self, task: Task) -> None:
        self._task = task

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        return mimebundle(self._task)

    def show(self) -> str:
        """Show it, and return the name under which it can be changed."""
        display_id = secrets.token_hex(8)
        import_module("IPython.display").display(self, display_id=display_id)
        return display_id

    def update(self, display_id: str) -> None:
        """Change the card that was shown under this name."""
        import_module("IPython.display").display(self, display_id=display_id, update=True)


def _bar(task: Task) -> str:
    if task.is_terminal or task.progress is None:
        return ""
    return f'<progress max="100" value="{task.progress:.0f}" style="width:100%"></progress>'


def _complete(tasks: Iterable[Task]) -> None:
    if _is_in_terminal():
        return
    pictures = [output for task in tasks for output in task.outputs if not _is_film(output)]
    complete(preview for output in pictures if (preview := _preview(output)) is not None)


def _is_in_terminal() -> bool:
    """Tell whether IPython runs in a terminal, which shows the plain text alone."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return shell is not None and "text/html" not in shell.display_formatter.active_types


def _preview(output: Output) -> Preview | None:
    # An output that belongs to no client has none.
    return getattr(output, "preview", None)


def _is_film(output: Output) -> bool:
    return output.type == "video" or (output.mime_type or "").startswith("video/")


def _media(output: Output, prompt: str) -> str:
    preview = _preview(output)
    kept = preview and (preview.file_url if _is_film(output) else preview.data_url)
    if not kept and urlsplit(output.url).scheme not in ("http", "https"):
        return ""
    url = escape(kept or output.url, quote=True)
    if _is_film(output):
        # The fragment has the browser show the first picture until it is played.
        return f'<video src="{url}#t=0.01" controls loop preload="metadata" style="{_MEDIA}"></video>'
    return f'<img src="{url}" alt="{escape(prompt, quote=True)}" loading="lazy" style="{_MEDIA}">'
