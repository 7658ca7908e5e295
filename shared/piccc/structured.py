"""Structured output: request an object, parse it, and decide what to try if the reply is not valid.

`StructuredCall` decides what to send next but does no I/O, so blocking, asynchronous and streaming callers of
every framework share it:

    call = StructuredCall(schema, strategies, memory, server)
    while attempt := call.attempt:
        try:
            reply = send(attempt)
        except InvalidRequestError as error:
            call.refuse(error)
        else:
            call.take(Answer(reply.text, reply.finish_reason, reply.refusal))
    return call.result()
"""

from __future__ import annotations

import inspect
import json
import re
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, Self

from pydantic import BaseModel, TypeAdapter
from pydantic.errors import PydanticUserError
from pydantic_core import from_json, to_json

from piccc.arguments import MAX_DEPTH, Nesting, as_json
from piccc.conversation import JSON, MAX_ANSWERS, JSONSchema
from piccc.errors import (
    ContextOverflowError,
    InvalidArgumentError,
    InvalidRequestError,
    ResponseError,
)
from piccc.tasks import is_moderation

Strategy = Literal["schema", "tool", "text", "json"]
"""How to ask: native schema support, a forced tool call, the schema in the prompt, or any JSON."""
STRATEGIES: tuple[Strategy, ...] = ("schema", "tool", "text")
"""The strategies to try, in order, by default."""

FORGET_AFTER = 600.0
"""Seconds until a strategy that failed is tried again."""
_PROSE_LIMIT = 2
_MAX_REMEMBERED = 1000

_WRAPPED = "value"
_DEFINITIONS = ("$defs", "definitions")
_KEYWORDS = frozenset(
    {
        "$ref",
        "additionalProperties",
        "allOf",
        "anyOf",
        "const",
        "enum",
        "items",
        "oneOf",
        "properties",
        "type",
    }
)
_NO_OBJECT = frozenset({"allOf", "anyOf", "const", "enum", "oneOf"})
_JSON_TYPES: dict[str, tuple[type, ...]] = {
    "array": (list,),
    "boolean": (bool,),
    "integer": (int,),
    "null": (type(None),),
    "number": (int, float),
    "object": (dict,),
    "string": (str,),
}


@dataclass(frozen=True)
class OutputSchema:
    """The schema of an answer. Its root is always an object, as servers require.

    Anything else (a list, a union, an enum, a RootModel) is wrapped in an object with a single field, and
    unwrapped when it is parsed.

    Attributes:
        schema: the JSON Schema that is sent.
        name: the schema's name in the request.
        description: a description of the answer for the model.
        strict: whether the server must follow the schema exactly; None lets the server decide.
        type: the Python type that answers are converted to; None keeps plain JSON.
        is_wrapped: whether the answer is wrapped in an object.
    """

    schema: JSON
    name: str = "answer"
    description: str | None = None
    strict: bool | None = None
    type: Any = None
    is_wrapped: bool = False

    @classmethod
    def of(cls, given: Any, *, strict: bool | None = None) -> Self:
        """Create a schema from any of its common forms.

        Args:
            given: a pydantic class, or any type that pydantic supports; a JSON Schema, with or without a
                title; or a mapping with `name` and `schema`, a `response_format` or a tool, as in the OpenAI
                API.
            strict: whether the server must follow it exactly; all objects are then closed.

        Raises:
            InvalidArgumentError: it is none of these.

        Example:
            >>> from piccc.structured import OutputSchema
            >>> sizes = OutputSchema.of(list[int])
            >>> sizes.validate({"value": [3, 4]})
            [3, 4]
        """
        if isinstance(given, Mapping):
            output = cls(*_split_mapping(given))
        else:
            schema = _schema_of_type(given)
            name = str(schema.get("title") or getattr(given, "__name__", "") or cls.name)
            output = cls(schema, name, schema.get("description"), type=given)
        schema, is_wrapped = _with_object_root(output.schema)
        strict = output.strict if strict is None else strict
        return replace(
            output,
            schema=_closed(schema) if strict else schema,
            name=re.sub(r"[^A-Za-z0-9_-]", "_", output.name)[:64] or cls.name,
            strict=strict,
            is_wrapped=is_wrapped,
        )

    @property
    def response_format(self) -> JSONSchema:
        """The schema as the `response_format` of a chat request."""
        return JSONSchema(self.schema, self.name, self.strict, self.description)

    def validate(self, value: Any) -> Any:
        """Return the answer as the requested type; raise ValueError if it does not match."""
        value = self.unwrap(self._decode_again(value))
        if self.type is None:
            return _checked(self._inner, value)
        if self._parse_old is not None:
            return self._parse_old(value)
        # Validate JSON, not Python objects: strict classes accept a date or a tuple from JSON only.
        return self._adapter.validate_json(to_json(value, inf_nan_mode="constants"))

    def unwrap(self, value: Any) -> Any:
        """Return the answer without the object that wraps it, if any."""
        is_wrapper = self.is_wrapped and isinstance(value, dict) and value.keys() == {_WRAPPED}
        return value[_WRAPPED] if is_wrapper else value

    def _decode_again(self, value: Any) -> Any:
        """Decode an object that was encoded twice; keep a string that may itself be the answer."""
        inner = _decoded(value) if isinstance(value, str) else None
        is_asked_for = isinstance(inner, dict) and (not self.is_wrapped or inner.keys() == {_WRAPPED})
        return inner if is_asked_for else value

    @cached_property
    def text(self) -> str:
        """The schema as JSON text."""
        return json.dumps(self.schema, ensure_ascii=False)

    @property
    def _inner(self) -> JSON:
        inner: JSON = self.schema["properties"][_WRAPPED] if self.is_wrapped else self.schema
        return inner

    @cached_property
    def _adapter(self) -> TypeAdapter[Any]:
        return TypeAdapter(self.type)

    @property
    def _parse_old(self) -> Callable[[Any], Any] | None:
        return self.type.parse_obj if _is_old_model(self.type) else None

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_adapter"}


