"""Every error that piccc raises, as one tree.

    PicccError
    ├── ConfigurationError          no key, a malformed URL, an unknown setting (also a ValueError)
    ├── InvalidArgumentError        an argument rejected before anything was sent (also a ValueError)
    ├── MissingExtraError           an optional part is not installed (also an ImportError)
    ├── UnsupportedContentError     a content block that the chosen dialect does not support
    ├── APIConnectionError          no response: DNS, refused, TLS, proxy, reset
    │   ├── ResponseLostError           the request was sent: it may have been billed
    │   └── APITimeoutError             a deadline passed (also a TimeoutError)
    ├── APIStatusError              the server answered with an error status
    │   ├── InvalidRequestError         400, 413, 422 and other 4xx
    │   │   └── ContextOverflowError    the conversation is longer than the model's window
    │   ├── AuthenticationError         401
    │   ├── PaymentRequiredError        402
    │   ├── PermissionDeniedError       403
    │   ├── NotFoundError               404
    │   ├── ConflictError               409
    │   ├── RateLimitError              429
    │   └── ServerError                 5xx
    │       ├── OverloadedError         503, 529
    │       └── GatewayTimeoutError     504, 524: the upstream server may still be working on it
    ├── ResponseError               a malformed response: HTML, truncated JSON, too large
    ├── StreamError                 a stream that failed; `partial` has what was received
    │   └── StreamTimeoutError          a deadline passed mid-stream (also an APITimeoutError)
    ├── SpendLimitExceeded              the spend limit is used up: nothing was sent
    ├── LedgerError                 the ledger of submissions cannot be read or written
    │   └── LedgerUnavailable           its server cannot be reached
    ├── SubmissionUnknown           a task was sent but got no response: it may exist and be billed
    ├── TaskError                   a task ended without output; `task_id` and `task` say which
    │   ├── TaskFailed
    │   │   └── TaskRejected            by moderation
    │   ├── TaskCancelled
    │   ├── TaskExpired
    │   └── TaskWaitTimeout             still running: wait again, do not resubmit (also a TimeoutError)
    ├── BatchStopped                a batch ended early; `batch` has its tasks so far
    └── OutputError                 an output could not be saved
        ├── OutputExpired
        ├── OutputTooLarge
        └── OutputWrongType             its content is not of the requested type

All of them can be pickled and deep-copied. None contains a key.

LangGraph's default `RetryPolicy` ignores `is_retryable` but does not retry a RuntimeError, ValueError,
TimeoutError or ImportError. So each error that must not be retried, because the request may have been billed
or cannot succeed, is one of these.
"""

from __future__ import annotations

import os
import traceback
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from piccc.conversation import ChatReply, Record
    from piccc.tasks import Task

SNIPPET_BYTES = 1024
"""How much of the response body an error keeps."""
DOCS_VARIABLE = "PICCC_DOCS_URL"
"""The documentation site's URL; if it is unset, errors name the page in the repository."""
_FACTS = frozenset(
    {"hint", "status", "code", "request_id", "attempts", "may_have_been_billed", "retry_after"}
)
_FACTS |= {"task_id", "submission_key"}
_DOCUMENTATION = "Documentation: "
_SUBMIT_AGAIN = "Submit it again if you still need it."


