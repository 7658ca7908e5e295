"""Build media requests: validate arguments, read references, derive keys, limit spending."""

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
"""Tolerance in seconds for server times when looking for a lost submission (assumed)."""
LONGEST_CLOCK_JUMP = 24 * 3600.0
"""Tolerance in seconds for clock errors when proving that a lost submission did not arrive."""
LONGEST_VIDEO = 3600.0
MAX_REFERENCE_BYTES = 20 * 1024**2
"""Maximum size of a reference sent inside the request (assumed: no upload endpoint is documented)."""
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
_CALL_OPTIONS = frozenset({"timeout", "lost", "run", "concurrency", "submissions", "on_result", "on_update"})
_CALL_OPTIONS |= {"progress", "max_tasks", "max_video_seconds", "save_to"}
"""Arguments of the client's other methods."""
_NO_TYPOS = frozenset({"mode", "modes", "keys"})
"""Names similar to ours that servers are known to use."""
_REFERENCES = ("image", "frame", "reference", "mask", "video", "audio", "img")


@runtime_checkable
class Receiver(Protocol):
    """A provider of one webhook URL per submission."""

    def url_for(self, key: str) -> str:
        """Return the webhook URL for the submission with this key."""
        ...


@dataclass(frozen=True, slots=True)
class TaskRequest:
    """One request for an image or a video: the body to send and the key that identifies it."""

    type: TaskType
    key: str
    body: Mapping[str, Any] = field(repr=False)
    digest: str = field(default="", repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.digest:
            object.__setattr__(self, "digest", digest_of(self.type, self.body))

    @property
    def video_seconds(self) -> float:
        """Requested seconds of video; 0 for an image, or if the server chooses."""
        seconds = self.body.get("duration_seconds", 0)
        return float(seconds) if self.type == "video" and isinstance(seconds, int | float) else 0.0

    def entry(self) -> Submission:
        """Return the ledger entry for this request."""
        return Submission(self.key, self.type, self.digest, self.body)


def digest_of(type: TaskType, body: Mapping[str, Any]) -> str:
    """Return a hash of the request, excluding its webhook."""
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
    """Build and validate a request; raise InvalidArgumentError if no server could accept it.

    The default `key` is random, or with `run` derived from the run and the content. If `key` is a function,
    it is called with the digest.

    The server decides which ratios, resolutions and lengths exist. Reference files are read, so do not call
    this on an event loop.
    """
    model = os.environ.get(f"PICCC_{type.upper()}_MODEL") if model is None else model
    texts = {"prompt": prompt, "model": model, "aspect_ratio": aspect_ratio, "resolution": resolution}
    _check(type, texts, duration_seconds)
    for name in extra or {}:
        _check_name(name)
    if not isinstance(extra_body, Mapping | None):
        raise InvalidArgumentError(f"extra_body is {extra_body!r:.80}.", hint="Pass a dict of parameters.")
    body = {
        **texts,
        "duration_seconds": duration_seconds,
        **{name: _as_reference(name, value) for name, value in (extra or {}).items()},
        **(extra_body or {}),
    }
    body = {name: value for name, value in body.items() if value is not None}
    # Serialize and parse, so that the ledger and the digest see exactly what goes over the wire.
    body = _fix_surrogates(parse(serialize(body)))
    digest = digest_of(type, body)
    if key is None:
        key = str(uuid.uuid4()) if run is None else key_of_row(run, digest, 0)
    key = checked_key(key(digest) if callable(key) else key)
    # Check the protocol last: isinstance takes as long as everything else here.
    if webhook is not None and isinstance(webhook, Receiver):
        webhook = webhook.url_for(key)
    if webhook is not None:
        body = {"webhook": {"url": _checked_webhook(webhook)}, **body}
    return TaskRequest(type, key, body, digest)


def _check(type: TaskType, texts: Mapping[str, object], seconds: object) -> None:
    for name, example in (("aspect_ratio", "16:9"), ("resolution", "1K" if type == "image" else "720p")):
        value = texts[name]
        if value is not None and (not isinstance(value, str) or not value.strip()):
            raise InvalidArgumentError(f"{name} is {value!r}.", hint=f"Pass a string such as {example!r}.")
    prompt = texts["prompt"]
    if not isinstance(prompt, str):
        raise InvalidArgumentError(
            f"The prompt is {prompt!r:.80}.", hint="Pass a string that describes what to generate."
        )
    if not prompt.strip():
        raise InvalidArgumentError("The prompt is empty.", hint="Describe what to generate.")
    model = texts["model"]
    if model is not None and not isinstance(model, str):
        raise InvalidArgumentError(f"model is {model!r:.80}.", hint="Pass the model's id as a string.")
    if not model:
        raise InvalidArgumentError(
            f"No {type} model was given.",
            hint=f"Pass model=, or set PICCC_{type.upper()}_MODEL. The provider documents no default; "
            f"the emulator offers piccc-{type}.",
        )
    if seconds is None:
        return
    if type == "image":
        raise InvalidArgumentError("Images have no duration_seconds.", hint="Use client.videos for a video.")
    is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if not is_number or not 0 < seconds < LONGEST_VIDEO:  # type: ignore[operator]  # checked first; NaN too
        raise InvalidArgumentError(
            f"duration_seconds is {seconds!r}.", hint="Pass the video's length in seconds, above 0."
        )


def _check_name(name: str) -> None:
    """Reject a name close to one of ours: a server would ignore it and bill for the task anyway."""
    if name in _COUNTS:
        raise InvalidArgumentError(
            f"{name} is not a parameter: each submission creates one task.",
            hint=f"For several, map([prompt] * 4). If your server supports it: extra_body={{{name!r}: …}}.",
        )
    if name in _CALL_OPTIONS:
        raise InvalidArgumentError(
            f"{name} is an option of another method; here it would be sent to the server.",
            hint=f"Pass it to generate or map. If your server supports it: extra_body={{{name!r}: …}}.",
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
            hint=f"If your server really supports it, pass extra_body={{{name!r}: …}}.",
        )


def _is_typo(name: str, right: str) -> bool:
    """Return whether a name is within two edits of another (one if short); a swap counts as one edit."""
    most = 2 if len(right) > 5 else 1
    if name == right or abs(len(name) - len(right)) > most:
        return False
    rows = [list(range(len(right) + 1))]
    for i, a in enumerate(name, 1):
        row = [i]
        for j, b in enumerate(right, 1):
            row.append(min(rows[-1][j] + 1, row[-1] + 1, rows[-1][j - 1] + (a != b)))
            if i > 1 and j > 1 and (a, b) == (right[j - 2], name[i - 2]):
                row[-1] = min(row[-1], rows[-2][j - 2] + 1)
        rows.append(row)
    return rows[-1][-1] <= most


def _as_reference(name: str, value: object) -> object:
    """Return a value as sent on the wire: a URL unchanged, content as a `data:` URL (assumed).

    Content is a `Path`, bytes, or a Pillow image. A finished task or an output is replaced by its URL.
    """
    if isinstance(value, list | tuple):
        return [_as_reference(name, item) for item in value]
    if isinstance(value, Mapping):
        return {key: _as_reference(f"{name}.{key}", item) for key, item in value.items()}
    if isinstance(value, Iterator | Set) or hasattr(value, "read"):
        # Serializing would send whatever it yields: a file's lines, for example, or nothing the second time.
        raise InvalidArgumentError(
            f"{name} is a {type(value).__name__}, which cannot be sent.",
            hint="Pass bytes or a pathlib.Path for a file, and a list for several values.",
        )
    if isinstance(value, Task):
        if len(value.outputs) != 1:
            raise InvalidArgumentError(
                f"{name} is task {value.id}, which has {len(value.outputs)} outputs ({value.status}).",
                hint="Wait for the task, then pass one of its outputs.",
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
                f"{name} cannot be written as PNG: {error}.", hint='Pass image.convert("RGB").'
            ) from error
        return _data_url(name, buffer.getvalue())
    if isinstance(value, str) and any(word in name.lower() for word in _REFERENCES) and _is_file(value):
        raise InvalidArgumentError(
            f"{name} is a file path as a string, which would be sent unchanged.",
            hint=f"Pass {name}=pathlib.Path({value[:80]!r}), or an https URL.",
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
            f"{name} cannot be read: {error}.", hint="Pass the path of an existing file."
        ) from error


def _data_url(name: str, content: bytes) -> str:
    if len(content) > MAX_REFERENCE_BYTES:
        raise _too_large(name)
    mime_type = content_type_of(content) or ""
    if mime_type.partition("/")[0] not in ("image", "video", "audio"):
        raise InvalidArgumentError(
            f"{name} is not an image, video or audio file of a known type.",
            hint="Pass PNG, JPEG, WebP, MP4 or MP3, for example, or an https URL.",
        )
    return f"data:{mime_type};base64,{base64.b64encode(content).decode()}"


def _too_large(name: str) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"{name} is larger than {MAX_REFERENCE_BYTES // 1024**2} MB.",
        hint="Make it smaller, or pass an https URL that the server can fetch.",
    )


