"""The emulator's rule-based model, which always gives the same answer to the same request."""

from __future__ import annotations

import hashlib
import json
import re
from contextlib import suppress
from typing import Any

from piccc.emulator.conversation import Completion, ModelCall, ModelMessage, ModelRequest
from piccc.emulator.model import prompts
from piccc.emulator.model.context import best_sentences, from_context, stems
from piccc.emulator.model.extract import WORDS, Values
from piccc.emulator.model.react import react_reply, react_request
from piccc.emulator.model.schema import filled, json_objects, json_value, mapping
from piccc.emulator.model.tokens import measured
from piccc.emulator.model.tools import Step, best, steps

_READ = 4000  # anything longer is a text that the request is about
_FAILURE = re.compile(r"(?i)(?:error|exception)\b(?:[^.\n]{0,40}[:：]| (?:calling|running)\b)|traceback\b")
_CAPTION = re.compile(r"(?i)\b(?:caption|slogan|tagline)\b.*?\b(?:for|about) (?:an? |the |our )?([^.!?\n]+)")
_KEY = re.compile(r"[\"'`“]([A-Za-z_]\w{0,40})[\"'`”]")  # a quoted key in an example or description
_LENGTH = re.compile(rf"(?i)\b(\d{{1,4}}|{'|'.join(WORDS)}) words?\b")


class RuleModel:
    """Answers chat requests by fixed rules: no network, no clock, no randomness."""

    def answer(self, request: ModelRequest) -> Completion:
        """Return calls or text, truncated at `stop` and `max_tokens`. Raises `schema.Unfillable`."""
        if (text := prompts.reply(request)) is not None:
            return measured(request, Completion(text))
        if (react := react_request(request)) is not None:
            said = _Reply(react[0]).answer()
            return measured(request, Completion(react_reply(said, react[1]), said.reasoning))
        return measured(request, _Reply(request).answer())