def _split_mapping(given: Mapping[str, Any]) -> tuple[JSON, str, str | None, bool | None]:
    """Split a mapping into schema, name, description and strict."""
    match given:
        case {"type": "json_schema", "json_schema": Mapping() as named}:
            pass
        case {"type": "function", "function": Mapping() as named}:
            pass
        case {"type": "json_schema", "schema": Mapping()} as named:
            pass
        case {"name": str()} as named if not _KEYWORDS & given.keys():
            pass
        case _:
            named = {"name": given.get("title"), "schema": given, "description": given.get("description")}
    schema = next((named[name] for name in ("schema", "parameters", "input_schema") if name in named), None)
    if not isinstance(schema, Mapping) or not _is_schema(schema):
        raise InvalidArgumentError(
            f"A mapping with {sorted(map(str, given))} is not a JSON Schema.",
            hint='Pass {"type": "object", "properties": {...}}, {"name": ..., "schema": ...}, or a class.',
        )
    return dict(schema), str(named.get("name") or "answer"), named.get("description"), named.get("strict")


def _is_schema(schema: Mapping[str, Any]) -> bool:
    try:
        json.dumps(schema)
    except (TypeError, ValueError):
        return False
    return bool(_KEYWORDS & schema.keys()) and _is_schema_within(schema)


def _is_schema_within(schema: Any) -> bool:
    """Return whether the keywords checked here have valid values at every level of a schema."""
    if not isinstance(schema, Mapping):
        return isinstance(schema, bool)
    kinds, items = schema.get("type", []), schema.get("items", [])
    named = [schema.get(name, {}) for name in ("properties", *_DEFINITIONS)]
    listed = [schema.get(name, []) for name in ("allOf", "anyOf", "oneOf", "required")]
    if not all(isinstance(each, Mapping) for each in named) or not all(
        isinstance(each, list | tuple) for each in listed
    ):
        return False
    below = [each for group in named for each in group.values()]
    below += [each for group in listed[:-1] for each in group]
    below += items if isinstance(items, list) else [items]  # a list until draft 2019-09
    return all(str(each) in _JSON_TYPES for each in (kinds if isinstance(kinds, list) else [kinds])) and all(
        map(_is_schema_within, below)
    )


