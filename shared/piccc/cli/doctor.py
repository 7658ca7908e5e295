"""`piccc doctor`: what is set up, what is not, and what to do about it."""

from __future__ import annotations

import os
import platform
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from email.utils import parsedate_to_datetime
from importlib import metadata
from pathlib import Path
from typing import Literal
from urllib.request import getproxies, proxy_bypass

import typer

from piccc._version import __version__
from piccc.cli.common import AsJSON, LedgerPath, document, in_shell_words, ledger_of, printable, results
from piccc.config import KEY_VARIABLE, URL_VARIABLE, WAYS_OUT, Config, Key, redact, resolve
from piccc.errors import APIStatusError, AuthenticationError, ConfigurationError, PicccError

PATIENCE = 10.0
CLOCK_TOLERANCE = 60.0
_REQUIREMENT = re.compile(r"""([\w.-]+).*extra == ['"]([\w-]+)['"]""")
_MARKS = {"ok": ("✓", "green"), "note": ("-", "dim"), "fix": ("✗", "red")}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: `fix` must be mended before calls can succeed, a `note` need not be."""

    name: str
    state: Literal["ok", "note", "fix"]
    says: str
    to_do: str = ""


def doctor(ledger: LedgerPath = None, as_json: AsJSON = False) -> None:
    """Look at key, server, clock, proxies and what is installed; say what to fix.

    It reads one page of the task list, which costs nothing.
    It works without a network, and ends with 1 where something must be fixed.

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
        console.print(mark, f"{finding.name:<13}", style=style, end=" ")
        console.print(printable(finding.says), soft_wrap=True)
        if finding.to_do:
            console.print(f"{'':<16}→ {printable(finding.to_do)}", soft_wrap=True)


def _findings(ledger: Path | None) -> Iterator[Finding]:
    yield Finding(
        "piccc", "ok", f"{__version__} on Python {platform.python_version()}, {platform.platform()}"
    )
    yield _http()
    yield from _installed()
    yield _models()
    yield _key()
    try:
        config = resolve()
    except ConfigurationError as error:
        yield Finding("server", "fix", error.message, error.hint)
        return
    yield from _way(config)
    yield from _server(config)
    yield _submissions(ledger or ledger_of(config))


def _http() -> Finding:
    from piccc._http.httpx_backend import SyncBackend

    try:
        return Finding("http", "ok", SyncBackend().backend)
    except PicccError as error:
        return Finding("http", "fix", error.message, error.hint)


def _installed() -> Iterator[Finding]:
    parts: dict[str, list[str]] = {}
    for requirement in _requirements():
        found = _REQUIREMENT.match(requirement)
        if found and found[2] != "all":
            parts.setdefault(found[2], []).append(found[1])
    for extra, names in parts.items():
        versions = {name: _version(name) for name in names}
        if missing := [name for name, version in versions.items() if version is None]:
            yield Finding(extra, "note", f"without {', '.join(missing)}", f'pip install "piccc[{extra}]"')
        else:
            yield Finding(extra, "ok", ", ".join(f"{name} {version}" for name, version in versions.items()))


def _requirements() -> list[str]:
    try:
        return metadata.requires("piccc") or []
    except metadata.PackageNotFoundError:  # it runs from a checkout that was never installed
        return []


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _models() -> Finding:
    variables = "PICCC_IMAGE_MODEL", "PICCC_VIDEO_MODEL"
    if missing := [name for name in variables if not os.environ.get(name)]:
        return Finding(
            "models",
            "note",
            f"{' and '.join(missing)} not set",
            "Set them, or give --model to image and video.",
        )
    return Finding("models", "ok", ", ".join(f"{name}={os.environ[name]}" for name in variables))


