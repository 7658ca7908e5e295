"""One process polls for all that share a ledger: its lease, and the stream by which the others follow."""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field

from piccc._dialects.tasks import read_task
from piccc.errors import ResponseError
from piccc.media.ledgers import Note, TaskStream
from piccc.tasks import Task

LEASE_SECONDS = 10.0
RENEWAL_SECONDS = 3.0


def note_of_end(task: Task) -> Note:
    """Return the note that a task has ended."""
    return Note("ended", task.id, json.dumps(task.to_dict()))


def note_of_wait(task: Task, account: str) -> Note:
    """Return the note that somebody waits for a task of an account."""
    return Note("wanted", task.id, f"{account} {task.created_at or ''}")


@dataclass(slots=True)
class News:
    """What an exchange brought.

    Attributes:
        wanted: tasks of other processes to poll, where this one leads.
        ended: tasks that others have read.
        look: ids of tasks that whoever waits for them is to read.
        is_new: whether the lead was taken or lost.
        is_cut: whether some of what was posted is gone, so that anything may have ended.
    """

    wanted: list[Task] = field(default_factory=list)
    ended: list[Task] = field(default_factory=list)
    look: list[str] = field(default_factory=list)
    is_new: bool = False
    is_cut: bool = False


class Fleet:
    """One poller's part in the polling of an account. Its methods block, and none runs twice at once."""

    def __init__(self, stream: TaskStream, server: str, account: str) -> None:
        self.leads = False
        self._stream = stream
        self._server = server  # of one stream: a receiver of webhooks may have another key, or none
        self._account = account
        self._holder = uuid.uuid4().hex
        self._lease = f"polling:{account}"
        self._cursor: str | None = None
        self._renew_at = -math.inf

    def exchange(self, now: float, notes: Iterable[Note]) -> News:
        """Post notes, keep or try for the lead, and return what others have posted."""
        news = News()
        if self._cursor is None:
            self._cursor = self._stream.notes(self._server, None).cursor
        if now >= self._renew_at or not self.leads:
            self._renew(now, news)
        # Nobody else is to poll what the one that leads waits for itself.
        if posted := [note for note in notes if not (self.leads and note.kind == "wanted")]:
            self._stream.post(self._server, posted)
        while (found := self._stream.notes(self._server, self._cursor)).notes:
            self._cursor = found.cursor
            news.is_cut = news.is_cut or found.is_cut
            for note in found.notes:
                self._take(note, news)
        if self.leads and (news.is_new or news.is_cut):
            for id, text in self._stream.open_tasks(self._server):
                self._want(id, text, news)
        return news

    def leave(self) -> None:
        """Let another process lead."""
        if self.leads:
            self.leads = False
            self._stream.lease(self._lease, self._holder, 0.0)

    def _renew(self, now: float, news: News) -> None:
        led, self.leads = self.leads, self._stream.lease(self._lease, self._holder, LEASE_SECONDS)
        self._renew_at = now + RENEWAL_SECONDS
        news.is_new = led != self.leads

    def _take(self, note: Note, news: News) -> None:
        if note.kind == "wanted":
            if self.leads:
                self._want(note.task_id, note.text, news)
            return
        try:
            news.ended.append(read_task(json.loads(note.text)))
        except (ValueError, ResponseError):  # there is no text where it could not be read
            news.look.append(note.task_id)

    def _want(self, task_id: str, text: str, news: News) -> None:
        account, _, created_at = text.partition(" ")
        if account == self._account:
            news.wanted.append(Task(task_id, created_at=float(created_at) if created_at else None))
