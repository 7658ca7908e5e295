"""Submit, read, list and recover an account's tasks. The sync and async clients share these coroutines."""

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
from functools import partial
from typing import Any, Literal
from urllib.parse import quote, urljoin

from piccc._dialects.tasks import read_task, read_task_list
from piccc._http.backend import Backend, Signal, T, Ts
from piccc._http.connections import retry_after
from piccc._http.session import Session
from piccc.config import check_flags, origin_of
from piccc.errors import (
    InvalidArgumentError,
    LedgerError,
    PicccError,
    ResponseError,
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
"""What to do when it is unknown whether a submission arrived: raise, or send it again."""
MAX_SUBMISSIONS = 32
"""Maximum concurrent submissions per client."""
RESEND_SECONDS = 60.0
"""How old a lost submission must be before its absence from the list proves that it did not arrive."""
LOOK_AGAIN_SECONDS = 1.0
FLIGHT_SECONDS = 10.0
"""The age after which another process's submission can no longer be in flight."""


class Account:
    """The task endpoints of one server, used with one API key."""

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
        self.ledger = MemoryLedger() if ledger is None else ledger
        self.polling = polling or Polling()
        self.spend_limit = spend_limit
        self.private_outputs = private_outputs
        self._in_flight: set[str] = set()
        self._sent_at: dict[str, float] = {}
        self._slots = _Slots(MAX_SUBMISSIONS)
        self._scans = {is_proof: _Scans() for is_proof in (False, True)}
        self._uses_polling_urls = True

    def over(self, io: Backend) -> Account:
        """Return the same account on another backend."""
        account = Account(Session(self.session.config, io), **self._settings)
        account._sent_at = self._sent_at
        return account

    def __deepcopy__(self, memo: object) -> Account:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        check_copy(self.spend_limit, self.ledger)
        return (partial(Account, **self._settings), (self.session,))

    @property
    def _settings(self) -> dict[str, Any]:
        return {
            "ledger": self.ledger,
            "polling": self.polling,
            "spend_limit": self.spend_limit,
            "private_outputs": self.private_outputs,
        }

    async def submit(
        self,
        request: TaskRequest,
        *limits: SpendLimit,
        lost: Lost = "ask",
        seconds: float | None = None,
    ) -> Task:
        """Submit a request, or return the task that its key already created.

        The ledger records the request before it is sent. Raise SubmissionUnknown if there is no response, or
        if an earlier submission of this key was lost and `lost` is not "resend".
        """
        task, earlier = await self.place(request, *limits, seconds=seconds, lost=lost)
        return _fill_in(await self.get(task), request) if earlier else task

    async def place(
        self,
        request: TaskRequest,
        *limits: SpendLimit,
        lost: Lost | None = None,
        is_absent: bool = False,
        seconds: float | None = None,
        retries: int | None = None,
    ) -> tuple[Task, Submission | None]:
        """Submit a request; if its key already created a task, return that task's id and ledger entry.

        Without `lost`, a lost submission raises SubmissionUnknown immediately. `is_absent` means that the
        list was read and does not contain it.
        """
        earlier = await self.use_ledger(self.ledger.get, request.key)
        if earlier is None:
            try:
                return await self._send(request, limits, seconds, retries), None
            except _KeyTaken as taken:
                earlier = taken.by
        if earlier is None:  # another process resent it: its entry is recent, so wait for that one
            return await self.place(request, *limits, lost=lost, seconds=seconds, retries=retries)
        if earlier.digest != request.digest:
            raise InvalidArgumentError(
                f"The key {request.key!r} was already used for a different request.",
                hint="Use a different key for each request, or omit key.",
            )
        if earlier.task_id:
            return _fill_in(Task(earlier.task_id), request), earlier
        if lost is None and request.key not in self._in_flight:
            raise _unknown(earlier.key, earlier.request, None)
        # If the entry is old enough to prove its absence now, one scan of the list is enough.
        is_due = lost == "resend" and not _seconds_until_age(earlier, RESEND_SECONDS)
        entry = await self._outcome(earlier, skip_list=is_absent or is_due)
        if entry is None:  # it was rejected in the meantime, which removed its entry
            return await self.place(request, *limits, lost=lost, seconds=seconds, retries=retries)
        if entry.task_id is None:
            if lost != "resend":
                raise _unknown(entry.key, entry.request, None)
            entry = await self._confirmed_absent(entry, is_absent=is_absent)
        if entry.task_id:
            return _fill_in(Task(entry.task_id), request), entry
        with suppress(_KeyTaken):
            sending = self._send(request, limits, seconds, retries, since=entry.at, is_absent=True)
            return await sending, None
        return await self.place(request, *limits, lost=lost, seconds=seconds, retries=retries)

    async def _send(
        self,
        request: TaskRequest,
        limits: Iterable[SpendLimit],
        seconds: float | None,
        retries: int | None,
        since: float | None = None,
        *,
        is_absent: bool = False,
    ) -> Task:
        """Send a request that is not in the ledger, or was lost at `since`; otherwise raise _KeyTaken.

        Unless a lost one `is_absent` from the account's list, its entry is kept if this attempt is rejected.
        """
        claim = _Claim(self, request, since, lost_at=None if is_absent else since)
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
                error.add_note(f"{broken.message} The key {request.key!r} remains in use.")
            if claim.lost_at is not None:
                error.may_have_been_billed = True
                error.hint = (
                    f"{error.hint} An earlier attempt was lost. {_recovery_hint(request.key)}".strip()
                )
            raise
        except BaseException as interruption:
            if claim.is_held:
                interruption.add_note(f"The submission may have been sent. {_recovery_hint(request.key)}")
            raise
        finally:
            if claim.is_held:
                self._in_flight.discard(request.key)
        self._sent_at.pop(request.key, None)
        task = _fill_in(task, request)
        owner = None
        try:
            if not await self.use_ledger(self.ledger.settle, request.key, task.id):
                owner = await self.use_ledger(self.ledger.key_of, task.id)
        except LedgerError as error:
            error.task_id, error.tasks, error.may_have_been_billed = task.id, [task], True
            error.hint = f"Task {task.id} is running and will be billed: do not submit it again. {error.hint}"
            raise
        if owner not in (None, request.key):
            raise _not_own(task, request, owner)
        return task

    async def _outcome(self, entry: Submission, *, skip_list: bool) -> Submission | None:
        """Return the entry of a lost submission, settled or still lost, or None if it was rejected.

        Another thread or process may be sending it right now, so wait if it is recent. With `skip_list`, the
        caller scans the list itself.
        """
        io, latest, has_waited = self.session.io, entry, False
        until = io.now() + _seconds_until_age(entry, FLIGHT_SECONDS)
        if entry.key not in self._in_flight and not skip_list and (found := await self._adopt(entry)):
            return found
        while (found := await self.use_ledger(self.ledger.get, latest.key)) is not None:
            latest = found
            if latest.task_id or (latest.key not in self._in_flight and io.now() >= until):
                break
            await io.sleep(LOOK_AGAIN_SECONDS)
            has_waited = True
        if found is None or latest.task_id or not has_waited:
            return found
        return await self._adopt(latest) or latest

    async def _confirmed_absent(self, entry: Submission, *, is_absent: bool) -> Submission:
        """Return a lost submission that is missing from the account's list a minute after it was sent.

        Return it settled if the list has it. Raise SubmissionUnknown if the list proves neither.
        """
        await self.session.io.sleep(_seconds_until_age(entry, RESEND_SECONDS))
        if is_absent:
            return entry
        found, is_complete = await self._search(entry, is_proof=True)
        if found is None and not is_complete:
            raise _unknown(entry.key, entry.request, None)
        return found or entry

    async def _adopt(self, entry: Submission) -> Submission | None:
        """Settle a lost submission with the account's best-matching task; return it, or None."""
        found, _ = await self._search(entry, is_proof=False)
        return found

    async def _search(self, entry: Submission, *, is_proof: bool) -> tuple[Submission | None, bool]:
        """Look for a lost submission, sharing one scan of the list with all concurrent searches.

        Return it settled, or None if not found, and whether that proves that it did not arrive.
        """
        scans = self._scans[is_proof]
        scan, signal = scans.join(entry, self.session.io)
        if is_proof:  # a minute has passed already: let submissions lost at the same time share the scan
            await self.session.io.sleep(LOOK_AGAIN_SECONDS)
        while scan.found is None:
            if scan.error is not None:
                raise copy(scan.error) from scan.error
            if scans.begin(scan):
                try:
                    scan.found = await self.find_all(list(scan.entries.values()), is_proof=is_proof)
                except PicccError as error:
                    scan.error = error
                    raise
                finally:
                    scans.end(scan)
            else:
                await signal.wait(LOOK_AGAIN_SECONDS)
        found, is_complete = scan.found
        for task in found.get(entry.key, ()):
            if await self.use_ledger(self.ledger.settle, entry.key, task.id):
                return replace(entry, task_id=task.id), True
        return None, is_complete

    async def resume(self, key: str, *, resubmit: bool = False) -> Task:
        """Return a submission's task, from the ledger or else from the account's list of tasks.

        If there is none, raise SubmissionUnknown, or with `resubmit` send it again with the same key.
        """
        check_flags(InvalidArgumentError, resubmit=resubmit)
        entry = await self.use_ledger(self.ledger.get, key)
        if entry is None:
            raise InvalidArgumentError(
                f"The ledger has no submission with the key {key!r}.",
                hint='Keep the ledger in a file to recover submissions later: Client(ledger="tasks.db").',
            )
        if entry.task_id is None:
            entry = await self._adopt(entry) or await self.use_ledger(self.ledger.get, key) or entry
        if entry.task_id:
            return await self.get(entry.task_id)
        if not resubmit:
            raise _not_found(key, entry.request)
        request = TaskRequest("video" if entry.type == "video" else "image", key, entry.request)
        try:
            return await self._send(request, (), None, None, since=entry.at)
        except _KeyTaken:
            raise _not_found(key, entry.request) from None

    async def find(self, key: str) -> list[Task]:
        """Return the tasks that a lost submission may have created, the best match first.

        They have its prompt and parameters, are not older, and belong to no other submission.
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
        """Return the tasks that lost submissions may have created, by key, from one scan of the list.

        The second value is whether every row of the list could be read. With `is_proof` the scan goes back
        another day, and the second value is whether submissions that were not found are proven not to have
        arrived, even if a clock was hours off.
        """
        skew = LONGEST_CLOCK_JUMP if is_proof else CLOCK_SKEW
        types = {entry.type for entry in entries}
        pages = Pages(type=types.pop() if len(types) == 1 else None)
        # An account can have any number of tasks, so keep only possible matches.
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
        """Return the tasks of settled submissions by id, read from the account's list.

        The second value is whether the list was read back to the oldest one, even if a clock was hours off.
        The scan stops once reading each task individually would be cheaper.
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
        """Return when a submission was recorded, on the clock of the server that sent these headers.

        Its age is the larger of two local clocks' readings: the wall clock may have been set since, and the
        monotonic clock stops while the machine sleeps.
        """
        now = time.time()
        sent_at = self._sent_at.get(entry.key)
        age = max(now - entry.at, -math.inf if sent_at is None else self.session.io.now() - sent_at)
        return (server_time(headers) or now) - age

    async def use_ledger(self, method: Callable[[*Ts], T], *args: *Ts) -> T:
        """Call a ledger method off the event loop; raise LedgerError if it fails."""
        try:
            if isinstance(self.ledger, MemoryLedger):
                return method(*args)
            return await self.session.io.run(method, *args)
        except PicccError:
            raise
        except Exception as error:
            raise LedgerError(
                f"The ledger {self.ledger!r} failed: {type(error).__name__}: {error}",
                hint="Nothing is submitted while the ledger is unavailable.",
            ) from error

    async def get(self, task: Task | str, *, seconds: float = READ_SECONDS) -> Task:
        """Read a task within `seconds`, capped at READ_SECONDS."""
        current, _ = await self._read(task, min(seconds, READ_SECONDS), None)
        return current

    async def poll(self, task: Task, seconds: float) -> tuple[Task, float | None]:
        """Read a task once, within `seconds`; return it and the server's Retry-After."""
        current, headers = await self._read(task, seconds, 0)
        return current, retry_after(headers)

    async def poll_page(self, path: str, seconds: float) -> Page:
        """Read a page of a list once, within `seconds`."""
        page, _ = await self.session.read(path, read_task_list, seconds=seconds, retries=0)
        return page

    async def next_page(self, pages: Pages) -> list[Task]:
        """Read the next page of a list; return the tasks that were on no earlier page."""
        page, _ = await self.session.read(pages.path, read_task_list)
        return pages.take(page)

    async def wake(self, task_id: str) -> None:
        """Have every waiter poll a task next, including those in processes that share the ledger."""
        wake(task_id)
        await self._post(Note("look", task_id))

    async def take(self, task: Task) -> None:
        """Pass a finished task to every waiter, in all processes that share the ledger."""
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
        """Start waiting for tasks; `every_change` reports progress too.

        When another process polls, this one reads them only for progress, and only if it `is_observed`.
        """
        subscription = Subscription(
            self, timeout=timeout, every_change=every_change, is_observed=is_observed, on_poll=on_poll
        )
        for task in tasks:
            subscription.add(task)
        return subscription

    async def wait(
        self,
        task: Task | str,
        *,
        timeout: float | None = None,
        on_update: Callable[[Task], object] | None = None,
    ) -> Task:
        """Wait until a task has its output and return it; raise TaskError if it ends without one.

        Raise TaskWaitTimeout after `timeout` seconds; the default comes from the client's `Polling`.
        """
        with self.watch([task], timeout=timeout, every_change=on_update is not None) as subscription:
            while (update := await subscription.next()) is not None:
                latest = update
                if on_update is not None:
                    on_update(latest)
        if error := TaskError.of(latest):
            raise error
        return latest

    async def _read(
        self, task: Task | str, seconds: float, retries: int | None
    ) -> tuple[Task, Mapping[str, str]]:
        known = as_task(task)
        decode = partial(read_task, asked=known.id)
        url = f"{self.session.config.base_url}/v1/tasks/{quote(known.id, safe='')}"
        polling_url = self._polling_url(known) or url
        try:
            current, headers = await self.session.read(polling_url, decode, seconds=seconds, retries=retries)
            return replace(current, id=known.id), headers
        except PicccError as error:
            # A gateway may answer a wrong URL with a page, a redirect or any 4xx, rather than with 404.
            if polling_url == url or error.status in (None, 429) or error.status >= 500:
                raise
        current, headers = await self.session.read(url, decode, seconds=seconds, retries=retries)
        # Behind a gateway the server may not know its own prefix, so all its polling URLs are wrong.
        self._uses_polling_urls = False
        return replace(current, id=known.id), headers

    def _polling_url(self, task: Task) -> str | None:
        """Return the polling URL that the server gave for a task, if it has the server's own origin."""
        if not task.polling_url or not self._uses_polling_urls:
            return None
        try:
            url = urljoin(f"{self.session.config.base_url}/", task.polling_url)
        except ValueError:
            return None
        return url if origin_of(url) == self.session.config.origin else None


class _KeyTaken(Exception):
    """Another process claimed a key: `by` is its entry, or None if it reclaimed a lost one."""

    may_have_been_billed = False

    def __init__(self, by: Submission | None) -> None:
        super().__init__()
        self.by = by


class _Claim:
    """A submission's ledger entry, written once the connection is open so that a crash leaves few in doubt.

    Each retry renews it. If another process considered the submission lost in the meantime, while this one
    waited out a 429 or the machine slept, the other process sends it.
    """

    def __init__(
        self, account: Account, request: TaskRequest, since: float | None, *, lost_at: float | None
    ) -> None:
        self._account = account
        self._request = request
        self._since = since
        self.lost_at = lost_at
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
            raise _KeyTaken(taken_by)
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
        if self.lost_at is not None and self._since is not None:
            # The attempt that was lost may still have created a task: only this one was rejected.
            lost = replace(self._request.entry(), at=self.lost_at)
            await account.use_ledger(account.ledger.reclaim, lost, self._since)
            return
        if limit is None or not isinstance(account.ledger, SpendingLedger):
            await account.use_ledger(account.ledger.release, key)
            return
        limit.give_back(self._request)
        await account.use_ledger(account.ledger.release_within, key, limit.spends_of(self._request))


def server_time(headers: Mapping[str, str]) -> float | None:
    """Return the server's time from a response's Date header (RFC 9110, section 6.6.1)."""
    try:
        return parsedate_to_datetime(headers.get("date", "")).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None


def checked_lost(lost: Lost) -> Lost:
    """Return `lost`; raise InvalidArgumentError if it is not a valid value."""
    if lost not in ("ask", "resend"):
        raise InvalidArgumentError(f"lost is {lost!r}.", hint="Use 'ask' or 'resend'.")
    return lost


class _Slots:
    """A limit on concurrent submissions across all threads and event loops.

    `pop` and `append` are atomic. A wake-up lost because its waiter was cancelled costs a second.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._process = os.getpid()
        self._free: list[None] = [None] * count
        self._waiting: deque[Signal] = deque()

    @asynccontextmanager
    async def taken(self, io: Backend) -> AsyncIterator[None]:
        if self._process != os.getpid():  # after a fork: the parent's submissions do not count
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
class _Scan:
    """One scan of the list, for the submissions lost before it began."""

    entries: dict[str, Submission] = field(default_factory=dict)
    signals: list[Signal] = field(default_factory=list)
    found: tuple[dict[str, list[Task]], bool] | None = None
    error: PicccError | None = None


class _Scans:
    """Scans of the list, one at a time, shared by all threads and event loops of an account.

    A submission that arrives during a scan joins the next one, because pages already read prove nothing about
    it. One of the scan's waiters runs it; if that one is cancelled, another takes over.
    """

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._next: _Scan | None = None
        self._current: _Scan | None = None

    def join(self, entry: Submission, io: Backend) -> tuple[_Scan, Signal]:
        """Return the next scan, and a signal that is set when it ends."""
        if self._process != os.getpid():  # after a fork: the parent's scan never ends in this process
            self._start()
        signal = io.signal()
        with self._lock:
            scan = self._next = self._next or _Scan()
            scan.entries[entry.key] = entry
            scan.signals.append(signal)
        return scan, signal

    def begin(self, scan: _Scan) -> bool:
        """Claim this scan; return False if it is done or another one is running."""
        with self._lock:
            if self._current is not None or scan.found or scan.error:
                return False
            self._current = scan
            if self._next is scan:
                self._next = None
            return True

    def end(self, scan: _Scan) -> None:
        """Wake those waiting for this scan, and those waiting to run the next."""
        with self._lock:
            self._current = None
            signals = scan.signals + (self._next.signals if self._next else [])
        for signal in signals:
            signal.set()


@contextmanager
def _spent(request: TaskRequest, *limits: SpendLimit | None) -> Iterator[None]:
    """Count a request against spend limits, and undo that if it is rejected."""
    counted: list[SpendLimit] = []
    try:
        for limit in limits:
            if limit is not None:
                limit.spend(request)
                counted.append(limit)
        yield
    except (PicccError, _KeyTaken) as error:
        if not error.may_have_been_billed:
            for limit in counted:
                limit.give_back(request)
        raise


def _seconds_until_age(entry: Submission, seconds: float) -> float:
    """Return the seconds until an entry is this old, clamped in case the clock was set."""
    return min(max(0.0, seconds - max(0.0, time.time() - entry.at)), seconds)


def _fill_in(task: Task, request: TaskRequest) -> Task:
    """Fill in fields that the server left out from the request."""
    return replace(
        task,
        type=task.type or request.type,
        model=task.model or str(request.body.get("model") or ""),
        prompt=task.prompt or str(request.body.get("prompt") or ""),
    )


def _unknown(key: str, request: Any, cause: PicccError | None) -> SubmissionUnknown:
    reason = cause.message if cause else f"It is unknown whether the submission {key!r} arrived."
    known = {
        name: getattr(cause, name)
        for name in ("status", "code", "request_id", "attempts", "elapsed", "retry_after", "body", "record")
        if cause is not None
    }
    return SubmissionUnknown(
        reason,
        hint=f"The task may exist and be billed, so it was not resent. {_recovery_hint(key)}",
        may_have_been_billed=True,
        submission_key=key,
        request=request,
        **known,
    )


def _not_own(task: Task, request: TaskRequest, owner: str | None) -> ResponseError:
    error = ResponseError(
        f"The server answered the submission {request.key!r} with task {task.id}, which the submission "
        f"{owner!r} has in the ledger.",
        hint=f"Each may have been billed; the task can be used for one. {_recovery_hint(request.key)}",
        may_have_been_billed=True,
        task_id=task.id,
    )
    error.tasks = [task]
    return error


def _not_found(key: str, request: Any) -> SubmissionUnknown:
    return SubmissionUnknown(
        f"No task was found for the submission {key!r}.",
        hint="It may still appear, so try again in a minute. To send it again, which may be billed twice: "
        f"client.tasks.resume({key!r}, resubmit=True)",
        may_have_been_billed=True,
        submission_key=key,
        request=request,
    )


def _recovery_hint(key: str) -> str:
    return (
        f"To look for it, call client.tasks.resume({key!r}). If there is none, send it again: "
        f"client.tasks.resume({key!r}, resubmit=True)"
    )
