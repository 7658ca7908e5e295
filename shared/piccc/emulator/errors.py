"""A refusal, before a route gives it its envelope."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
    """Refuse a request with a status; `param` is the field that is wrong, as a dotted path."""

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
        """Name the error's class in the words of the wire."""
        return _TYPES.get(self.status, "api_error")

    def envelope(self, path: str, request_id: str) -> dict[str, Any]:
        """Return the error's body; the path decides its form (assumed)."""
        if path.startswith("/v1/messages"):
            error = {"type": self.type, "message": self.message}
            return {"type": "error", "error": error, "request_id": request_id}
        return {"error": {"message": self.message, "type": self.type, "code": self.code, "param": self.param}}
