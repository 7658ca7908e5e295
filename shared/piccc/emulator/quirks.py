"""Quirks: named variants of the wire format that clients must accept, and profiles that combine them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

Shown = dict[str, Any]
Chunks = Iterable[tuple[dict[str, Any], int]]

_WORDS = {
    "words-pending": {"queued": "pending", "processing": "in_progress"},
    "words-success": {
        "queued": "waiting",
        "processing": "generating",
        "completed": "success",
        "failed": "fail",
    },
    "words-succeed": {"queued": "submitted", "completed": "succeed"},
    "words-succeeded": {"processing": "running", "completed": "succeeded", "cancelled": "canceled"},
    "words-capital": {
        "queued": "Queueing",
        "processing": "Processing",
        "completed": "Success",
        "failed": "Fail",
    },
}
_TIMES = ("created_at", "updated_at", "completed_at")
_ON_REQUESTS = frozenset({"other-host", "page-numbers"})

PROFILES = {
    "evolink": ("id", "words-pending", "results", "no-polling-url"),
    "kie": ("words-success", "result-json", "wrapped", "milliseconds", "no-polling-url"),
    "kling": ("words-succeed", "task-result", "wrapped", "milliseconds"),
    "ark": ("id", "words-succeeded", "content", "error-code", "items", "page-numbers", "no-polling-url"),
    "openrouter": ("id", "words-pending", "relative-urls", "unsigned-urls", "error-text"),
}


def _rename(old: str, new: str) -> Callable[[Shown], None]:
    def quirk(task: Shown) -> None:
        if old in task:
            task[new] = task.pop(old)

    return quirk


def _words(words: dict[str, str]) -> Callable[[Shown], None]:
    def quirk(task: Shown) -> None:
        task["status"] = words.get(task["status"], task["status"])

    return quirk


def _place(put: Callable[[Shown, list[str]], None]) -> Callable[[Shown], None]:
    """Return a quirk that moves the outputs' URLs out of `result`."""

    def quirk(task: Shown) -> None:
        result = task.pop("result")
        if result:
            put(task, [output["url"] for output in result["outputs"]])

    return quirk


def _times(written: Callable[[int], Any]) -> Callable[[Shown], None]:
    def quirk(task: Shown) -> None:
        for name in _TIMES:
            if task.get(name) is not None:
                task[name] = written(task[name])

    return quirk


def _error(written: Callable[[Shown], Any]) -> Callable[[Shown], None]:
    def quirk(task: Shown) -> None:
        if task["error"]:
            task["error"] = written(task["error"])

    return quirk


def _plural(task: Shown, urls: list[str]) -> None:
    task[f"{task['type']}s"] = [{"url": url} for url in urls]


def _task_result(task: Shown, urls: list[str]) -> None:
    task["task_result"] = {f"{task['type']}s": [{"url": url} for url in urls]}


def _relative(task: Shown) -> None:
    task["polling_url"] = "/v1/" + task["polling_url"].partition("/v1/")[2]


_TASKS: dict[str, Callable[[Shown], None]] = {
    **{name: _words(words) for name, words in _WORDS.items()},
    "relative-urls": _relative,
    "no-polling-url": lambda task: task.__delitem__("polling_url"),
    "poll-url": _rename("polling_url", "poll_url"),
    "status-url": _rename("polling_url", "status_url"),
    "results": _place(lambda task, urls: task.update(results=urls)),
    "plural": _place(_plural),
    "url": _place(lambda task, urls: task.update(url=urls[0])),
    "unsigned-urls": _place(lambda task, urls: task.update(unsigned_urls=urls)),
    "task-result": _place(_task_result),
    "content": _place(lambda task, urls: task.update(content={f"{task['type']}_url": urls[0]})),
    "result-json": _place(lambda task, urls: task.update(resultJson=json.dumps({"resultUrls": urls}))),
    "error-text": _error(lambda error: error["message"]),
    "error-code": _error(lambda error: {"code": error["code"], "message": error["message"]}),
    "milliseconds": _times(lambda seconds: seconds * 1000),
    "iso-times": _times(lambda seconds: datetime.fromtimestamp(seconds, UTC).isoformat()),
    "id": _rename("task_id", "id"),
}


def _each_delta(change: Callable[[Shown], None]) -> Callable[[Chunks], Iterator[tuple[Shown, int]]]:
    def quirk(chunks: Chunks) -> Iterator[tuple[Shown, int]]:
        for chunk, tokens in chunks:
            for choice in chunk["choices"]:
                change(choice["delta"])
            yield chunk, tokens

    return quirk


def _each_call(change: Callable[[Shown], None]) -> Callable[[Chunks], Iterator[tuple[Shown, int]]]:
    def change_all(delta: Shown) -> None:
        for call in delta.get("tool_calls", ()):
            change(call)

    return _each_delta(change_all)


def _null_content(delta: Shown) -> None:
    delta.setdefault("content", None)


def _empty_first(chunks: Chunks) -> Iterator[tuple[Shown, int]]:
    for number, (chunk, tokens) in enumerate(chunks):
        if number == 0:
            yield chunk, 0
            yield chunk, 0
        yield chunk, tokens


