"""What the events of one stream have in common, so that of most of them only the text need be read. Pure."""

from __future__ import annotations

from pydantic_core import from_json

from piccc._dialects.sse import Event
from piccc.conversation import JSON, Delta, ReasoningDelta, TextDelta


class EventTemplate:
    """An event's JSON around its text, parsed once: with another text in it, an event says just that text.

    It holds for texts that stand in JSON as they are, which leaves quotes and escapes to the parser.
    """

    __slots__ = ("_after", "_before", "_block", "_is_used", "_kind", "_type")

    def __init__(self) -> None:
        self._type = ""
        self._before = self._after = ""
        self._kind: type[TextDelta | ReasoningDelta] = TextDelta
        self._block = 0
        self._is_used = True

    def read(self, event: Event) -> TextDelta | ReasoningDelta | None:
        """Return what the event says if it is like the last that was learnt."""
        type, data = event
        if type == self._type and data.startswith(self._before) and data.endswith(self._after):
            text = data[len(self._before) : -len(self._after)]
            if _is_plain(text):
                self._is_used = True
                return self._kind(text, self._block)
        return None

    def learn(self, event: Event, body: JSON, holder: JSON, key: str, delta: Delta) -> None:
        """Expect more events like this one, which says no more than this delta: `holder[key]` of its `body`.

        Once no event was like the last that was learnt, no other is: such a stream is not worth it.
        """
        if not self._is_used or not isinstance(delta, TextDelta | ReasoningDelta):
            return
        if holder.get(key) != delta.text or not _is_plain(delta.text):
            return
        before, quoted, after = event.data.partition(f'"{delta.text}"')
        if not quoted:
            return
        # The same words may stand elsewhere too: another text in their place shows whether it is read there.
        holder[key] = other = f"{delta.text}."
        try:
            is_there = from_json(f'{before}"{other}"{after}') == body
        except ValueError:
            is_there = False
        if is_there:
            self._type, self._before, self._after = event.type, f'{before}"', f'"{after}'
            self._kind, self._block = type(delta), delta.block
            self._is_used = False


def _is_plain(text: str) -> bool:
    return bool(text) and text.isprintable() and '"' not in text and "\\" not in text
