"""A media request: its arguments checked, its references read, its key, and what it may cost."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
import os
import sys
import threading
import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable
from urllib.parse import urlsplit

from piccc._dialects.common import parse, serialize
from piccc.arguments import join_halves
from piccc.config import is_loopback
from piccc.errors import ConfigurationError, InvalidArgumentError, SpendLimitExceeded
from piccc.media.ledgers import Ledger, MemoryLedger, Spend, SpendingLedger, Submission, exceeded
from piccc.tasks import Output, Task, TaskType, content_type_of

CLOCK_SKEW = 300.0
"""Seconds by which times of the server may disagree when a lost submission is looked for (assumed)."""
LONGEST_CLOCK_JUMP = 24 * 3600.0
"""By how much a clock may have been wrong when a submission was written down, before it is sent again."""
LONGEST_VIDEO = 3600.0
MAX_REFERENCE_BYTES = 20 * 1024**2
"""How large a reference may be that is sent inside the request (assumed: no upload route is documented)."""
_COMPARED = ("aspect_ratio", "resolution", "duration_seconds")
_NAMED = ("prompt", "model", "aspect_ratio", "resolution", "duration_seconds", "webhook", "key")
_ALIASES = {
    **dict.fromkeys(("aspect", "ratio", "aspectratio", "image_aspect_ratio"), "aspect_ratio"),
    **dict.fromkeys(("size", "image_size", "video_size", "dimensions"), "resolution"),
    **dict.fromkeys(("duration", "seconds", "secs", "length", "duration_s"), "duration_seconds"),
    **dict.fromkeys(("webhook_url", "callback", "callback_url", "call_back_url", "notify_url"), "webhook"),
    **dict.fromkeys(("prompts", "prompt_text"), "prompt"),
    **dict.fromkeys(("model_id", "model_name", "engine"), "model"),
    **dict.fromkeys(("idempotency_key",), "key"),
}
_COUNTS = ("n", "count", "num_images", "num_outputs", "batch_size", "n_images")
_OF_CALLS = frozenset({"timeout", "lost", "run", "concurrency", "submissions", "on_result", "on_update"})
_OF_CALLS |= {"progress", "max_tasks", "max_video_seconds", "save_to"}
"""Our own arguments of other methods."""
_NO_TYPOS = frozenset({"mode", "modes", "keys"})
"""Names near one of ours that servers are known to use."""
_REFERENCES = ("image", "frame", "reference", "mask", "video", "audio", "img")


@runtime_checkable
class Receiver(Protocol):
    """Something that has a webhook address for each submission."""

    def url_for(self, key: str) -> str:
        """Return the address for the submission of this key."""
        ...


@dataclass(frozen=True, slots=True)
class TaskRequest:
    """One request for an image or a video: the body that is sent, under a key that names it."""

    type: TaskType
    key: str
    body: Mapping[str, Any] = field(repr=False)
    digest: str = field(default="", repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.digest:
            object.__setattr__(self, "digest", digest_of(self.type, self.body))

    @property
    def video_seconds(self) -> float:
        """How many seconds of video are requested; 0 for an image, and where the server chooses."""
        seconds = self.body.get("duration_seconds", 0)
        return float(seconds) if self.type == "video" and isinstance(seconds, int | float) else 0.0

    def entry(self) -> Submission:
        """Return what the ledger writes down."""
        return Submission(self.key, self.type, self.digest, self.body)


def digest_of(type: TaskType, body: Mapping[str, Any]) -> str:
    """Return a hash of what is requested; where its end is reported to does not count."""
    requested = {name: value for name, value in body.items() if name != "webhook"}
    text = json.dumps([type, requested], sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def build_task_request(
    type: TaskType,
    prompt: str,
    *,
    model: str | None = None,
    aspect_ratio: str | None = None,
    resolution: str | None = None,
    duration_seconds: float | None = None,
    webhook: str | Receiver | None = None,
    key: str | Callable[[str], str] | None = None,
    run: str | None = None,
    extra: Mapping[str, Any] | None = None,
    extra_body: Mapping[str, Any] | None = None,
) -> TaskRequest:
    """Check and make a request; raise InvalidArgumentError for what no server can mean.

    Without a `key` it has a random one, or under a `run` one that the run and its content give each time; a
    function is given the digest.

    Which ratios, resolutions and lengths exist is for the server to say. Files of references are read, so it
    must not run on an event loop.
    """
    model = model or os.environ.get(f"PICCC_{type.upper()}_MODEL")
    texts = {"prompt": prompt, "model": model, "aspect_ratio": aspect_ratio, "resolution": resolution}
    _check(type, texts, duration_seconds)
    for name in extra or {}:
        _check_name(name)
    body = {
        **texts,
        "duration_seconds": duration_seconds,
        **{name: _as_reference(name, value) for name, value in (extra or {}).items()},
        **(extra_body or {}),
    }
    body = {name: value for name, value in body.items() if value is not None}
    # Written and read again, so that the ledger keeps, and a digest sees, just what goes over the wire.
    body = _joined(parse(serialize(body)))
    digest = digest_of(type, body)
    if key is None:
        key = str(uuid.uuid4()) if run is None else key_of_row(run, digest, 0)
    key = checked_key(key(digest) if callable(key) else key)
    # The protocol is asked last, for to look for its method takes as long as the rest of this.
    if webhook is not None and isinstance(webhook, Receiver):
        webhook = webhook.url_for(key)
    if webhook:
        body = {"webhook": {"url": _checked_webhook(webhook)}, **body}
    return TaskRequest(type, key, body, digest)


def _check(type: TaskType, texts: Mapping[str, object], seconds: object) -> None:
    for name, example in (("aspect_ratio", "16:9"), ("resolution", "1K" if type == "image" else "720p")):
        value = texts[name]
        if value is not None and (not isinstance(value, str) or not value.strip()):
            raise InvalidArgumentError(f"{name} is {value!r}.", hint=f"Give a text such as {example!r}.")
    prompt = texts["prompt"]
    if not isinstance(prompt, str):
        raise InvalidArgumentError(
            f"The prompt is {prompt!r:.80}.", hint="Give a text that says what to make."
        )
    if not prompt.strip():
        raise InvalidArgumentError("The prompt is empty.", hint="Say what to make.")
    model = texts["model"]
    if model is not None and not isinstance(model, str):
        raise InvalidArgumentError(f"model is {model!r:.80}.", hint="Give the model's id as a text.")
    if not model:
        raise InvalidArgumentError(
            f"No {type} model was named.",
            hint=f"Pass model=, or set PICCC_{type.upper()}_MODEL. The provider documents no default; "
            f"the emulator offers piccc-{type}.",
        )
    if seconds is None:
        return
    if type == "image":
        raise InvalidArgumentError("An image has no duration_seconds.", hint="Use client.videos for a video.")
    is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if not is_number or not math.isfinite(seconds) or not 0 < seconds < LONGEST_VIDEO:  # type: ignore[arg-type,operator]  # checked first
        raise InvalidArgumentError(
            f"duration_seconds is {seconds!r}.", hint="Give the video's length in seconds, a number above 0."
        )


def _check_name(name: str) -> None:
    """Refuse a name that is nearly one of ours: a server ignores what it does not know, and bills for it."""
    if name in _COUNTS:
        raise InvalidArgumentError(
            f"{name} is not a parameter: each submission makes one task.",
            hint=f"Use map([prompt] * 4) for several. If your server knows it: extra_body={{{name!r}: …}}.",
        )
    if name in _OF_CALLS:
        raise InvalidArgumentError(
            f"{name} says how a call is made, and would be sent to the server as a parameter here.",
            hint=f"Give it to generate or map. If your server knows it: extra_body={{{name!r}: …}}.",
        )
    plain = name.lower()
    right = _ALIASES.get(plain) or next(
        (ours for ours in _NAMED if ours == plain or _is_typo(plain, ours)), None
    )
    if right is None:
        right = next(
            (ours for alias, ours in _ALIASES.items() if len(alias) > 7 and _is_typo(plain, alias)), None
        )
    if right and name not in _NO_TYPOS:
        raise InvalidArgumentError(
            f"{name} is not a parameter. Did you mean {right}?",
            hint=f"If your server really knows it, give it as extra_body={{{name!r}: …}}.",
        )


def _is_typo(name: str, right: str) -> bool:
    """Return whether a name is within two edits of another, one for a short one; a swap is one edit."""
    most = 2 if len(right) > 5 else 1
    if name == right or abs(len(name) - len(right)) > most:
        return False
    rows = [list(range(len(right) + 1))]
    for i, mine in enumerate(name, 1):
        row = [i]
        for j, theirs in enumerate(right, 1):
            row.append(min(rows[-1][j] + 1, row[-1] + 1, rows[-1][j - 1] + (mine != theirs)))
            if i > 1 and j > 1 and (mine, theirs) == (right[j - 2], name[i - 2]):
                row[-1] = min(row[-1], rows[-2][j - 2] + 1)
        rows.append(row)
    return rows[-1][-1] <= most


def _as_reference(name: str, value: object) -> object:
    """Return a value as the wire carries it: an address as it is, content as a `data:` URL (assumed).

    Content is a `Path`, bytes, or a Pillow image. A finished task, or an output, stands for its address.
    """
    if isinstance(value, list | tuple):
        return [_as_reference(name, each) for each in value]
    if isinstance(value, Mapping):
        return {key: _as_reference(f"{name}.{key}", each) for key, each in value.items()}
    if isinstance(value, Iterator | Set) or hasattr(value, "read"):
        # JSON would be made of what it yields: the lines of a file, say, or nothing the second time.
        raise InvalidArgumentError(
            f"{name} is a {type(value).__name__}, which cannot be sent.",
            hint="Give bytes or a pathlib.Path for a file, and a list for several values.",
        )
    if isinstance(value, Task):
        if len(value.outputs) != 1:
            raise InvalidArgumentError(
                f"{name} is task {value.id}, which has {len(value.outputs)} outputs ({value.status}).",
                hint="Wait for the task, and give one of its outputs.",
            )
        value = value.outputs[0]
    if isinstance(value, Output):
        return value.url
    if isinstance(value, os.PathLike):
        return _data_url(name, _content(name, Path(value)))
    if isinstance(value, bytes | bytearray | memoryview):
        return _data_url(name, bytes(value))
    pillow = sys.modules.get("PIL.Image")
    if pillow is not None and isinstance(value, pillow.Image):
        buffer = io.BytesIO()
        try:
            (value.convert("RGB") if value.mode in ("CMYK", "YCbCr", "LAB", "HSV") else value).save(
                buffer, "PNG"
            )
        except (OSError, ValueError) as error:
            raise InvalidArgumentError(
                f"{name} cannot be written as PNG: {error}.", hint='Give image.convert("RGB").'
            ) from error
        return _data_url(name, buffer.getvalue())
    if isinstance(value, str) and any(each in name.lower() for each in _REFERENCES) and _is_file(value):
        raise InvalidArgumentError(
            f"{name} is the path of a file, as a text, which would be sent as it is.",
            hint=f"Give {name}=pathlib.Path({value[:80]!r}), or an https address.",
        )
    return value


def _is_file(text: str) -> bool:
    if text.startswith("file:"):
        return True
    if "://" in text or text.startswith("data:") or len(text) > 1000:
        return False
    return text.startswith(("/", "./", "../", "~")) or Path(text).suffix.lower() in _SUFFIXES


_SUFFIXES = (".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp", ".mp4", ".mov", ".webm", ".mp3", ".wav")


def _content(name: str, path: Path) -> bytes:
    try:
        path = path.expanduser()
        if path.stat().st_size > MAX_REFERENCE_BYTES:
            raise _too_large(name)
        return path.read_bytes()
    except (OSError, RuntimeError) as error:
        raise InvalidArgumentError(
            f"{name} cannot be read: {error}.", hint="Give the path of a file that exists."
        ) from error


def _data_url(name: str, content: bytes) -> str:
    if len(content) > MAX_REFERENCE_BYTES:
        raise _too_large(name)
    mime_type = content_type_of(content) or ""
    if mime_type.partition("/")[0] not in ("image", "video", "audio"):
        raise InvalidArgumentError(
            f"{name} is no image, video or audio file of a known kind.",
            hint="Give one, such as PNG, JPEG, WebP, MP4 or MP3, or an https address.",
        )
    return f"data:{mime_type};base64,{base64.b64encode(content).decode()}"


def _too_large(name: str) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"{name} has more than {MAX_REFERENCE_BYTES // 1024**2} MB.",
        hint="Make it smaller, or give an https address from which the server can fetch it.",
    )


def _joined(value: Any) -> Any:
    """Join surrogate pairs that were cut in two, and replace halves: no server reads them."""
    if isinstance(value, str):
        return value if value.isascii() else join_halves(value)
    if isinstance(value, dict):
        return {_joined(name): _joined(each) for name, each in value.items()}
    return [_joined(each) for each in value] if isinstance(value, list) else value


def checked_key(key: str) -> str:
    """Return a key; raise InvalidArgumentError where a header and a webhook's path cannot carry it."""
    if not isinstance(key, str) or not 0 < len(key) <= 200 or not key.isascii() or not key.isprintable():
        raise InvalidArgumentError(
            f"key is {key!r:.100}.", hint="Give up to 200 printable ASCII characters, or leave it out."
        )
    return key


