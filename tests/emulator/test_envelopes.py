"""API keys, rejections, and the headers of every response."""

from __future__ import annotations

import math
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from piccc.emulator import Emulator
from tests.emulator.wire import chat, connect, image, message, video


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer {key}"},
        {"authorization": "bearer {key}"},
        {"x-api-key": "{key}"},
        {"x-api-key": "{key}", "authorization": "Bearer other"},
    ],
)
@pytest.mark.parametrize("path", ["/v1/models", "/v1/tasks"])
def test_the_key_is_accepted_in_either_header(emulator: Emulator, headers: dict[str, str], path: str) -> None:
    filled = {name: value.format(key=emulator.api_key) for name, value in headers.items()}
    response = httpx.get(emulator.base_url + path, headers=filled, trust_env=False)
    assert response.status_code == 200


@pytest.mark.parametrize(
    "headers", [{}, {"authorization": "Bearer pcc_live_x"}, {"x-api-key": "pcc_test_é".encode()}]
)
@pytest.mark.parametrize(
    "path", ["/v1/models", "/v1/tasks/task_1", "/v1/chat/completions", "/v1/no-such-thing"]
)
def test_a_wrong_key_is_a_401_in_openais_envelope(
    emulator: Emulator, headers: dict[str, str], path: str
) -> None:
    response = httpx.get(emulator.base_url + path, headers=headers, trust_env=False)
    assert response.status_code == 401
    assert response.json()["error"]["type"] == "authentication_error"
    assert set(response.json()["error"]) == {"message", "type", "code", "param"}


def test_a_wrong_key_is_a_401_in_anthropics_envelope_on_messages(emulator: Emulator) -> None:
    response = httpx.post(emulator.base_url + "/v1/messages", json=message(), trust_env=False)
    assert response.status_code == 401
    body = response.json()
    assert body["type"] == "error"
    assert body["error"]["type"] == "authentication_error"
    assert body["request_id"] == response.headers["request-id"] == response.headers["x-request-id"]


def test_an_unknown_route_or_method_is_rejected_in_its_paths_envelope(client: httpx.Client) -> None:
    assert client.get("/v1/no-such-thing").json()["error"]["code"] == "unknown_route"
    assert client.get("/v1/chat/completions").status_code == 405
    assert client.get("/v1/messages/no-such-thing").json()["error"]["type"] == "not_found_error"


def test_the_api_key_can_be_configured() -> None:
    with Emulator(api_key="pcc_live_other") as emulator, connect(emulator) as client:
        assert client.get("/v1/models").status_code == 200
        assert (
            client.get("/v1/models", headers={"authorization": "Bearer pcc_test_emulator"}).status_code == 401
        )


def test_every_response_has_a_unique_id_and_rate_limit_headers(client: httpx.Client) -> None:
    first, second = client.get("/v1/models"), client.post("/v1/chat/completions", json={})
    assert first.headers["x-request-id"] != second.headers["x-request-id"]
    remaining = [int(response.headers["x-ratelimit-remaining-requests"]) for response in (first, second)]
    assert remaining[0] - remaining[1] == 1


def test_exceeding_the_rate_limit_is_a_429_with_retry_after(clock: object) -> None:
    from piccc.emulator import ManualClock

    assert isinstance(clock, ManualClock)
    with Emulator(clock=clock, requests_per_minute=2) as emulator, connect(emulator) as client:
        assert [client.get("/v1/models").status_code for _ in range(2)] == [200, 200]
        emulator.advance(20)
        rejected = client.get("/v1/models")
        assert (rejected.status_code, rejected.headers["retry-after"]) == (429, "40")
        assert rejected.json()["error"]["code"] == "rate_limit_exceeded"
        emulator.advance(40)
        assert client.get("/v1/models").status_code == 200