def _calls_at_once(chunks: Chunks) -> Iterator[tuple[Shown, int]]:
    """Send all calls complete in one chunk."""
    calls: list[Shown] = []
    spent = 0
    for chunk, tokens in chunks:
        choice = chunk["choices"][0] if chunk["choices"] else {"delta": {}}
        deltas = choice["delta"].get("tool_calls", ())
        for delta in deltas:
            spent += tokens
            if "id" in delta:
                calls.append(delta)
            else:
                calls[-1]["function"]["arguments"] += delta["function"]["arguments"]
        if calls and choice.get("finish_reason"):
            yield (
                {**chunk, "choices": [{**choice, "delta": {"tool_calls": calls}, "finish_reason": None}]},
                spent,
            )
        if not deltas:
            yield chunk, tokens


def _split_emoji(chunks: Chunks) -> Iterator[tuple[Shown, int]]:
    """Split each character outside the BMP between its two surrogates."""
    for chunk, tokens in chunks:
        content = chunk["choices"] and chunk["choices"][0]["delta"].get("content")
        for number, part in enumerate(_cut_at_halves(content) if content else [content]):
            if not content:
                yield chunk, tokens
                continue
            choice = {**chunk["choices"][0], "delta": {**chunk["choices"][0]["delta"], "content": part}}
            yield {**chunk, "choices": [choice]}, tokens if number == 0 else 0


def _cut_at_halves(text: str) -> list[str]:
    parts = [""]
    for letter in text:
        if ord(letter) > 0xFFFF:
            units = letter.encode("utf-16-be")
            parts[-1] += units[:2].decode("utf-16-be", "surrogatepass")
            parts.append(units[2:].decode("utf-16-be", "surrogatepass"))
        else:
            parts[-1] += letter
    return parts


_CHUNKS: dict[str, Callable[[Chunks], Iterator[tuple[Shown, int]]]] = {
    "no-index": _each_call(lambda call: call.__delitem__("index")),
    "text-index": _each_call(lambda call: call.update(index=str(call["index"]))),
    "zero-index": _each_call(lambda call: call.update(index=0)),
    "no-call-ids": _each_call(lambda call: call.pop("id", None)),
    "null-content": _each_delta(_null_content),
    "empty-first": _empty_first,
    "calls-at-once": _calls_at_once,
    "split-emoji": _split_emoji,
}
_LISTS = {"items": "items", "tasks": "tasks"}
_OTHERS = frozenset({"wrapped", "no-done"})

NAMES = frozenset({*_TASKS, *_CHUNKS, *_LISTS, *_OTHERS, *_ON_REQUESTS})


class Quirks:
    """The active quirks, applied in the order given. A profile's name includes all its quirks.

    - Tasks: `id`, `poll-url`, `status-url`, `relative-urls`, `no-polling-url`; `words-pending`,
      `words-success`, `words-succeed`, `words-succeeded`, `words-capital`; outputs under `results`,
      `plural`, `url`, `unsigned-urls`, `task-result`, `content`, `result-json`; `error-text`, `error-code`;
      `milliseconds`, `iso-times`; `wrapped`; `other-host`.
    - Lists: `items`, `tasks`, `page-numbers`.
    - Streams: `no-index`, `text-index`, `zero-index`, `no-call-ids`, `null-content`, `empty-first`,
      `calls-at-once`, `split-emoji`, `no-done`.
    - Profiles: `evolink`, `kie`, `kling`, `ark`, `openrouter`.

    Attributes:
        names: the quirks, with profiles expanded.
    """

    def __init__(self, names: str | Iterable[str] = ()) -> None:
        listed = [names] if isinstance(names, str) else list(names)
        self.names = [quirk for name in listed for quirk in PROFILES.get(name, (name,))]
        if unknown := set(self.names) - NAMES:
            known = ", ".join(sorted(NAMES | set(PROFILES)))
            raise ValueError(f"unknown quirk {', '.join(sorted(unknown))}; use one of {known}")

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def task(self, shown: Shown) -> Shown:
        """Apply the quirks to a task and return it.

        Args:
            shown: the task as JSON data, modified in place.
        """
        for name in self.names:
            if name in _TASKS:
                _TASKS[name](shown)
        return shown

    def reply(self, shown: Shown) -> Shown:
        """Return a task route's response, wrapped if that quirk is active.

        Args:
            shown: the response as JSON data.
        """
        return {"code": 200, "msg": "success", "data": shown} if "wrapped" in self else shown

    def list(self, shown: Shown) -> Shown:
        """Apply the quirks to a page of tasks and return it.

        Args:
            shown: the page as JSON data, modified in place.
        """
        for name in self.names:
            if name in _LISTS:
                shown[_LISTS[name]] = shown.pop("data")
        return shown

    @property
    def change_chunks(self) -> bool:
        """Whether a quirk changes stream chunks."""
        return not _CHUNKS.keys().isdisjoint(self.names)

    def chunks(self, chunks: Chunks) -> Chunks:
        """Return a streamed completion with the quirks applied.

        Args:
            chunks: its chunks as JSON data.
        """
        for name in self.names:
            if name in _CHUNKS:
                chunks = _CHUNKS[name](chunks)
        return chunks
