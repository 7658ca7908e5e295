"""Request forms, errors and JSON shared by all routes; each dialect has its own module."""

from __future__ import annotations

import base64
import binascii
import io
import json
import mimetypes
import re
from collections.abc import Mapping
from difflib import get_close_matches
from functools import lru_cache
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import PydanticSerializationError, to_json

from piccc.emulator.conversation import Medium, ModelCall

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    413: "request_too_large",
    422: "invalid_request_error",
    429: "rate_limit_error",
    500: "api_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}


class APIError(Exception):
    """An error response; `param` is the dotted path of the field at fault."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.headers = dict(headers or {})

    @property
    def type(self) -> str:
        """The error's `type`."""
        return _TYPES.get(self.status, "api_error")

    def envelope(self, path: str, request_id: str) -> dict[str, Any]:
        """Return the error's body in the path's dialect (assumed)."""
        if path.startswith("/v1/messages"):
            error = {"type": self.type, "message": self.message}
            return {"type": "error", "error": error, "request_id": request_id}
        return {"error": {"message": self.message, "type": self.type, "code": self.code, "param": self.param}}


def _integral(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value


# JSON has one number type: 50.0 is an integer there, but "50" and true are not. Put this last in an
# annotation; otherwise the bounds are missing from the JSON Schema.
INTEGRAL = BeforeValidator(_integral)
Positive = Annotated[int, Field(ge=1), INTEGRAL]
Share = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, Field(min_length=1)]
URLText = Annotated[str, Field(pattern="^(https?://|data:)")]


class Form(BaseModel):
    """A JSON object in a request, with strict types and unknown fields kept.

    Forms are built on first use, because most emulators see only one dialect.
    """

    model_config = ConfigDict(strict=True, extra="allow", defer_build=True)


AnyForm = TypeVar("AnyForm", bound=Form)


def read(form: type[AnyForm], body: Any, *, status: int = 400) -> AnyForm:
    """Parse a body. Raises APIError with the field at fault."""
    if not isinstance(body, dict):
        raise APIError(status, "The body must be a JSON object.", code="invalid_json")
    try:
        return form.model_validate(body)
    except ValidationError as error:
        raise _refusal(error, body, status) from None


# Other APIs' names for task fields that do not resemble ours.
_ALIASES = {
    "duration": "duration_seconds",
    "seconds": "duration_seconds",
    "length": "duration_seconds",
    "ratio": "aspect_ratio",
    "aspect": "aspect_ratio",
    "format": "output_format",
    "callback_url": "webhook",
    "webhook_url": "webhook",
}
# Real chat API fields that resemble other names.
_REAL = frozenset({"cache_control", "functions", "function_call", "metadata", "modalities", "store", "user"})


def ignored_fields(form: Form, *, status: int, strict: bool) -> list[str]:
    """Return the fields that the form does not know. If strict, raise APIError for misspelled ones."""
    if not (ignored := list(form.model_extra or ())):
        return []
    known = {field.alias or name for name, field in type(form).model_fields.items()}
    for name in ignored if strict else ():
        meant = _meant(name, known)
        if meant:
            message = f"{name}: unknown field. Did you mean {meant}?"
            raise APIError(status, message, code="unknown_parameter", param=name)
    return ignored


def _meant(name: str, known: set[str]) -> str | None:
    if name in _REAL:
        return None
    if _ALIASES.get(name) in known:
        return _ALIASES[name]
    plain = {re.sub(r"[^a-z0-9]", "", one.lower()): one for one in known}
    letters = re.sub(r"[^a-z0-9]", "", name.lower())
    close = get_close_matches(letters, plain, 1, cutoff=0.85)  # so that top_k does not match top_p
    return plain[close[0]] if close else None


def checked_schema(schema: dict[str, Any], *, param: str) -> dict[str, Any]:
    """Return a JSON Schema unchanged. Raises APIError 400 if it is not valid."""
    if wrong := flaw(schema):
        raise APIError(400, f"{param}: not a valid JSON Schema: {wrong}", code="invalid_value", param=param)
    return schema


def flaw(schema: Any) -> str:
    """Return why a value is not a valid JSON Schema of its draft, or "" if it is.

    Patterns are not checked, because other engines support character classes that `re` does not. Empty lists
    are accepted, because pydantic writes them for unions without members.
    """
    try:
        return _flaw(json.dumps(schema, allow_nan=False))
    except (RecursionError, ValueError):
        return "It is nested too deeply, or contains an invalid number or URI."


