"""A request that was not sent is retried, even a paid one, and the error says that nothing was sent."""

from __future__ import annotations

import gc
import socket
import socketserver
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import trustme

from piccc._http import backends
from piccc._http.backends import proxy_for
from piccc.config import Timeout, resolve
from piccc.errors import APIConnectionError, APITimeoutError, ConfigurationError
from tests.faults.calls import KINDS, MODES, OWN_MODES, Mode, call
from tests.faults.matrix import healthy
from tests.faults.server import CLOSE, FaultServer, head, reply
from tests.faults.virtual import VirtualIO


class Place:
    """What a fault is made of: the environment, certificates, servers, and what is closed afterwards."""

    def __init__(
        self, patch: pytest.MonkeyPatch, authority: trustme.CA, folder: Path, stack: ExitStack
    ) -> None:
        self.patch = patch
        self.authority = authority
        self.folder = folder
        self.stack = stack

    def serve(self, name: str | None = None) -> FaultServer:
        """Run a server, with a certificate for this name."""
        context = None
        if name is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.authority.issue_cert(name).configure_cert(context)
        return self.stack.enter_context(FaultServer(tls=context))

    def trust(self) -> None:
        """Trust the authority from here on."""
        bundle = self.folder / "authority.pem"
        self.authority.cert_pem.write_to_path(bundle)
        self.patch.setenv("SSL_CERT_FILE", str(bundle))


class Silent(socketserver.BaseRequestHandler):
    """Accept, and answer nothing until the client leaves."""

    def handle(self) -> None:
        while self.request.recv(4096):
            pass


class Closing(socketserver.BaseRequestHandler):
    """Read the greeting and hang up."""

    def handle(self) -> None:
        self.request.recv(4096)


class Plain(socketserver.BaseRequestHandler):
    """Answer a TLS greeting as an HTTP server does."""

    def handle(self) -> None:
        self.request.recv(4096)
        self.request.sendall(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n")


def unknown_host(place: Place) -> str:
    known = socket.getaddrinfo

    def getaddrinfo(host: Any, *arguments: Any, **options: Any) -> Any:
        if host in ("nowhere.test", b"nowhere.test"):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return known(host, *arguments, **options)

    place.patch.setattr(socket, "getaddrinfo", getaddrinfo)
    return "http://nowhere.test"


def _closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def refused(place: Place) -> str:
    return f"http://127.0.0.1:{_closed_port()}"


def never_accepted(place: Place) -> str:
    listener = place.stack.enter_context(socket.socket())
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    for _ in range(2):  # which fill the queue of connections that wait to be accepted
        filler = place.stack.enter_context(socket.socket())
        filler.setblocking(False)
        filler.connect_ex(listener.getsockname())
    return f"http://127.0.0.1:{listener.getsockname()[1]}"


def silent(place: Place) -> str:
    listener = place.stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    return f"https://127.0.0.1:{listener.getsockname()[1]}"


def untrusted(place: Place) -> str:
    return place.serve("127.0.0.1").case([reply(200)]).base_url


def misnamed(place: Place) -> str:
    place.trust()
    return place.serve("another.test").case([reply(200)]).base_url


def handshake_cut(place: Place) -> str:
    return listening(place, Closing)


def listening(place: Place, handler: type[socketserver.BaseRequestHandler]) -> str:
    listener = place.stack.enter_context(socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler))
    listener.daemon_threads = True
    threading.Thread(target=listener.serve_forever, args=(0.01,), daemon=True).start()
    place.stack.callback(listener.shutdown)
    return f"https://127.0.0.1:{listener.server_address[1]}"


def proxy_wants_a_password(place: Place) -> str:
    proxy = place.serve().tunnel("behind.test:443", [head(407, "content-length: 0"), CLOSE])
    place.patch.setenv("HTTPS_PROXY", proxy.base_url)
    place.patch.setenv("NO_PROXY", "")
    return "https://behind.test"


def proxy_is_down(place: Place) -> str:
    place.patch.setenv("HTTP_PROXY", f"http://127.0.0.1:{_closed_port()}")
    place.patch.setenv("NO_PROXY", "")
    return "http://behind.test"


def speaks_no_tls(place: Place) -> str:
    return listening(place, Plain)


class Alert(socketserver.BaseRequestHandler):
    """Answer plain HTTP as a TLS server may: with the alert "unexpected message"."""

    def handle(self) -> None:
        self.request.recv(4096)
        self.request.sendall(b"\x15\x03\x03\x00\x02\x02\x0a")


def speaks_tls(place: Place) -> str:
    return listening(place, Alert).replace("https", "http")


def tls_that_hangs_up(place: Place) -> str:
    return listening(place, Closing).replace("https", "http")


def no_certificates(place: Place) -> str:
    (place.folder / "empty.pem").write_text("nothing")
    place.patch.setenv("SSL_CERT_FILE", str(place.folder / "empty.pem"))
    return listening(place, Closing)