def _key() -> Finding:
    from piccc._http.backend import run_sync

    try:
        key = run_sync(Key().ask())
    except ConfigurationError as error:
        return Finding(
            "key", "fix", error.message, f"Set {KEY_VARIABLE}, or start the emulator: piccc emulator"
        )
    kind = "" if key.startswith("pcc_") else "; it does not begin with pcc_, as the provider's keys do"
    return Finding("key", "note" if kind else "ok", f"{KEY_VARIABLE} is set{kind}")


def _way(config: Config) -> Iterator[Finding]:
    """Say which proxies and certificates stand on the way to the server."""
    scheme, host, _ = config.origin
    proxies = getproxies()
    used = proxies.get(scheme) or proxies.get("all")
    if used is None:
        yield Finding("proxy", "ok", "none")
    elif proxy_bypass(host):
        yield Finding("proxy", "ok", f"{redact(used)} is set, but not used for {host}")
    elif host in ("127.0.0.1", "::1", "localhost"):
        yield Finding("proxy", "fix", f"{redact(used)} is asked for {host}", f"Set NO_PROXY={host}")
    else:
        yield Finding("proxy", "note", f"{redact(used)} is asked for {host}")
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        place = os.environ.get(name)
        if place and not Path(place).exists():
            yield Finding("certificates", "fix", f"{name} is {place}, which does not exist", "Correct it.")
        elif place:
            yield Finding("certificates", "note", f"{name} is {place}")


def _server(config: Config) -> Iterator[Finding]:
    if config.is_placeholder:
        yield Finding("server", "fix", f"{URL_VARIABLE} is not set", in_shell_words(WAYS_OUT))
        return
    headers: Mapping[str, str] = {}
    try:
        headers = _read(config)
        yield Finding("server", "ok", f"{config.base_url} answers, and takes the key")
    except APIStatusError as error:
        headers = error.headers
        yield _refusal(config, error)
    except PicccError as error:
        yield Finding("server", "fix", error.message, in_shell_words(error.hint))
    if moment := headers.get("date"):
        yield _clock(parsedate_to_datetime(moment).timestamp() - time.time())


def _read(config: Config) -> Mapping[str, str]:
    from piccc._dialects.tasks import read_task_list
    from piccc._http.backend import run_sync
    from piccc._http.httpx_backend import SyncBackend
    from piccc.session import Session

    # Without a key the server's refusal still tells that it is there.
    asked = config if os.environ.get(KEY_VARIABLE) else replace(config, key=Key("none"))
    session = Session(asked, SyncBackend())
    try:
        return run_sync(session.read("/v1/tasks?limit=1", read_task_list, seconds=PATIENCE, retries=0))[1]
    finally:
        run_sync(session.close())


def _refusal(config: Config, error: APIStatusError) -> Finding:
    if isinstance(error, AuthenticationError) and not os.environ.get(KEY_VARIABLE):
        return Finding("server", "ok", f"{config.base_url} answers; it was asked without a key")
    said = f"{config.base_url} answers HTTP {error.status}. {error.message}"
    return Finding("server", "fix", said, in_shell_words(error.hint))


def _clock(ahead: float) -> Finding:
    said = f"{abs(ahead):.0f} s {'behind' if ahead > 0 else 'ahead of'} the server's"
    if abs(ahead) <= CLOCK_TOLERANCE:
        return Finding("clock", "ok", said)
    return Finding("clock", "fix", said, "Set it right, by NTP say: signatures and lost submissions need it.")


def _submissions(path: Path) -> Finding:
    import sqlite3

    from piccc.media.ledgers.sqlite import SQLiteLedger

    try:
        lost = SQLiteLedger(path).unsettled() if path.exists() else []
    except sqlite3.Error as error:
        return Finding(
            "ledger", "fix", f"{path} cannot be read: {error}", "Set PICCC_LEDGER to another file."
        )
    if lost:
        said = f"submissions without an answer: {len(lost)}, in {path}"
        return Finding("ledger", "note", said, "They may be paid for. Look for them: piccc tasks resume")
    return Finding("ledger", "ok", f"no lost submission in {path}")
