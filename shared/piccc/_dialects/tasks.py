"""Tolerant parsing of the server's task responses.

Only `task_id`, `status`, `polling_url` and the request parameters are documented. All else is assumed, so
this module handles all the variants.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from piccc._dialects.common import parse
from piccc.errors import ResponseError
from piccc.tasks import REFUSALS, TERMINAL, Output, Page, Task, is_moderation

_STATUSES = {
    **dict.fromkeys(
        (
            *("queued", "pending", "submitted", "waiting", "queuing", "queueing", "in_queue", "preparing"),
            *("created", "accepted", "scheduled", "throttled"),
        ),
        "queued",
    ),
    **dict.fromkeys(
        (
            *("processing", "running", "in_progress", "generating"),
            *("starting", "started", "rendering", "upscaling", "uploading", "partial"),
        ),
        "processing",
    ),
    **dict.fromkeys(
        (
            *("completed", "complete", "success", "succeed", "succeeded", "successful", "done"),
            *("finished", "ready", "ok", "completed_with_errors", "partially_completed"),
        ),
        "completed",
    ),
    **dict.fromkeys(
        ("failed", "fail", "error", "errored", "failure", "invalid", "timeout", "timed_out"), "failed"
    ),
    **dict.fromkeys(("rejected", "refused", "moderated", "blocked", "banned", "content_filtered"), "failed"),
    **dict.fromkeys(("cancelled", "canceled", "aborted", "terminated", "stopped"), "cancelled"),
    **dict.fromkeys(("expired", "deleted"), "expired"),
}
_STATUS_AT = ("status", "task_status", "state")
_PREFIXES = ("task_status_", "status_", "task_", "state_")
_NO_ERROR = frozenset({"", "0", "200", "ok", "success", "none", "null"})
_DEPTH = 6
_MILLISECONDS = 10**11  # a time in seconds stays below this until the year 5138


def read_task(payload: object, asked: str | None = None) -> Task:
    """Read a task in any of the accepted formats; raise ResponseError if it has no id.

    Also raise if the response to a read of the task `asked` is about another task.
    """
    body = _unwrap(payload)
    id = id_in(body)
    if id is None:
        raise ResponseError(
            "The server's response is not a task: it has no task_id.",
            hint="Check that base_url is the URL of a Piccc API.",
            body=str(payload)[:1024],
        )
    named = _first_text(body, "task_id", "taskId")
    if asked is not None and named and not _is_alias(named, asked) and not _mentions(payload, asked):
        raise ResponseError(
            f"The server answered a read of task {asked} with task {named}.",
            hint=f"Its state and outputs were not used. Read it by its own id: client.tasks.get({named!r}).",
            body=str(payload)[:1024],
        )
    message, code, is_over = _error(body)
    status, refusal = _status(body, has_error=is_over)
    if message is None and status in TERMINAL and status != "completed":
        reason = _first_text(body, *_REASONS_AT)
        message = None if (reason or "").strip(" .").lower() in _NO_ERROR else reason
    if refusal and not is_moderation(code, message):
        code = refusal
    task = Task(
        id=id,
        status=status,
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
    entries = _known_outputs(body) or (list(_search(body)) if task.status == "completed" else [])
    task.outputs = [_output(entry, task, place) for place, entry in enumerate(entries)]
    if not task.is_terminal and task.outputs:
        # A URL at the top level may be the task's own, or that of an input image. A progress of 0 may mean
        # that the server reports none, and 1 may mean all of it.
        inside = {name: value for name, value in body.items() if name not in _OWN_OR_INPUT}
        is_partial = 0 < (task.progress or 0) < 100 and task.progress != 1
        is_new_word = not task.is_known_status and not is_partial
        if (task.progress or 0) >= 100 or (is_new_word and _known_outputs(inside)):
            task.status = "completed"
    return task


def _status(body: Mapping[str, Any], *, has_error: bool) -> tuple[str, str | None]:
    """Return the status, and the server's word for it if that means rejected by moderation."""
    value = next((body[name] for name in _STATUS_AT if body.get(name)), "")
    word = "_".join(str(value).strip().lower().replace("-", " ").split())
    for prefix in _PREFIXES:
        word = word.removeprefix(prefix)
    if not word:
        word = "done" if body.get("done") is True and not has_error else "queued"
    status = _STATUSES.get(word, str(value))
    # A task with an error object has ended, whatever its status.
    if has_error and status not in TERMINAL:
        status = "failed"
    return status, word if word in REFUSALS else None