AGAIN, NEVER = 3, 1
FAULTS: dict[Callable[[Place], str], int] = {
    unknown_host: AGAIN,
    refused: AGAIN,
    never_accepted: AGAIN,
    untrusted: NEVER,
    misnamed: NEVER,
    handshake_cut: AGAIN,
    proxy_wants_a_password: NEVER,
    proxy_is_down: AGAIN,
    speaks_no_tls: AGAIN,
    no_certificates: AGAIN,
}
"""How often each is tried."""
SAID: dict[Callable[[Place], str], str] = {
    refused: "start the emulator",
    untrusted: "certificate is not trusted",
    speaks_no_tls: "start base_url with http://",
    speaks_tls: "tart base_url with https://",
    tls_that_hangs_up: "If the server speaks TLS, start base_url with https://",
    silent: "If it speaks plain HTTP, start base_url with http://",
    no_certificates: "SSL_CERT_FILE or SSL_CERT_DIR contains no certificates",
    proxy_is_down: "through the proxy",
    proxy_wants_a_password: "the proxy",
}


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch, authority: trustme.CA, tmp_path: Path) -> Iterator[Place]:
    """Make a place, and clear it away afterwards."""
    with ExitStack() as stack:
        yield Place(monkeypatch, authority, tmp_path, stack)


@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_what_was_never_sent_is_tried_as_often_as_it_may_help(
    place: Place, fault: Callable[[Place], str], kind: str, mode: Mode
) -> None:
    patience = Timeout(connect=0.05 if fault is never_accepted else 5.0)
    config = resolve(api_key="pcc_live_never_sent", base_url=fault(place), timeout=patience)
    io = VirtualIO(mode.port())
    gc.freeze()  # so that the collection at the end looks only at what is made here
    try:
        with pytest.raises(APIConnectionError) as caught:
            call(mode, kind, config, io)
        error = caught.value
        assert error.attempts == FAULTS[fault]
        assert not error.may_have_been_billed
        assert "Nothing was sent" in error.hint
        assert io.skipped == (1.5 if FAULTS[fault] == AGAIN else 0)
        if fault in (handshake_cut, speaks_no_tls):
            del caught, error
            gc.collect()
    finally:
        gc.unfreeze()


@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize("fault", SAID, ids=lambda fault: fault.__name__)
def test_an_error_says_why_nothing_could_be_sent(
    place: Place, fault: Callable[[Place], str], mode: Mode
) -> None:
    patience = Timeout(connect=2.0 if fault is silent else 30.0)
    config = resolve(api_key="pcc_live_never_sent", base_url=fault(place), max_retries=0, timeout=patience)
    with pytest.raises(APIConnectionError) as caught:
        call(mode, "chat", config, VirtualIO(mode.port()))
    assert SAID[fault] in str(caught.value)


@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize(
    "proxy",
    [
        "nonsense://me:hush123@proxy.test",
        "://",
        "http://me:hush123@[::1",
        "http://proxy.test:x",
        "http://:80",
    ],
)
def test_an_invalid_proxy_url_is_a_configuration_error(place: Place, proxy: str, mode: Mode) -> None:
    place.patch.setenv("HTTP_PROXY", proxy)
    place.patch.setenv("NO_PROXY", "")
    config = resolve(api_key="pcc_live_never_sent", base_url="http://behind.test")
    with pytest.raises(ConfigurationError, match="is not a valid proxy URL") as caught:
        call(mode, "chat", config, VirtualIO(mode.port()))
    assert "hush123" not in str(caught.value)


@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize("proxy", ["http://127.0.0.1:9", "socks5://127.0.0.1:9", "nonsense://x"])
def test_a_server_on_this_machine_is_asked_without_a_proxy(place: Place, proxy: str, mode: Mode) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        place.patch.setenv(name, proxy)
    place.patch.setenv("NO_PROXY", "")
    base_url = place.serve().case(healthy("chat")).base_url
    config = resolve(api_key="pcc_live_at_home", base_url=base_url, max_retries=0)
    assert call(mode, "chat", config, VirtualIO(mode.port())).text


@pytest.mark.parametrize(
    ("host", "is_here"),
    [
        ("localhost", True),
        ("LocalHost.", True),
        ("app.localhost", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("localhost.test", False),
        ("notlocalhost", False),
        ("127.0.0.1.test", False),
        ("::ffff:192.0.2.1", False),
    ],
)
def test_only_this_machine_is_asked_without_a_proxy(
    host: str, is_here: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.test:8080")
    monkeypatch.setenv("NO_PROXY", "")
    assert (proxy_for("http", host, 80) is None) is is_here


@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize("kind", ["chat", "submit"])
def test_a_proxy_that_never_opens_the_way_got_no_request(place: Place, kind: str, mode: Mode) -> None:
    place.patch.setenv("ALL_PROXY", listening(place, Silent).replace("https", "socks5"))
    place.patch.setenv("NO_PROXY", "")
    config = resolve(api_key="pcc_live_never_sent", base_url="http://behind.test", timeout=0.2, max_retries=0)
    with pytest.raises(APITimeoutError) as caught:
        call(mode, kind, config, VirtualIO(mode.port()))
    assert not caught.value.may_have_been_billed
    assert "Nothing was sent" in caught.value.hint


@pytest.mark.parametrize("mode", OWN_MODES, ids=str)
def test_a_deadline_that_passes_while_a_library_is_loaded_sends_nothing(place: Place, mode: Mode) -> None:
    load = backends.library_named

    def load_slowly(name: str) -> Any:
        time.sleep(0.1)
        return load(name)

    place.patch.setattr(backends, "library_named", load_slowly)
    place.patch.setenv("ALL_PROXY", listening(place, Silent).replace("https", "socks5"))
    place.patch.setenv("NO_PROXY", "")
    config = resolve(api_key="pcc_live_never_sent", base_url="http://behind.test", timeout=0.05)
    with pytest.raises(APITimeoutError) as caught:
        call(mode, "submit", config, VirtualIO(mode.port()))
    assert not caught.value.may_have_been_billed
