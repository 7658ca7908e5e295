"""A ledger in Redis, shared by processes on any number of machines."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from piccc.config import redact_causes
from piccc.errors import MissingExtraError
from piccc.media.ledgers import Note, Notes, Outage, Spend, StoreURL, Submission, exceeded

if TYPE_CHECKING:
    from pyrate_limiter import AbstractBucket, Rate
    from redis import Redis

KEEP_SECONDS = 90 * 86_400
"""How long to keep a settled submission."""
MAX_NOTES = 10_000
NOTES_AT_ONCE = 1000
SOCKET_SECONDS = 5.0
IDLE_SECONDS = 5
"""Idle time after which a connection is checked before use."""

# The braces keep all keys in one cluster slot, as multi-key scripts require.
# https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/#hash-tags
_KEY, _TASK, _LOST = "{piccc}:submission:", "{piccc}:task:", "{piccc}:unsettled"
_STREAM, _OPEN, _LEASE, _SPENT = "{piccc}:notes:", "{piccc}:open:", "{piccc}:lease:", "{piccc}:spent:"

_CLAIM = """
if redis.call('EXISTS', KEYS[1]) == 1 then return redis.call('HGETALL', KEYS[1]) end
for i = 3, #KEYS do
    local at = 2 + (i - 2) * 3
    local unit, amount, most = ARGV[at], tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
    local spent = tonumber(redis.call('HGET', KEYS[i], unit) or '0')
    if most >= 0 and spent + amount > most then return i - 3 end
end
for i = 3, #KEYS do
    local at = 2 + (i - 2) * 3
    redis.call('HINCRBY', KEYS[i], ARGV[at], ARGV[at + 1])
end
redis.call('HSET', KEYS[1], 'entry', ARGV[1], 'at', ARGV[2], 'request', ARGV[3])
redis.call('ZADD', KEYS[2], ARGV[2], ARGV[4])
return -1
"""
_RECLAIM = """
local at = redis.call('HGET', KEYS[1], 'at')
if at ~= ARGV[5] or redis.call('HEXISTS', KEYS[1], 'task') == 1 then return 0 end
redis.call('HSET', KEYS[1], 'entry', ARGV[1], 'at', ARGV[2], 'request', ARGV[3])
redis.call('ZADD', KEYS[2], ARGV[2], ARGV[4])
return 1
"""
_SETTLE = """
local task = redis.call('HGET', KEYS[1], 'task')
if task then return task == ARGV[1] and 1 or 0 end
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
if not redis.call('SET', KEYS[2], ARGV[2], 'NX', 'EX', ARGV[3]) then return 0 end
redis.call('HSET', KEYS[1], 'task', ARGV[1], 'request', '{}')
redis.call('EXPIRE', KEYS[1], ARGV[3])
redis.call('ZREM', KEYS[3], ARGV[2])
return 1
"""
_RELEASE = """
if redis.call('HEXISTS', KEYS[1], 'task') == 1 or redis.call('DEL', KEYS[1]) == 0 then return end
redis.call('ZREM', KEYS[2], ARGV[1])
for i = 3, #KEYS do
    local at = 2 + (i - 3) * 2
    redis.call('HINCRBY', KEYS[i], ARGV[at], -tonumber(ARGV[at + 1]))
end
"""
_HANDLED = "if redis.call('EXISTS', KEYS[1]) == 1 then redis.call('HSET', KEYS[1], 'handled', '1') end"
_TAKE_LEASE = """
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
if tonumber(ARGV[2]) <= 0 then redis.call('DEL', KEYS[1]) return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""
_BLOCK = """
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[1]) then redis.call('SET', KEYS[1], '', 'PX', ARGV[1]) end
"""
# pyrate-limiter's script with the same arguments, but using Redis's clock and counting entries in the future:
# clients' clocks differ, and the others would not see permits taken by one that is ahead.
_PERMIT = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for i = 1, tonumber(ARGV[4]) do
    local at = 5 + (i - 1) * 3
    local start = now - (tonumber(ARGV[1]) - tonumber(ARGV[at]))
    if redis.call('ZCOUNT', KEYS[1], start, '+inf') + tonumber(ARGV[2]) > tonumber(ARGV[at + 1]) then
        local rank = tonumber(ARGV[at + 2])
        local found = rank >= 0 and redis.call('ZRANGE', KEYS[1], -1 - rank, -1 - rank, 'WITHSCORES') or {}
        return {i - 1, tonumber(found[2] or '-1')}
    end