def _schema_of_type(given: Any) -> JSON:
    if _is_old_model(given):
        old: JSON = given.schema()
        return old
    try:
        if given is None or inspect.isroutine(given):  # pydantic would call a function with the answer
            raise TypeError("it is None" if given is None else "it is a function")
        return TypeAdapter(given).json_schema()
    except (PydanticUserError, TypeError, NameError, AttributeError) as error:
        raise InvalidArgumentError(
            f"No JSON Schema can be generated for {given!r}: {str(error).splitlines()[0]}",
            hint="Pass a pydantic class, a type such as list[str], or a JSON Schema.",
        ) from error


def _is_old_model(given: Any) -> bool:
    """Return whether this is a pydantic v1 class, without importing the compatibility module."""
    return inspect.isclass(given) and hasattr(given, "parse_obj") and not issubclass(given, BaseModel)


def _with_object_root(schema: JSON) -> tuple[JSON, bool]:
    """Return a schema with an object at its root, and whether it was wrapped."""
    definitions = {name: schema[name] for name in _DEFINITIONS if name in schema}
    root = schema
    if reference := schema.get("$ref"):  # as in recursive classes; servers do not accept it at the root
        place, _, name = str(reference).removeprefix("#/").partition("/")
        root = {**definitions.get(place, {}).get(name, schema), **definitions}
    if root.get("type", "object") == "object" and not _NO_OBJECT & root.keys():
        return {"type": "object", **root}, False
    inner = {name: value for name, value in schema.items() if name not in _DEFINITIONS}
    wrapper: JSON = {"type": "object", "properties": {_WRAPPED: inner}, "required": [_WRAPPED]}
    return {**wrapper, "additionalProperties": False, **definitions}, True


