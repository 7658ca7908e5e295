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


class Environment:
    """What a fault needs: environment variables, certificates and servers, cleaned up after the test."""

    def __init__(
        self, patch: pytest.MonkeyPatch, authority: trustme.CA, folder: Path, stack: ExitStack
    ) -> None:
        self.patch = patch
        self.authority = authority
        self.folder = folder
        self.stack = stack

    def serve(self, name: str | None = None) -> FaultServer:
        """Run a server, over TLS with a certificate for the name if given."""
        context = None
        if name is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.authority.issue_cert(name).configure_cert(context)
        return self.stack.enter_context(FaultServer(tls=context))

    def trust(self) -> None:
        """Trust the authority for the rest of the test."""
        bundle = self.folder / "authority.pem"
        self.authority.cert_pem.write_to_path(bundle)
        self.patch.setenv("SSL_CERT_FILE", str(bundle))


class Silent(socketserver.BaseRequestHandler):
    """Reads until the client leaves, and never responds."""

    def handle(self) -> None:
        while self.request.recv(4096):
            pass


class Closing(socketserver.BaseRequestHandler):
    """Reads the first bytes and closes the connection."""

    def handle(self) -> None:
        self.request.recv(4096)


class Plain(socketserver.BaseRequestHandler):
    """Responds to a TLS handshake with plain HTTP."""

    def handle(self) -> None:
        self.request.recv(4096)
        self.request.sendall(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n")


def unknown_host(environment: Environment) -> str:
    real = socket.getaddrinfo

    def getaddrinfo(host: Any, *arguments: Any, **options: Any) -> Any:
        if host in ("nowhere.test", b"nowhere.test"):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return real(host, *arguments, **options)

    environment.patch.setattr(socket, "getaddrinfo", getaddrinfo)
    return "http://nowhere.test"


def _closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def refused(environment: Environment) -> str:
    return f"http://127.0.0.1:{_closed_port()}"


def never_accepted(environment: Environment) -> str:
    listener = environment.stack.enter_context(socket.socket())
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    for _ in range(2):  # fill the accept queue
        filler = environment.stack.enter_context(socket.socket())
        filler.setblocking(False)
        filler.connect_ex(listener.getsockname())
    return f"http://127.0.0.1:{listener.getsockname()[1]}"


def silent(environment: Environment) -> str:
    listener = environment.stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    return f"https://127.0.0.1:{listener.getsockname()[1]}"


def untrusted(environment: Environment) -> str:
    return environment.serve("127.0.0.1").case([reply(200)]).base_url


def wrong_hostname(environment: Environment) -> str:
    environment.trust()
    return environment.serve("another.test").case([reply(200)]).base_url


def aborted_handshake(environment: Environment) -> str:
    return listening(environment, Closing)


def listening(environment: Environment, handler: type[socketserver.BaseRequestHandler]) -> str:
    listener = environment.stack.enter_context(socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler))
    listener.daemon_threads = True
    threading.Thread(target=listener.serve_forever, args=(0.01,), daemon=True).start()
    environment.stack.callback(listener.shutdown)
    return f"https://127.0.0.1:{listener.server_address[1]}"


def proxy_requires_a_password(environment: Environment) -> str:
    proxy = environment.serve().tunnel("behind.test:443", [head(407, "content-length: 0"), CLOSE])
    environment.patch.setenv("HTTPS_PROXY", proxy.base_url)
    environment.patch.setenv("NO_PROXY", "")
    return "https://behind.test"


def proxy_is_down(environment: Environment) -> str:
    environment.patch.setenv("HTTP_PROXY", f"http://127.0.0.1:{_closed_port()}")
    environment.patch.setenv("NO_PROXY", "")
    return "http://behind.test"


def plain_http_behind_https(environment: Environment) -> str:
    return listening(environment, Plain)


class Alert(socketserver.BaseRequestHandler):
    """Responds to plain HTTP with the TLS alert "unexpected message", as a TLS server may."""

    def handle(self) -> None:
        self.request.recv(4096)
        self.request.sendall(b"\x15\x03\x03\x00\x02\x02\x0a")


def tls_behind_http(environment: Environment) -> str:
    return listening(environment, Alert).replace("https", "http")


def closed_behind_http(environment: Environment) -> str:
    return listening(environment, Closing).replace("https", "http")


def no_certificates(environment: Environment) -> str:
    (environment.folder / "empty.pem").write_text("nothing")
    environment.patch.setenv("SSL_CERT_FILE", str(environment.folder / "empty.pem"))
    return listening(environment, Closing)


RETRIED, NOT_RETRIED = 3, 1
FAULTS: dict[Callable[[Environment], str], int] = {
    unknown_host: RETRIED,
    refused: RETRIED,
    never_accepted: RETRIED,
    untrusted: NOT_RETRIED,
    wrong_hostname: NOT_RETRIED,
    aborted_handshake: RETRIED,
    proxy_requires_a_password: NOT_RETRIED,
    proxy_is_down: RETRIED,
    plain_http_behind_https: RETRIED,
    no_certificates: RETRIED,
}
"""The number of attempts for each fault."""
MESSAGES: dict[Callable[[Environment], str], str] = {
    refused: "Check base_url, the network and the proxy; `piccc doctor` helps.",
    untrusted: "certificate is not trusted",
    plain_http_behind_https: "start base_url with http://",
    tls_behind_http: "tart base_url with https://",
    closed_behind_http: "If the server speaks TLS, start base_url with https://",
    silent: "If it speaks plain HTTP, start base_url with http://",
    no_certificates: "SSL_CERT_FILE or SSL_CERT_DIR contains no certificates",
    proxy_is_down: "through the proxy",
    proxy_requires_a_password: "the proxy",
}