class PicccError(Exception):
    """Base class of all errors: what happened, to which request, and what to do next.

    Attributes:
        message: what happened, in one sentence.
        hint: what to do about it, in one sentence; may be empty.
        status: the HTTP status, or None if there was no response.
        code: the server's error code, or None.
        request_id: the server's id for the request, or None.
        attempts: how many times the request was attempted.
        elapsed: seconds from the first attempt to the error.
        may_have_been_billed: whether the server may have acted on the request.
        is_retryable: whether the same call may succeed later and cannot be billed twice.
        retry_after: seconds the server asked to wait, or None.
        body: up to 1 KB of the response body, or None.
        record: the diagnostic record of the call, or None.
        task_id: the id of the task concerned, or None.
        tasks: the last known state of the other tasks of `wait_all`, else empty.

    Examples:
        >>> from piccc import Client, PicccError
        >>> try:
        ...     reply = Client(max_retries=0).chat.create("Hello")
        ... except PicccError as error:
        ...     print(error.status, error.retry_after, error.may_have_been_billed)
        429 2.0 False
    """

    task_id: str | None = None
    is_retryable: bool = False
    tasks: Sequence[Task] = ()

    def __init__(
        self,
        message: str,
        facts: Mapping[str, Any] | None = None,
        *,
        hint: str = "",
        status: int | None = None,
        code: str | None = None,
        request_id: str | None = None,
        attempts: int = 0,
        elapsed: float = 0.0,
        may_have_been_billed: bool = False,
        retry_after: float | None = None,
        body: str | None = None,
        record: Record | None = None,
        **details: Any,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.status = status
        self.code = code
        self.request_id = request_id
        self.attempts = attempts
        self.elapsed = elapsed
        self.may_have_been_billed = may_have_been_billed
        self.retry_after = retry_after
        self.body = body
        self.record = record
        for name, value in {**(facts or {}), **details}.items():
            setattr(self, name, value)
        # A note (PEP 678) shows in tracebacks only: if a tool raises, `str(error)` goes to the model.
        # An error rebuilt from another error's attributes keeps the notes that were added to it.
        added = [note for note in getattr(self, "__notes__", ()) if not note.startswith(_DOCUMENTATION)]
        self.__notes__ = [f"{_DOCUMENTATION}{self.docs_url}", *added]

    @property
    def docs_url(self) -> str:
        """The page that documents this error class: under `PICCC_DOCS_URL`, else in the repository."""
        # A subclass defined by the caller has no section: use its first base class from our packages.
        documented = (cls for cls in type(self).__mro__ if cls.__module__.split(".")[0].endswith("piccc"))
        name = next(documented).__name__
        site = os.environ.get(DOCS_VARIABLE, "").rstrip("/")
        page = f"{site}/guides/errors/" if site else "docs/guides/errors.md"
        return f"{page}#{name.lower()}"

    def _render_traceback_(self) -> list[str]:
        """Omit frames of installed packages; IPython calls this to show an error in a notebook."""
        shown = traceback.TracebackException.from_exception(self)
        shown.stack = traceback.StackSummary.from_list(
            frame for frame in shown.stack if not _is_installed(frame.filename)
        )
        return "".join(shown.format(chain=False)).splitlines()

    @property
    def args(self) -> tuple[Any, ...]:
        """The message and the JSON-serializable facts, from which Celery's serializer rebuilds an error."""
        args = super().args
        facts = {name: value for name in sorted(_FACTS) if (value := getattr(self, name, None))}
        return (*args[:1], facts) if facts else args[:1]

    @args.setter
    def args(self, args: tuple[Any, ...]) -> None:
        BaseException.__dict__["args"].__set__(self, args)

    def __str__(self) -> str:
        facts = [
            f"HTTP {self.status}" if self.status else "",
            f"code {self.code}" if self.code else "",
            f"request {self.request_id}" if self.request_id else "",
            "" if self.retry_after is None else f"retry after {self.retry_after:g} s",
            f"{self.attempts} attempts in {self.elapsed:.1f} s" if self.attempts > 1 else "",
            "may have been billed" if self.may_have_been_billed else "",
        ]
        text = self.message
        if known := ", ".join(fact for fact in facts if fact):
            text += f" ({known})"
        return f"{text}\n{self.hint}" if self.hint else text


def _is_installed(file: str) -> bool:
    roots = {"site-packages", "langchain_piccc", "llama_index_piccc"}
    path = Path(file)
    # "<string>" is a constructor generated by dataclasses.
    return file == "<string>" or Path(__file__).parent in path.parents or not roots.isdisjoint(path.parts)


class ConfigurationError(PicccError, ValueError):
    """A setting is missing or malformed: nothing was sent."""


class InvalidArgumentError(PicccError, ValueError):
    """An argument was rejected before anything was sent."""


class MissingExtraError(PicccError, ImportError):
    """An optional dependency is not installed; the message has the command that installs it."""

    def __init__(self, message: str, facts: Mapping[str, Any] | None = None, **details: Any) -> None:
        super().__init__(message, facts, **details)
        self.msg = message  # ImportError prints this instead of args


class UnsupportedContentError(PicccError, ValueError):
    """A message has content that the chosen dialect does not support: nothing was sent."""


class APIConnectionError(PicccError):
    """The server did not respond, and nothing was billed.

    Subclasses may have been billed: to retry on this class, check `may_have_been_billed` first.
    """

    is_retryable = True


class ResponseLostError(APIConnectionError, RuntimeError):
    """The request was sent but got no response: the server may have acted on it and billed it."""

    is_retryable = False


class APITimeoutError(APIConnectionError, TimeoutError):
    """A deadline passed; `may_have_been_billed` says whether the request had been sent."""

    is_retryable = False


class APIStatusError(PicccError):
    """The server answered with an error status.

    Attributes:
        headers: the response headers, without those that may contain secrets.
    """

    headers: Mapping[str, str] = {}


class InvalidRequestError(APIStatusError, RuntimeError):
    """The server rejected the request; sending it again unchanged will not help."""


class ContextOverflowError(InvalidRequestError):
    """The conversation is longer than the model's context window."""


class AuthenticationError(APIStatusError, RuntimeError):
    """The key is missing, wrong or revoked."""


class PaymentRequiredError(APIStatusError, RuntimeError):
    """The account has no credit left."""


class PermissionDeniedError(APIStatusError, RuntimeError):
    """The key does not have permission for this."""


class NotFoundError(APIStatusError, RuntimeError):
    """The model, the task or the route does not exist."""


class ConflictError(APIStatusError, RuntimeError):
    """The request conflicts with another one."""


class RateLimitError(APIStatusError):
    """Too many requests were sent; `retry_after` says how long the server asks to wait."""

    is_retryable = True


class ServerError(APIStatusError):
    """The server failed and billed nothing (assumed)."""

    is_retryable = True


class OverloadedError(ServerError):
    """The server is overloaded and reports that it did not process the request."""


class GatewayTimeoutError(ServerError, RuntimeError):
    """A gateway stopped waiting for the server, which may have acted on the request and billed it."""

    is_retryable = False


class ResponseError(PicccError, RuntimeError):
    """The server's response is not a valid API response."""


class StreamError(PicccError, RuntimeError):
    """A stream was cut off, stalled, was malformed, or ended with a server error.

    Attributes:
        partial: the part of the reply that was received.

    Examples:
        >>> from piccc import Client
        >>> from piccc.errors import StreamError
        >>> try:
        ...     for delta in Client().chat.stream("Write a launch caption for a ceramic mug."):
        ...         pass
        ... except StreamError as error:
        ...     print(error.partial.text)
        Meet
    """

    partial: ChatReply | None = None


class StreamTimeoutError(StreamError, APITimeoutError):
    """A deadline passed before the stream was complete; `partial` has what was received."""


class SpendLimitExceeded(PicccError, RuntimeError):
    """The client's spend_limit is used up: nothing was sent."""


class LedgerError(PicccError, RuntimeError):
    """The ledger of submissions cannot be read or written.

    If a submission raises it, nothing was sent, unless `task_id` names a task that was already accepted.
    """


class LedgerUnavailable(LedgerError):
    """The ledger's server cannot be reached: nothing is submitted until it can."""


class SubmissionUnknown(PicccError, RuntimeError):
    """A task was submitted but got no response: it may exist and may be billed.

    Attributes:
        submission_key: identifies the submission.
        request: the body that was sent, to compare with the account's tasks.

    Examples:
        >>> from piccc import Client
        >>> from piccc.errors import SubmissionUnknown
        >>> client = Client(ledger="tasks.db")
        >>> try:
        ...     task = client.images.submit("A ceramic mug", model="piccc-image")
        ... except SubmissionUnknown as lost:
        ...     task = client.tasks.resume(lost.submission_key)
        >>> task.prompt
        'A ceramic mug'
    """

    submission_key: str = ""
    request: Mapping[str, Any] | None = None


class TaskError(PicccError, RuntimeError):
    """A task gave no output; `task_id` identifies it, and `task` is its last known state or None."""

    task_id: str = ""
    task: Task | None = None

    @staticmethod
    def of(task: Task) -> TaskError | None:
        """Return the error for a task that ended without output, or None.

        Args:
            task: the task's last known state.
        """
        if not task.is_terminal or (task.status == "completed" and task.outputs):
            return None
        from piccc.tasks import is_moderation  # chat does not need it

        why = task.error_message or "the server gave no reason"
        kind: type[TaskError]
        match task.status:
            case "failed" if is_moderation(task.error_code, task.error_message):
                kind, message, hint = (
                    TaskRejected,
                    f"was rejected: {why}",
                    "Change the prompt and submit again.",
                )
            case "cancelled":
                kind, message, hint = TaskCancelled, f"was cancelled: {why}", _SUBMIT_AGAIN
            case "expired":
                kind, message, hint = TaskExpired, f"expired: {why}", _SUBMIT_AGAIN
            case "completed":
                kind, message = TaskFailed, "completed but has no output"
                hint = "Waiting longer will not help. Contact the provider with the task's id."
            case _:
                kind, message, hint = TaskFailed, f"failed: {why}", "Submit again, or change the parameters."
        return kind(f"Task {task.id} {message}", hint=hint, code=task.error_code, task_id=task.id, task=task)


class TaskFailed(TaskError):
    """The task failed."""


class TaskRejected(TaskFailed):
    """Moderation rejected the prompt or the result."""


class TaskCancelled(TaskError):
    """The task was cancelled."""


class TaskExpired(TaskError):
    """The task expired before it produced an output."""


class TaskWaitTimeout(TaskError, TimeoutError):
    """The wait timed out while the task is still running: wait again, do not resubmit.

    Examples:
        >>> from piccc import Client
        >>> from piccc.errors import TaskWaitTimeout
        >>> client = Client()
        >>> try:
        ...     video = client.videos.generate("A mug that turns", model="piccc-video", timeout=0.1)
        ... except TaskWaitTimeout as error:
        ...     video = client.tasks.get(error.task_id)
        >>> video.is_terminal
        False
    """


class BatchSoFar(Protocol):
    """The batch of a `BatchStopped`: a `piccc.Batch` with the kind of tasks that its client makes.

    Attributes:
        tasks: each row's task, or None.
        errors: by row number, why a row has no task or why its task cannot be read.
        running: the tasks that have not ended; they keep running and are billed.
    """

    @property
    def tasks(self) -> Sequence[Any]: ...  # noqa: D102  see the class docstring

    @property
    def errors(self) -> Mapping[int, PicccError]: ...  # noqa: D102  see the class docstring

    @property
    def running(self) -> Sequence[Any]: ...  # noqa: D102  see the class docstring

    def __iter__(self) -> Iterator[Any]: ...

    def __len__(self) -> int: ...


class BatchStopped(PicccError, RuntimeError):
    """A batch ended early: its cause says why, and `batch` has every task so far, including running ones."""

    batch: BatchSoFar | None = None


class OutputError(PicccError, RuntimeError):
    """An output could not be fetched or saved; `task_id` identifies its task."""


class OutputExpired(OutputError):
    """The output's URL has expired."""


class OutputTooLarge(OutputError):
    """The output is larger than the limit."""


class OutputWrongType(OutputError):
    """The output's content is not of the requested type."""


def __getattr__(name: str) -> type[PicccError]:
    if name == "BudgetExceeded":
        warnings.warn("BudgetExceeded was renamed to SpendLimitExceeded.", DeprecationWarning, stacklevel=2)
        return SpendLimitExceeded
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