def _fix_surrogates(value: Any) -> Any:
    """Join split surrogate pairs and replace lone surrogates, which no server accepts."""
    if isinstance(value, str):
        return value if value.isascii() else join_halves(value)
    if isinstance(value, dict):
        return {_fix_surrogates(name): _fix_surrogates(item) for name, item in value.items()}
    return [_fix_surrogates(item) for item in value] if isinstance(value, list) else value


def checked_key(key: str) -> str:
    """Return a key; raise InvalidArgumentError if it does not fit in a header and a webhook's path."""
    is_text = isinstance(key, str) and key.isascii() and key.isprintable() and key == key.strip()
    if not is_text or not 0 < len(key) <= 200:
        raise InvalidArgumentError(
            f"key is {key!r:.100}.",
            hint="Pass up to 200 printable ASCII characters without spaces around them, or omit it.",
        )
    return key


def as_task(task: Task | str) -> Task:
    """Return a task, given as a task or an id; raise InvalidArgumentError if the id cannot be in a path."""
    id = task.id if isinstance(task, Task) else task
    try:
        is_id = bool(id.encode()) and id not in (".", "..")
    except (AttributeError, UnicodeEncodeError):
        is_id = False
    if not is_id:
        raise InvalidArgumentError(f"{task!r:.80} is not a task.", hint="Pass a task, or its id as a string.")
    return task if isinstance(task, Task) else Task(task)