@lru_cache(maxsize=256)  # every turn of a conversation sends the same tools
def _flaw(written: str) -> str:
    # Imported here because it takes a third of the startup time, and only tools and schemas need it.
    from jsonschema.validators import Draft202012Validator, validator_for
    from jsonschema_specifications import REGISTRY  # type: ignore[import-untyped]  # it ships no types

    schema = json.loads(written)
    if not isinstance(schema, dict) or not isinstance(schema.get("$schema", ""), str):
        return "It is not an object, or its $schema is not a string."
    rules = validator_for(schema, default=Draft202012Validator)
    for error in rules(rules.META_SCHEMA, registry=REGISTRY).iter_errors(schema):
        if error.validator != "minItems":
            return f"{'.'.join(map(str, error.absolute_path))}: {error.message[:200]}".removeprefix(": ")
    return ""


def _refusal(error: ValidationError, body: Any, status: int) -> APIError:
    candidates = [
        (_path(item["loc"], item["type"], body), item["msg"], item["type"]) for item in error.errors()
    ]
    # Report the union member that matched furthest, most likely the intended one.
    path, message, kind = max(candidates, key=lambda item: len(item[0]))
    name = ".".join(str(part) for part in path)
    code = "missing_required_parameter" if kind == "missing" else "invalid_value"
    return APIError(status, f"{name}: {message}", code=code, param=name)


def _path(location: tuple[int | str, ...], kind: str, body: Any) -> tuple[int | str, ...]:
    """Return a location without the names of the union members that pydantic tried."""
    path: list[int | str] = []
    for position, part in enumerate(location):
        last, rest = position == len(location) - 1, location[position + 1 :]
        # A union member may have the same name as a field.
        is_end = last or not (kind == "missing" or any(_holds(body, later) for later in rest))
        if _holds(body, part) and (is_end or isinstance(body[part], dict | list)):
            body = body[part]
        elif not (last and kind == "missing"):
            continue
        path.append(part)
    return tuple(path)


def _holds(body: Any, part: int | str) -> bool:
    if isinstance(body, list):
        return isinstance(part, int) and part < len(body)
    return isinstance(body, dict) and part in body


Kind = Literal["image", "file", "audio"]


def from_url(kind: Kind, url: str, *, param: str, name: str | None = None) -> Medium:
    """Read a data URL; other URLs are never fetched."""
    if not url.startswith("data:"):
        last = url.partition("?")[0].rsplit("/", 1)[-1]  # guess_type raises for an invalid host from 3.13 on
        return Medium(kind, mimetypes.guess_type(last)[0] or f"{kind}/*", name=name or last or None)
    head, _, data = url[len("data:") :].partition(",")
    mime_type = head.partition(";")[0] or "text/plain"
    return from_base64(kind, mime_type, data, param=param, name=name)


def from_base64(kind: Kind, mime_type: str, data: str, *, param: str, name: str | None = None) -> Medium:
    """Read base64 data. Raises APIError 400, naming the field."""
    try:
        raw = base64.b64decode("".join(data.split()), validate=True)
    except (binascii.Error, ValueError):
        raise APIError(400, f"{param}: not valid base64.", code="invalid_value", param=param) from None
    width, height = _dimensions(raw, param) if kind == "image" else (None, None)
    return Medium(kind, mime_type, size=len(raw), name=name, width=width, height=height)


def _dimensions(raw: bytes, param: str) -> tuple[int, int]:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(raw)) as image:
            return image.size
    except (UnidentifiedImageError, OSError):
        raise APIError(400, f"{param}: not an image.", code="invalid_image", param=param) from None


def arguments_text(call: ModelCall) -> str:
    """Return a call's arguments as JSON text, which may be truncated."""
    return compact(call.arguments) if call.partial is None else call.partial


def compact(value: Any) -> str:
    """Return JSON text without spaces."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def encoded(value: Any) -> bytes:
    """Encode JSON as UTF-8, or as escaped ASCII if it contains a lone surrogate."""
    try:
        return to_json(value)
    except PydanticSerializationError:
        return json.dumps(value, separators=(",", ":")).encode()
