"""A JSON object on its way: what can be read of it so far, in time linear in its length."""

from __future__ import annotations

from pydantic_core import from_json

from piccc.chat import JSON

_SMALL = 1024
_SHARE = 8


class PartialObject:
    """Collect the text of one JSON object.

    A short text is read again with each piece; a long one only when it has grown by an eighth, so that the
    work stays linear in its length and what is known lags behind by no more than that.

    Attributes:
        text: the text so far.
        value: the object as far as it was last read.
    """

    __slots__ = ("_due", "text", "value")

    def __init__(self) -> None:
        self.text = ""
        self.value: JSON = {}
        self._due = 0

    def add(self, piece: str) -> None:
        """Take more of the text."""
        self.text += piece
        if len(self.text) >= self._due:
            self.read()

    def read(self) -> None:
        """Read all that has come."""
        length = len(self.text)
        self._due = length + (length // _SHARE if length > _SMALL else 1)
        try:
            value = from_json(self.text, allow_partial="trailing-strings")
        except ValueError:
            return
        if isinstance(value, dict):
            self.value = value