class _Reply:
    """The reply to one conversation, starting from its last user message."""

    def __init__(self, request: ModelRequest) -> None:
        users = [at for at, turn in enumerate(request.turns) if turn.role == "user"]
        last = users[-1] if users else len(request.turns)
        self.request, self.user = request, request.turns[last] if users else ModelMessage("user")
        self.prompt = self.user.text.strip()
        self.words = self.prompt[: _READ // 2] + self.prompt[max(_READ // 2, len(self.prompt) - _READ // 2) :]
        self.earlier = [request.turns[at].text[:_READ] for at in users[-2:-1]]
        self.system = "\n".join(turn.text for turn in request.turns if turn.role == "system")
        self.results = [turn for turn in request.turns[last + 1 :] if turn.role == "tool"]
        self.failed = [turn for turn in self.results if turn.is_error or _FAILURE.match(turn.text)]
        self.calls = {call.id: call for turn in request.turns[last + 1 :] for call in turn.calls}
        self.done = [self.calls[turn.call_id] for turn in self.results if turn.call_id in self.calls]
        self.known = [one for turn in reversed(self.results) for one, _, _ in json_objects(turn.text)]

    def answer(self) -> Completion:
        calls = self._next_calls()
        then = f"I call {', '.join(call.name for call in calls)}." if calls else "I answer in words."
        text, told = "" if calls else self._text(), ""
        if self.request.reasoning:
            told = f"The user says: {' '.join(self.prompt.split())[:120]} {then}"
        return Completion(text, told, calls, finish_reason="tool_calls" if calls else "stop")

    def _next_calls(self) -> tuple[ModelCall, ...]:
        """Return the calls to make now: requested, not yet made, and not waiting for a result."""
        tools, choice, due = self.request.tools, self.request.tool_choice, list[Step]()
        if choice == "named":
            tools = tuple(tool for tool in tools if tool.name == self.request.named_tool)
        if not tools or choice == "none":
            return ()
        taken = [call.name for call in self.done]
        for step in steps(tools, self.words):
            if step.tool.name in taken:
                taken.remove(step.tool.name)
            elif step.waits and (due or self.failed):
                break
            else:
                due.append(step)
        # A single tool named like a class is an output schema: LlamaIndex does not force it on streams.
        form = choice == "auto" and not self.done and len(tools) == 1 and tools[0].name[:1].isupper()
        if (choice in ("required", "named") or form) and not due:
            # Prefer tools not called yet; after a result, one that uses known values, such as a final report.
            fresh = [tool for tool in tools if tool.name not in [call.name for call in self.done]] or tools
            keys = {key for one in self.known for key in one}
            last = max(reversed(fresh), key=lambda one: len(keys & {*mapping(one.parameters, "properties")}))
            one = last if self.done else best(fresh, self.words, enough=0.0) or fresh[0]
            due = [Step(one, self.words, bool(self.done))]
        made, seen = list[ModelCall](), f"{self.prompt}|{self.request.seed}|{self.request.model}"
        for step in due if self.request.parallel_tool_calls else due[:1]:
            mark = hashlib.sha256(f"{len(self.request.turns)}|{len(made)}|{step.tool.name}|{seen}".encode())
            made.append(ModelCall(f"call_{mark.hexdigest()[:24]}", step.tool.name, self._arguments(step)))
        return tuple(made)

    def _arguments(self, step: Step) -> dict[str, Any]:
        result = self.results[-1].text.strip() if step.waits and self.results else ""
        number = re.fullmatch(r"-?\d+(?:\.\d+)?", result)
        text = re.sub(r"\b(?:the result|it|that)\b|结果|它", result, step.text) if number else step.text
        links = ({"url": link} for link in re.findall(r"https?://[^\s)\]，。]+[\w/]", result))
        known, around = [*self.known, *links] if step.waits else [], [self.words, *self.earlier]
        values = Values(text, around, known, stems(step.tool.name))
        chosen = prompts.structured(self.prompt, step.tool.parameters)
        value = chosen or filled({"type": "object", **step.tool.parameters}, values)
        return value if isinstance(value, dict) else {}

    def _text(self) -> str:
        schema, words = self.request.schema, self.words
        if schema is None and not self.results:
            schema = prompts.schema_in(self.prompt) or prompts.schema_in(self.system)
        if schema is None and self.request.json_mode:
            keys = [*dict.fromkeys(_KEY.findall(f"{words} {self.system}"))][:50] or ["answer"]
            parts = {key: {"type": "string"} for key in keys}
            schema, words = {"type": "object", "properties": parts, "required": keys}, _KEY.sub(" ", words)
        if schema is None:
            return self._plain()
        around = [*(turn.text[:_READ] for turn in self.results), *self.earlier]
        value = prompts.structured(self.prompt, schema) or filled(
            schema, Values(prompts.without_schema(words), around=around, known=self.known)
        )
        return json.dumps(value, ensure_ascii=False)

    def _plain(self) -> str:
        if self.results:
            parts = [self._told(turn) for turn in self.results]
            return parts[0] if len(parts) == 1 else "\n".join(f"- {part}" for part in parts)
        seen = ", ".join(f"{one.kind} ({one.mime_type})" for one in self.user.media)
        return (
            from_context(self.prompt[:1_000_000], self.system)
            or (seen and f"I see: {seen}.")
            or _echo(" ".join(self.words.split()))
        )

    def _told(self, turn: ModelMessage) -> str:
        call = self.calls.get(turn.call_id or "")
        name, arguments = (call.name, call.arguments) if call else ("The tool", {})
        media = [f"[{one.kind}, {one.mime_type}]" for one in turn.media]
        words = " ".join(filter(None, [_words(turn.text.strip(), self.prompt), *media]))
        if turn in self.failed:
            return f"{name} failed: {words or 'no reason given'}"
        given = ", ".join(str(one) for one in arguments.values() if len(str(one)) <= 40)
        return f"{name}{f' ({given})' if given else ''}: {words or 'done'}"


def _echo(words: str) -> str:
    """Echo the user's words, because the model knows nothing; honour a length, and write product captions."""
    if length := _LENGTH.search(words):
        count = WORDS.get(length[1].lower()) or int(length[1])
        said = f"This answer has {length[1].lower()} words" + ", and each is there to be counted" * count
        return " ".join(said.split()[:count]).rstrip(",") + "."
    if said_after := re.match(r"(?i)say (.+)", words):
        return said_after[1]
    if caption := _CAPTION.search(words):
        return f"Meet the {caption[1]}: made with care, ready for every day."
    return f"You said: {words or 'nothing'} (This is the emulator; it only echoes your words.)"


def _words(text: str, question: str) -> str:
    """Describe a result: an object as `key: value`; of a long text, the part that answers the question."""
    value, end = None, 0
    with suppress(ValueError):
        value, end = json_value(text)
    if end == len(text) and isinstance(value, dict):
        shown = {key: one for key, one in value.items() if one not in (None, "", [], {})}
        return "; ".join(f"{key.replace('_', ' ')}: {one}" for key, one in shown.items())
    if end == len(text) and isinstance(value, list):
        return ", ".join(map(str, value))
    return (best_sentences(question, text) or text[:400]) if len(text) > 400 else text