def as_task(task: Task | str) -> Task:
    """Return a task, given as one or by its id; raise InvalidArgumentError where no path can carry the id."""
    id = task.id if isinstance(task, Task) else task
    try:
        is_id = bool(id.encode()) and id not in (".", "..")
    except (AttributeError, UnicodeEncodeError):
        is_id = False
    if not is_id:
        raise InvalidArgumentError(f"{task!r:.80} is no task.", hint="Give a task, or its id as a text.")
    return task if isinstance(task, Task) else Task(task)


def key_of_row(run: str, digest: str, number: int) -> str:
    """Return the key of the `number`-th of a run's equal rows; a run may have a name in any language."""
    if not run.isascii() or not run.isprintable() or len(run) > 120:
        run = f"run-{hashlib.sha256(run.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}"
    return checked_key(f"{run}/{digest[:24]}/{number}")


def _celery(celery: Any) -> object:
    return celery.current_task and celery.current_task.request.id


def _dbos(dbos: Any) -> object:
    return dbos.DBOS.workflow_id and (dbos.DBOS.workflow_id, dbos.DBOS.step_id)


def _langgraph(langgraph: Any) -> object:
    config = langgraph.get_config()
    thread, place = (config["configurable"].get(name) for name in ("thread_id", "checkpoint_ns"))
    return thread is not None and place and (str(thread), place)