end
redis.call('ZADD', KEYS[1], now, ARGV[3])
return {-1, -1}
"""
_POST = """
for i = 2, #ARGV, 3 do
    if ARGV[i] == 'wanted' then redis.call('HSET', KEYS[2], ARGV[i + 1], ARGV[i + 2])
    elseif ARGV[i] == 'ended' then redis.call('HDEL', KEYS[2], ARGV[i + 1]) end
    redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], '*', 'k', ARGV[i], 'i', ARGV[i + 1], 't', ARGV[i + 2])
end
"""
_NOTES = """
local notes, oldest = redis.call('XRANGE', KEYS[1], '(' .. ARGV[1], '+', 'COUNT', ARGV[2]), {}
if #notes > 0 then oldest = redis.call('XRANGE', KEYS[1], '-', ARGV[1], 'COUNT', 1) end
return {notes, #oldest}
"""


class RedisLedger:
    """A ledger in Redis, for any number of processes and machines; needs `pip install "piccc[redis]"`.

    Every operation is one atomic script. Redis is only as durable as its configuration: set `appendonly yes`
    and `maxmemory-policy noeviction`, or a crash may lose paid submissions. Settled submissions are kept for
    90 days.

    Pickles contain no password; it is read from `PICCC_LEDGER` when they are loaded.

    Args:
        url: `redis://[user:password@]host[:port][/database]`, or `rediss://` for TLS.

    Raises:
        ConfigurationError: the URL is invalid.
        LedgerUnavailable: from every method, if Redis does not respond within 5 seconds.
        LedgerError: from every method, if Redis rejects a command.
    """

    def __init__(self, url: str) -> None:
        self._url = StoreURL(url)
        self._client: Redis | None = None
        self._scripts: dict[str, Callable[..., Any]] = {}
        self._outage = Outage(self._url)

    @property
    def client(self) -> Redis:
        """The Redis client, which opens connections on demand."""
        if self._client is None:
            try:
                from redis import Redis
                from redis.backoff import NoBackoff
                from redis.retry import Retry
            except ImportError as error:
                raise MissingExtraError(
                    "A Redis ledger needs redis-py.", hint='pip install "piccc[redis]"'
                ) from error
            self._client = Redis.from_url(
                self._url.reveal(),
                decode_responses=True,
                socket_timeout=SOCKET_SECONDS,
                socket_connect_timeout=SOCKET_SECONDS,
                health_check_interval=IDLE_SECONDS,
                retry=Retry(NoBackoff(), 0),  # a retried claim would find its own entry
            )
        return self._client

    def claim(self, entry: Submission) -> Submission | None:
        """Record an entry unless its key is in use; return the existing entry, or None."""
        return self.claim_within(entry, ())

    def claim_within(self, entry: Submission, spends: Sequence[Spend]) -> Submission | None:
        """Claim and count; if it exceeds a limit, do neither and raise SpendLimitExceeded."""
        counts = [(spend.unit, spend.amount, -1 if spend.most is None else spend.most) for spend in spends]
        keys = [_KEY + entry.key, _LOST, *(_SPENT + spend.limit for spend in spends)]
        found = self._run(_CLAIM, keys, *_row(entry), *(value for count in counts for value in count))
        if isinstance(found, list):
            return _entry(entry.key, dict(zip(found[::2], found[1::2], strict=True)))
        if found >= 0:
            raise exceeded(spends[found])
        return None

    def reclaim(self, entry: Submission, since: float) -> bool:
        """Replace an entry recorded at `since` that has no task; return False if it changed."""
        return bool(self._run(_RECLAIM, [_KEY + entry.key, _LOST], *_row(entry), repr(since)))

    def settle(self, key: str, task_id: str) -> bool:
        """Record a submission's task; return False if the key or the task is in use."""
        return bool(self._run(_SETTLE, [_KEY + key, _TASK + task_id, _LOST], task_id, key, KEEP_SECONDS))

    def release(self, key: str) -> None:
        """Delete a submission that has no task."""
        self.release_within(key, ())

    def release_within(self, key: str, spends: Sequence[Spend]) -> None:
        """Delete a submission that has no task, and undo its counts."""
        counts = [value for spend in spends for value in (spend.unit, spend.amount)]
        self._run(_RELEASE, [_KEY + key, _LOST, *(_SPENT + spend.limit for spend in spends)], key, *counts)

    def spent(self, limit: str) -> dict[str, int]:
        """Return the amounts counted against a limit, by unit."""
        with self._errors():
            return {unit: int(amount) for unit, amount in self._hash(_SPENT + limit).items()}

    def handled(self, key: str) -> None:
        """Record that a batch delivered a submission's result."""
        self._run(_HANDLED, [_KEY + key])

    def get(self, key: str) -> Submission | None:
        """Return a key's entry, or None."""
        with self._errors():
            found = self._hash(_KEY + key)
        return _entry(key, found) if found else None

    def key_of(self, task_id: str) -> str | None:
        """Return the key of a task's submission, or None."""
        with self._errors():
            found: Any = self.client.get(_TASK + task_id)
        return None if found is None else str(found)

    def unsettled(self) -> list[Submission]:
        """Return the submissions without a known task, oldest first."""
        with self._errors():
            keys: Any = self.client.zrange(_LOST, 0, -1)
            found = [(key, self._hash(_KEY + key)) for key in keys]
        return [_entry(key, values) for key, values in found if values]

    def lease(self, name: str, holder: str, seconds: float) -> bool:
        """Acquire or renew a lease, or release it with 0 seconds; return whether `holder` has it."""
        return bool(self._run(_TAKE_LEASE, [_LEASE + name], holder, int(seconds * 1000)))

    def block(self, name: str, seconds: float) -> None:
        """Block requests for this many seconds, unless they are already blocked for longer."""
        self._run(_BLOCK, [_LEASE + name], max(1, int(seconds * 1000)))

    def blocked(self, name: str) -> float:
        """Return the remaining seconds of the block; 0 or less if there is none."""
        with self._errors():
            left: Any = self.client.pttl(_LEASE + name)
        return max(0, int(left)) / 1000

    def bucket(self, name: str, rates: list[Rate]) -> AbstractBucket:
        """Return pyrate-limiter's bucket of this name, using the server's clock."""
        from pyrate_limiter import RedisBucket

        with self._errors():
            seconds, micros = self.client.time()
            ahead = int(seconds) * 1000 + int(micros) // 1000 - time.time_ns() // 1_000_000

            class Bucket(RedisBucket):
                def now(self) -> int:
                    return time.time_ns() // 1_000_000 + ahead

            script: Any = self.client.script_load(_PERMIT)
            return Bucket(rates, self.client, f"{{piccc}}:rate:{name}", script)

    def post(self, server: str, notes: Sequence[Note]) -> None:
        """Append to the server's stream, which keeps about the latest 10,000 notes."""
        values = [value for note in notes for value in note]
        self._run(_POST, [_STREAM + server, _OPEN + server], MAX_NOTES, *values)

    def notes(self, server: str, cursor: str | None) -> Notes:
        """Return up to 1,000 notes after a cursor, each once and in order; for None, only the end cursor."""
        if cursor is None:
            with self._errors():
                last: Any = self.client.xrevrange(_STREAM + server, count=1)
            return Notes((), last[0][0] if last else "0-0")
        found, kept = self._run(_NOTES, [_STREAM + server], cursor, NOTES_AT_ONCE)
        if not found:
            return Notes((), cursor)
        notes = []
        for _, values in found:
            fields = dict(zip(values[::2], values[1::2], strict=True))
            notes.append(Note(fields["k"], fields["i"], fields["t"]))
        return Notes(notes, found[-1][0], cursor != "0-0" and not kept)

    def open_tasks(self, server: str) -> list[tuple[str, str]]:
        """Return the id and the text of each task that is wanted and has not ended."""
        with self._errors():
            return list(self._hash(_OPEN + server).items())

    def _hash(self, name: str) -> dict[str, str]:
        found: Any = self.client.hgetall(name)
        return dict(found)

    def _run(self, script: str, keys: Sequence[str], *values: str | int | float) -> Any:
        with self._errors():
            if script not in self._scripts:
                self._scripts[script] = self.client.register_script(script)
            return self._scripts[script](keys=keys, args=values)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        client = self.client  # first, because it reports a missing redis-py
        from redis import exceptions

        self._outage.check()
        try:
            yield
        except exceptions.RedisError as error:
            secrets = self._url.secrets
            redact_causes(error, secrets)
            # Idle connections are probably dead too; those in use belong to other threads.
            client.connection_pool.disconnect(inuse_connections=False)
            is_away = isinstance(error, exceptions.ConnectionError | exceptions.TimeoutError)
            if isinstance(error, exceptions.TimeoutError):
                self._outage.begin()
            raise self._outage.error(error, is_away=is_away) from error

    def __repr__(self) -> str:
        return f"RedisLedger({str(getattr(self, '_url', None))!r})"  # the URL may have been refused

    def __reduce__(self) -> tuple[type[RedisLedger], tuple[str]]:
        return (RedisLedger, (str(self._url),))


def _row(entry: Submission) -> tuple[str, str, str, str]:
    # Redis compares strings, and `repr` of a float round-trips exactly.
    known = json.dumps([entry.type, entry.digest])
    return known, repr(entry.at), json.dumps(entry.request), entry.key


def _entry(key: str, found: dict[str, str]) -> Submission:
    type, digest = json.loads(found["entry"])
    request, at = json.loads(found["request"]), float(found["at"])
    return Submission(key, type, digest, request, at, found.get("task"), "handled" in found)
