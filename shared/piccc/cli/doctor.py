"""`piccc doctor`: check the setup and say what to fix."""

from __future__ import annotations

import os
import platform
import re
import ssl
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from email.utils import parsedate_to_datetime
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, TypeVarTuple
from urllib.request import getproxies

import typer

from piccc._http.backends import proxy_for
from piccc._version import __version__
from piccc.cli.common import AsJSON, LedgerPlace, document, in_shell_words, ledger_of, printable, results
from piccc.config import KEY_VARIABLE, URL_VARIABLE, Config, Key, redact, resolve, ways_out
from piccc.errors import (
    APIStatusError,
    AuthenticationError,
    ConfigurationError,
    InvalidRequestError,
    PicccError,
)

PATIENCE = 10.0
CLOCK_TOLERANCE = 60.0
DATE_RESOLUTION = 2.0
"""In seconds; a Date header has whole seconds, and the response takes time to arrive."""
_NO_KEY = f"Set {KEY_VARIABLE}, or start the emulator: piccc emulator"
_REQUIREMENT = re.compile(r"""([\w.-]+).*extra == ['"]([\w-]+)['"]""")
Ts = TypeVarTuple("Ts")
_MARKS = {"ok": ("✓", "green"), "note": ("-", "dim"), "fix": ("✗", "red")}


@dataclass(frozen=True, slots=True)
class Finding:
    """One check's result: a `fix` must be fixed before calls can succeed, a `note` need not be."""

    name: str
    state: Literal["ok", "note", "fix"]
    says: str
    to_do: str = ""


def doctor(ledger: LedgerPlace = None, as_json: AsJSON = False) -> None:
    """Check the key, server, ledger, clock, proxies and installed packages; say what to fix.

    It lists the server's models and tasks, and sends each chat route an empty request, which servers refuse,
    so nothing is billed. It also works offline. It exits with 1 if something must be fixed.

    \b
    Examples:
      piccc doctor
      piccc doctor --json | jq '.findings[] | select(.state == "fix")'
    """
    findings = list(_findings(ledger))
    needs_fixing = any(finding.state == "fix" for finding in findings)
    if as_json:
        document({"is_fine": not needs_fixing, "findings": [asdict(finding) for finding in findings]})
    else:
        _show(findings)
    if needs_fixing:
        raise typer.Exit(1)


def _show(findings: list[Finding]) -> None:
    console = results()
    for finding in findings:
        mark, style = _MARKS[finding.state]
        console.print(mark, f"{finding.name:<16}", style=style, end=" ")
        console.print(printable(finding.says), soft_wrap=True)
        if finding.to_do:
            console.print(f"{'':<19}→ {printable(finding.to_do)}", soft_wrap=True)


def _findings(ledger: str | None) -> Iterator[Finding]:
    yield Finding(
        "piccc", "ok", f"{__version__} on Python {platform.python_version()}, {platform.platform()}"
    )
    yield from _checked("http", _http)
    yield from _checked("extras", _installed)
    yield from _checked("models", _models)
    yield from _checked("key", _key)
    try:
        config = resolve()
    except ConfigurationError as error:
        yield Finding("server", "fix", error.message, error.hint)
        return
    yield from _checked("proxy", _proxy, config)
    yield from _checked("certificates", _certificates)
    yield from _checked("server", _server, config)
    if ledger or not config.is_placeholder:  # by default each server has its own ledger
        yield from _checked("ledger", _ledger, ledger or str(ledger_of(config)))


def _checked(name: str, look: Callable[[*Ts], Iterable[Finding]], *about: *Ts) -> Iterator[Finding]:
    try:
        yield from look(*about)
    except PicccError as error:
        yield Finding(name, "fix", error.message, in_shell_words(error.hint))
    except Exception as error:  # a failing check is a finding too
        yield Finding(
            name,
            "fix",
            redact(f"{type(error).__name__}: {error}"),
            "If nothing else here explains it, report it as a bug.",
        )


def _http() -> Iterator[Finding]:
    from piccc._http.backends import SyncBackend

    yield Finding("http", "ok", SyncBackend().backend)