_MINIMAX = {"1002": 429, "1004": 401, "1008": 402, "1039": 429, "2049": 401, "2056": 429}
"""MiniMax's `base_resp.status_code`. All codes here are from public documentation."""
_CODES = {"1001": 401, "1002": 401, "1101": 402, "1102": 402, "1302": 429, "1303": 429, "455": 503}
_CODE_WORDS = (
    (("insufficient", "notenough", "balance", "credit", "arrear", "overdue", "billing"), 402),
    (("ratelimit", "toomany", "throttl", "resourceexhausted", "quota", "concurren"), 429),
    (("apikey", "unauthor", "authentic", "invalidtoken"), 401),
    (("forbidden", "permission", "accessdenied"), 403),
    (("notfound", "notexist"), 404),
    (("overload", "unavailable", "busy"), 503),
    (("internal", "servererror", "timeout"), 500),
)


_MESSAGE_WORDS = (
    (
        ("insufficientbalance", "insufficientcredit", "insufficientfund", "notenoughcredit", "outofcredit"),
        402,
    ),
    (("nocredit", "topup"), 402),
    (("ratelimit", "toomanyrequest", "quota"), 429),
    (("invalidapikey", "invalidtoken", "unauthorized", "notauthenticated"), 401),
    (("overload",), 503),
)
"""Substrings of messages about the account, used if the code is missing or unknown."""
_CODES_AT = ("code", "errorcode", "errcode", "statuscode")
_MESSAGES_AT = ("message", "msg", "detail", "errormessage", "errormsg", "errmsg", "title")


def read_error(payload: object) -> tuple[int, str, str | None] | None:
    """Return the error in a 200 response: the equivalent HTTP status, the message and the code.

    Return None for a task, a list, or anything that is not clearly an error: the request may have been
    accepted. Recognized are `{code, msg}`, `{error}`, `{errors}`, `{base_resp}`, `{success: false}` and
    `{status: "error"}`, in any spelling. An unknown code is treated as 400 unless the message is about the
    account.
    """
    if not isinstance(payload, dict) or _has_content(payload):
        return None
    body = _plain_names(payload)
    base, error = body.get("baseresp"), body.get("error")
    if isinstance(errors := body.get("errors"), list) and errors:
        error = error or errors[0]
    if isinstance(base, dict):
        code, message = _first_text(base, "status_code"), _first_text(base, "status_msg")
    elif isinstance(error, dict):
        inner = _plain_names(error)
        code, message = _first_text(inner, "code", "type"), _first_text(inner, *_MESSAGES_AT)
    else:
        code, message = _first_text(body, *_CODES_AT), _text(error) or _first_text(body, *_MESSAGES_AT)
    word = str(body.get("status")).lower()
    if word.isdecimal() and 400 <= int(word[:9]) < 600:
        code = code or word
    is_error = error or body.get("success") is False or body.get("ok") is False
    is_error = is_error or word in ("error", "fail", "failed", "failure")
    if not is_error and (code or "").lower() in _NO_ERROR | {"201", "202"}:
        return None
    known = _MINIMAX if isinstance(base, dict) else _CODES
    status = known.get(code or "") or _status_of(code or "")
    if status == 400 and not is_moderation(code, message):
        text = _letters(message or "")
        status = next((each for words, each in _MESSAGE_WORDS if any(word in text for word in words)), 400)
    return status, message or "no reason was given", code