@pytest.fixture
def environment(
    monkeypatch: pytest.MonkeyPatch, authority: trustme.CA, tmp_path: Path
) -> Iterator[Environment]:
    """Create the environment, and clean up afterwards."""
    with ExitStack() as stack:
        yield Environment(monkeypatch, authority, tmp_path, stack)


@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_an_unsent_request_is_retried_only_if_that_may_help(
    environment: Environment, fault: Callable[[Environment], str], kind: str, mode: Mode
) -> None:
    timeout = Timeout(connect=0.05 if fault is never_accepted else 5.0)
    config = resolve(api_key="pcc_live_never_sent", base_url=fault(environment), timeout=timeout)
    io = VirtualIO(mode.port())
    gc.freeze()  # so that the final collection looks only at objects made here
    try:
        with pytest.raises(APIConnectionError) as caught:
            call(mode, kind, config, io)
        error = caught.value
        assert error.attempts == FAULTS[fault]
        assert not error.may_have_been_billed
        assert "Nothing was sent" in error.hint
        assert io.skipped == (1.5 if FAULTS[fault] == RETRIED else 0)
        if fault in (aborted_handshake, plain_http_behind_https):
            del caught, error
            gc.collect()
    finally:
        gc.unfreeze()


@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize("fault", MESSAGES, ids=lambda fault: fault.__name__)
def test_an_error_says_why_nothing_was_sent(
    environment: Environment, fault: Callable[[Environment], str], mode: Mode
) -> None:
    timeout = Timeout(connect=2.0 if fault is silent else 30.0)
    config = resolve(
        api_key="pcc_live_never_sent", base_url=fault(environment), max_retries=0, timeout=timeout
    )
    with pytest.raises(APIConnectionError) as caught:
        call(mode, "chat", config, VirtualIO(mode.port()))
    assert MESSAGES[fault] in str(caught.value)


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
def test_an_invalid_proxy_url_is_a_configuration_error(
    environment: Environment, proxy: str, mode: Mode
) -> None:
    environment.patch.setenv("HTTP_PROXY", proxy)
    environment.patch.setenv("NO_PROXY", "")
    config = resolve(api_key="pcc_live_never_sent", base_url="http://behind.test")
    with pytest.raises(ConfigurationError, match="is not a valid proxy URL") as caught:
        call(mode, "chat", config, VirtualIO(mode.port()))
    assert "hush123" not in str(caught.value)


@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize("proxy", ["http://127.0.0.1:9", "socks5://127.0.0.1:9", "nonsense://x"])
def test_a_loopback_server_is_called_without_the_proxy(
    environment: Environment, proxy: str, mode: Mode
) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        environment.patch.setenv(name, proxy)
    environment.patch.setenv("NO_PROXY", "")
    base_url = environment.serve().case(healthy("chat")).base_url
    config = resolve(api_key="pcc_live_at_home", base_url=base_url, max_retries=0)
    assert call(mode, "chat", config, VirtualIO(mode.port())).text


@pytest.mark.parametrize(
    ("host", "is_loopback"),
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
def test_only_loopback_hosts_bypass_the_proxy(
    host: str, is_loopback: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.test:8080")
    monkeypatch.setenv("NO_PROXY", "")
    assert (proxy_for("http", host, 80) is None) is is_loopback


@pytest.mark.parametrize(
    ("no_proxy", "host", "is_excepted"),
    [
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.0.0.0/8", "11.1.2.3", False),
        ("10.0.0.0/8", "10.test", False),
        ("a.test, 10.1.2.3/8", "10.9.9.9", True),  # its host bits are ignored, as by curl
        ("fd00::/8", "fd00::1", True),
        ("fd00::/8", "10.1.2.3", False),
        ("10.0.0.0/99", "10.1.2.3", False),
        ("*.test", "API.a.test", True),
        ("*.test", "test", False),
        ("*.test", "atest", False),
        ("a.test:8080", "a.test", False),
        ("a.test:80", "a.test", True),
    ],
)
def test_no_proxy_may_have_networks_wildcards_and_ports(
    no_proxy: str, host: str, is_excepted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://proxy.test:8080")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, no_proxy)
    assert (proxy_for("http", host, 80) is None) is is_excepted


@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize("kind", ["chat", "submit"])
def test_a_proxy_that_never_opens_the_tunnel_gets_no_request(
    environment: Environment, kind: str, mode: Mode
) -> None:
    environment.patch.setenv("ALL_PROXY", listening(environment, Silent).replace("https", "socks5"))
    environment.patch.setenv("NO_PROXY", "")
    config = resolve(api_key="pcc_live_never_sent", base_url="http://behind.test", timeout=0.2, max_retries=0)
    with pytest.raises(APITimeoutError) as caught:
        call(mode, kind, config, VirtualIO(mode.port()))
    assert not caught.value.may_have_been_billed
    assert "Nothing was sent" in caught.value.hint


@pytest.mark.parametrize("mode", OWN_MODES, ids=str)
def test_nothing_is_sent_if_loading_a_library_outlasts_the_deadline(
    environment: Environment, mode: Mode
) -> None:
    load = backends.library_named

    def load_slowly(name: str) -> Any:
        time.sleep(0.1)
        return load(name)

    environment.patch.setattr(backends, "library_named", load_slowly)
    environment.patch.setenv("ALL_PROXY", listening(environment, Silent).replace("https", "socks5"))
    environment.patch.setenv("NO_PROXY", "")
    config = resolve(api_key="pcc_live_never_sent", base_url="http://behind.test", timeout=0.05)
    with pytest.raises(APITimeoutError) as caught:
        call(mode, "submit", config, VirtualIO(mode.port()))
    assert not caught.value.may_have_been_billed
