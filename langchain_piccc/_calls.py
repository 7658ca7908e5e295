"""Which call of a tool is being run: of which conversation, under which id."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from langchain_core.messages import ToolMessage

from piccc.media.errand import submission_key


@dataclass(slots=True)
class Call:
    """A call of a tool; `failure` is what its program gets of an error."""

    tool_call_id: str | None = None
    thread_id: str | None = None
    failure: dict[str, Any] | None = None

    def key(self, type: str, arguments: Mapping[str, Any]) -> str | None:
        """Return the key of the submission, the same when the tool is run again; None without an id.

        The arguments count too, for some servers number the calls of each reply anew.
        """
        if self.tool_call_id is None:
            return None
        return submission_key("langchain", self.thread_id, self.tool_call_id, type, dict(arguments))

    def completed(self, output: Any) -> Any:
        """Return what the tool gives out, with the failure as its artifact."""
        if isinstance(output, ToolMessage) and output.artifact is None:
            output.artifact = self.failure
        return output


_current: ContextVar[Call | None] = ContextVar("piccc_call", default=None)


@contextmanager
def calling(options: Mapping[str, Any]) -> Iterator[Call]:
    """Remember the call that `BaseTool.run` was given these options for, for as long as it runs."""
    config = options.get("config") or {}
    thread_id = (config.get("configurable") or {}).get("thread_id")
    call = Call(options.get("tool_call_id"), None if thread_id is None else str(thread_id))
    token = _current.set(call)
    try:
        yield call
    finally:
        _current.reset(token)


def current() -> Call:
    """Return the call that is being run."""
    return _current.get() or Call()