def _ray(ray: Any) -> object:
    context = ray.is_initialized() and ray.get_runtime_context()
    if not context:
        return None
    context.get_assigned_resources()  # raises in a driver, where get_task_id would log a warning
    # Ray counts tasks from the same number in each cluster, so the id alone is not one for all time.
    return context.get_session_name(), context.get_task_id()


def _temporal(activity: Any) -> object:
    info = activity.info()
    return info.namespace, info.workflow_run_id or info.activity_run_id, info.activity_id


_ENGINES: Mapping[str, Callable[[Any], object]] = {
    "langgraph.config": _langgraph,
    "temporalio.activity": _temporal,
    "dbos": _dbos,
    "celery": _celery,
    "distributed": lambda dask: dask.get_worker().get_current_task(),
    "ray": _ray,
}
"""By module, what names the task that an engine runs here; nothing, or an error, where it runs none.

Those that run inside others come first. Each uses what its engine documents.
"""


def engine_run(ledger: Ledger) -> str | None:
    """Return a name for the engine's task that this code runs in, the same when it is run again, or None.

    None also in a graph's node where the ledger is in memory. Warn where the ledger dies with its worker.
    """
    for module, identify in _ENGINES.items():
        id: object = None
        if module in sys.modules:
            with suppress(Exception):  # what it raises outside a task is each engine's own affair
                id = identify(sys.modules[module])
        if id:
            engine = module.partition(".")[0]
            if isinstance(ledger, MemoryLedger) and engine == "langgraph":
                # Nothing outlives the process here, and a node that asks twice for one thing wants two.
                return None
            if isinstance(ledger, MemoryLedger):
                warnings.warn(
                    f"This runs in {engine}, which runs a task again when its worker dies, and the ledger is "
                    "in that worker's memory: it would be paid for twice. Set PICCC_LEDGER, or "
                    'Client(ledger="redis://…" | "postgresql://…").',
                    stacklevel=2,
                )
            # A digest, because it goes to the provider.
            return f"{engine}-{hashlib.sha256(repr(id).encode('utf-8', 'surrogatepass')).hexdigest()[:32]}"
    return None


