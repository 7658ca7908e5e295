"""Which call of a tool a workflow's step is running, so that a step that runs again does not pay again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from piccc.media.errand import submission_key

if TYPE_CHECKING:
    from workflows.runtime.types.results import StepWorkerContext


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a tool in a step.

    Attributes:
        key: names its submission, the same when the step is run again.
        waits: names its waits in the workflow's context, also in one that was saved and goes on in a new run.
    """

    key: str
    waits: str

    def waiter_id(self, task_id: str, turn: int) -> str:
        """Return the id under which it waits for its task, for the n-th time."""
        return f"piccc/{self.waits}/{turn}/{task_id}"

    def begun_waits(self) -> list[str]:
        """Return the tasks for which it has begun to wait, in their order.

        A saved context keeps them, so a call that waits finds its task even where no ledger does.
        """
        step = _current_step()
        waiters = [each.waiter_id for each in step.state.collected_waiters] if step else []
        ours = [each.split("/", 3) for each in waiters if each.startswith(f"piccc/{self.waits}/")]
        return [task_id for _, _, _, task_id in sorted(ours, key=lambda parts: int(parts[2]))]


def current_call(session: str, type: str, arguments: Mapping[str, Any]) -> Call | None:
    """Return the call that is being run; None outside of a step.

    A step of an agent is known by the id of the model's call. Another step is known by its place in the run,
    and the run by `session`, else by an id of its own that a restart does not keep. The arguments count too,
    for some servers number the calls of each reply anew.
    """
    step = _current_step()
    if step is None:
        return None
    tool_id = getattr(step.event, "tool_id", None)
    run = "" if tool_id or session else _run_id()
    parts = (session, tool_id or step.state.work_item_id, type, dict(arguments))
    return Call(submission_key("llama-index", run, *parts), submission_key("wait", *parts))


def signals() -> tuple[type[Exception], ...]:
    """Return the exception by which a workflow suspends a step until an event comes."""
    try:
        from workflows.runtime.types.results import WaitingForEvent
    except ImportError:
        return ()
    return (WaitingForEvent,)


def _run_id() -> str:
    from llama_index_instrumentation.dispatcher import active_instrument_tags

    return str(active_instrument_tags.get().get("llamaindex.run_id", ""))


def _current_step() -> StepWorkerContext | None:
    try:
        from workflows.runtime.types.results import StepWorkerStateContextVar
    except ImportError:
        return None
    return StepWorkerStateContextVar.get(None)
