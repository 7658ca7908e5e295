"""The OpenAPI document, with each operation and field marked as documented or assumed.

Every operation and property has `x-piccc`: `documented` or `assumed`. Assumed means that the emulator fills
a gap in the provider's documentation; the provider does not promise it.
"""

from __future__ import annotations

from functools import cache
from typing import Any, get_args

from pydantic.json_schema import models_json_schema

from piccc.emulator.tasks import STATUSES, ImageTaskRequest, Kind, VideoTaskRequest
from piccc.emulator.wire import Form
from piccc.emulator.wire.anthropic import CountRequest, MessageRequest
from piccc.emulator.wire.openai import ChatRequest

Schema = dict[str, Any]

_DOCUMENTED = {
    "ChatRequest": {"model", "messages", "stream"},
    "MessageRequest": {"model", "max_tokens", "messages"},
    "ImageTaskRequest": {"model", "prompt", "aspect_ratio", "resolution", "webhook"},
    "VideoTaskRequest": {"model", "prompt", "aspect_ratio", "resolution", "duration_seconds", "webhook"},
    "Webhook": {"url"},
    "Task": {"task_id", "status", "polling_url"},
}
_REFUSALS = (400, 401, 402, 403, 404, 409, 413, 422, 429, 500, 502, 503, 504, 529)
_NULL = {"type": "null"}
_TEXT = {"type": "string"}
_WHOLE = {"type": "integer", "minimum": 0}


def _object(properties: Schema, *, optional: tuple[str, ...] = ()) -> Schema:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _list_of(item: Schema, **more: Any) -> Schema:
    return _object({"object": {"const": "list"}, "data": {"type": "array", "items": item}, **more})


_OUTPUT = _object(
    {
        "type": {"enum": ["image", "video"]},
        "url": {"type": "string", "format": "uri"},
        "mime_type": _TEXT,
        "width": _WHOLE,
        "height": _WHOLE,
        "duration_seconds": _WHOLE,
    },
    optional=("duration_seconds",),
)
_REPLIES: dict[str, Schema] = {
    "Task": _object(
        {
            "task_id": _TEXT,
            "object": {"const": "task"},
            "type": {"enum": ["image", "video"]},
            "status": {"enum": list(STATUSES)},
            "progress": {"type": "integer", "minimum": 0, "maximum": 100},
            "model": _TEXT,
            "polling_url": {"type": "string", "format": "uri"},
            "created_at": _WHOLE,
            "updated_at": _WHOLE,
            "completed_at": {"anyOf": [_WHOLE, _NULL]},
            "prompt": _TEXT,
            "aspect_ratio": _TEXT,
            "resolution": _TEXT,
            "duration_seconds": _WHOLE,
            "result": {
                "anyOf": [
                    _object({"outputs": {"type": "array", "items": _OUTPUT}, "expires_at": _WHOLE}),
                    _NULL,
                ]
            },
            "error": {"anyOf": [_object({"message": _TEXT, "type": _TEXT, "code": _TEXT}), _NULL]},
        },
        optional=("duration_seconds",),
    ),
    "TaskList": _list_of(_ref("Task"), has_more={"type": "boolean"}, next_cursor={"anyOf": [_TEXT, _NULL]}),
    "TaskEvent": _object(
        {
            "id": _TEXT,
            "type": {"enum": [f"task.{end}" for end in ("completed", "failed", "cancelled", "expired")]},
            "created_at": _WHOLE,
            "data": _ref("Task"),
        }
    ),
    "Model": _object({"id": _TEXT, "object": {"const": "model"}, "created": _WHOLE, "owned_by": _TEXT}),
    "ModelList": _list_of(_ref("Model")),
    "ChatCompletion": _object(
        {
            "id": _TEXT,
            "object": {"const": "chat.completion"},
            "created": _WHOLE,
            "model": _TEXT,
            "choices": {"type": "array", "items": {"type": "object"}, "minItems": 1},
            "usage": _object({"prompt_tokens": _WHOLE, "completion_tokens": _WHOLE, "total_tokens": _WHOLE}),
        }
    ),
    "MessageReply": _object(
        {
            "id": _TEXT,
            "type": {"const": "message"},
            "role": {"const": "assistant"},
            "model": _TEXT,
            "content": {"type": "array", "items": {"type": "object"}},
            "stop_reason": _TEXT,
            "stop_sequence": {"anyOf": [_TEXT, _NULL]},
            "usage": _object({"input_tokens": _WHOLE, "output_tokens": _WHOLE}),
        }
    ),
    "TokenCount": _object({"input_tokens": _WHOLE}),
    "Error": _object(
        {
            "error": _object(
                {
                    "message": _TEXT,
                    "type": _TEXT,
                    "code": {"anyOf": [_TEXT, _NULL]},
                    "param": {"anyOf": [_TEXT, _NULL]},
                }
            )
        }
    ),
    "MessageError": _object(
        {
            "type": {"const": "error"},
            "error": _object({"type": _TEXT, "message": _TEXT}),
            "request_id": _TEXT,
        }
    ),
}


