"""Every error that piccc raises, as one tree.

    PicccError
    ├── ConfigurationError          no key, a malformed URL, an unknown setting (also a ValueError)
    ├── InvalidArgumentError        an argument refused before anything was sent (also a ValueError)
    ├── MissingExtraError           an optional part is not installed (also an ImportError)
    ├── UnsupportedContentError     a content block that the chosen dialect cannot carry
    ├── APIConnectionError          no response came: DNS, refused, TLS, proxy, reset
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
    │       └── GatewayTimeoutError     504, 524: the server behind may have gone on
    ├── ResponseError               a reply that is not what the API speaks: HTML, cut JSON, too large
    ├── StreamError                 a stream that ended wrongly; `partial` has what had arrived
    │   └── StreamTimeoutError          a deadline passed on the way (also an APITimeoutError)
    ├── SpendLimitExceeded              the spend limit that was set is used up: nothing was sent
    ├── LedgerError                 the ledger of submissions cannot be read or written
    │   └── LedgerUnavailable           its server cannot be reached
    ├── SubmissionUnknown           a task was sent and no answer came: it may exist and be billed
    ├── TaskError                   a task did not give its output; `task_id` and `task` say which
    │   ├── TaskFailed
    │   │   └── TaskRejected            by moderation
    │   ├── TaskCancelled
    │   ├── TaskExpired
    │   └── TaskWaitTimeout             still running: wait again, do not submit again (also a TimeoutError)
    ├── BatchStopped                a batch ended early; `batch` has what was made
    └── OutputError                 an output could not be saved
        ├── OutputExpired
        ├── OutputTooLarge
        └── OutputWrongType             its content is not what the task was to make

All of them pickle and deep-copy, and none of them holds a key.

What must not be sent again, because it may have been billed or cannot succeed, is also a RuntimeError (unless
it is a ValueError, a TimeoutError or an ImportError): LangGraph's default `RetryPolicy` reads no
`is_retryable`, but leaves these classes alone.
"""

from __future__ import annotations

import os
import traceback
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from piccc.tasks import Task, is_moderation

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from piccc.conversation import ChatReply, Record

SNIPPET_BYTES = 1024
"""How much of a reply's text an error keeps at most."""
DOCS_VARIABLE = "PICCC_DOCS_URL"
"""Names where the documentation site is published; unset, errors name the page in the repository."""
_FACTS = frozenset(
    {"hint", "status", "code", "request_id", "attempts", "may_have_been_billed", "retry_after"}
)
_FACTS |= {"task_id", "submission_key"}
_DOCUMENTATION = "Documentation: "
_SUBMIT_AGAIN = "Submit again if it is still wanted."


class PicccError(Exception):
    """Say what happened, to which request, and what to do next.

    Attributes:
        message: what happened, in a sentence.
        hint: what to do about it, in a sentence; may be empty.
        status: the HTTP status, or None where no answer came.
        code: the server's own word for the error, or None.
        request_id: the server's id of the request, or None.
        attempts: how many times the request was sent or tried.
        elapsed: seconds from the first attempt to the error.
        may_have_been_billed: whether the server may have acted on the request.
        is_retryable: whether the same call may succeed later and cannot be billed twice.
        retry_after: seconds the server asked to wait, or None.
        body: at most 1 KB of the reply's text, or None.
        record: the diagnostic record of the call, or None.
        task_id: the task it is about, or None.
        tasks: what `wait_all` had of the other tasks, else empty.

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
        # A note below a traceback (PEP 678), for `str(error)` goes to the model where a tool raises it.
        # What is made anew from another error's attributes keeps the notes that were added there.
        added = [note for note in getattr(self, "__notes__", ()) if not note.startswith(_DOCUMENTATION)]
        self.__notes__ = [f"{_DOCUMENTATION}{self.docs_url}", *added]

    @property
    def docs_url(self) -> str:
        """The page that documents this class of error: below `PICCC_DOCS_URL`, else in the repository."""
        # The first class of a package of ours: a caller's own subclass has no section.
        ours = (each for each in type(self).__mro__ if each.__module__.split(".")[0].endswith("piccc"))
        name = next(ours).__name__
        site = os.environ.get(DOCS_VARIABLE, "").rstrip("/")
        page = f"{site}/guides/errors/" if site else "docs/guides/errors.md"
        return f"{page}#{name.lower()}"

    def _render_traceback_(self) -> list[str]:
        """Leave out the frames of installed packages in a notebook: IPython calls this to show an error."""
        shown = traceback.TracebackException.from_exception(self)
        shown.stack = traceback.StackSummary.from_list(
            frame for frame in shown.stack if not _is_of_a_package(frame.filename)
        )
        return "".join(shown.format(chain=False)).splitlines()

    @property
    def args(self) -> tuple[Any, ...]:
        """The message, and what else JSON can carry: Celery's serializer rebuilds an error from these."""
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