def _checked_webhook(url: object) -> str:
    try:
        parts = urlsplit(url) if isinstance(url, str) else urlsplit("")
        host = parts.hostname
    except ValueError:
        host = None
    if host and (parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host))):
        return str(url)
    raise InvalidArgumentError(
        "webhook is not an https address.", hint="Give it as a text, https://host/path, or as a receiver."
    )


def cannot_be_excluded(task: Task, entry: Submission, earliest: float) -> bool:
    """Return whether nothing that the server says shows that a task is not what became of a submission."""
    request = entry.request
    pairs: list[tuple[Any, Any]] = [(task.type, entry.type)]
    pairs += [(task.model, request.get("model")), (task.prompt, request.get("prompt"))]
    pairs += [(task.raw.get(name), request.get(name)) for name in _COMPARED]
    return is_recent(task, earliest) and all(
        not theirs or not ours or theirs == ours for theirs, ours in pairs
    )


def is_recent(task: Task, earliest: float) -> bool:
    """Return whether a task was not made before a moment."""
    return task.created_at is None or task.created_at >= earliest


def nearest(tasks: Iterable[Task], entry: Submission, since: float) -> list[Task]:
    """Return the tasks that may be what became of a submission, the nearest in time first.

    As far as the server says, all is equal; `since` is when it was written down, by the server's clock.
    """
    prompt = entry.request.get("prompt")
    found = [
        task
        for task in tasks
        if task.prompt == prompt and cannot_be_excluded(task, entry, since - CLOCK_SKEW)
    ]
    return sorted(found, key=lambda task: abs((task.created_at or since) - since))


