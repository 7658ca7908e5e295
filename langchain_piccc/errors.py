"""Our errors as LangChain's: each class is both, so that code which catches either goes on working.

`is_retryable` tells LangChain's middleware whether to send again. It is False wherever the server may have
acted on a request without answering it, for a second answer would be billed too.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

from langchain_core import exceptions as core

from piccc import errors

_COUNTERPARTS: dict[type[errors.PicccError], type[core.ModelError]] = {
    errors.PicccError: core.ModelError,
    errors.ConfigurationError: core.ModelAuthenticationError,
    errors.InvalidArgumentError: core.ModelInvalidRequestError,
    errors.UnsupportedContentError: core.ModelInvalidRequestError,
    errors.APIConnectionError: core.ModelConnectionError,
    errors.APITimeoutError: core.ModelTimeoutError,
    errors.APIStatusError: core.ModelError,
    errors.InvalidRequestError: core.ModelInvalidRequestError,
    errors.ContextOverflowError: core.ContextOverflowError,
    errors.AuthenticationError: core.ModelAuthenticationError,
    errors.PaymentRequiredError: core.ModelPermissionDeniedError,
    errors.PermissionDeniedError: core.ModelPermissionDeniedError,
    errors.NotFoundError: core.ModelNotFoundError,
    errors.ConflictError: core.ModelInvalidRequestError,
    errors.RateLimitError: core.ModelRateLimitError,
    errors.ServerError: core.ModelAPIError,
    errors.OverloadedError: core.ModelAPIError,
    errors.ResponseError: core.ModelAPIError,
    errors.StreamError: core.ModelAPIError,
    errors.StreamTimeoutError: core.ModelTimeoutError,
}


@dataclass(frozen=True, slots=True)
class ErrorResponse:
    """The reply behind an error, as tracers read it; secrets are already out of it."""

    status_code: int
    text: str
    headers: Mapping[str, str] = field(default_factory=dict)

    def json(self) -> Any:
        """Parse the text; raise ValueError where it is no JSON."""
        return json.loads(self.text)


class _Traceable:
    @property
    def response(self) -> ErrorResponse:
        """The server's reply; AttributeError where none came."""
        error = cast("errors.APIStatusError", self)
        if error.status is None:
            raise AttributeError("No reply came.")
        return ErrorResponse(error.status, error.body or "", dict(getattr(error, "headers", {})))


def _make_dual_error(ours: type[errors.PicccError], theirs: type[core.ModelError]) -> type[errors.PicccError]:
    namespace = {"__doc__": ours.__doc__, "__module__": __name__}
    return cast("type[errors.PicccError]", type(ours.__name__, (_Traceable, ours, theirs), namespace))


_TWINS = {ours: _make_dual_error(ours, theirs) for ours, theirs in _COUNTERPARTS.items()}
globals().update({twin.__name__: twin for twin in _TWINS.values()})  # pickle looks them up here


def as_model_error(error: errors.PicccError, *, retry_unknown: bool = False) -> errors.PicccError:
    """Return the error as one of both kinds, with all that it knows."""
    kind = next((_TWINS[each] for each in type(error).__mro__ if each in _TWINS), None)
    if kind is None or isinstance(error, core.ModelError):
        return error
    twin = kind.__new__(kind)
    twin.args = error.args
    twin.__dict__.update(error.__dict__)
    answered = isinstance(error, errors.APIStatusError)
    if error.may_have_been_billed and not answered:
        twin.__dict__["is_retryable"] = retry_unknown
    return twin.with_traceback(error.__traceback__)


@contextmanager
def as_model_errors(*, retry_unknown: bool = False) -> Iterator[None]:
    """Raise our errors as LangChain's."""
    try:
        yield
    except errors.PicccError as error:
        raise as_model_error(error, retry_unknown=retry_unknown) from error.__cause__
