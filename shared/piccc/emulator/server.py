"""The public `Emulator`."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self

from piccc.emulator.api import EmulatedAPI, State
from piccc.emulator.clock import Clock, Latency, ManualClock, RateLimit, WallClock
from piccc.emulator.conversation import ModelRequest, ScriptLine
from piccc.emulator.faults import Fault, FaultRule, Faults, FaultSource
from piccc.emulator.http_server import HTTPServer, bound_socket, bracketed
from piccc.emulator.middleware import APIMiddleware
from piccc.emulator.quirks import Quirks
from piccc.emulator.request_log import Charge, RequestRecord
from piccc.emulator.responses import ASGIApp
from piccc.emulator.routes import Routes
from piccc.emulator.webhooks import Delivery, Webhooks, new_secret, on_loopback

if TYPE_CHECKING:
    from piccc.emulator.upstream import Source, Upstream

_KEY = "pcc_test_emulator"
_PATIENCE = 10.0


class Emulator:
    """Serves the whole Piccc API on a socket in a background thread.

    Enter it with `with` or `async with`, then pass `base_url` (no trailing slash) and `api_key` to a client.
    `app` is the ASGI app, to run on a server of your own.

    - `speed` divides every duration; `math.inf` removes all waits. `clock=ManualClock()` stands still until
      `advance`.
    - `seed` determines the outputs and which requests a fault schedule hits.
    - `faults` is a schedule: rules, `{"seed": …, "rules": […]}`, or the path of a JSON file; see `Fault`.
    - `quirks` are names of wire format variants or profiles; see `Quirks`.
    - `strict` refuses what the strictest known chat servers refuse, naming the field: calls without results,
      malformed arguments, blank text, mistyped images, prompts above 128,000 tokens, models outside `models`,
      and misspelled field names. False accepts them all.
    - `models` are the names to accept instead of `piccc-flash`, `piccc-pro` and `piccc-ultra` for chat,
      `piccc-image` and `piccc-video`.
    - `state` is a directory that keeps tasks and charges between runs.
    - `requests_per_minute` is enforced with 429; `url_lifetime` is an output URL's validity in seconds.
    - `upstream` is the URL of an OpenAI-compatible server that answers chat on both routes, with
      `upstream_key` and the model `upstream_model`. The emulator still handles keys, faults, charges, log,
      tasks and clock. With `upstream_api="piccc"` it is a live Piccc server, which gets the tasks too.
    - `recording` is a file of chat and tasks. `mode="replay"` answers equivalent requests from it, "record"
      overwrites it with the upstream's answers, and "once" records only if there is no file.
    - `loopback_only` refuses any other `host` and keeps webhooks on this machine; False allows both.

    Attributes:
        api_key: the key that it accepts.
        webhook_secret: the secret that signs webhooks, `whsec_…`.
        app: the ASGI app.

    Raises:
        ValueError: `host` is not on this machine, or a fault or quirk is unknown.

    Examples:
        >>> from piccc import Client
        >>> from piccc.emulator import Emulator
        >>> with Emulator() as emulator:
        ...     rule = emulator.fault("429;retry-after=0", times=1)
        ...     client = Client(base_url=emulator.base_url, api_key=emulator.api_key)
        ...     print(client.chat.create("Say hello.").text, rule.hit, len(emulator.charges))
        hello. 1 1
    """

    def __init__(
        self,
        *,
        port: int = 0,
        host: str = "127.0.0.1",
        api_key: str = _KEY,
        speed: float = 1.0,
        seed: int = 0,
        clock: Clock | None = None,
        state: str | Path | None = None,
        faults: FaultSource = None,
        quirks: str | Iterable[str] = (),
        strict: bool = True,
        models: Iterable[str] | None = None,
        requests_per_minute: int = 1_000_000,
        url_lifetime: float = 86_400.0,
        webhook_secret: str | None = None,
        loopback_only: bool = True,
        upstream: str | None = None,
        upstream_key: str | None = None,
        upstream_model: str | None = None,
        upstream_api: Literal["openai", "piccc"] = "openai",
        recording: str | Path | None = None,
        mode: Literal["replay", "record", "once"] = "replay",
    ) -> None:
        if loopback_only and not on_loopback(f"//{bracketed(host)}"):
            raise ValueError(
                f"{host} is not a loopback address; pass loopback_only=False to listen on it anyway"
            )
        if models is not None and not (models := tuple(models)):
            raise ValueError("models must contain at least one name")
        if recording is None and mode != "replay":
            raise ValueError(f"mode {mode!r} needs recording, the file to write")
        if upstream is None and (upstream_model is not None or upstream_api != "openai"):
            raise ValueError("upstream_model and upstream_api need upstream, the server's URL")
        self.api_key = api_key
        self.webhook_secret = webhook_secret or new_secret()
        self._host = host
        self._port = port
        self._clock = clock or WallClock()
        latency = Latency(speed)
        behind: Upstream | None = None
        source: Source | None = None
        if upstream is not None:
            from piccc.emulator.upstream import Upstream

            source = behind = Upstream(upstream, key=upstream_key, model=upstream_model, api=upstream_api)
        if recording is not None:
            from piccc.emulator.recording import Recording

            hidden = [api_key, self.webhook_secret]
            source = Recording(recording, mode, behind, hidden=hidden, clock=self._clock, latency=latency)
        self._api = EmulatedAPI(
            api_key=api_key,
            clock=self._clock,
            latency=latency,
            seed=seed,
            faults=Faults.load(faults, seed=seed),
            quirks=Quirks(quirks),
            strict=strict,
            models=models,
            limit=RateLimit(requests_per_minute),
            webhooks=Webhooks(
                clock=self._clock, latency=latency, secret=self.webhook_secret, loopback_only=loopback_only
            ),
            url_lifetime=url_lifetime,
            state=State(state) if state is not None else None,
            source=source,
        )
        self._server: HTTPServer | None = None
        self._thread: threading.Thread | None = None
        self._middleware = APIMiddleware(self._api, Routes(self._api))
        self.app: ASGIApp = self._middleware

    @property
    def base_url(self) -> str:
        """The origin to send requests to. Raises RuntimeError if the emulator is not running."""
        return self._running().origin

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables that point a client at the emulator."""
        return self._api.environment(self.base_url)

    @property
    def charges(self) -> list[Charge]:
        """The latest 10,000 charges, oldest first."""
        return list(self._api.charges.copy())

    @property
    def requests(self) -> list[RequestRecord]:
        """The records of the latest 1,000 requests, oldest first."""
        return self._api.request_log.records()

    @property
    def deliveries(self) -> list[Delivery]:
        """The latest 1,000 webhook deliveries, oldest first, each with its attempts."""
        return list(self._api.webhooks.deliveries.copy())

    def script(self, lines: Iterable[ScriptLine]) -> None:
        """Queue the next chat replies, one per request.

        Args:
            lines: texts, `Scripted` replies, or functions that take the request and return either.
        """
        self._api.script.lines.extend(lines)

    def rule(self, when: Callable[[ModelRequest], bool], then: ScriptLine) -> None:
        """Answer every matching chat request. The first matching rule wins, before queued replies.

        Args:
            when: a predicate on the request.
            then: the reply: a text, a `Scripted` reply, or a function that takes the request.
        """
        self._api.script.rules.append((when, then))

    def fault(
        self,
        fault: str | Fault,
        *,
        route: str = "*",
        times: int | None = None,
        after: int = 0,
        rate: float = 1.0,
        when: Callable[[RequestRecord], bool] | None = None,
    ) -> FaultRule:
        """Inject a fault into future requests. Return the rule, which counts its hits.

        Args:
            fault: the fault, such as `429;retry-after=1`; `Fault` lists the kinds.
            route: a pattern of method and path, such as `POST /v1/chat/*`.
            times: the maximum number of hits; None means no limit.
            after: how many matching requests to skip first.
            rate: the probability of a hit for each remaining match, 0 to 1.
            when: a predicate on the request's record.

        Raises:
            ValueError: the fault is unknown or has no effect on the route.
        """
        parsed = Fault.parse(fault) if isinstance(fault, str) else fault
        rule = FaultRule(parsed, route, times, after, rate, when)
        self._api.faults.rules.append(rule)
        return rule

    def clear(self) -> None:
        """Remove scripted replies, reply rules and all faults."""
        self._api.clear_scripts()

    def reset(self) -> None:
        """Clear requests, charges, tasks, webhooks, faults and scripted replies; files on disk are kept."""
        self._api.reset()

    def redeliver(self, event_id: str) -> None:
        """Deliver a webhook again.

        Args:
            event_id: the delivery's `event_id`.

        Raises:
            KeyError: no delivery has this id.
        """
        self._api.webhooks.delivery(event_id)
        self._running().loop.call_soon_threadsafe(self._api.webhooks.redeliver, event_id)

    def advance(self, seconds: float) -> None:
        """Advance the manual clock, and return once everything due has happened.

        Args:
            seconds: how far to advance.

        Raises:
            TypeError: the emulator was created without a `ManualClock`.
            RuntimeError: it is not running.
        """
        self._move(seconds).result(_PATIENCE)

    async def aadvance(self, seconds: float) -> None:
        """Advance the manual clock without blocking the event loop; arguments and errors as of `advance`."""
        await asyncio.wait_for(asyncio.wrap_future(self._move(seconds)), _PATIENCE)

    def start(self) -> Self:
        """Bind the socket, start serving and return this emulator.

        Raises:
            OSError: the port is in use.
            RuntimeError: it is already running, or cannot start.
        """
        if self._server is not None:
            raise RuntimeError("the emulator is already running")
        self._server = HTTPServer(self.app, self._middleware, bound_socket(self._host, self._port))
        self._thread = threading.Thread(target=self._server.run, name="piccc-emulator", daemon=True)
        self._thread.start()
        self._server.ready.wait(_PATIENCE)
        if not self._server.started:
            self.stop()
            raise RuntimeError("the emulator could not start; see the log")
        return self

    def stop(self) -> None:
        """Close every connection and the socket, and wait for the thread."""
        if self._server and self._thread:
            self._server.stop()
            self._thread.join(_PATIENCE)
        self._server = self._thread = None

    def _running(self) -> HTTPServer:
        if self._server is None:
            raise RuntimeError("the emulator is not running: enter it with `with`, or call start()")
        return self._server

    def _move(self, seconds: float) -> Future[None]:
        if not isinstance(self._clock, ManualClock):
            raise TypeError("only a manual clock can be advanced: Emulator(clock=ManualClock())")
        moved = self._clock.move(seconds, self._api.webhooks.settle)
        return asyncio.run_coroutine_threadsafe(moved, self._running().loop)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        return await asyncio.to_thread(self.start)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.stop)
