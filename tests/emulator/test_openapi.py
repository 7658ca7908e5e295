"""The OpenAPI document: honest, and true."""

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

# Each corner of each schema is a thousand requests: for the lenient emulator, whose answers are all judged,
# and not for the counting of tokens, whose fields are all those of a message.
DRAWN_ONLY = {"phases": {"coverage": {"enabled": False}}}
COUNTED = {"include-path": "/v1/messages/count_tokens", **DRAWN_ONLY}
api, corners = (
    schemathesis.openapi.from_dict(document(), config=Config.from_dict(options))
    for options in (DRAWN_ONLY, {"operations": [COUNTED]})
)
EXAMPLES = settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module", params=[True, False], ids=["strict", "lenient"])
def strict(request: pytest.FixtureRequest) -> bool:
    """Try both a strict emulator and a lenient one."""
    return bool(request.param)


@pytest.fixture(scope="module")
def served(strict: bool) -> Iterator[Emulator]:
    """Run an emulator for all that is tried here."""
    with Emulator(speed=math.inf, strict=strict) as emulator:
        yield emulator


def holds_together(body: Any) -> bool:
    """Return whether a body's parts fit one another, which a JSON Schema cannot say.

    A tool that must be called is on offer, a result answers a call, inline data is what it says it is, and
    what is given as a JSON Schema is one.
    """
    unsaid = ("tool_call_id", "tool_use_id", "data:", "base64", "input_audio", "file", "arguments")
    if not isinstance(body, dict):
        return not any(part in repr(body) for part in unsaid)
    choice = body.get("tool_choice")
    forced = choice == "required" or (isinstance(choice, dict) and choice.get("type") not in ("auto", "none"))
    return (
        not forced
        and not any(part in repr(body) for part in unsaid)
        and all(map(is_schema, schemas_in(body)))
    )


def schemas_in(value: Any) -> Iterator[Any]:
    """Yield what stands where a request gives a JSON Schema."""
    for name, each in value.items() if isinstance(value, dict) else enumerate(value):
        if name in ("input_schema", "parameters", "schema"):
            yield each
        elif isinstance(each, dict | list):
            yield from schemas_in(each)


def is_schema(value: Any) -> bool:
    """Return whether a value is a JSON Schema."""
    try:
        Draft202012Validator.check_schema(value)
    except SchemaError:
        return False
    return True


@corners.parametrize()
@pytest.mark.parametrize("strict", [False], indirect=True)
@EXAMPLES
def test_the_lenient_emulator_does_what_its_document_says(case: Any, served: Emulator) -> None:
    validate(case, served, [] if holds_together(case.body) else [positive_data_acceptance])


# What strict servers refuse besides is told by no JSON Schema: whether a call has its result, for one.
@api.parametrize()
@pytest.mark.parametrize("strict", [True], indirect=True)
@EXAMPLES
def test_the_strict_emulator_does_what_its_document_says(case: Any, served: Emulator) -> None:
    validate(case, served, [positive_data_acceptance])


def validate(case: Any, served: Emulator, excluded: list[Any]) -> None:
    to: Any = {"base_url": served.base_url, "headers": {"Authorization": f"Bearer {served.api_key}"}}
    response = case.call(**to)
    sent = parse_qs(urlsplit(response.request.url).query, keep_blank_values=True)
    if not dict(case.query or {}).keys() <= sent.keys():
        # A list of nothing leaves no trace in a URL, so that what is wrong with it has not arrived.
        excluded = [*excluded, negative_data_rejection]
    case.validate_response(response, headers=to["headers"], excluded_checks=excluded, transport_kwargs=to)


def test_the_document_says_where_it_was_found(served: Emulator) -> None:
    found = httpx.get(f"{served.base_url}/openapi.json", trust_env=False).json()
    assert found.pop("servers") == [{"url": served.base_url}]
    assert found == document()


def test_only_what_the_provider_documents_is_marked_so() -> None:
    schemas = document()["components"]["schemas"]
    documented = {
        name: [field for field, drawn in schema["properties"].items() if drawn["x-piccc"] == "documented"]
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


def test_the_fields_of_a_count_are_those_of_a_message() -> None:
    schemas = document()["components"]["schemas"]
    message, count = (
        {field: {**drawn, "x-piccc": ""} for field, drawn in schemas[name]["properties"].items()}
        for name in ("MessageRequest", "CountRequest")
    )
    assert {field: message.get(field) for field in count} == count


def test_every_operation_says_whether_it_is_documented() -> None:
    operations = [operation for path in document()["paths"].values() for operation in path.values()]
    assumed = [operation["operationId"] for operation in operations if operation["x-piccc"] == "assumed"]
    assert assumed == ["countTokens", "listModels", "getModel"]
