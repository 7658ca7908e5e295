"""Tasks read tolerantly from whatever the server sends.

Documented: `task_id`, `status`, `polling_url`, and a request's parameters. All else is assumed, so this is
the one place that knows the variants.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from piccc.errors import ResponseError
from piccc.tasks import Output, Task

_STATUSES = {
    **dict.fromkeys(
        ("queued", "pending", "submitted", "waiting", "queuing", "queueing", "preparing"), "queued"
    ),
    **dict.fromkeys(("processing", "running", "in_progress", "generating"), "processing"),
    **dict.fromkeys(("completed", "success", "succeed", "succeeded", "done"), "completed"),
    **dict.fromkeys(("failed", "fail", "error", "failure"), "failed"),
    **dict.fromkeys(("cancelled", "canceled"), "cancelled"),
    "expired": "expired",
}
_MILLISECONDS = 10**11  # a time in seconds stays below this until the year 5138


def read_task(payload: object) -> Task:
    """Read a task in any of the tolerated shapes; raise ResponseError if it has no id."""
    body = _unwrap(payload)
    id = body.get("task_id") or body.get("id")
    if not isinstance(id, str | int) or not str(id):
        raise ResponseError(
            "The server's reply is not a task: it has no task_id.",
            hint="Check that base_url is the address of a Piccc API.",
            body=str(payload)[:1024],
        )
    status = str(body.get("status") or body.get("task_status") or "queued")
    message, code = _error(body)
    task = Task(
        id=str(id),
        status=_STATUSES.get(status.strip().lower(), status),
        type=_text(body.get("type")),
        model=_text(body.get("model")),
        prompt=_text(body.get("prompt")),
        progress=_number(body.get("progress")),
        polling_url=_first_text(body, "polling_url", "poll_url", "status_url"),
        error_message=message,
        error_code=code,
        created_at=_time(body.get("created_at")),
        updated_at=_time(body.get("updated_at")),
        completed_at=_time(body.get("completed_at")),
        expires_at=_time(_result(body).get("expires_at") or body.get("expires_at")),
        raw=body,
    )
    task.outputs = [_output(each, task) for each in _found_outputs(body)]
    return task


def read_task_list(payload: object) -> tuple[list[Task], dict[str, str] | None]:
    """Read one page: its tasks, and what to ask the next page with, or None at the end."""
    body = payload
    if isinstance(body, dict) and isinstance(body.get("data"), dict):
        body = body["data"]
    if isinstance(body, list):
        return [read_task(each) for each in body], None
    rows = (
        next((body[name] for name in ("data", "items", "tasks") if isinstance(body.get(name), list)), None)
        if isinstance(body, dict)
        else None
    )
    if rows is None or not isinstance(body, dict):
        raise ResponseError("The server's reply is not a list of tasks.", body=str(payload)[:1024])
    return [read_task(each) for each in rows], _next_page(body, len(rows))


def _next_page(body: Mapping[str, Any], count: int) -> dict[str, str] | None:
    if not count or not body.get("has_more", True):
        return None
    if cursor := body.get("next_cursor"):
        return {"cursor": str(cursor)}
    page, size, total = (_number(body.get(name)) for name in ("page", "page_size", "total"))
    if page is None or (total is not None and page * (size or count) >= total):
        return None
    following = {"page": str(int(page) + 1)}
    return {**following, "page_size": str(int(size))} if size else following


def _unwrap(payload: object) -> dict[str, Any]:
    if not isinstance(payload, dict):
        return {}
    inner = payload.get("data")
    if isinstance(inner, dict) and not ("task_id" in payload or "id" in payload):
        return inner
    return payload


def _error(body: Mapping[str, Any]) -> tuple[str | None, str | None]:
    error = body.get("error")
    if isinstance(error, dict):
        return _first_text(error, "message", "msg", "detail"), _first_text(error, "code", "type")
    return (
        _text(error) or _first_text(body, "failMsg", "error_message", "task_status_msg"),
        _first_text(body, "failCode", "error_code", "failure_code"),
    )


def _result(body: Mapping[str, Any]) -> Mapping[str, Any]:
    for name in ("result", "task_result"):
        if isinstance(body.get(name), dict):
            found: Mapping[str, Any] = body[name]
            return found
    if isinstance(body.get("resultJson"), str):
        try:
            parsed = json.loads(body["resultJson"])
        except ValueError:
            return {}
        return parsed if isinstance(parsed, dict) else {}
    return {}


def _found_outputs(body: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    for place in (_result(body), body):
        content = place.get("content")
        for names, each in (
            (("outputs", "results", "images", "videos", "unsigned_urls", "resultUrls"), place),
            (("video_url", "image_url", "url"), content if isinstance(content, dict) else {}),
            (("url", "video_url", "image_url"), place),
        ):
            for name in names:
                if found := list(_entries(each.get(name))):
                    return found
    return []


def _entries(value: object) -> Iterator[Mapping[str, Any]]:
    for each in value if isinstance(value, list) else [value]:
        if isinstance(each, str) and each:
            yield {"url": each}
        elif isinstance(each, dict) and (url := _first_text(each, "url", "video_url", "image_url")):
            yield {**each, "url": url}


def _output(entry: Mapping[str, Any], task: Task) -> Output:
    width, height = _number(entry.get("width")), _number(entry.get("height"))
    return Output(
        url=entry["url"],
        type=_text(entry.get("type")) or task.type,
        mime_type=_first_text(entry, "mime_type", "content_type"),
        width=int(width) if width else None,
        height=int(height) if height else None,
        duration_seconds=_number(entry.get("duration_seconds") or entry.get("duration")),
        task_id=task.id,
    )


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _first_text(body: Mapping[str, Any], *names: str) -> str | None:
    return next(
        (str(body[name]) for name in names if isinstance(body.get(name), str | int) and body[name]), None
    )


def _number(value: object) -> float | None:
    try:
        return float(str(value).rstrip("%")) if value is not None else None
    except ValueError:
        return None


def _time(value: object) -> float | None:
    number = _number(value)
    if number is not None:
        return number / 1000 if number > _MILLISECONDS else number
    try:
        return datetime.fromisoformat(str(value)).timestamp()
    except ValueError:
        return None
