"""What the stream readers of both dialects share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from piccc._dialects.json_text import SurrogateJoiner, read_event
from piccc._dialects.sse import Event
from piccc.conversation import JSON, ChatReply, Delta, ReplyBuilder


class Reader:
    """Turn one stream's events into deltas, and add them up; what an event means the dialect says.

    `is_complete` tells whether the proof of a whole answer has come, `is_done` that nothing more will.
    """

    def __init__(self, names: Mapping[str, str]) -> None:
        self._names = names
        self.is_complete = False
        self.is_done = False
        self._builder = ReplyBuilder()
        self._characters = SurrogateJoiner()
        self._usage: JSON = {}

    def feed(self, events: Iterable[Event]) -> list[Delta]:
        """Return what the events say; raise StreamError at an error or a malformed one."""
        deltas: list[Delta] = []
        try:
            for event in events:
                if self.is_done:
                    break
                if event.data:
                    deltas += self._take(event)
        finally:
            self._builder.add(deltas)
        return deltas

    def finish(self) -> list[Delta]:
        """Return what was held back for a continuation that never came."""
        deltas = [*self._characters.finish(), *self._rest()]
        self._builder.add(deltas)
        return deltas

    def reply(self) -> ChatReply:
        """Return the reply as far as it has come."""
        return self._builder.build()

    def _take(self, event: Event) -> list[Delta]:
        body, has_halves = read_event(event)
        deltas = self._read(event, body)
        if has_halves or self._characters.is_waiting:
            deltas = self._characters.join(deltas)
        return deltas

    def _read(self, event: Event, body: JSON) -> list[Delta]:
        """Return what an event says."""
        raise NotImplementedError

    def _rest(self) -> Iterable[Delta]:
        """Return what the dialect held back."""
        return ()
