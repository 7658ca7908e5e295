"""How tasks look in a notebook: a card that follows its task, a gallery for a batch; plain text elsewhere."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from html import escape
from importlib import import_module
from typing import Any
from urllib.parse import urlsplit

from piccc.tasks import Output, Task

_COLORS = {"completed": "#2a7", "failed": "#c33", "cancelled": "#888", "expired": "#888"}
_RUNNING_COLOR = "#37b"
_PROMPT_LENGTH = 120


def mimebundle(task: Task) -> dict[str, str]:
    """Return a task as HTML and as plain text."""
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
        *(_media(output) for output in task.outputs),
        "</div>",
    ]
    return "".join(parts)


def gallery(tasks: Iterable[Task]) -> str:
    """Return tasks as HTML cards in rows."""
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


def _media(output: Output) -> str:
    if urlsplit(output.url).scheme not in ("http", "https"):
        return ""
    url = escape(output.url, quote=True)
    if output.type == "video" or (output.mime_type or "").startswith("video/"):
        return f'<video src="{url}" controls loop style="width:100%;border-radius:6px"></video>'
    return f'<img src="{url}" alt="" style="width:100%;border-radius:6px">'
