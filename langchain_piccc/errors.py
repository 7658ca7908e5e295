"""`piccc.errors` classes that are also LangChain ModelErrors."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

from langchain_core import exceptions as core

from piccc import errors


@dataclass(frozen=True, slots=True)
class ErrorResponse:
    """The HTTP response behind an error, in the form that tracers read; secrets are already removed."""

    status_code: int
    text: str
    headers: Mapping[str, str] = field(default_factory=dict)

    def json(self) -> Any:
        """Parse the text as JSON; raise ValueError if it is not."""
        return json.loads(self.text)


class _Traceable:
    @property
    def response(self) -> ErrorResponse:
        """The server's response; AttributeError if there was none."""
        error = cast("errors.APIStatusError", self)
        if error.status is None:
            raise AttributeError("No response arrived.")
        return ErrorResponse(error.status, error.body or "", dict(getattr(error, "headers", {})))


class PicccError(_Traceable, errors.PicccError, core.ModelError):
    """Any piccc error without a more specific class below."""


class ConfigurationError(_Traceable, errors.ConfigurationError, core.ModelAuthenticationError):
    """A setting is missing or malformed: nothing was sent."""


class InvalidArgumentError(_Traceable, errors.InvalidArgumentError, core.ModelInvalidRequestError):
    """An argument was rejected before anything was sent."""


class UnsupportedContentError(_Traceable, errors.UnsupportedContentError, core.ModelInvalidRequestError):
    """The dialect cannot carry the content: nothing was sent."""


class APIConnectionError(_Traceable, errors.APIConnectionError, core.ModelConnectionError):
    """No response arrived, and nothing was billed."""


class ResponseLostError(_Traceable, errors.ResponseLostError, core.ModelConnectionError):
    """The request was sent but no response arrived: it may have been billed."""


class APITimeoutError(_Traceable, errors.APITimeoutError, core.ModelTimeoutError):
    """A deadline passed; `may_have_been_billed` says whether the request was sent."""


class APIStatusError(_Traceable, errors.APIStatusError, core.ModelError):
    """The server answered with an error status."""


class InvalidRequestError(_Traceable, errors.InvalidRequestError, core.ModelInvalidRequestError):
    """The server rejected the request as invalid."""


class ContextOverflowError(_Traceable, errors.ContextOverflowError, core.ContextOverflowError):
    """The conversation is longer than the model's context window."""


class AuthenticationError(_Traceable, errors.AuthenticationError, core.ModelAuthenticationError):
    """The key is missing, wrong or revoked."""


class PaymentRequiredError(_Traceable, errors.PaymentRequiredError, core.ModelPermissionDeniedError):
    """The account has no credit left."""


class PermissionDeniedError(_Traceable, errors.PermissionDeniedError, core.ModelPermissionDeniedError):
    """The key may not do this."""


class NotFoundError(_Traceable, errors.NotFoundError, core.ModelNotFoundError):
    """The model or the route does not exist."""


class ConflictError(_Traceable, errors.ConflictError, core.ModelInvalidRequestError):
    """The request conflicts with another one."""


class RateLimitError(_Traceable, errors.RateLimitError, core.ModelRateLimitError):
    """Too many requests; `retry_after` says how long to wait."""


class ServerError(_Traceable, errors.ServerError, core.ModelAPIError):
    """The server failed and billed nothing (assumed)."""


class OverloadedError(_Traceable, errors.OverloadedError, core.ModelAPIError):
    """The server is overloaded and did nothing."""


class GatewayTimeoutError(_Traceable, errors.GatewayTimeoutError, core.ModelAPIError):
    """A gateway stopped waiting for the server, which may have billed the request."""


class ResponseError(_Traceable, errors.ResponseError, core.ModelAPIError):
    """The response does not follow the API's format."""


class StreamError(_Traceable, errors.StreamError, core.ModelAPIError):
    """The stream broke off; `partial` has what arrived."""


class StreamTimeoutError(_Traceable, errors.StreamTimeoutError, core.ModelTimeoutError):
    """A deadline passed before the stream was complete."""


_DUAL: dict[type, Any] = {dual.__bases__[1]: dual for dual in _Traceable.__subclasses__()}


def as_model_error(error: errors.PicccError) -> errors.PicccError:
    """Return the error as a LangChain ModelError too, with all its attributes."""
    kind = next((_DUAL[base] for base in type(error).__mro__ if base in _DUAL), None)
    if kind is None or isinstance(error, core.ModelError):
        return error
    dual: errors.PicccError = kind(error.message)
    dual.args = error.args
    dual.__dict__.update(error.__dict__)
    return dual.with_traceback(error.__traceback__)


@contextmanager
def as_model_errors() -> Iterator[None]:
    """Raise our errors as LangChain ModelErrors too."""
    try:
        yield
    except errors.PicccError as error:
        raise as_model_error(error) from error.__cause__
