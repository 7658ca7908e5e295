"""The emulator's model: it answers by rules, so the same request always gets the same answer."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any

from piccc.emulator.conversation import Completion, Medium, ModelCall, ModelMessage, ModelRequest, Tool
from piccc.emulator.model import prompts
from piccc.emulator.model.context import best_sentences, is_wide, stems
from piccc.emulator.model.extract import WORDS, Values
from piccc.emulator.model.schema import filled
from piccc.emulator.model.tokens import measured
from piccc.emulator.model.tools import Step, best, steps

_READ = 4000  # what is longer than this is a text that a request speaks of
_FAILURE = re.compile(
    r"(?:error|exception)\b(?:[^.\n]{0,40}[:：]| (?:calling|executing|running)\b)|traceback\b", re.I
)
_CAPTION = re.compile(r"(?i)\b(?:caption|slogan|tagline)\b.*?\b(?:for|about) (?:an? |the |our )?([^.!?\n]+)")
_LENGTH = re.compile(rf"(?i)\b(\d{{1,4}}|{'|'.join(WORDS)}) words?\b")


class RuleModel:
    """Answer a chat request by rules alone: no network, no clock, no chance."""

    def answer(self, request: ModelRequest) -> Completion:
        """Return the calls that the words ask for, or a text, cut where `stop` and `max_tokens` say.

        Raises `schema.Unfillable` when no value is found for the schema of the reply or of a tool to call.
        """
        if (text := prompts.reply(request)) is not None:
            return measured(request, Completion(text))
        if (react := prompts.react_request(request)) is not None:
            said = _Reply(react[0]).answer()
            return measured(request, Completion(prompts.react_reply(said, react[1]), said.reasoning))
        return measured(request, _Reply(request).answer())


class _Reply:
    """The reply to one conversation, read from its last user message on."""

    def __init__(self, request: ModelRequest) -> None:
        users = [at for at, turn in enumerate(request.turns) if turn.role == "user"]
        last = users[-1] if users else len(request.turns)
        self.request, self.user = request, request.turns[last] if users else ModelMessage("user")
        self.prompt = self.user.text.strip()
        self.words = self.prompt[: _READ // 2] + self.prompt[max(_READ // 2, len(self.prompt) - _READ // 2) :]
        self.earlier = [request.turns[at].text[:_READ] for at in users[:-1]]
        self.system = "\n".join(turn.text for turn in request.turns if turn.role == "system")
        self.results = [turn for turn in request.turns[last + 1 :] if turn.role == "tool"]
        self.calls = {call.id: call for turn in request.turns[last + 1 :] for call in turn.calls}
        self.done = [self.calls[turn.call_id] for turn in self.results if turn.call_id in self.calls]
        self.known = [one for turn in reversed(self.results) for one in prompts.objects_in(turn.text)]

    def answer(self) -> Completion:
        calls = self._next_calls()
        text, reasoning = "" if calls else self._text(), ""
        if self.request.reasoning:
            then = f"I call {', '.join(call.name for call in calls)}." if calls else "I answer in words."
            reasoning = f"The user says: {' '.join(self.prompt.split())[:120]} {then}"
        return Completion(text, reasoning, calls, finish_reason="tool_calls" if calls else "stop")

    def _next_calls(self) -> tuple[ModelCall, ...]:
        """Return the calls to make now: what was asked for, is not done, and does not wait for a result."""
        tools, choice, due = self.request.tools, self.request.tool_choice, list[Step]()
        if choice == "named":
            tools = tuple(tool for tool in tools if tool.name == self.request.named_tool)
        if not tools or choice == "none":
            return ()
        taken = [call.name for call in self.done]
        for step in steps(tools, self.words):
            if step.tool.name in taken:
                taken.remove(step.tool.name)
            elif step.waits and (due or (self.results and _failed(self.results[-1]))):
                break
            else:
                due.append(step)
        forced = choice in ("required", "named")
        if forced and not due:
            due = [Step(self._forced(tools), self.words, bool(self.done))]
        seen = [] if forced else [(call.name, call.arguments) for call in self.done]
        for step in due if self.request.parallel_tool_calls else due[:1]:
            if (call := (step.tool.name, self._arguments(step))) not in seen:
                seen.append(call)
        return tuple(self._call(at, *one) for at, one in enumerate(seen[0 if forced else len(self.done) :]))

    def _forced(self, tools: Sequence[Tool]) -> Tool:
        """Choose a tool where one must be called: not called yet, and one that takes what is known."""
        fresh = [tool for tool in tools if tool.name not in [call.name for call in self.done]] or tools
        keys = {key for one in self.known for key in one}
        if self.done:
            return max(
                reversed(fresh), key=lambda one: len(keys & {*(one.parameters.get("properties") or ())})
            )
        return best(fresh, self.words, enough=0.0) or fresh[0]

    def _arguments(self, step: Step) -> dict[str, Any]:
        result = self.results[-1].text.strip() if step.waits and self.results else ""
        number = re.fullmatch(r"-?\d+(?:\.\d+)?", result)
        text = re.sub(r"\b(?:the result|it|that)\b|结果|它", result, step.text) if number else step.text
        links = [{"url": link} for link in re.findall(r"https?://[^\s)\]，。]+[\w/]", result)]
        known, around = [*self.known, *links] if step.waits else [], [self.words, *self.earlier[-1:]]
        values = Values(text, around, known, stems(step.tool.name), "" if self.known else result)
        value = filled({"type": "object", **step.tool.parameters}, values)
        return value if isinstance(value, dict) else {}

    def _call(self, at: int, name: str, arguments: dict[str, Any]) -> ModelCall:
        seen = f"{len(self.request.turns)}|{at}|{name}|{self.prompt}|{self.request.seed}|{self.request.model}"
        return ModelCall(f"call_{hashlib.sha256(seen.encode()).hexdigest()[:24]}", name, arguments)

    def _text(self) -> str:
        schema, words = self.request.schema, self.words
        if schema is None and not self.results:
            schema = prompts.schema_in(self.prompt) or prompts.schema_in(self.system)
        if schema is None and self.request.json_mode:
            keys = prompts.keys_in(self.words) or prompts.keys_in(self.system) or ["answer"]
            schema = {
                "type": "object",
                "properties": {key: {"type": "string"} for key in keys},
                "required": keys,
            }
            words = re.sub(rf"[\"'`“](?:{'|'.join(map(re.escape, keys))})[\"'`”]", " ", words)
        if schema is None:
            return self._plain()
        around = [*(turn.text[:_READ] for turn in self.results), *self.earlier[-2:]]
        value = filled(schema, Values(prompts.without_schema(words), around=around, known=self.known))
        return json.dumps(value, ensure_ascii=False)

    def _plain(self) -> str:
        if self.results:
            parts = [self._told(turn) for turn in self.results]
            return parts[0] if len(parts) == 1 else "\n".join(f"- {part}" for part in parts)
        seen = f"I see {'; '.join(map(_described, self.user.media))}." if self.user.media else ""
        return prompts.from_context(self.prompt, self.system) or seen or _echo(" ".join(self.words.split()))

    def _told(self, turn: ModelMessage) -> str:
        call = self.calls.get(turn.call_id or "")
        name, arguments = (call.name, call.arguments) if call else ("The tool", {})
        media = [f"[{one.kind}, {one.mime_type}]" for one in turn.media]
        words = " ".join(filter(None, [_words(prompts.json_or_text(turn.text), self.prompt), *media]))
        if _failed(turn):
            return f"{name} failed: {words or 'no reason given'}"
        given = ", ".join(str(one) for one in arguments.values() if len(str(one)) <= 40)
        return f"{name}{f' ({given})' if given else ''}: {words or 'done'}"


def _echo(words: str) -> str:
    """Repeat what was said: the model knows nothing. It keeps to a length, and can introduce a product."""
    if length := _LENGTH.search(words):
        many = length[1].lower()
        count = WORDS.get(many) or int(many)
        said = f"This answer has {many} words" + ", and each of them is there to be counted" * count
        return " ".join(said.split()[:count]).rstrip(",") + "."
    if said_after := re.match(r"(?i)say (.+)", words):
        return said_after[1]
    if caption := _CAPTION.search(words):
        return f"Meet the {caption[1]}: made with care, ready for every day."
    if is_wide(words):
        return f"你说：{words}（这是模拟器，它没有自己的知识。）"
    return f"You said: {words or 'nothing'} (This is the emulator; it knows nothing by itself.)"


def _failed(turn: ModelMessage) -> bool:
    value = prompts.json_or_text(turn.text)
    stated = isinstance(value, dict) and (value.get("error") or value.get("status") in ("error", "failed"))
    return turn.is_error or bool(stated) or (isinstance(value, str) and _FAILURE.match(value) is not None)


def _words(value: Any, question: str) -> str:
    """Write a value in words: objects as `key: value`, of long texts what answers the question."""
    if isinstance(value, dict):
        shown = {key: one for key, one in value.items() if one not in (None, "", [], {})}
        return "; ".join(f"{key.replace('_', ' ')}: {_words(one, question)}" for key, one in shown.items())
    if isinstance(value, list):
        return ", ".join(_words(one, question) for one in value)
    if not isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    return (best_sentences(question, value) or value[:400]) if len(value) > 400 else value


def _described(medium: Medium) -> str:
    side = f"{medium.width}×{medium.height} pixels" if medium.width and medium.height else ""
    size = f"{medium.size:,} bytes" if medium.size is not None else ""
    facts = ", ".join(filter(None, (medium.name, medium.mime_type, side, size)))
    return f"{'a' if medium.kind == 'file' else 'an'} {medium.kind} ({facts})"