def _installed() -> Iterator[Finding]:
    parts: dict[str, list[str]] = {}
    for requirement in _requirements():
        match = _REQUIREMENT.match(requirement)
        if match and match[2] != "all":
            parts.setdefault(match[2], []).append(match[1])
    for extra, names in parts.items():
        versions = {name: _version(name) for name in names}
        if missing := [name for name, version in versions.items() if version is None]:
            yield Finding(extra, "note", f"without {', '.join(missing)}", f'pip install "piccc[{extra}]"')
        else:
            yield Finding(extra, "ok", ", ".join(f"{name} {version}" for name, version in versions.items()))


def _requirements() -> list[str]:
    try:
        return metadata.requires("piccc") or []
    except metadata.PackageNotFoundError:  # running from a checkout that was never installed
        return []


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _models() -> Iterator[Finding]:
    variables = "PICCC_IMAGE_MODEL", "PICCC_VIDEO_MODEL"
    if missing := [name for name in variables if not os.environ.get(name)]:
        says = f"{' and '.join(missing)} not set"
        yield Finding("models", "note", says, "Set them, or pass --model to image and video.")
    else:
        yield Finding("models", "ok", ", ".join(f"{name}={os.environ[name]}" for name in variables))


def _key() -> Iterator[Finding]:
    from piccc._http.backends import run_sync

    try:
        key = run_sync(Key().ask())
    except ConfigurationError as error:
        hint = error.hint if os.environ.get(KEY_VARIABLE, "").strip() else _NO_KEY
        yield Finding("key", "fix", error.message, hint)
        return
    kind = "" if key.startswith("pcc_") else "; it does not start with pcc_, as the provider's keys do"
    yield Finding("key", "note" if kind else "ok", f"{KEY_VARIABLE} is set{kind}")


def _proxy(config: Config) -> Iterator[Finding]:
    scheme, host, port = config.origin
    proxies = getproxies()
    used = proxies.get(scheme) or proxies.get("all")
    if used is None:
        yield Finding("proxy", "ok", "none")
    elif proxy_for(scheme, host, port) is None:
        yield Finding("proxy", "ok", f"{redact(used)} is set, but not used for {host}")
    elif used.startswith("socks") and find_spec("socksio") is None:
        says = f"{redact(used)} is used for {host}, but needs a package that is not installed"
        yield Finding("proxy", "fix", says, 'pip install "piccc[socks]"')
    else:
        yield Finding("proxy", "note", f"{redact(used)} is used for {host}")


def _certificates() -> Iterator[Finding]:
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        place = os.environ.get(name)
        if not place:
            continue
        try:
            if name == "SSL_CERT_FILE":
                ssl.create_default_context(cafile=place)
            else:
                next(Path(place).iterdir(), None)
        except OSError as error:
            yield Finding("certificates", "fix", f"{name} is {place}: {error}", "Correct or unset it.")
        else:
            yield Finding("certificates", "note", f"{name} is {place}")


@dataclass(frozen=True, slots=True)
class _Probe:
    """A free request, and the feature that it checks."""

    name: str
    method: Literal["GET", "POST"]
    path: str
    without: str


_PROBES = (
    _Probe("chat", "POST", "/v1/chat/completions", "Use --dialect anthropic, or dialect='anthropic'."),
    _Probe("chat (anthropic)", "POST", "/v1/messages", "Use the default dialect."),
    _Probe("model list", "GET", "/v1/models", "Nothing requires it."),
    _Probe("tasks", "GET", "/v1/tasks?limit=1", "This server cannot generate images or videos."),
)
_ABSENT = (404, 405, 501)