def key_of_row(run: str, digest: str, number: int) -> str:
    """Return the key of the `number`-th of a run's equal rows; the run's name may be in any language."""
    if not run.isascii() or not run.isprintable() or run != run.lstrip() or len(run) > 120:
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
    # Every Ray cluster numbers its tasks from the same start, so the id alone is not unique.
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
"""By module, a function that identifies the engine's current task; if none, it returns falsy or raises.

Engines that run inside others come first. Only documented APIs are used.
"""


def engine_run(ledger: Ledger) -> str | None:
    """Return a stable name for the engine task that runs this code, the same on a rerun, or None.

    Also return None in a LangGraph node with an in-memory ledger. Warn if the ledger dies with its worker.
    """
    for module, identify in _ENGINES.items():
        id: object = None
        if module in sys.modules:
            with suppress(Exception):  # outside a task, engines raise various errors
                id = identify(sys.modules[module])
        if id:
            engine = module.partition(".")[0]
            if isinstance(ledger, MemoryLedger) and engine == "langgraph":
                # The ledger does not outlive the process, and equal requests in one node mean two tasks.
                return None
            if isinstance(ledger, MemoryLedger):
                warnings.warn(
                    f"{engine} reruns a task when its worker dies, but the ledger is in that worker's "
                    "memory, so the rerun would be billed again. Set PICCC_LEDGER, or use "
                    'Client(ledger="redis://…" | "postgresql://…").',
                    stacklevel=2,
                )
            # Use a digest, because it is sent to the provider.
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
        "webhook is not an https URL.", hint="Pass a string, https://host/path, or a receiver."
    )