INVALID_SCHEMAS: list[dict[str, Any]] = [
    {"properties": {"a": {"type": "any"}}},
    {"properties": {"a": "string"}},
    {"properties": None},
    {"required": None},
    {"required": True},
    {"multipleOf": 0},
    {"minLength": "x"},
    {"pattern": 5},
    {"allOf": None},
    {"$schema": 5},
    {"$schema": "http://["},
    {"enum": "red"},
]


@pytest.mark.parametrize(
    ("path", "body", "status", "field"),
    [
        ("/v1/chat/completions", {"messages": []}, 400, "model"),
        ("/v1/chat/completions", {"model": "piccc-pro", "messages": []}, 400, "messages"),
        ("/v1/chat/completions", chat(temperature="hot"), 400, "temperature"),
        ("/v1/chat/completions", chat(temperature=2.5), 400, "temperature"),
        ("/v1/chat/completions", chat(max_tokens=1.5), 400, "max_tokens"),
        ("/v1/chat/completions", chat(max_tokens=True), 400, "max_tokens"),
        ("/v1/chat/completions", chat(stream="yes"), 400, "stream"),
        ("/v1/chat/completions", {"model": "piccc-pro", "messages": [{"role": "wizard"}]}, 400, "messages.0"),
        (
            "/v1/chat/completions",
            {"model": "piccc-pro", "messages": [{"role": "user"}]},
            400,
            "messages.0.content",
        ),
        (
            "/v1/chat/completions",
            {"model": "piccc-pro", "messages": [{"role": "user", "content": [{"type": "text"}]}]},
            400,
            "messages.0.content.0.text",
        ),
        (
            "/v1/chat/completions",
            {
                "model": "piccc-pro",
                "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
            },
            400,
            "messages.0.content.0.image_url.url",
        ),
        (
            "/v1/chat/completions",
            {"model": "piccc-pro", "messages": [{"role": "tool", "tool_call_id": "call_1", "content": "1"}]},
            400,
            "messages.0.tool_call_id",
        ),
        (
            "/v1/chat/completions",
            chat(tools=[{"type": "function", "function": {}}]),
            400,
            "tools.0.function.name",
        ),
        ("/v1/chat/completions", chat(tool_choice="required"), 400, "tool_choice"),
        (
            "/v1/chat/completions",
            chat(response_format={"type": "json_schema"}),
            400,
            "response_format.json_schema",
        ),
        *(
            (
                "/v1/chat/completions",
                chat(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}),
                400,
                "response_format.json_schema.schema",
            )
            for schema in INVALID_SCHEMAS
        ),
        *(
            (
                "/v1/chat/completions",
                chat(
                    tools=[
                        {"type": "function", "function": {"name": "fine", "parameters": {}}},
                        {"type": "function", "function": {"name": "x", "parameters": schema}},
                    ]
                ),
                400,
                "tools.1.function.parameters",
            )
            for schema in INVALID_SCHEMAS
        ),
        ("/v1/images/tasks", {"prompt": "x"}, 422, "model"),
        ("/v1/images/tasks", image(aspect_ratio="7:1"), 422, "aspect_ratio"),
        ("/v1/images/tasks", image(resolution="720p"), 422, "resolution"),
        ("/v1/images/tasks", image(webhook={"url": "http://example.com/hook"}), 422, "webhook.url"),
        ("/v1/images/tasks", image(webhook={}), 422, "webhook.url"),
        ("/v1/images/tasks", image(prompt=""), 422, "prompt"),
        ("/v1/videos/tasks", video(duration_seconds=31), 422, "duration_seconds"),
        ("/v1/videos/tasks", video(duration_seconds="6"), 422, "duration_seconds"),
    ],
)
def test_an_invalid_field_is_named(
    client: httpx.Client, path: str, body: object, status: int, field: str
) -> None:
    response = client.post(path, json=body)
    assert response.status_code == status
    error = response.json()["error"]
    assert error["param"] == field
    assert error["message"].startswith(field)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"model": "piccc-pro", "messages": [{"role": "user", "content": "x"}]}, "max_tokens"),
        (message(max_tokens=0), "max_tokens"),
        (message(temperature=1.5), "temperature"),
        (message(messages=[{"role": "system", "content": "x"}]), "messages.0.role"),
        (
            message(messages=[{"role": "user", "content": [{"type": "tool_result"}]}]),
            "messages.0.content.0.tool_use_id",
        ),
        (message(tools=[{"name": "x"}]), "tools.0.input_schema"),
        (message(tool_choice={"type": "tool", "name": "x"}), "tool_choice.name"),
        *(
            (message(tools=[{"name": "x", "input_schema": schema}]), "tools.0.input_schema")
            for schema in INVALID_SCHEMAS
        ),
        (message(output_format={"type": "json_schema", "schema": {"type": "any"}}), "output_format.schema"),
        (
            message(output_config={"format": {"type": "json_schema", "schema": {"required": None}}}),
            "output_config.format.schema",
        ),
    ],
)
def test_an_invalid_message_field_is_named(client: httpx.Client, body: object, field: str) -> None:
    response = client.post("/v1/messages", json=body)
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"
    assert response.json()["error"]["message"].startswith(field)


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"properties": {"a": True}, "required": ["a"]},
        {"properties": {"a": {"pattern": "^\\p{L}+$"}}},
        {"properties": {"a": {"type": "string", "nullable": True, "x-order": 1, "format": "money"}}},
        {"$schema": "http://json-schema.org/draft-07/schema#", "properties": {"a": {"items": [{}]}}},
        {"$schema": "https://example.com/unknown", "properties": {"a": {}}},
        {"properties": {"a": {"anyOf": []}}},
        {"properties": {"a": {"maxLength": 3.0, "minLength": 1.0}}, "required": ["a"]},
    ],
)
def test_an_unusual_but_valid_schema_is_accepted(client: httpx.Client, schema: dict[str, Any]) -> None:
    tool = {"type": "function", "function": {"name": "note", "parameters": schema}}
    response_format = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    for fields in ({"tools": [tool], "tool_choice": "required"}, {"response_format": response_format}):
        assert client.post("/v1/chat/completions", json=chat(**fields)).status_code == 200
    anthropic_tool = {"name": "note", "input_schema": schema}
    body = message(tools=[anthropic_tool], tool_choice={"type": "any"})
    assert client.post("/v1/messages", json=body).status_code == 200


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"a": {"$ref": "#/nowhere"}}, "required": ["a"]},
        {"properties": {"a": {"$ref": "http://["}}, "required": ["a"]},
        {"anyOf": [{"$ref": "#"}, {"type": "object"}]},
    ],
)
def test_an_unresolvable_schema_is_rejected_with_the_reason(
    client: httpx.Client, schema: dict[str, Any]
) -> None:
    tool = {"type": "function", "function": {"name": "note", "parameters": schema}}
    response = client.post("/v1/chat/completions", json=chat(tools=[tool], tool_choice="required"))
    assert response.status_code == 400
    assert "The schema cannot be resolved" in response.json()["error"]["message"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"x"', b'{"a": NaN}', b"\xff", b"[" * 100_000])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/images/tasks"])
def test_a_body_that_is_not_a_json_object_is_rejected(client: httpx.Client, path: str, body: bytes) -> None:
    response = client.post(path, content=body)
    assert response.status_code in (400, 422)
    assert response.json()["error"]["type"] == "invalid_request_error"


def test_an_integer_may_be_written_as_a_float(client: httpx.Client) -> None:
    assert client.post("/v1/chat/completions", json=chat(max_tokens=50.0)).status_code == 200
    assert client.post("/v1/videos/tasks", json=video(duration_seconds=2.0)).json()["duration_seconds"] == 2


ROUTES = {
    "chat": ("/v1/chat/completions", chat),
    "messages": ("/v1/messages", message),
    "image": ("/v1/images/tasks", image),
    "video": ("/v1/videos/tasks", video),
}


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("model", ["piccc-next", "piccc-pro", "piccc-image", "piccc-video"])
def test_a_model_is_accepted_only_on_its_own_route(client: httpx.Client, route: str, model: str) -> None:
    path, body = ROUTES[route]
    accepted = body()["model"] == model
    response = client.post(path, json=body(**({} if accepted else {"model": model})))
    assert response.status_code == ((200 if route in ("chat", "messages") else 202) if accepted else 404)
    if not accepted:
        assert response.json()["error"]["message"].startswith("model: ")
        assert body()["model"] in response.json()["error"]["message"]


@pytest.mark.parametrize("options", [{"models": ["my-model"]}, {"strict": False}])
@pytest.mark.parametrize("route", ROUTES)
def test_other_models_can_be_configured_or_all_accepted(route: str, options: dict[str, Any]) -> None:
    path, body = ROUTES[route]
    with Emulator(speed=math.inf, **options) as emulator, connect(emulator) as client:
        assert client.post(path, json=body(model="my-model")).is_success
        names = [model["id"] for model in client.get("/v1/models").json()["data"]]
        assert ("my-model" in names) == ("models" in options)
        if "models" in options:
            assert client.post(path, json=body(model="other")).status_code == 404
            assert set(emulator.environment.values()) >= {"my-model"}


@pytest.mark.parametrize(
    ("route", "field", "expected"),
    [
        ("chat", "max_token", "max_tokens"),
        ("chat", "maxTokens", "max_tokens"),
        ("chat", "temprature", "temperature"),
        ("chat", "tool", "tools"),
        ("chat", "messags", "messages"),
        ("messages", "stop_sequence", "stop_sequences"),
        ("messages", "systems", "system"),
        ("image", "aspectRatio", "aspect_ratio"),
        ("image", "aspect-ratio", "aspect_ratio"),
        ("image", "ratio", "aspect_ratio"),
        ("image", "resolutions", "resolution"),
        ("image", "webhook_url", "webhook"),
        ("video", "duration", "duration_seconds"),
        ("video", "duration_second", "duration_seconds"),
    ],
)
def test_a_misspelled_field_is_rejected_with_the_likely_name(
    emulator: Emulator, client: httpx.Client, route: str, field: str, expected: str
) -> None:
    path, body = ROUTES[route]
    response = client.post(path, json=body(**{field: "x"}))
    assert response.status_code == (400 if route in ("chat", "messages") else 422)
    assert response.json()["error"]["message"] == (f"{field}: unknown field. Did you mean {expected}?")
    assert (emulator.requests[-1].param, emulator.charges) == (field, [])
    with Emulator(speed=math.inf, strict=False) as lenient, connect(lenient) as other:
        assert other.post(path, json=body(**{field: "x"})).is_success


@pytest.mark.parametrize(
    ("route", "fields"),
    [
        (
            "chat",
            ["top_k", "min_p", "repetition_penalty", "user", "store", "metadata", "functions", "surprise"],
        ),
        ("messages", ["metadata", "cache_control", "service_tier", "surprise"]),
        ("image", ["style", "negative_prompt", "surprise"]),
        ("video", ["fps", "camera_fixed", "surprise"]),
    ],
)
def test_other_unknown_fields_are_accepted_and_recorded(
    emulator: Emulator, client: httpx.Client, route: str, fields: list[str]
) -> None:
    path, body = ROUTES[route]
    assert client.post(path, json=body(**dict.fromkeys(fields, 1))).is_success
    assert emulator.requests[-1].ignored_fields == fields


def test_the_key_and_the_declared_size_are_checked_before_the_body(emulator: Emulator) -> None:
    """A body that is declared too large is rejected unread, and so is one without a key."""

    def status_line(head: str) -> bytes:
        address = urlsplit(emulator.base_url)
        with socket.create_connection((address.hostname, address.port), timeout=60) as connection:
            connection.sendall(f"POST /v1/messages HTTP/1.1\r\nhost: localhost\r\n{head}\r\n\r\n".encode())
            return connection.recv(65536)

    key = f"x-api-key: {emulator.api_key}\r\n"
    assert status_line(f"{key}content-length: 1000000000").startswith(b"HTTP/1.1 413 ")
    assert status_line("content-length: 1000000000").startswith(b"HTTP/1.1 401 ")
    assert status_line("transfer-encoding: chunked").startswith(b"HTTP/1.1 401 ")


def test_a_large_request_does_not_block_others(emulator: Emulator, client: httpx.Client) -> None:
    started, done = threading.Event(), threading.Event()

    def wait(request: object) -> str:
        started.set()
        done.wait(60)
        return "Read."

    emulator.rule(lambda request: len(request.turns[0].text) > 100_000, wait)
    with ThreadPoolExecutor() as pool:
        large = pool.submit(client.post, "/v1/chat/completions", json=chat("word " * 100_000))
        assert started.wait(60)
        assert client.post("/v1/chat/completions", json=chat()).status_code == 200
        done.set()
        assert large.result().json()["choices"][0]["message"]["content"] == "Read."


@pytest.mark.parametrize("route", ["chat", "messages"])
def test_a_prompt_beyond_the_context_window_is_rejected(
    emulator: Emulator, client: httpx.Client, route: str
) -> None:
    path, body = ROUTES[route]
    response = client.post(path, json=body("word " * 600_000))
    expected = {"chat": "maximum context length is 128000 tokens", "messages": "prompt is too long: "}[route]
    assert (response.status_code, emulator.charges) == (400, [])
    assert expected in response.json()["error"]["message"]
    assert emulator.requests[-1].body["model"] == "piccc-pro"


@pytest.mark.parametrize("path", ["/", "/health", "/openapi.json", "/v1/models", "/v1/tasks", "/files/x.png"])
def test_every_route_rejects_foreign_host_headers(
    emulator: Emulator, client: httpx.Client, path: str
) -> None:
    """A remote web page can point its own host name at this machine (DNS rebinding)."""
    assert client.get(path, headers={"host": "evil.example"}).status_code == 403
    assert client.get(path, headers={"host": "localhost:1"}).status_code != 403 or path.startswith("/files")


def test_the_health_route_needs_no_key_and_is_not_recorded(emulator: Emulator) -> None:
    response = httpx.get(emulator.base_url + "/health", trust_env=False, timeout=60)
    assert (response.status_code, response.json(), emulator.requests) == (200, {"status": "ok"}, [])


def test_models_are_listed_and_can_be_read_individually(client: httpx.Client) -> None:
    listed = client.get("/v1/models").json()
    names = [model["id"] for model in listed["data"]]
    assert names == ["piccc-flash", "piccc-pro", "piccc-ultra", "piccc-image", "piccc-video"]
    assert client.get("/v1/models/piccc-pro").json() in listed["data"]
    assert client.get("/v1/models/other").status_code == 404


@pytest.mark.parametrize(
    "path", ["/v1/tasks?limit=" + "9" * 5000, "/v1/tasks?limit=٣", "/v1/tasks?cursor=" + "9" * 5000]
)
def test_numbers_of_any_length_or_script_are_handled(client: httpx.Client, path: str) -> None:
    assert client.get(path).status_code in (400, 404)
    assert client.get(path, headers={"x-piccc-fault": "drift"}).status_code in (200, 400)


@pytest.mark.parametrize("host", ["[", "evil.example:99999", "a b"])
def test_a_malformed_host_header_is_rejected(emulator: Emulator, host: str) -> None:
    response = httpx.get(emulator.base_url + "/emulator/feed", headers={"host": host}, trust_env=False)
    assert response.status_code in (400, 403)


def test_an_internal_error_is_a_500_in_the_envelope_and_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(request: object) -> str:
        raise ZeroDivisionError("in a script")

    with Emulator() as emulator, connect(emulator) as client:
        emulator.script([fail])
        response = client.post("/v1/messages", json=message())
    assert (response.status_code, response.json()["error"]["type"]) == (500, "api_error")
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [ZeroDivisionError]
    caplog.clear()