def _server(config: Config) -> Iterator[Finding]:
    if config.is_placeholder:
        yield Finding(
            "server",
            "fix",
            f"No server is configured: {URL_VARIABLE} is not set, or is a placeholder",
            in_shell_words(ways_out()),
        )
        return
    # Without a key, the server's refusal still shows that it is there.
    has_key = bool(os.environ.get(KEY_VARIABLE))
    asked = config if has_key else replace(config, key=Key("none"))
    findings: list[Finding] = []
    headers: Mapping[str, str] = {}
    for probe in _PROBES:
        try:
            finding, received = _probe(asked, probe, has_key=has_key)
        except PicccError as error:
            if not findings:
                hint = error.hint.replace("; `piccc doctor` helps", "")
                yield Finding("server", "fix", error.message, in_shell_words(hint))
                return
            finding, received = Finding(probe.name, "fix", error.message, in_shell_words(error.hint)), {}
        findings.append(finding)
        headers = received or headers
    if all(finding.says.startswith(_NONE) for finding in findings):
        hint = f"Check that {URL_VARIABLE} points to a Piccc API."
        yield Finding("server", "fix", f"{config.base_url} responds, but has none of the API's routes", hint)
        return
    yield Finding("server", "ok", f"{config.base_url} responds")
    yield from findings
    yield from _clock(headers.get("date"))


_NONE = "the server has no such route"


def _probe(config: Config, probe: _Probe, *, has_key: bool) -> tuple[Finding, Mapping[str, str]]:
    """Send one request. Raises PicccError if the response is not from an API."""
    from piccc._http.responses import is_web_page

    try:
        headers = _ask(config, probe)
    except APIStatusError as error:
        headers, status = error.headers, error.status or 0
        if isinstance(error, AuthenticationError) and not has_key:
            return Finding(probe.name, "ok", "available; checked without a key"), headers
        if status in _ABSENT:
            return Finding(probe.name, "note", f"{_NONE} (HTTP {status})", probe.without), headers
        refusals = isinstance(error, InvalidRequestError) or status >= 500
        if probe.method == "POST" and refusals and not is_web_page(error.body or ""):
            return Finding(probe.name, "ok", f"available: refuses an empty request (HTTP {status})"), headers
        says = f"HTTP {status}. {error.message}"
        return Finding(probe.name, "fix", says, in_shell_words(error.hint)), headers
    return Finding(probe.name, "ok", "available"), headers


def _ask(config: Config, probe: _Probe) -> Mapping[str, str]:
    from piccc._http.backends import SyncBackend, run_sync
    from piccc._http.session import Session

    session = Session(replace(config, max_retries=0), SyncBackend())
    try:
        return run_sync(session.probe(probe.method, probe.path, seconds=PATIENCE))
    finally:
        run_sync(session.close())


def _clock(date: str | None) -> Iterator[Finding]:
    try:
        ahead = parsedate_to_datetime(date or "").timestamp() - time.time()
    except ValueError:
        return  # missing or invalid
    says = f"{abs(ahead):.0f} s {'behind' if ahead > 0 else 'ahead of'} the server's"
    if abs(ahead) > CLOCK_TOLERANCE:
        yield Finding(
            "clock",
            "fix",
            says,
            "Correct it, for example with NTP: signatures and finding lost submissions depend on it.",
        )
    else:
        yield Finding("clock", "ok", says if abs(ahead) > DATE_RESOLUTION else "agrees with the server's")


def _ledger(place: str) -> Iterator[Finding]:
    from piccc.media.ledgers import ledger_at

    other = "Set PICCC_LEDGER to another file or URL."
    path = None if "://" in place else Path(place)
    try:
        ledger = ledger_at(place)
        lost = ledger.unsettled() if path is None or path.exists() else []
    except (OSError, PicccError) as error:
        says = error.message if isinstance(error, PicccError) else f"Cannot read {place}: {error}"
        yield Finding("ledger", "fix", says, other)
        return
    try:
        if path is not None and path.exists():
            path.open("ab").close()
        elif path is not None:
            folder = next(parent for parent in path.absolute().parents if parent.exists())
            tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        yield Finding("ledger", "fix", f"Cannot write {path}: {error.strerror}", other)
        return
    shown = repr(ledger) if path is None else str(path)
    if lost:
        says = f"submissions without a response: {len(lost)}, in {shown}"
        yield Finding("ledger", "note", says, "They may have been billed. Find them with: piccc tasks resume")
    else:
        yield Finding("ledger", "ok", f"no lost submissions in {shown}")