class SpendLimit:
    """Bound what is submitted: by tasks, by seconds of video, by money; None sets no bound.

    One spend limit may be shared by clients, threads and runs. What the server refused is given back. Under a
    ledger that processes share, all of them count against it together, in the same act as the submission is
    written down. Under another ledger a client with a limit cannot be pickled: each copy would count for
    itself.

    Args:
        max_tasks: how many tasks may be submitted.
        max_video_seconds: how many seconds of video.
        max_cost: how much money, in the unit of `prices`.
        prices: by model, what an image costs, or a second of video. A model that is not there is refused
            under `max_cost`.
        name: names the limit where processes share a ledger, also for later runs; by default a random one,
            which copies made by pickling share.

    Attributes:
        tasks, video_seconds, cost: how much this process has submitted; of all processes, see
            `ledger.spent(name)`.

    Examples:
        >>> from piccc import SpendLimit, Client
        >>> spend_limit = SpendLimit(max_tasks=10)
        >>> task = Client(spend_limit=spend_limit).images.submit("A ceramic mug", model="piccc-image")
        >>> spend_limit
        SpendLimit(1 of 10 tasks, 0 of None s of video, 0 of None money)
    """

    def __init__(
        self,
        *,
        max_tasks: int | None = None,
        max_video_seconds: float | None = None,
        max_cost: float | None = None,
        prices: Mapping[str, float] | None = None,
        name: str | None = None,
    ) -> None:
        self.max_tasks = max_tasks
        self.max_video_seconds = max_video_seconds
        self.max_cost = max_cost
        self.prices = dict(prices or {})
        self.name = name or str(uuid.uuid4())
        self._counted: dict[str, int] = {}
        self._is_copy = False
        self._lock = threading.Lock()

    @property
    def tasks(self) -> int:
        """How many tasks this process has submitted."""
        return self._counted.get("tasks", 0)

    @property
    def video_seconds(self) -> float:
        """How many seconds of video."""
        return self._counted.get("video_ms", 0) / 1000

    @property
    def cost(self) -> float:
        """How much money."""
        return self._counted.get("micros", 0) / 1_000_000

    def spends_of(self, request: TaskRequest) -> list[Spend]:
        """Return what a request counts for.

        Args:
            request: a request as it would be sent.

        Raises:
            SpendLimitExceeded: that cannot be said: a video of which no length was asked counts neither under
                `max_video_seconds` nor under `max_cost`, and a model without a price not under `max_cost`.
        """
        is_video, seconds, model = request.type == "video", request.video_seconds, request.body.get("model")
        spends = [Spend(self.name, "tasks", 1, self.max_tasks)]
        if is_video and self.max_video_seconds is not None and not seconds:
            raise _uncountable("max_video_seconds needs duration_seconds")
        if is_video:
            spends.append(_spend(self.name, "video_ms", seconds * 1000, self.max_video_seconds, 1000))
        if self.max_cost is not None and (model not in self.prices or (is_video and not seconds)):
            raise _uncountable(f"max_cost needs a price of {model!r}, and of a video its duration_seconds")
        cost = self.prices.get(str(model), 0.0) * (seconds if is_video else 1)
        if cost:
            spends.append(_spend(self.name, "micros", cost * 1_000_000, self.max_cost, 1_000_000))
        return spends

    def spend(self, request: TaskRequest, *, is_bound: bool = True) -> None:
        """Count a request.

        Args:
            request: a request that is about to be sent.
            is_bound: whether the limit applies; else it is only counted, for a ledger has judged it.

        Raises:
            SpendLimitExceeded: it is too much; nothing was counted.
            ConfigurationError: the limit came from another process, and no ledger is shared with that.
        """
        if is_bound and self._is_copy:
            raise ConfigurationError(
                "A spend limit that was copied from another process counts only under a ledger they share.",
                hint='Give the client one: Client(ledger="redis://…"), "postgresql://…", or a file.',
            )
        spends = self.spends_of(request)
        with self._lock:
            for each in spends if is_bound else ():
                if each.most is not None and self._counted.get(each.unit, 0) + each.amount > each.most:
                    raise exceeded(each)
            for each in spends:
                self._counted[each.unit] = self._counted.get(each.unit, 0) + each.amount

    def give_back(self, request: TaskRequest) -> None:
        """Take back the count of a request that was not accepted.

        Args:
            request: the request that was counted.
        """
        with self._lock:
            for each in self.spends_of(request):
                self._counted[each.unit] = self._counted.get(each.unit, 0) - each.amount

    def __repr__(self) -> str:
        return (
            f"SpendLimit({self.tasks} of {self.max_tasks} tasks, {self.video_seconds:g} of "
            f"{self.max_video_seconds} s of video, {self.cost:g} of {self.max_cost} money)"
        )

    def __copy__(self) -> SpendLimit:
        return self

    def __deepcopy__(self, memo: object) -> SpendLimit:
        return self

    def __reduce__(self) -> tuple[object, ...]:
        bounds = (self.max_tasks, self.max_video_seconds, self.max_cost, self.prices, self.name)
        return (_rebuild, bounds)