@cache
def document() -> Schema:
    """Return the document without `servers`, which the route adds."""
    forms: list[type[Form]] = [ChatRequest, MessageRequest, CountRequest, ImageTaskRequest, VideoTaskRequest]
    _, drawn = models_json_schema(
        [(form, "validation") for form in forms], ref_template="#/components/schemas/{model}"
    )
    schemas = {**drawn["$defs"], **_REPLIES}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Piccc API, as emulated",
            "version": "1",
            "description": __doc__,
            "x-piccc": "assumed",
        },
        "security": [{"bearer": []}, {"key": []}],
        "paths": _paths(),
        "webhooks": {"taskEnded": {"post": _webhook()}},
        "components": {
            "schemas": {
                name: _marked(schema, _DOCUMENTED.get(name, set())) for name, schema in schemas.items()
            },
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "x-piccc": "documented"},
                "key": {"type": "apiKey", "in": "header", "name": "X-API-Key", "x-piccc": "documented"},
            },
        },
    }


def _marked(schema: Schema, documented: set[str]) -> Schema:
    """Mark each property as documented or assumed."""
    properties = {
        name: {**field, "x-piccc": "documented" if name in documented else "assumed"}
        for name, field in schema.get("properties", {}).items()
    }
    return {**schema, "properties": properties} if properties else schema


def _paths() -> Schema:
    submitted = {"202": _json("Task", "The task was accepted.")}
    return {
        "/v1/chat/completions": {
            "post": _operation(
                "chat", "Chat in OpenAI's format.", body="ChatRequest", replies=_streamed("ChatCompletion")
            )
        },
        "/v1/messages": {
            "post": _operation(
                "message",
                "Chat in Anthropic's format.",
                body="MessageRequest",
                replies=_streamed("MessageReply"),
                parameters=[_version()],
                error="MessageError",
            )
        },
        "/v1/messages/count_tokens": {
            "post": _operation(
                "countTokens",
                "Count a message's input tokens.",
                body="CountRequest",
                replies={"200": _json("TokenCount", "The count.")},
                error="MessageError",
                source="assumed",
            )
        },
        "/v1/images/tasks": {
            "post": _operation(
                "submitImage",
                "Submit an image task.",
                body="ImageTaskRequest",
                replies=submitted,
                parameters=[_key()],
            )
        },
        "/v1/videos/tasks": {
            "post": _operation(
                "submitVideo",
                "Submit a video task.",
                body="VideoTaskRequest",
                replies=submitted,
                parameters=[_key()],
            )
        },
        "/v1/tasks": {
            "get": _operation(
                "listTasks",
                "List tasks, newest first.",
                replies={"200": _json("TaskList", "A page of tasks.")},
                parameters=_filters(),
            )
        },
        "/v1/tasks/{task_id}": {
            "get": _operation(
                "getTask",
                "Read a task.",
                replies={"200": _json("Task", "The task.")},
                parameters=[_in_path("task_id", "documented")],
            )
        },
        "/v1/models": {
            "get": _operation(
                "listModels",
                "List the models.",
                replies={"200": _json("ModelList", "The models.")},
                source="assumed",
            )
        },
        "/v1/models/{model_id}": {
            "get": _operation(
                "getModel",
                "Read a model.",
                replies={"200": _json("Model", "The model.")},
                parameters=[_in_path("model_id", "assumed")],
                source="assumed",
            )
        },
    }


def _operation(
    name: str,
    summary: str,
    *,
    replies: Schema,
    body: str | None = None,
    parameters: list[Schema] | None = None,
    error: str = "Error",
    source: str = "documented",
) -> Schema:
    operation: Schema = {"operationId": name, "summary": summary, "x-piccc": source}
    if parameters:
        operation["parameters"] = parameters
    if body:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": _ref(body)}}}
    refusals = {str(status): {**_json(error, "An error."), "x-piccc": "assumed"} for status in _REFUSALS}
    operation["responses"] = {**replies, **refusals}
    return operation


def _json(name: str, description: str) -> Schema:
    headers = {"x-request-id": {"schema": _TEXT, "required": True, "x-piccc": "assumed"}}
    return {
        "description": description,
        "headers": headers,
        "content": {"application/json": {"schema": _ref(name)}},
    }


def _streamed(name: str) -> Schema:
    reply = _json(name, "The reply; with `stream`, server-sent events.")
    event = _object({"event": _TEXT, "data": _TEXT}, optional=("event",))
    reply["content"]["text/event-stream"] = {"schema": event}
    return {"200": reply}


def _filters() -> list[Schema]:
    kinds = {"enum": list(get_args(Kind))}
    return [
        _query("type", kinds, "documented"),
        _query("status", {"enum": list(STATUSES)}, "documented"),
        _query("limit", {"type": "integer", "minimum": 1, "maximum": 100, "default": 20}, "assumed"),
        _query("cursor", {"type": "string", "description": "`next_cursor` of the previous page."}, "assumed"),
    ]


def _query(name: str, schema: Schema, source: str) -> Schema:
    return {"name": name, "in": "query", "required": False, "schema": schema, "x-piccc": source}


def _in_path(name: str, source: str) -> Schema:
    return {"name": name, "in": "path", "required": True, "schema": _TEXT, "x-piccc": source}


def _key() -> Schema:
    schema = {"type": "string", "minLength": 1, "maxLength": 255}
    return {"name": "Idempotency-Key", "in": "header", "schema": schema, "x-piccc": "assumed"}


def _version() -> Schema:
    schema = {"type": "string", "examples": ["2023-06-01"]}
    return {"name": "anthropic-version", "in": "header", "schema": schema, "x-piccc": "documented"}


def _webhook() -> Schema:
    return {
        "summary": "A task's terminal event, delivered to its webhook URL.",
        "x-piccc": "assumed",
        "requestBody": {"content": {"application/json": {"schema": _ref("TaskEvent")}}},
        "responses": {"2XX": {"description": "The event was accepted; any other status is retried."}},
    }