def _is_of_a_package(file: str) -> bool:
    roots = {"site-packages", "langchain_piccc", "llama_index_piccc"}
    path = Path(file)
    # "<string>" is the constructor that dataclasses write.
    return file == "<string>" or Path(__file__).parent in path.parents or not roots.isdisjoint(path.parts)


class ConfigurationError(PicccError, ValueError):
    """A setting is missing or malformed: nothing was sent."""


class InvalidArgumentError(PicccError, ValueError):
    """An argument was refused before anything was sent."""


class MissingExtraError(PicccError, ImportError):
    """An optional part of the distribution is not installed; the message has the command that installs it."""

    def __init__(self, message: str, facts: Mapping[str, Any] | None = None, **details: Any) -> None:
        super().__init__(message, facts, **details)
        self.msg = message  # ImportError prints this instead of args


class UnsupportedContentError(PicccError, ValueError):
    """A message holds content that the chosen dialect cannot carry: nothing was sent."""


class APIConnectionError(PicccError):
    """No response came from the server, and nothing was billed."""

    is_retryable = True


class ResponseLostError(APIConnectionError, RuntimeError):
    """The request was sent and no response came: the server may have acted on it and billed it."""

    is_retryable = False


class APITimeoutError(APIConnectionError, TimeoutError):
    """A deadline passed; `may_have_been_billed` says whether the request had been sent."""

    is_retryable = False


class APIStatusError(PicccError):
    """The server answered with an error status.

    Attributes:
        headers: the reply's headers that hold no secret.
    """

    headers: Mapping[str, str] = {}


class InvalidRequestError(APIStatusError, RuntimeError):
    """The server refused the request as it is; sending it again will not help."""


class ContextOverflowError(InvalidRequestError):
    """The conversation is longer than the model's context window."""


class AuthenticationError(APIStatusError, RuntimeError):
    """The key is missing, wrong or revoked."""


class PaymentRequiredError(APIStatusError, RuntimeError):
    """The account has no credit left."""


class PermissionDeniedError(APIStatusError, RuntimeError):
    """The key may not do this."""


class NotFoundError(APIStatusError, RuntimeError):
    """The model, the task or the route does not exist."""


class ConflictError(APIStatusError, RuntimeError):
    """The request conflicts with another one."""


class RateLimitError(APIStatusError):
    """Too many requests; `retry_after` says how long the server asks to wait."""

    is_retryable = True


class ServerError(APIStatusError):
    """The server failed, and billed nothing (assumed)."""

    is_retryable = True


class OverloadedError(ServerError):
    """The server is overloaded and says that it did nothing."""


class GatewayTimeoutError(ServerError, RuntimeError):
    """A gateway stopped waiting for the server, which may have acted on the request and billed it."""

    is_retryable = False


class ResponseError(PicccError, RuntimeError):
    """The server's reply is not what the API speaks."""


