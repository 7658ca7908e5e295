"""The kinds of field that the routes share, and a refusal that names the field which is wrong."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from piccc.emulator.model.schema import flaw
from piccc.emulator.problems import Problem


def _integral(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value


# JSON knows one kind of number: 50.0 is an integer there, "50" and true are not. It comes last in an
# annotation, or the bounds would not be seen in the JSON Schema.
INTEGRAL = BeforeValidator(_integral)
Positive = Annotated[int, Field(ge=1), INTEGRAL]
Share = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, Field(min_length=1)]
Address = Annotated[str, Field(pattern="^(https?://|data:)")]


class Form(BaseModel):
    """A JSON object of the wire: types are strict, unknown fields are allowed and kept."""

    model_config = ConfigDict(strict=True, extra="allow")


AnyForm = TypeVar("AnyForm", bound=Form)


def read(form: type[AnyForm], body: Any, *, status: int) -> AnyForm:
    """Parse a body, or refuse it with a Problem that names the field."""
    if not isinstance(body, dict):
        raise Problem(status, "The body must be a JSON object.", code="invalid_json")
    try:
        return form.model_validate(body)
    except ValidationError as error:
        raise _refusal(error, body, status) from None


def drawn(schema: dict[str, Any], *, param: str) -> dict[str, Any]:
    """Return a JSON Schema as it came; a 400 Problem naming the field when it is none."""
    if wrong := flaw(schema):
        raise Problem(400, f"{param}: is not a JSON Schema: {wrong}", code="invalid_value", param=param)
    return schema


def _refusal(error: ValidationError, body: Any, status: int) -> Problem:
    found = [(_path(item["loc"], item["type"], body), item["msg"], item["type"]) for item in error.errors()]
    # Of a union's alternatives, the one that fitted furthest is the one that was meant.
    path, message, kind = max(found, key=lambda item: len(item[0]))
    name = ".".join(str(part) for part in path)
    code = "missing_required_parameter" if kind == "missing" else "invalid_value"
    return Problem(status, f"{name}: {message}", code=code, param=name)


def _path(location: tuple[int | str, ...], kind: str, body: Any) -> tuple[int | str, ...]:
    """Keep the parts of a location that are in the body, not the names of the alternatives tried."""
    path: list[int | str] = []
    for position, part in enumerate(location):
        last = position == len(location) - 1
        if _holds(body, part):
            body = body[part]
        elif not (last and kind == "missing"):
            continue
        path.append(part)
    return tuple(path)


def _holds(body: Any, part: int | str) -> bool:
    if isinstance(body, list):
        return isinstance(part, int) and part < len(body)
    return isinstance(body, dict) and part in body
