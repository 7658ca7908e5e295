"""The tasks of one account: submit, read, list, find again. Coroutines that sync and async both drive."""

from __future__ import annotations

import math
import os
import threading
import time
from collections import deque
from collections.abc import (
    AsyncIterator,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager, contextmanager, suppress
from copy import copy
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from typing import Any, Literal
from urllib.parse import quote, urljoin

from piccc._dialects.tasks import read_task, read_task_list
from piccc._http.backend import Backend, Signal, T, Ts
from piccc._http.connections import retry_after
from piccc._http.session import Session
from piccc.config import origin_of
from piccc.errors import (
    InvalidArgumentError,
    LedgerError,
    NotFoundError,
    PicccError,
    SubmissionUnknown,
    TaskError,
)
from piccc.media.ledgers import Ledger, MemoryLedger, Note, SpendingLedger, Submission, TaskStream
from piccc.media.polling import READ_SECONDS, OnPoll, Subscription, note_of_end, take, wake
from piccc.media.requests import (
    CLOCK_SKEW,
    LONGEST_CLOCK_JUMP,
    SpendLimit,
    TaskRequest,
    as_task,
    cannot_be_excluded,
    check_copy,
    is_recent,
    nearest,
)
from piccc.media.schedule import Pages, Polling
from piccc.tasks import Page, Task

Lost = Literal["ask", "resend"]
"""What to do about a submission that may not have arrived: raise, or send it again."""
MAX_SUBMISSIONS = 32
"""How many submissions of a client may be under way at a time."""
RESEND_SECONDS = 60.0
"""How old a lost submission must be before the list proves that there is no such task."""
LOOK_AGAIN_SECONDS = 1.0
FLIGHT_SECONDS = 10.0
"""The age at which a submission of another process cannot be under way any more."""


class Account:
    """What can be asked of the task routes of one server with one key."""

    def __init__(
        self,
        session: Session,
        *,
        ledger: Ledger | None = None,
        polling: Polling | None = None,
        spend_limit: SpendLimit | None = None,
        private_outputs: bool = False,
    ) -> None:
        self.session = session
        self.ledger = ledger or MemoryLedger()
        self.polling = polling or Polling()
        self.spend_limit = spend_limit
        self.private_outputs = private_outputs
        self._in_flight: set[str] = set()
        self._sent_at: dict[str, float] = {}
        self._slots = _Slots(MAX_SUBMISSIONS)
        self._walks = {is_proof: _Walks() for is_proof in (False, True)}
        self._uses_polling_urls = True

    def over(self, io: Backend) -> Account:
        """Return the same account over another port."""
        session = Session(self.session.config, io)
        settings = (self.ledger, self.polling, self.spend_limit, self.private_outputs)
        account = _rebuild(session, *settings)
        account._sent_at = self._sent_at
        return account

    def __deepcopy__(self, memo: object) -> Account:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        check_copy(self.spend_limit, self.ledger)
        settings = (self.ledger, self.polling, self.spend_limit, self.private_outputs)
        return (_rebuild, (self.session, *settings))

    async def submit(
        self,
        request: TaskRequest,
        *limits: SpendLimit,
        lost: Lost = "ask",
        seconds: float | None = None,
    ) -> Task:
        """Submit a request, or return the task that its key has already become.

        It is written into the ledger before it is sent. Raise SubmissionUnknown where no answer came, now or
        when the key was used before and `lost` does not say to send it again.
        """
        task, earlier = await self.place(request, *limits, seconds=seconds, lost=lost)
        return _filled(await self.get(task), request) if earlier else task

    async def place(
        self,
        request: TaskRequest,
        *limits: SpendLimit,
        lost: Lost | None = None,
        is_absent: bool = False,
        seconds: float | None = None,
        retries: int | None = None,
    ) -> tuple[Task, Submission | None]:
        """Submit a request; for a key that became a task earlier, return its id alone and the ledger's entry.

        Without `lost` a lost submission raises SubmissionUnknown at once; `is_absent` says that the list has
        been read and does not have it.
        """
        earlier = await self.use_ledger(self.ledger.get, request.key)
        if earlier is None:
            try:
                return await self._send(request, limits, seconds, retries), None
            except _Taken as taken:
                earlier = taken.by
        if earlier is None:  # another process has sent it again: what that sends is young, and waited for
            return await self.place(request, *limits, lost=lost, seconds=seconds, retries=retries)
        if earlier.digest != request.digest:
            raise InvalidArgumentError(
                f"The key {request.key!r} stands for another request already.",
                hint="Give each request a key of its own, or leave key out.",
            )
        if earlier.task_id:
            return _filled(Task(earlier.task_id), request), earlier
        if lost is None and request.key not in self._in_flight:
            raise _unknown(earlier.key, earlier.request, None)
        # Where the proof that there is none is due at once, that one walk of the list is enough.
        is_due = lost == "resend" and not _left(earlier, RESEND_SECONDS)
        entry = await self._landed(earlier, is_looked_for=is_absent or is_due)
        if entry is None:  # it was refused meanwhile, and so forgotten
            return await self.place(request, *limits, lost=lost, seconds=seconds, retries=retries)
        if entry.task_id is None:
            if lost != "resend":
                raise _unknown(entry.key, entry.request, None)
            entry = await self._confirmed_absent(entry, is_absent=is_absent)
        if entry.task_id:
            return _filled(Task(entry.task_id), request), entry
        with suppress(_Taken):
            return await self._send(request, limits, seconds, retries, since=entry.at), None
        return await self.place(request, *limits, lost=lost, seconds=seconds, retries=retries)

    async def _send(
        self,
        request: TaskRequest,
        limits: Iterable[SpendLimit],
        seconds: float | None,
        retries: int | None,
        since: float | None = None,
    ) -> Task:
        """Send a request that the ledger does not have, or has as lost `since` then; else raise _Taken."""
        claim = _Claim(self, request, since)
        try:
            async with self._slots.taken(self.session.io):
                own = self.spend_limit
                if own is not None and isinstance(self.ledger, SpendingLedger):
                    own = None  # the claim counts it
                with _spent(request, own, *limits):
                    task = await self.session.submit(
                        f"/v1/{request.type}s/tasks",
                        request.body,
                        request.key,
                        seconds=seconds,
                        retries=retries,
                        before_sending=claim.take,
                    )
        except PicccError as error:
            if error.may_have_been_billed:
                raise _unknown(request.key, request.body, error) from error
            try:
                await claim.release()
            except LedgerError as broken:
                error.add_note(f"{broken.message} The key {request.key!r} stays taken.")
            raise
        except BaseException as interruption:
            if claim.is_held:
                interruption.add_note(f"The submission may have been sent. {_way_on(request.key)}")
            raise
        finally:
            if claim.is_held:
                self._in_flight.discard(request.key)
        self._sent_at.pop(request.key, None)
        task = _filled(task, request)
        try:
            await self.use_ledger(self.ledger.settle, request.key, task.id)
        except LedgerError as error:
            error.task_id, error.tasks, error.may_have_been_billed = task.id, [task], True
            error.hint = f"Task {task.id} keeps running and is billed: do not submit it again. {error.hint}"
            raise
        return task

    async def _landed(self, entry: Submission, *, is_looked_for: bool) -> Submission | None:
        """Return what became of a lost submission: settled, still lost, or None where it was refused.

        Another thread or process may be sending it at this moment, so a young one gets some time. The list is
        not read where the caller has looked for it there, or will.
        """
        io, known, is_later = self.session.io, entry, False
        until = io.now() + _left(entry, FLIGHT_SECONDS)
        if entry.key not in self._in_flight and not is_looked_for and (found := await self._adopt(entry)):
            return found
        while (found := await self.use_ledger(self.ledger.get, known.key)) is not None:
            known = found
            if known.task_id or (known.key not in self._in_flight and io.now() >= until):
                break
            await io.sleep(LOOK_AGAIN_SECONDS)
            is_later = True
        if found is None or known.task_id or not is_later:
            return found
        return await self._adopt(known) or known

    async def _confirmed_absent(self, entry: Submission, *, is_absent: bool) -> Submission:
        """Return a lost submission that the account's list, read a minute after it, does not have.

        Raise SubmissionUnknown where the list cannot prove that; return it settled where it is there.
        """
        await self.session.io.sleep(_left(entry, RESEND_SECONDS))
        if is_absent:
            return entry
        found, is_complete = await self._settled(entry, is_proof=True)
        if found is None and not is_complete:
            raise _unknown(entry.key, entry.request, None)
        return found or entry

    async def _adopt(self, entry: Submission) -> Submission | None:
        """Settle a lost submission with the likeliest task of the account; return it, or None."""
        found, _ = await self._settled(entry, is_proof=False)
        return found

    async def _settled(self, entry: Submission, *, is_proof: bool) -> tuple[Submission | None, bool]:
        """Look for a lost submission, in one walk of the list with all that are looked for at the time.

        Return it settled, or None where nothing was found; and whether that proves that there is nothing.
        """
        walks = self._walks[is_proof]
        walk, signal = walks.join(entry, self.session.io)
        if is_proof:  # a minute has passed since it was lost: what was lost with it may as well come along
            await self.session.io.sleep(LOOK_AGAIN_SECONDS)
        while walk.found is None:
            if walk.error is not None:
                raise copy(walk.error) from walk.error
            if walks.begin(walk):
                try:
                    walk.found = await self.find_all(list(walk.entries.values()), is_proof=is_proof)
                except PicccError as error:
                    walk.error = error
                    raise
                finally:
                    walks.end(walk)
            else:
                await signal.wait(LOOK_AGAIN_SECONDS)
        found, is_complete = walk.found
        for task in found.get(entry.key, ()):
            if await self.use_ledger(self.ledger.settle, entry.key, task.id):
                return replace(entry, task_id=task.id), True
        return None, is_complete

    async def resume(self, key: str, *, resubmit: bool = False) -> Task:
        """Return the task that a submission became: from the ledger, else found among the account's tasks.

        Where there is none, raise SubmissionUnknown, or with `resubmit` send it again under the same key.
        """
        entry = await self.use_ledger(self.ledger.get, key)
        if entry is None:
            raise InvalidArgumentError(
                f"The ledger has no submission {key!r}.",
                hint='Keep the ledger in a file to find submissions again: Client(ledger="tasks.db").',
            )
        if entry.task_id is None:
            entry = await self._adopt(entry) or await self.use_ledger(self.ledger.get, key) or entry
        if entry.task_id:
            return await self.get(entry.task_id)
        if not resubmit:
            raise _unknown(key, entry.request, None)
        request = TaskRequest("video" if entry.type == "video" else "image", key, entry.request)
        try:
            return await self._send(request, (), None, None, since=entry.at)
        except _Taken:
            raise _unknown(key, entry.request, None) from None

    async def find(self, key: str) -> list[Task]:
        """Return the tasks that a lost submission may have become, the likeliest first.

        They have its prompt and parameters, were not made before it, and belong to no other submission.
        """
        entry = await self.use_ledger(self.ledger.get, key)
        if entry is None:
            return []
        if entry.task_id:
            return [await self.get(entry.task_id)]
        found, _ = await self.find_all([entry])
        return found.get(key, [])

    async def find_all(
        self, entries: Sequence[Submission], *, is_proof: bool = False
    ) -> tuple[dict[str, list[Task]], bool]:
        """Return by key what lost submissions may have become, as `find` does, in one walk of the list.

        Also whether every row of the list could be read. With `is_proof` the walk goes a day further back,
        and the second value is whether what was not found does not exist, even if a clock was hours wrong.
        """
        skew = LONGEST_CLOCK_JUMP if is_proof else CLOCK_SKEW
        types = {entry.type for entry in entries}
        pages = Pages(type=types.pop() if len(types) == 1 else None)
        # An account may have any number of tasks: only those that can matter are kept.
        by_prompt: dict[str, list[Task]] = {str(entry.request.get("prompt")): [] for entry in entries}
        by_prompt[""] = []
        since = dict[str, float]()
        while not pages.is_done:
            page, headers = await self.session.read(pages.path, read_task_list)
            since = since or {entry.key: self.claimed_at(entry, headers) for entry in entries}
            tasks = pages.take(page)
            for task in tasks:
                if task.prompt in by_prompt:
                    by_prompt[task.prompt].append(task)
            earliest = min(since.values()) - skew
            if tasks and not any(is_recent(task, earliest) for task in tasks):
                break
        found, is_doubtful = dict[str, list[Task]](), False
        for entry in entries:
            likely = nearest(by_prompt.get(str(entry.request.get("prompt")), ()), entry, since[entry.key])
            free = [task for task in likely if await self._is_free(task)]
            if free:
                found[entry.key] = free
            elif is_proof and not is_doubtful:
                prompts = {str(entry.request.get("prompt")), ""}
                alike = [task for prompt in prompts for task in by_prompt.get(prompt, ())]
                earliest = since[entry.key] - skew
                is_doubtful = any(
                    [await self._is_free(task) for task in alike if cannot_be_excluded(task, entry, earliest)]
                )
        return found, not pages.unreadable and not is_doubtful

    async def _is_free(self, task: Task) -> bool:
        return await self.use_ledger(self.ledger.key_of, task.id) is None

    async def look_up(self, entries: Sequence[Submission]) -> tuple[dict[str, Task], bool]:
        """Return by their ids the tasks that submissions became, as the account's list shows them.

        Also whether the list was read to the oldest of them, even if a clock was hours wrong: it is left
        where asking for each task would cost less.
        """
        pages, found, missing = Pages(), dict[str, Task](), {entry.task_id for entry in entries}
        oldest = min(entries, key=lambda entry: entry.at)
        for _ in entries:
            page, headers = await self.session.read(pages.path, read_task_list)
            tasks = pages.take(page)
            found |= {task.id: task for task in tasks if task.id in missing}
            missing -= found.keys()
            earliest = self.claimed_at(oldest, headers) - LONGEST_CLOCK_JUMP
            is_past = bool(tasks) and not any(is_recent(task, earliest) for task in tasks)
            if not missing or pages.is_done or is_past:
                return found, not pages.unreadable
        return found, False

    def claimed_at(self, entry: Submission, headers: Mapping[str, str]) -> float:
        """Return when a submission was written down, by the clock of the server that sent these headers.

        Its age is measured here, by two clocks of which the larger counts: somebody may have set the time of
        day since, and the monotonic clock stands still while the machine sleeps.
        """
        now = time.time()
        sent_at = self._sent_at.get(entry.key)
        age = max(now - entry.at, -math.inf if sent_at is None else self.session.io.now() - sent_at)
        return (server_time(headers) or now) - age

    async def use_ledger(self, method: Callable[[*Ts], T], *args: *Ts) -> T:
        """Call a method of the ledger, off the event loop; raise LedgerError for whatever it raises."""
        try:
            if isinstance(self.ledger, MemoryLedger):
                return method(*args)
            return await self.session.io.run(method, *args)
        except PicccError:
            raise
        except Exception as error:
            raise LedgerError(
                f"The ledger {self.ledger!r} failed: {type(error).__name__}: {error}",
                hint="Nothing is submitted without it.",
            ) from error

    async def get(self, task: Task | str, *, seconds: float = READ_SECONDS) -> Task:
        """Read a task in at most `seconds`, but no more than usual."""
        found, _ = await self._read(task, min(seconds, READ_SECONDS), None)
        return found

    async def poll(self, task: Task, seconds: float) -> tuple[Task, float | None]:
        """Read a task once in at most `seconds`; return it, and how long the server asks to wait."""
        found, headers = await self._read(task, seconds, 0)
        return replace(found, id=task.id), retry_after(headers)

    async def poll_page(self, path: str, seconds: float) -> Page:
        """Read a page of a list once in at most `seconds`."""
        page, _ = await self.session.read(path, read_task_list, seconds=seconds, retries=0)
        return page

    async def next_page(self, pages: Pages) -> list[Task]:
        """Read the next page of a list; return the tasks that no earlier page had."""
        page, _ = await self.session.read(pages.path, read_task_list)
        return pages.take(page)

    async def wake(self, task_id: str) -> None:
        """Have a task asked for next by whatever waits for it, also in processes that share the ledger."""
        wake(task_id)
        await self._post(Note("look", task_id))

    async def take(self, task: Task) -> None:
        """Pass a task that was read and has ended to whatever waits for it, as `wake` does."""
        if task.status == "completed" and not task.has_output:
            await self.wake(task.id)
            return
        take(task)
        await self._post(note_of_end(task))

    async def _post(self, note: Note) -> None:
        if isinstance(self.ledger, TaskStream):
            await self.use_ledger(self.ledger.post, self.session.config.base_url, [note])

    def watch(
        self,
        tasks: Iterable[Task | str] = (),
        *,
        timeout: float | None = None,
        every_change: bool = False,
        is_observed: bool = True,
        on_poll: OnPoll | None = None,
    ) -> Subscription:
        """Begin to wait for tasks; `every_change` reports progress too.

        Where another process polls, this one reads them for their progress only if it `is_observed`.
        """
        watching = Subscription(
            self, timeout=timeout, every_change=every_change, is_observed=is_observed, on_poll=on_poll
        )
        for task in tasks:
            watching.add(task)
        return watching

    async def wait(
        self,
        task: Task | str,
        *,
        timeout: float | None = None,
        on_update: Callable[[Task], object] | None = None,
    ) -> Task:
        """Wait until a task has its output and return it; raise why it has none.

        Raise TaskWaitTimeout after `timeout` seconds, by default as many as the client's polling says.
        """
        with self.watch([task], timeout=timeout, every_change=on_update is not None) as watching:
            while (seen := await watching.next()) is not None:
                known = seen
                if on_update is not None:
                    on_update(known)
        if error := TaskError.of(known):
            raise error
        return known

    async def _read(
        self, task: Task | str, seconds: float, retries: int | None
    ) -> tuple[Task, Mapping[str, str]]:
        known = as_task(task)
        url = f"{self.session.config.base_url}/v1/tasks/{quote(known.id, safe='')}"
        theirs = self._polling_url(known) or url
        try:
            return await self.session.read(theirs, read_task, seconds=seconds, retries=retries)
        except NotFoundError:
            if theirs == url:
                raise
        found = await self.session.read(url, read_task, seconds=seconds, retries=retries)
        # Behind a gateway the server may not know its own prefix: then none of its addresses is right.
        self._uses_polling_urls = False
        return found

    def _polling_url(self, task: Task) -> str | None:
        """Return where the server says it can be asked about a task, if that is on the server itself."""
        if not task.polling_url or not self._uses_polling_urls:
            return None
        try:
            url = urljoin(f"{self.session.config.base_url}/", task.polling_url)
        except ValueError:
            return None
        return url if origin_of(url) == self.session.config.origin else None


class _Taken(Exception):
    """Somebody else has written a key down: `by` is the entry, None where a lost one was claimed again."""

    may_have_been_billed = False

    def __init__(self, by: Submission | None) -> None:
        super().__init__()
        self.by = by


class _Claim:
    """A submission's entry in the ledger, written when its connection is open: a crash leaves few in doubt.

    Each further attempt renews it: where another process has taken the submission for lost meanwhile, while
    this one waited out a 429 or the machine slept, that one sends it.
    """

    def __init__(self, account: Account, request: TaskRequest, since: float | None) -> None:
        self._account = account
        self._request = request
        self._since = since
        self.is_held = False

    async def take(self) -> None:
        account, entry, taken_by = self._account, self._request.entry(), None
        if self._since is None:
            taken_by = await self._claimed(entry)
            is_held = taken_by is None
        else:
            is_held = await account.use_ledger(account.ledger.reclaim, entry, self._since)
        if not is_held:
            if self.is_held:
                account._in_flight.discard(entry.key)
            self.is_held = False
            raise _Taken(taken_by)
        self._since, self.is_held = entry.at, True
        account._in_flight.add(entry.key)
        account._sent_at[entry.key] = account.session.io.now()

    async def _claimed(self, entry: Submission) -> Submission | None:
        account, limit = self._account, self._account.spend_limit
        if limit is None or not isinstance(account.ledger, SpendingLedger):
            return await account.use_ledger(account.ledger.claim, entry)
        taken = await account.use_ledger(account.ledger.claim_within, entry, limit.spends_of(self._request))
        if taken is None:
            limit.spend(self._request, is_bound=False)
        return taken

    async def release(self) -> None:
        if not self.is_held:
            return
        account, limit, key = self._account, self._account.spend_limit, self._request.key
        account._sent_at.pop(key, None)
        if limit is None or not isinstance(account.ledger, SpendingLedger):
            await account.use_ledger(account.ledger.release, key)
            return
        limit.give_back(self._request)
        await account.use_ledger(account.ledger.release_within, key, limit.spends_of(self._request))


def server_time(headers: Mapping[str, str]) -> float | None:
    """Return the time by the server's clock as a reply's headers have it (RFC 9110, section 6.6.1)."""
    try:
        return parsedate_to_datetime(headers.get("date", "")).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None


def checked_lost(lost: Lost) -> Lost:
    """Return what `lost` says; raise InvalidArgumentError where it is another word."""
    if lost not in ("ask", "resend"):
        raise InvalidArgumentError(f"lost is {lost!r}.", hint="It is 'ask' or 'resend'.")
    return lost


class _Slots:
    """Bound how many submissions are under way, over all threads and event loops.

    `pop` and `append` are atomic. A wake that gets lost, for its waiter was cancelled, costs a second.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._process = os.getpid()
        self._free: list[None] = [None] * count
        self._waiting: deque[Signal] = deque()

    @asynccontextmanager
    async def taken(self, io: Backend) -> AsyncIterator[None]:
        if self._process != os.getpid():  # what the parent has under way is not ours
            self._process, self._free, self._waiting = os.getpid(), [None] * self._count, deque()
        while not self._take():
            signal = io.signal()
            self._waiting.append(signal)
            if self._take():
                break
            await signal.wait(LOOK_AGAIN_SECONDS)
            with suppress(ValueError):
                self._waiting.remove(signal)
        try:
            yield
        finally:
            self._free.append(None)
            with suppress(IndexError):
                self._waiting.popleft().set()

    def _take(self) -> bool:
        try:
            self._free.pop()
        except IndexError:
            return False
        return True


@dataclass(slots=True)
class _Walk:
    """One walk of the list, for the submissions that were lost before it began."""

    entries: dict[str, Submission] = field(default_factory=dict)
    signals: list[Signal] = field(default_factory=list)
    found: tuple[dict[str, list[Task]], bool] | None = None
    error: PicccError | None = None


class _Walks:
    """Have all threads and event loops of an account share their walks of the list, one at a time.

    What comes while one is under way joins the next: pages that were read before prove nothing about it. One
    of those that joined a walk makes it; where that one is cancelled, another does.
    """

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._next: _Walk | None = None
        self._current: _Walk | None = None

    def join(self, entry: Submission, io: Backend) -> tuple[_Walk, Signal]:
        """Return the next walk, and what is set when it has ended."""
        if self._process != os.getpid():  # a walk of the parent does not end here
            self._start()
        signal = io.signal()
        with self._lock:
            walk = self._next = self._next or _Walk()
            walk.entries[entry.key] = entry
            walk.signals.append(signal)
        return walk, signal

    def begin(self, walk: _Walk) -> bool:
        """Return whether it is for the caller to make this walk now."""
        with self._lock:
            if self._current is not None or walk.found or walk.error:
                return False
            self._current = walk
            if self._next is walk:
                self._next = None
            return True

    def end(self, walk: _Walk) -> None:
        """Wake all that wait for this walk, or to make the next."""
        with self._lock:
            self._current = None
            signals = walk.signals + (self._next.signals if self._next else [])
        for signal in signals:
            signal.set()


@contextmanager
def _spent(request: TaskRequest, *limits: SpendLimit | None) -> Iterator[None]:
    """Count a request against limits, unless it is refused."""
    counted: list[SpendLimit] = []
    try:
        for limit in limits:
            if limit is not None:
                limit.spend(request)
                counted.append(limit)
        yield
    except (PicccError, _Taken) as error:
        if not error.may_have_been_billed:
            for limit in counted:
                limit.give_back(request)
        raise


def _left(entry: Submission, seconds: float) -> float:
    """Return how long until an entry is this many seconds old, whatever the clock was set to meanwhile."""
    return min(max(0.0, seconds - max(0.0, time.time() - entry.at)), seconds)


def _filled(task: Task, request: TaskRequest) -> Task:
    """Give a task what its request knows and the server left out."""
    return replace(
        task,
        type=task.type or request.type,
        model=task.model or str(request.body.get("model") or ""),
        prompt=task.prompt or str(request.body.get("prompt") or ""),
    )


def _unknown(key: str, request: Any, cause: PicccError | None) -> SubmissionUnknown:
    reason = cause.message if cause else f"It is not known what became of the submission {key!r}."
    known = {
        name: getattr(cause, name)
        for name in ("status", "code", "request_id", "attempts", "elapsed", "retry_after", "body", "record")
        if cause is not None
    }
    return SubmissionUnknown(
        reason,
        hint=f"The task may exist and be billed, so it was not sent again. {_way_on(key)}",
        may_have_been_billed=True,
        submission_key=key,
        request=request,
        **known,
    )


def _way_on(key: str) -> str:
    return (
        f"Look for it: client.tasks.resume({key!r}); if it is not there, "
        f"client.tasks.resume({key!r}, resubmit=True) sends it once more."
    )


def _rebuild(
    session: Session, ledger: Ledger, polling: Polling, spend_limit: SpendLimit | None, private_outputs: bool
) -> Account:
    return Account(
        session, ledger=ledger, polling=polling, spend_limit=spend_limit, private_outputs=private_outputs
    )