def _closed(schema: Any) -> Any:
    """Return a schema with all fields required and no others allowed, as strict servers demand."""
    if isinstance(schema, list):
        return [_closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {name: _closed(value) for name, value in schema.items()}
    kinds = schema.get("type")
    if isinstance(schema.get("properties"), dict) and "object" in (
        kinds if isinstance(kinds, list) else [kinds]
    ):
        closed.update(additionalProperties=False, required=list(schema["properties"]))
    return closed


def _checked(schema: JSON, value: Any) -> Any:
    """Check plain JSON against the root of its schema; nested values are left to the server."""
    kinds = schema.get("type") or []
    kinds = kinds if isinstance(kinds, list) else [kinds]
    # Compare types exactly: booleans are integers in Python, but not in JSON.
    if kinds and not any(type(value) in _JSON_TYPES[each] for each in kinds):
        raise ValueError(f"expected a JSON {' or '.join(kinds)}, got {type(value).__name__}")
    if "enum" in schema and value not in schema["enum"]:
        raise ValueError(f"expected one of {schema['enum']}")
    required = schema.get("required", ()) if isinstance(value, dict) else ()
    if missing := [name for name in required if name not in value]:
        raise ValueError(f"missing fields: {', '.join(missing)}")
    return value


class NoJSONError(ValueError):
    """The text contains no JSON."""


_THOUGHT = re.compile(r"\A\s*<think>.*?</think>", re.DOTALL)
_FENCE = re.compile(r"```[\w-]*\s*\n(.*?)```", re.DOTALL)
_OBJECT = re.compile(r'\{(?=\s*["}])')
_TRAILING_COMMA = re.compile(r'("(?:[^"\\]|\\.)*(?:"|\\?\Z)|[\[{]\s*,)|,(?=\s*[\]}])', re.DOTALL)
# Group 1 is kept: a string, or a comma that no value precedes. `\Z` also ends an unterminated string: without
# it, escaped quotes would take quadratic time.
_LAST_LIST = re.compile(r"(?:\A|[:\n])\s*(\[.*\])\s*\Z", re.DOTALL)  # not "[1]" within a sentence


def read_json(text: str) -> Any:
    """Parse the one JSON value in a model's reply.

    A code fence, text around an object, a preceding `<think>` block, raw newlines in strings and trailing
    commas are unambiguous and therefore accepted. Several objects or an incomplete one are not.

    Raises:
        NoJSONError: the text contains no JSON.
        ValueError: the JSON is malformed, or there are several values.

    Example:
        >>> from piccc.structured import read_json
        >>> read_json('Here it is: {"age": 31}. Anything else?')
        {'age': 31}
    """
    value = _read_json(_THOUGHT.sub("", text.removeprefix("\ufeff"), count=1))
    return as_json(value) if "\\ud" in text.lower() else value  # an escape may be a lone surrogate


def _read_json(text: str) -> Any:
    try:
        return from_json(text, allow_inf_nan=False)
    except ValueError:
        pass
    if text.count("[") + text.count("{") > MAX_DEPTH and Nesting(text).deepest > MAX_DEPTH:
        raise ValueError("its JSON is nested too deeply")
    candidates = [text, *(match[1] for match in _FENCE.finditer(text))]
    values = [value for each in candidates if (value := _decoded(each)) is not None]
    if not values and (match := _LAST_LIST.search(text)) and (value := _decoded(match[1])) is not None:
        return value
    if values:
        return _only(values)
    if (start := _OBJECT.search(text)) is None:
        raise NoJSONError("it contains no JSON")
    first_error: Exception | None = None
    for variant in _variants(text[start.start() :]):
        try:
            value, end = _DECODER.raw_decode(variant)
        except (ValueError, RecursionError) as error:
            first_error = first_error or error
        else:
            return _only([value, *_OBJECT.findall(variant, end)])
    raise ValueError(f"its JSON is malformed: {first_error}")


def _reject(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


_DECODER = json.JSONDecoder(strict=False, parse_constant=_reject)  # not strict: raw newlines in strings


def _variants(text: str) -> Iterator[str]:
    """Yield the text unchanged and, if it starts with JSON, without trailing commas."""
    yield text
    if text.lstrip().startswith(("{", "[")):
        yield _TRAILING_COMMA.sub(r"\1", text)


def _decoded(text: str) -> Any:
    for variant in _variants(text):
        with suppress(ValueError, RecursionError):
            return _DECODER.decode(variant)
    return None


def _only(values: Sequence[Any]) -> Any:
    if len(values) > 1:
        raise ValueError("it contains more than one JSON value")
    return values[0]


class PartialObject:
    """The text of one JSON value, parsed while it is incomplete.

    The text is parsed again each time it has grown by 1/32. The total work is therefore linear in its length,
    and the value is at most that far behind.

    Attributes:
        value: the most recently parsed object or list.
    """

    __slots__ = ("_due", "_length", "_pieces", "value")
    _SHARE = 32
    _HEAD = re.compile(r"\s*(?:```\w*\s*)?(?=[{\[])")

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._length = self._due = 0
        self.value: Any = {}

    @property
    def text(self) -> str:
        """The text so far."""
        self._pieces = ["".join(self._pieces)]
        return self._pieces[0]

    def add(self, piece: str) -> bool:
        """Append text; return whether the value has changed."""
        self._pieces.append(piece)
        self._length += len(piece)
        return self._length >= self._due and self.read()

    def read(self) -> bool:
        """Parse the text so far; return whether the value has changed."""
        text = self.text
        self._due = self._length + 1 + self._length // self._SHARE
        head = self._HEAD.match(text)
        if head is None:
            return False
        try:
            value = from_json(text[head.end() :], allow_partial="trailing-strings")
        except ValueError:
            return False
        has_changed: bool = isinstance(value, dict | list) and value != self.value
        if has_changed:
            self.value = value
        return has_changed


Turn = tuple[Literal["user", "assistant"], str]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One request for the object.

    Attributes:
        strategy: how to ask.
        options: request options in the format of the OpenAI API.
        turns: messages to append to the caller's, as role and text.
    """

    strategy: Strategy
    options: JSON
    turns: tuple[Turn, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """The reply to an attempt.

    Attributes:
        text: the arguments of its tool call, else its text.
        finish_reason: why the reply ended.
        refusal: the text of a refusal, or empty.
        invalid: why its tool call must not be used, for example because it was cut off; or empty.
        calls_others: whether it calls the caller's own tools instead of answering.
        request_id: the server's id for the request.
    """

    text: str
    finish_reason: str | None = None
    refusal: str = ""
    invalid: str = ""
    calls_others: bool = False
    request_id: str | None = None


class StructuredOutputError(ResponseError, ValueError):
    """No reply contained a valid object.

    Attributes:
        text: the model's reply, or the arguments of its tool call.
        finish_reason: why the reply ended, such as `stop` or `length`.
        reason: `refused` by the model, `filtered` by the server, `cut` at max_tokens, or `unfit` (not valid).
    """

    text: str = ""
    finish_reason: str | None = None
    reason: Literal["refused", "filtered", "cut", "unfit"] = "unfit"


class StrategyMemory:
    """The strategies to avoid for a while: a server rejected them, or answered with prose twice in a row.

    A strategy rejected for one schema is still tried for others: some servers support response formats but
    not every JSON Schema keyword. Thread-safe; a pickled or copied memory is empty.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._avoided_until: dict[Hashable, float] = {}
        self._prose_counts: dict[Hashable, int] = {}

    def usable(self, place: Hashable, strategies: Sequence[Strategy]) -> list[Strategy]:
        """Return the strategies to try, which always include the last one."""
        now = self._now()
        *better, last = strategies
        return [*(each for each in better if self._avoided_until.get((place, each), now) <= now), last]

    def avoid(self, place: Hashable, strategy: Strategy) -> None:
        """Record that the server rejected a strategy."""
        if len(self._avoided_until) >= _MAX_REMEMBERED:
            self._avoided_until.clear()
        self._avoided_until[place, strategy] = self._now() + FORGET_AFTER

    def read(self, place: Hashable, strategy: Strategy, *, was_prose: bool) -> None:
        """Record whether a reply was prose instead of JSON; after two in a row, avoid the strategy."""
        if not was_prose:
            self._prose_counts.pop((place, strategy), None)
            return
        if len(self._prose_counts) >= _MAX_REMEMBERED:
            self._prose_counts.clear()
        count = self._prose_counts[place, strategy] = self._prose_counts.get((place, strategy), 0) + 1
        if count >= _PROSE_LIMIT:
            self.avoid(place, strategy)

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), ())