def cannot_be_excluded(task: Task, entry: Submission, earliest: float) -> bool:
    """Return whether a task is recent and no known field contradicts that a submission created it."""
    request = entry.request
    pairs: list[tuple[Any, Any]] = [(task.type, entry.type)]
    pairs += [(task.model, request.get("model")), (task.prompt, request.get("prompt"))]
    pairs += [(task.raw.get(name), request.get(name)) for name in _COMPARED]
    return is_recent(task, earliest) and all(
        not reported or not requested or reported == requested for reported, requested in pairs
    )


def is_recent(task: Task, earliest: float) -> bool:
    """Return whether a task was created at or after a time, or has no known time."""
    return task.created_at is None or task.created_at >= earliest


def nearest(tasks: Iterable[Task], entry: Submission, since: float) -> list[Task]:
    """Return the tasks that a submission may have created, the nearest in time first.

    All fields that the server reports match. `since` is when it was recorded, on the server's clock.
    """
    prompt = entry.request.get("prompt")
    candidates = [
        task
        for task in tasks
        if task.prompt == prompt and cannot_be_excluded(task, entry, since - CLOCK_SKEW)
    ]
    return sorted(candidates, key=lambda task: abs((task.created_at or since) - since))


class SpendLimit:
    """A limit on submissions: by tasks, seconds of video, or money; None means no limit.

    Clients, threads and runs can share a spend limit. Requests that the server rejects are not counted. With
    a ledger that processes share, they count against the limit together, atomically with recording the
    submission. With any other ledger, a client with a limit cannot be pickled, because each copy would count
    separately.

    Args:
        max_tasks: the maximum number of tasks.
        max_video_seconds: the maximum seconds of video.
        max_cost: the maximum cost, in the currency of `prices`.
        prices: by model, the price of an image or of a second of video. With `max_cost`, models without a
            price are rejected.
        name: identifies the limit across processes that share a ledger, and across runs; by default random,
            and shared by pickled copies.

    Attributes:
        tasks, video_seconds, cost: totals submitted by this process; for all processes, see
            `ledger.spent(name)`.

    Raises:
        ConfigurationError: a maximum or a price is negative or not a number, or the name is empty.

    Examples:
        >>> from piccc import SpendLimit, Client
        >>> spend_limit = SpendLimit(max_tasks=10)
        >>> task = Client(spend_limit=spend_limit).images.submit("A ceramic mug", model="piccc-image")
        >>> spend_limit
        SpendLimit(1 of 10 tasks)
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
        if not isinstance(prices, Mapping | None):
            raise ConfigurationError(
                f"prices is of type {type(prices).__name__}.", hint="Pass a dict of model names and prices."
            )
        if name is not None and not (isinstance(name, str) and name.strip()):
            raise ConfigurationError(f"name is {name!r:.80}.", hint="Pass a string, or omit it.")
        amounts = {"max_tasks": max_tasks, "max_video_seconds": max_video_seconds, "max_cost": max_cost}
        amounts |= {f"prices[{model!r}]": price for model, price in (prices or {}).items()}
        for argument, amount in amounts.items():
            is_number = isinstance(amount, int | float) and not isinstance(amount, bool)
            is_endless = amount == math.inf and not argument.startswith("max_")
            if amount is not None and (is_endless or not (is_number and amount >= 0)):  # also refuses NaN
                raise ConfigurationError(
                    f"{argument}={amount!r} is not an int or a float of 0 or more.",
                    hint="Pass a finite number, or omit it.",
                )
        self.max_tasks = max_tasks
        self.max_video_seconds = max_video_seconds
        self.max_cost = max_cost
        self.prices = dict(prices or {})
        self.name = str(uuid.uuid4()) if name is None else name
        self._counted: dict[str, int] = {}
        self._is_copy = False
        self._lock = threading.Lock()

    @property
    def tasks(self) -> int:
        """The number of tasks this process has submitted."""
        return self._counted.get("tasks", 0)

    @property
    def video_seconds(self) -> float:
        """The seconds of video this process has submitted."""
        return self._counted.get("video_ms", 0) / 1000

    @property
    def cost(self) -> float:
        """The cost of what this process has submitted."""
        return self._counted.get("micros", 0) / 1_000_000

    def spends_of(self, request: TaskRequest) -> list[Spend]:
        """Return what a request counts for.

        Args:
            request: the request to send.

        Raises:
            SpendLimitExceeded: this is unknown: `max_video_seconds` and `max_cost` need a video's length, and
                `max_cost` needs the model's price.
        """
        is_video, seconds, model = request.type == "video", request.video_seconds, request.body.get("model")
        spends = [_spend(self.name, "tasks", 1, self.max_tasks, 1)]
        if is_video and self.max_video_seconds is not None and not seconds:
            raise _uncountable("max_video_seconds needs duration_seconds")
        if is_video:
            spends.append(_spend(self.name, "video_ms", seconds * 1000, self.max_video_seconds, 1000))
        if self.max_cost is not None and (model not in self.prices or (is_video and not seconds)):
            raise _uncountable(f"max_cost needs a price for {model!r}, and duration_seconds for a video")
        cost = self.prices.get(str(model), 0.0) * (seconds if is_video else 1)
        if cost:
            spends.append(_spend(self.name, "micros", cost * 1_000_000, self.max_cost, 1_000_000))
        return spends

    def spend(self, request: TaskRequest, *, is_bound: bool = True) -> None:
        """Count a request.

        Args:
            request: the request about to be sent.
            is_bound: whether to enforce the limit; if False, only count, because a ledger enforced it.

        Raises:
            SpendLimitExceeded: it exceeds the limit; nothing was counted.
            ConfigurationError: the limit came from another process that does not share the ledger.
        """
        if is_bound and self._is_copy:
            raise ConfigurationError(
                "A spend limit copied from another process works only with a ledger that both share.",
                hint='Pass the client one: Client(ledger="redis://…"), "postgresql://…", or a file.',
            )
        spends = self.spends_of(request)
        with self._lock:
            for spend in spends if is_bound else ():
                if spend.most is not None and self._counted.get(spend.unit, 0) + spend.amount > spend.most:
                    raise exceeded(spend)
            for spend in spends:
                self._counted[spend.unit] = self._counted.get(spend.unit, 0) + spend.amount

    def give_back(self, request: TaskRequest) -> None:
        """Uncount a request that was not accepted.

        Args:
            request: the request that was counted.
        """
        with self._lock:
            for spend in self.spends_of(request):
                self._counted[spend.unit] = self._counted.get(spend.unit, 0) - spend.amount

    def __repr__(self) -> str:
        if not hasattr(self, "_counted"):  # the limits were refused
            return "SpendLimit()"
        limits = (
            (self.tasks, self.max_tasks, " tasks"),
            (self.video_seconds, self.max_video_seconds, " s of video"),
            (self.cost, self.max_cost, " money"),
        )
        shown = (f"{used:.12g} of {most:.12g}{unit}" for used, most, unit in limits if most is not None)
        return f"SpendLimit({', '.join(shown)})"

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
    """Raise if a spend limit would be copied to another process without a shared ledger."""
    if limit is not None and not isinstance(ledger, SpendingLedger):
        raise ConfigurationError(
            "A client with a spend limit cannot be copied to another process: each would count separately.",
            hint='Pass it a shared ledger: Client(ledger="redis://…"), "postgresql://…", or a file.',
        )


def _spend(name: str, unit: str, amount: float, most: float | None, scale: int) -> Spend:
    # Round amounts up and limits down, so that rounding never allows more spending.
    is_bound = most is not None and math.isfinite(most * scale)
    return Spend(name, unit, math.ceil(round(amount, 6)), math.floor(most * scale) if is_bound else None)  # type: ignore[operator]  # checked


def _uncountable(why: str) -> SpendLimitExceeded:
    return SpendLimitExceeded(
        f"The spend limit cannot count this: {why}.", hint="Nothing was sent. Provide what is missing."
    )
