"""Results: what the tools gave back, told in a sentence."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from piccc.emulator.conversation import ModelCall, ModelMessage
from piccc.emulator.model.context import answer
from piccc.emulator.model.reading import decoded
from piccc.emulator.model.words import is_wide, sentences

_LONG = 400
_FAILURE = re.compile(
    r"(?:error|exception)\b(?:[^.\n]{0,40}[:：]| (?:calling|executing|invoking|running)\b)|traceback\b",
    re.IGNORECASE,
)


def parsed(text: str) -> Any:
    """Give the JSON value of a result, or the text itself when it is none."""
    plain = text.strip()
    try:
        value, end = decoded(plain)
    except ValueError:
        return plain
    spoken = value is None and plain != "null"  # `NaN` is a word that only looks like JSON
    return plain if spoken or end < len(plain) else value


def objects(value: Any) -> Iterator[dict[str, Any]]:
    """Give every JSON object within a value, outermost first."""
    if isinstance(value, dict):
        yield value
    if isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from objects(one)


def told(calls: Sequence[ModelCall], results: Sequence[ModelMessage], question: str) -> str:
    """Tell what the results say, in the user's language: every result, and errors as errors."""
    names = {call.id: call for call in calls}
    wide = is_wide(question)
    parts = [_told_one(names.get(turn.call_id or ""), turn, question, wide) for turn in results]
    return ("\n" if len(parts) > 1 else "").join(f"- {part}" if len(parts) > 1 else part for part in parts)


def failed(turn: ModelMessage) -> bool:
    """Tell whether a result is an error, by its mark or by its words."""
    return turn.is_error or _is_error(parsed(turn.text))


def _told_one(call: ModelCall | None, turn: ModelMessage, question: str, wide: bool) -> str:
    name = call.name if call else ""
    value = parsed(turn.text)
    if failed(turn):
        reason = _words(value) or "no reason given"
        return f"{name or '工具'} 出错了：{reason}" if wide else f"{name or 'The tool'} failed: {reason}"
    media = " ".join(f"[{one.kind}, {one.mime_type}]" for one in turn.media)
    words = " ".join(part for part in (_words(value, question), media) if part)
    asked = _asked(call)
    if not words:
        return (
            f"{name or '工具'}{asked} 已完成。"
            if wide
            else f"{name or 'The tool'}{asked} is done; it gave nothing back."
        )
    if isinstance(value, str) and len(sentences(words)) > 1:
        return words
    lead = f"{name}{asked}" if name else "结果" if wide else "The result"
    return f"{lead}：{words}" if wide else f"{lead}: {words}"


def _asked(call: ModelCall | None) -> str:
    values = [
        str(value)
        for value in (call.arguments if call else {}).values()
        if isinstance(value, str | int | float)
    ]
    short = ", ".join(value for value in values if len(value) <= 40)
    return f" ({short})" if short else ""


def _is_error(value: Any) -> bool:
    if isinstance(value, dict):
        return bool(value.get("error")) or str(value.get("status", "")).lower() in (
            "error",
            "failed",
            "failure",
        )
    return isinstance(value, str) and _FAILURE.match(value) is not None


def _words(value: Any, question: str = "") -> str:
    """Read a value out: objects as `key: value`, long texts as the sentences that answer the question."""
    if isinstance(value, dict):
        shown = {key: one for key, one in value.items() if one not in (None, "", [], {})}
        return "; ".join(f"{key.replace('_', ' ')}: {_words(one, question)}" for key, one in shown.items())
    if isinstance(value, list):
        separator = "; " if any(isinstance(one, dict | list) for one in value) else ", "
        return separator.join(_words(one, question) for one in value)
    if isinstance(value, str):
        return (answer(question, value) or value[:_LONG]) if len(value) > _LONG and question else value
    return json.dumps(value, ensure_ascii=False)