class StructuredCall:
    """The state of one request for an object.

    `attempt` is what to send next, or None once there is a result; `answers` counts the replies so far.

    Args:
        schema: the object's schema.
        strategies: the ways to ask, best first.
        memory: which strategies to avoid.
        server: identifies server and model in the memory.
        max_answers: the maximum number of replies; rejected requests do not count.
    """

    def __init__(
        self,
        schema: OutputSchema,
        strategies: Sequence[Strategy] = STRATEGIES,
        memory: StrategyMemory | None = None,
        server: Hashable = None,
        max_answers: int = MAX_ANSWERS,
    ) -> None:
        self.schema = schema
        self._memory = memory or StrategyMemory()
        self._place = (server, schema.text)
        self._left = self._memory.usable(self._place, strategies)
        self._refused: list[Strategy] = []
        self._refusal: InvalidRequestError | None = None
        self._max_answers = max_answers
        self._is_repair = False
        self._value: Any = None
        self._error: StructuredOutputError | None = None
        self.answers = 0
        self.attempt: Attempt | None = self._ask()

    def refuse(self, error: InvalidRequestError) -> None:
        """Handle a 4xx response to the attempt: try the next strategy, or raise.

        The wording of such errors is not reliable, so any error without a recognised cause of its own is
        blamed on the strategy. If the server rejects all strategies, raise the first error.
        """
        self._refusal = self._refusal or error
        is_last = len(self._left) == 1 or has_own_cause(error)
        if self._error is not None and (is_last or self._is_repair):
            self.attempt = None  # the first answer's error is more informative
            return
        if is_last:
            raise error if has_own_cause(error) else self._refusal
        self._refused.append(self._left.pop(0))
        self.attempt = self._ask()

    def take(self, answer: Answer) -> None:
        """Handle a reply to the attempt."""
        for each in self._refused:
            self._memory.avoid(self._place, each)
        self._refused.clear()
        self.answers += 1
        strategy = self._left[0]
        try:
            if answer.invalid:
                raise ValueError(answer.invalid)
            value = None if answer.calls_others else self.schema.validate(read_json(answer.text))
        except ValueError as error:
            self._handle_invalid(answer, error)
            return
        self._memory.read(self._place, strategy, was_prose=False)
        self._value, self._error, self.attempt = value, None, None

    def result(self) -> Any:
        """Return the object; raise StructuredOutputError if no reply contained it."""
        if self._error is not None:
            raise self._error
        return self._value

    def _handle_invalid(self, answer: Answer, cause: ValueError) -> None:
        self._error = self._output_error(answer, cause)
        is_prose = isinstance(cause, NoJSONError)
        if self._error.reason == "unfit":
            self._memory.read(self._place, self._left[0], was_prose=is_prose)
        if self._error.reason != "unfit" or self.answers >= self._max_answers:
            self.attempt = None
        elif is_prose and len(self._left) > 1:
            del self._left[0]
            self.attempt = self._ask()
        else:
            self._is_repair = True
            self.attempt = self._repair(answer, cause)

    def _ask(self) -> Attempt:
        strategy = self._left[0]
        words = f"Answer with JSON alone. It must satisfy this JSON Schema:\n{self.schema.text}"
        turns: tuple[Turn, ...] = (("user", words),) if strategy == "text" else ()
        return Attempt(strategy, _options(strategy, self.schema), turns)

    def _repair(self, answer: Answer, cause: ValueError) -> Attempt:
        # Quote even a tool call as text: strict servers reject a call with broken arguments.
        attempt = self._ask()
        quoted: tuple[Turn, ...] = (("assistant", answer.text),) if answer.text.strip() else ()
        correction: Turn = (
            "user",
            f"That does not match the schema: {_describe(cause)}\n"
            "Reply again with the complete, corrected JSON and nothing else.",
        )
        return replace(attempt, turns=(*attempt.turns, *quoted, correction))

    def _output_error(self, answer: Answer, cause: ValueError) -> StructuredOutputError:
        name, reason = self.schema.name, "unfit"
        message, hint = f"The reply is not a valid {name}: {_describe(cause)}", ""
        if answer.refusal:
            reason, message = "refused", f"The model declined to answer: {answer.refusal}"
        elif answer.finish_reason == "content_filter":
            reason, message = "filtered", f"The reply was filtered before it contained a complete {name}."
            hint = (
                "The server or its model withheld the answer; sending the same request again will not help."
            )
        elif answer.finish_reason == "length":
            reason, message = (
                "cut",
                f"The reply was cut off at max_tokens before it contained a complete {name}.",
            )
            hint = "Raise max_tokens."
        elif self._error is not None:
            message = f"No reply was a valid {name}. The last one: {_describe(cause)}"
        if reason == "unfit":
            hint = "`text` has the model's reply; a larger model or a simpler schema may help."
        error = StructuredOutputError(
            message,
            hint=hint,
            text=answer.text,
            finish_reason=answer.finish_reason,
            reason=reason,
            request_id=answer.request_id,
            may_have_been_billed=True,
        )
        error.__cause__ = cause
        return error