def _plain_names(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return a mapping with its keys in lower case and without underscores."""
    return {str(name).lower().replace("_", ""): value for name, value in body.items()}


def _letters(text: str) -> str:
    return "".join(filter(str.isalnum, text)).lower()


def _has_content(payload: Mapping[str, Any]) -> bool:
    if isinstance(payload.get("data"), list):
        return True
    for body in (payload, *(payload.get(name) for name in _WRAPPERS)):
        if isinstance(body, dict) and (
            id_in(body) is not None or any(isinstance(body.get(name), list) for name in _ROWS)
        ):
            return True
    return False


def _status_of(code: str) -> int:
    if code.isdecimal() and 400 <= int(code[:9]) < 600:
        return int(code)
    plain = _letters(code)
    return next((status for words, status in _CODE_WORDS if any(word in plain for word in words)), 400)


_ROWS = ("data", "items", "tasks")


def read_task_list(payload: object) -> Page:
    """Read one page; raise ResponseError if it is malformed, or if none of its rows is a task."""
    body = payload
    if isinstance(body, dict) and isinstance(body.get("data"), dict):
        body = body["data"]
    rows, following = body, None
    if isinstance(body, dict):
        rows = next((body[name] for name in _ROWS if isinstance(body.get(name), list)), None)
        following = _next_page(body, len(rows or ()))
    tasks, unreadable = [], 0
    for row in rows if isinstance(rows, list) else ():
        try:
            tasks.append(read_task(row))
        except ResponseError:
            unreadable += 1
    if not isinstance(rows, list) or (unreadable and not tasks):
        raise ResponseError("The server's response is not a list of tasks.", body=str(payload)[:1024])
    return Page(tasks, following, unreadable)


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
    if isinstance(payload, dict) and id_in(payload) is None and isinstance(payload.get("data"), list):
        payload = payload["data"]
    if isinstance(payload, list) and len(payload) == 1:  # some APIs answer with a list of one task
        payload = payload[0]
    if not isinstance(payload, dict):
        return {}
    # Beside a wrapped task, `id` is the request's: it comes without a status.
    is_task = id_in(payload) is not None and (
        "task_id" in payload or "taskId" in payload or any(payload.get(name) for name in _STATUS_AT)
    )
    for name in () if is_task else _WRAPPERS:
        inner = payload.get(name)
        if isinstance(inner, dict) and (
            _is_wrapped(inner) if id_in(payload) else id_in(inner) or name == "data"
        ):
            return inner
    return payload


def _is_wrapped(body: Mapping[str, Any]) -> bool:
    return id_in(body) is not None and any(body.get(name) for name in _STATUS_AT)


_WRAPPERS = ("data", "output", "result", "task")


def id_in(body: Mapping[str, Any]) -> str | None:
    """Return a task's id, which may be a number, or None."""
    return next(
        (
            str(id)
            for name in ("task_id", "taskId", "id")
            if isinstance(id := body.get(name), str | int) and str(id) and not isinstance(id, bool)
        ),
        None,
    )


def _is_alias(id: str, other: str) -> bool:
    """Return whether two ids differ only in spelling or in a prefix, such as `task_x` and `x`."""
    long, short = sorted((id, other), key=len, reverse=True)
    return _letters(id) == _letters(other) or long.endswith(tuple(f"{mark}{short}" for mark in "_-:/."))


def _mentions(value: object, id: str, depth: int = _DEPTH) -> bool:
    """Return whether a field for ids or URLs has a task's id: `task_id` may be another system's alias."""
    if isinstance(value, list):
        return depth > 0 and any(_mentions(each, id, depth - 1) for each in value)
    return (
        isinstance(value, dict)
        and depth > 0
        and any(
            _is_alias(str(each), id)
            if isinstance(each, str | int) and str(name).lower().endswith(("id", "url"))
            else _mentions(each, id, depth - 1)
            for name, each in value.items()
        )
    )


def _error(body: Mapping[str, Any]) -> tuple[str | None, str | None, bool]:
    """Return the message and code of a task's error, and whether it ends the task whatever its status.

    An `error` field ends it. Other fields do not: some servers set them while the task is still running.
    """
    error = body.get("error")
    if isinstance(error, list) and error:
        error = error[0]
    if isinstance(error, dict):
        inner = error.get("message")
        told = inner if isinstance(inner, dict) else error
        message, code = _first_text(told, "message", "msg", "detail"), _first_text(error, "code", "type")
        if (message or "").strip(" .").lower() in _NO_ERROR:
            message = None
        if (code or "").lower() in _NO_ERROR:
            is_error = code is None and error.get("code") != 0 and message is not None
            return message, None, is_error
        return message, code, True
    code = _first_text(body, "failCode", "error_code", "failure_code")
    if (code or "").lower() in _NO_ERROR:
        code = None
    if text := _text(error):
        return text, code, text.strip().lower() not in _NO_ERROR
    return _first_text(body, "failMsg", "fail_reason", "error_message", "task_status_msg"), code, False


_REASONS_AT = ("failure_reason", "failureReason", "reason", "message", "msg", "detail")
"""Fields that give the reason of a failed task, and something else in others."""


def _result(body: Mapping[str, Any]) -> Mapping[str, Any]:
    for name in ("result", "task_result"):
        if isinstance(body.get(name), dict):
            result: Mapping[str, Any] = body[name]
            return result
    if isinstance(body.get("resultJson"), str):
        try:
            parsed = parse(body["resultJson"])
        except ValueError:
            return {}
        return parsed if isinstance(parsed, dict) else {}
    return {}


_OUTPUT_LISTS = (
    "outputs",
    "results",
    "creations",
    "unsigned_urls",
    "resultUrls",
    "videos",
    "images",
    "audios",
)
"""In this order, because `images` beside others are the request's (as in Vidu's tasks)."""


def _known_outputs(body: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the outputs in the first known field that has any."""
    output = body.get("output")
    for place in (_result(body), output if isinstance(output, dict) else {}, body):
        content = place.get("content")
        for names, each in (
            (_OUTPUT_LISTS, place),
            (("video_url", "image_url", "url"), content if isinstance(content, dict) else {}),
            (("url", "video_url", "image_url"), place),
        ):
            for name in names:
                if (value := each.get(name)) and (entries := list(_entries(value))):
                    return entries
    return []


_HOLDERS = (
    *("output", "outputs", "response", "result", "results", "data", "content", "assets", "artifacts"),
    *("files", "file", "media", "generations", "sample"),
)
"""Fields in which a completed task may have its outputs in an unknown format."""
_NO_OUTPUTS = (
    "input",
    "request",
    "thumb",
    "cover",
    "preview",
    "poster",
    "watermark",
    "frame",
    "webhook",
    "poll",
)
"""Substrings of the names of fields whose URLs are not outputs."""


def _search(body: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield whatever looks like an output in a completed task without outputs in known fields."""
    for name, value in body.items():
        # An input reference is a plain URL at the top level; an output is an object.
        if name in _HOLDERS or (name in ("image", "video", "audio") and isinstance(value, dict)):
            yield from _addresses(value, _DEPTH)


def _addresses(value: object, depth: int) -> Iterator[Mapping[str, Any]]:
    if isinstance(value, str):
        if value.startswith(("https://", "http://", "data:")) and _is_address(value):
            yield {"url": value}
    elif isinstance(value, list) and depth:
        for each in value:
            yield from _addresses(each, depth - 1)
    elif isinstance(value, dict) and depth:
        if url := _url(value):
            yield {**value, "url": url}
            return
        for name, each in value.items():
            if not any(word in str(name).lower() for word in _NO_OUTPUTS):
                yield from _addresses(each, depth - 1)


def _entries(value: object) -> Iterator[Mapping[str, Any]]:
    for each in value if isinstance(value, list) else [value]:
        entry = {"url": each} if isinstance(each, str) else each
        if isinstance(entry, dict) and (url := _url(entry)):
            yield {**entry, "url": url}


_URL_NAMES = (
    "url",
    "uri",
    "download_url",
    "video_url",
    "image_url",
    "audio_url",
    "file_url",
    "file",
    "image",
)
_OWN_OR_INPUT = (*_URL_NAMES, "images", "videos", "audios")


def _url(entry: Mapping[str, Any]) -> str | None:
    for name in _URL_NAMES:
        value = entry.get(name)
        url = _first_text(value, *_URL_NAMES) if isinstance(value, dict) else _text(value)
        if url and _is_address(url):
            return url
    if content := _first_text(entry, "b64_json", "base64", "image_base64"):
        if content.startswith("data:"):
            return content
        return f"data:{_first_text(entry, 'mime_type', 'content_type') or ''};base64,{content}"
    return None


def _is_address(url: str) -> bool:
    try:
        urlsplit(url)
    except ValueError:
        return False  # such as http://[::1/x, which must not make the other outputs unreadable
    return True


def _output(entry: Mapping[str, Any], task: Task, place: int) -> Output:
    width, height = _number(entry.get("width")), _number(entry.get("height"))
    declared = _text(entry.get("type")).lower()
    return Output(
        url=entry["url"],
        type=declared if declared in ("image", "video", "audio") else task.type,
        mime_type=_first_text(entry, "mime_type", "content_type"),
        width=int(width) if width else None,
        height=int(height) if height else None,
        duration_seconds=_number(entry.get("duration_seconds") or entry.get("duration")),
        task_id=task.id,
        place=place,
        thumbnail_url=_thumbnail(entry),
    )


_THUMBNAILS = ("thumbnail_url", "thumbnail", "cover_image_url", "cover_url", "cover", "poster_url", "poster")
"""Other video APIs' names for the URL of a still image; assumed, since our server documents none."""


def _thumbnail(entry: Mapping[str, Any]) -> str | None:
    for name in _THUMBNAILS:
        value = entry.get(name)
        url = _url(value) if isinstance(value, dict) else _text(value)
        if url and url.startswith(("https://", "http://", "data:")) and _is_address(url):
            return url
    return None


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _first_text(body: Mapping[str, Any], *names: str) -> str | None:
    return next(
        (str(body[name]) for name in names if isinstance(body.get(name), str | int) and body[name]), None
    )


def _number(value: object) -> float | None:
    try:
        number = float(str(value).rstrip("%")) if value is not None else None
    except ValueError:
        return None
    return number if number is not None and math.isfinite(number) else None


def _time(value: object) -> float | None:
    if value is None:
        return None
    number = _number(value)
    if number is not None:
        while number > _MILLISECONDS:  # milliseconds, microseconds or nanoseconds
            number /= 1000
        return number if number >= 0 else None
    try:
        return datetime.fromisoformat(str(value)).timestamp()
    except ValueError:
        return None