class StreamError(PicccError, RuntimeError):
    """A stream ended wrongly: cut, stalled, malformed, or with an error of the server's.

    Attributes:
        partial: the reply as far as it had arrived.

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
    """A deadline passed before the stream was complete; `partial` has what had arrived."""


class SpendLimitExceeded(PicccError, RuntimeError):
    """The spend_limit that the caller set is used up: nothing was sent."""


class LedgerError(PicccError, RuntimeError):
    """The ledger of submissions cannot be read or written.

    Before a submission is sent this means that nothing was sent; `task_id` is set where one was accepted.
    """


class LedgerUnavailable(LedgerError):
    """The server that the ledger is on cannot be reached: nothing is submitted until it can."""


class SubmissionUnknown(PicccError, RuntimeError):
    """A task was submitted and no answer came: it may exist, and it may be billed.

    Attributes:
        submission_key: names the submission.
        request: its body, to compare with the tasks of the account.

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

    submission_key: str | None = None
    request: Mapping[str, Any] | None = None


class TaskError(PicccError, RuntimeError):
    """A task did not give its output; `task_id` says which, `task` is its last known state, or None."""

    task: Task | None = None

    @staticmethod
    def of(task: Task) -> TaskError | None:
        """Return the error of a task that ended without output, or None.

        Args:
            task: the task as it was last read.
        """
        if not task.is_terminal or (task.status == "completed" and task.outputs):
            return None
        why = task.error_message or "the server gave no reason"
        kind: type[TaskError]
        match task.status:
            case "failed" if is_moderation(task.error_code, task.error_message):
                kind, message, hint = (
                    TaskRejected,
                    f"was refused: {why}",
                    "Change the prompt and submit again.",
                )
            case "cancelled":
                kind, message, hint = TaskCancelled, f"was cancelled: {why}", _SUBMIT_AGAIN
            case "expired":
                kind, message, hint = TaskExpired, f"expired: {why}", _SUBMIT_AGAIN
            case "completed":
                kind, message = TaskFailed, "is completed but has no output"
                hint = "Do not wait longer. Ask the provider, with the task's id."
            case _:
                kind, message, hint = TaskFailed, f"failed: {why}", "Submit again, or change the parameters."
        return kind(f"Task {task.id} {message}", hint=hint, code=task.error_code, task_id=task.id, task=task)


class TaskFailed(TaskError):
    """The task ended as failed."""


class TaskRejected(TaskFailed):
    """Moderation refused the prompt or the result."""


class TaskCancelled(TaskError):
    """The task was cancelled."""


class TaskExpired(TaskError):
    """The task expired before it gave an output."""


class TaskWaitTimeout(TaskError, TimeoutError):
    """The wait ran out while the task is still running: wait again, do not submit again.

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
    """What a `BatchStopped` carries: a `piccc.Batch`, whose tasks are those of the client that ran it.

    Attributes:
        tasks: the task of each row, None where there is none.
        errors: by row, why it has no task or why its task cannot be read.
    """

    @property
    def tasks(self) -> Sequence[Any]: ...  # noqa: D102  the class says it

    @property
    def errors(self) -> Mapping[int, PicccError]: ...  # noqa: D102  the class says it

    def __iter__(self) -> Iterator[Any]: ...

    def __len__(self) -> int: ...


class BatchStopped(PicccError, RuntimeError):
    """A batch ended early: the cause says why, `batch` has every task that exists, running ones too."""

    batch: BatchSoFar | None = None


class OutputError(PicccError, RuntimeError):
    """An output could not be fetched or saved; `task_id` says of which task."""


class OutputExpired(OutputError):
    """The output's address has expired."""


class OutputTooLarge(OutputError):
    """The output is larger than the limit that was set."""


class OutputWrongType(OutputError):
    """The output's content is not what the task was to make."""


def __getattr__(name: str) -> type[PicccError]:
    if name == "BudgetExceeded":
        warnings.warn("BudgetExceeded was renamed to SpendLimitExceeded.", DeprecationWarning, stacklevel=2)
        return SpendLimitExceeded
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