def _options(strategy: Strategy, schema: OutputSchema) -> JSON:
    extra = {"description": schema.description, "strict": schema.strict}
    named: JSON = {"name": schema.name, **{name: each for name, each in extra.items() if each is not None}}
    match strategy:
        case "schema":
            wanted = {"type": "json_schema", "json_schema": {**named, "schema": schema.schema}}
            return {"response_format": wanted}
        case "json":
            return {"response_format": {"type": "json_object"}}
        case "tool":
            tool = {"type": "function", "function": {**named, "parameters": schema.schema}}
            choice = {"type": "function", "function": {"name": schema.name}}
            return {"tools": [tool], "tool_choice": choice, "parallel_tool_calls": False}
    return {}


def _describe(error: ValueError) -> str:
    errors = getattr(error, "errors", None)  # of pydantic v1 and v2
    if errors is None:
        return str(error)
    return "; ".join(f"{'.'.join(map(str, each['loc'])) or 'it'}: {each['msg']}" for each in errors())


_OWN_CAUSES = re.compile(
    r"model_not_found|(unknown|invalid|no such) model|model\b.{0,60}\b(not found|not exist)",
    re.IGNORECASE,
)
_OTHER_PARAMETER = re.compile(r'"param":\s*"(messages|model|temperature|top_p|max_tokens|stop|seed|system)\b')


def has_own_cause(error: InvalidRequestError) -> bool:
    """Return whether the server would reject the request with any strategy.

    Such causes are moderation, context overflow, an unknown model, or a parameter that no strategy adds.
    """
    return (
        isinstance(error, ContextOverflowError)
        or error.status not in (400, 422)
        # Do not search the whole body: servers quote the request in it, and its text may mention moderation.
        or is_moderation(error.code, error.message)
        or bool(_OWN_CAUSES.search(f"{error.code} {error.message}"))
        or bool(_OTHER_PARAMETER.search(error.body or ""))
    )
