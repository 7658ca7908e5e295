"""The OpenAPI document: the emulator conforms to it, and it marks what is documented."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from jsonschema import Draft202012Validator, SchemaError
from schemathesis.config import SchemathesisConfig as Config
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from piccc.emulator import Emulator
from piccc.emulator.openapi import document

# The coverage phase takes a thousand requests. It runs on the lenient emulator, whose responses
# are all checked, but not on token counting, whose fields are the same as a message's.
DRAWN_ONLY = {"phases": {"coverage": {"enabled": False}}}
COUNTED = {"include-path": "/v1/messages/count_tokens", **DRAWN_ONLY}
api, corners = (
    schemathesis.openapi.from_dict(document(), config=Config.from_dict(options))
    for options in (DRAWN_ONLY, {"operations": [COUNTED]})
)
EXAMPLES = settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module", params=[True, False], ids=["strict", "lenient"])
def strict(request: pytest.FixtureRequest) -> bool:
    """Run with a strict emulator and with a lenient one."""
    return bool(request.param)


@pytest.fixture(scope="module")
def served(strict: bool) -> Iterator[Emulator]:
    """Run one emulator for the whole module."""
    with Emulator(speed=math.inf, strict=strict) as emulator:
        yield emulator


def holds_together(body: Any) -> bool:
    """Return whether a body is consistent in ways that JSON Schema cannot express.

    A forced tool must be offered, a result must answer a call, inline data must match its declared type, and
    a JSON Schema must be valid.
    """
    unexpressed = ("tool_call_id", "tool_use_id", "data:", "base64", "input_audio", "file", "arguments")
    if not isinstance(body, dict):
        return not any(part in repr(body) for part in unexpressed)
    choice = body.get("tool_choice")
    forced = choice == "required" or (isinstance(choice, dict) and choice.get("type") not in ("auto", "none"))
    return (
        not forced
        and not any(part in repr(body) for part in unexpressed)
        and all(map(is_schema, schemas_in(body)))
    )


def schemas_in(value: Any) -> Iterator[Any]:
    """Yield every value in a request that should be a JSON Schema."""
    for name, child in value.items() if isinstance(value, dict) else enumerate(value):
        if name in ("input_schema", "parameters", "schema"):
            yield child
        elif isinstance(child, dict | list):
            yield from schemas_in(child)


def is_schema(value: Any) -> bool:
    """Return whether a value is a valid JSON Schema."""
    try:
        Draft202012Validator.check_schema(value)
    except SchemaError:
        return False
    return True


@corners.parametrize()
@pytest.mark.parametrize("strict", [False], indirect=True)
@EXAMPLES
def test_the_lenient_emulator_conforms_to_its_document(case: Any, served: Emulator) -> None:
    validate(case, served, [] if holds_together(case.body) else [positive_data_acceptance])


# JSON Schema cannot express all that strict servers reject: for example, a call without its result.
@api.parametrize()
@pytest.mark.parametrize("strict", [True], indirect=True)
@EXAMPLES
def test_the_strict_emulator_conforms_to_its_document(case: Any, served: Emulator) -> None:
    validate(case, served, [positive_data_acceptance])


def validate(case: Any, served: Emulator, excluded: list[Any]) -> None:
    to: Any = {"base_url": served.base_url, "headers": {"Authorization": f"Bearer {served.api_key}"}}
    response = case.call(**to)
    sent = parse_qs(urlsplit(response.request.url).query, keep_blank_values=True)
    if not dict(case.query or {}).keys() <= sent.keys():
        # An empty list is absent from the URL, so the server cannot reject it.
        excluded = [*excluded, negative_data_rejection]
    case.validate_response(response, headers=to["headers"], excluded_checks=excluded, transport_kwargs=to)


def test_the_served_document_names_its_server(served: Emulator) -> None:
    served_document = httpx.get(f"{served.base_url}/openapi.json", trust_env=False).json()
    assert served_document.pop("servers") == [{"url": served.base_url}]
    assert served_document == document()


def test_only_provider_documented_fields_are_marked_documented() -> None:
    schemas = document()["components"]["schemas"]
    documented = {
        name: [
            field
            for field, field_schema in schema["properties"].items()
            if field_schema["x-piccc"] == "documented"
        ]
        for name, schema in schemas.items()
        if "properties" in schema
    }
    assert {name: fields for name, fields in documented.items() if fields} == {
        "ChatRequest": ["model", "messages", "stream"],
        "MessageRequest": ["model", "messages", "max_tokens"],
        "ImageTaskRequest": ["model", "prompt", "webhook", "aspect_ratio", "resolution"],
        "VideoTaskRequest": ["model", "prompt", "webhook", "aspect_ratio", "resolution", "duration_seconds"],
        "Webhook": ["url"],
        "Task": ["task_id", "status", "polling_url"],
    }


def test_count_request_fields_match_message_request_fields() -> None:
    schemas = document()["components"]["schemas"]
    message, count = (
        {
            field: {**field_schema, "x-piccc": ""}
            for field, field_schema in schemas[name]["properties"].items()
        }
        for name in ("MessageRequest", "CountRequest")
    )
    assert {field: message.get(field) for field in count} == count


def test_assumed_operations_are_marked() -> None:
    operations = [operation for path in document()["paths"].values() for operation in path.values()]
    assumed = [operation["operationId"] for operation in operations if operation["x-piccc"] == "assumed"]
    assert assumed == ["countTokens", "listModels", "getModel"]