def _rebuild(
    max_tasks: int | None,
    max_video_seconds: float | None,
    max_cost: float | None,
    prices: Mapping[str, float],
    name: str,
) -> SpendLimit:
    limit = SpendLimit(
        max_tasks=max_tasks, max_video_seconds=max_video_seconds, max_cost=max_cost, prices=prices, name=name
    )
    limit._is_copy = True
    return limit


def check_copy(limit: SpendLimit | None, ledger: Ledger) -> None:
    """Refuse to let a spend limit go into another process where that would count for itself."""
    if limit is not None and not isinstance(ledger, SpendingLedger):
        raise ConfigurationError(
            "A client with a spend limit cannot be copied to another process: each would count for itself.",
            hint='Give it a ledger that they share: Client(ledger="redis://…"), "postgresql://…", or a file.',
        )


def _spend(name: str, unit: str, amount: float, most: float | None, scale: int) -> Spend:
    # Amounts are rounded up and bounds down, so that no rounding spends more.
    return Spend(name, unit, math.ceil(round(amount, 6)), None if most is None else math.floor(most * scale))


def _uncountable(why: str) -> SpendLimitExceeded:
    return SpendLimitExceeded(
        f"The spend limit cannot count this: {why}.", hint="Nothing was sent. Say what it needs."
    )
