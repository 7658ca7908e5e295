"""The model that answers by rules: the same ask always gets the same answer."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from piccc.emulator.conversation import Completion, Medium, ModelCall, ModelMessage, ModelRequest, Tool
from piccc.emulator.model import react
from piccc.emulator.model.choosing import Request, best, requests
from piccc.emulator.model.clause import ordered
from piccc.emulator.model.context import answered, passage
from piccc.emulator.model.finding import Words
from piccc.emulator.model.formats import formatted, keys_in, ranked, schema_in
from piccc.emulator.model.forms import Voice, named, topic_of
from piccc.emulator.model.reading import Reading, without_json
from piccc.emulator.model.results import failed, objects, parsed, told
from piccc.emulator.model.schema import Filler, Unsatisfiable
from piccc.emulator.model.shapes import Schema
from piccc.emulator.model.speech import reply
from piccc.emulator.model.tokens import measured
from piccc.emulator.model.words import is_wide, stemmed, stems

_REPLIES = stemmed("answer response reply result output summary text content message")
_END = 2000
_BACK = re.compile(
    r"\b(?:the (?:result|output|answer|sum|product|translation)|it|that)\b|结果|它", re.IGNORECASE
)


class RuleModel:
    """Answer a `ModelRequest` by rules alone: no network, no clock, no chance."""

    def answer(self, ask: ModelRequest) -> Completion:
        """Say what a model would plausibly say: calls of the tools that the words speak of, or a text.

        The same ask gives the same answer in every process. `stop` and `max_tokens` cut it, and its usage
        counts only what is left.
        """
        asked = react.offered(ask)
        if asked is not None:
            inner, instructions = asked
            within = self._said(inner)
            said = Completion(text=react.written(within, instructions), reasoning=within.reasoning)
        else:
            said = self._said(ask)
        return measured(ask, said)

    def _said(self, ask: ModelRequest) -> Completion:
        talk = _Talk(ask)
        calls = talk.calls()
        text = "" if calls else talk.text()
        reasoning = talk.reasoning(calls) if ask.reasoning else ""
        return Completion(
            text=text, reasoning=reasoning, calls=calls, finish_reason="tool_calls" if calls else "stop"
        )


class _Talk:
    """One conversation, read from its last user turn on."""

    def __init__(self, ask: ModelRequest) -> None:
        users = [at for at, turn in enumerate(ask.turns) if turn.role == "user"]
        last = users[-1] if users else len(ask.turns) - 1
        self.ask = ask
        self.user = ask.turns[last] if users else ModelMessage("user")
        self.prompt = self.user.text.strip()
        self.words = _shortened(self.prompt)
        """What is read closely: a request is short, and what is longer is a text that it speaks of."""
        self.since = ask.turns[last + 1 :]
        self.earlier = [_shortened(ask.turns[at].text) for at in users[:-1]]
        self.system = "\n".join(turn.text for turn in ask.turns if turn.role == "system")
        self.results = [turn for turn in self.since if turn.role == "tool"]
        answered_ids = {turn.call_id for turn in self.results}
        self.done = [call for turn in self.since for call in turn.calls if call.id in answered_ids]
        before = [call.name for turn in ask.turns[:last] for call in turn.calls]
        self.before = before[-1] if before else None
        self.voice = Voice(ask.model, ask.seed)

    def calls(self) -> tuple[ModelCall, ...]:
        """Give the calls to make now: what is still open and does not wait for something else."""
        if not self.ask.tools or self.ask.tool_choice == "none":
            return ()
        found: list[ModelCall] = []
        for request in self._due():
            arguments = self._arguments(request)
            same = [
                call
                for call in (*self.done, *found)
                if call.name == request.tool.name and call.arguments == arguments
            ]
            if not same:
                found.append(ModelCall(self._id(request.tool.name, len(found)), request.tool.name, arguments))
        return tuple(found)

    def _due(self) -> list[Request]:
        if self.ask.tool_choice == "named":
            return self._forced([tool for tool in self.ask.tools if tool.name == self.ask.named_tool])
        due: list[Request] = []
        for request in self._open():
            if request.waits and (due or self._failed()):
                break
            due.append(request)
        if not due and self.ask.tool_choice == "required":
            return self._forced(self.ask.tools)
        return due if self.ask.parallel_tool_calls else due[:1]

    def _forced(self, tools: Sequence[Tool]) -> list[Request]:
        """Choose a tool that has not been called yet, since some tool must be."""
        called = {call.name for call in self.done}
        fresh = [tool for tool in tools if tool.name not in called]
        if self.done and fresh:
            known = {key for one in self._known() for key in one}
            tool: Tool | None = max(
                reversed(fresh), key=lambda tool: len(known & set(tool.parameters.get("properties", ())))
            )
        else:
            tool = best(fresh, self.words, threshold=0.0)
        return [Request(tool, self.words, bool(self.done))] if tool else []

    def _open(self) -> list[Request]:
        """Give the requests of the prompt that no call has taken up."""
        taken = [call.name for call in self.done]
        found = []
        for request in requests(self.ask.tools, self.words, self.before):
            if request.tool.name in taken:
                taken.remove(request.tool.name)
            else:
                found.append(request)
        return found

    def _failed(self) -> bool:
        return bool(self.results) and failed(self.results[-1])

    def _arguments(self, request: Request) -> dict[str, Any]:
        given = self.results[-1].text.strip() if request.waits and self.results else ""
        given = "" if isinstance(parsed(given), dict | list) else given
        text = ordered(request.text)
        if re.fullmatch(r"-?\d+(?:\.\d+)?", given):
            text = ordered(_BACK.sub(given, request.text))
        words = Words(
            text,
            around=[self.words, *self.earlier[-1:]],
            tool=stems(request.tool.name),
            about=request.about,
            given=given,
            known=self._known() if request.waits else (),
            phrase=self._phrase,
        )
        return self._filled(request.tool.parameters, words)

    def _known(self) -> list[dict[str, Any]]:
        """Give the JSON objects of the results, the newest first; a text stands for the links in it."""
        values = [parsed(turn.text) for turn in reversed(self.results)]
        links = [
            {"url": link.value}
            for value in values
            if isinstance(value, str)
            for link in Reading(value).urls
            if link.value.startswith("http")
        ]
        return [one for value in values for one in objects(value)] + links

    def _filled(self, schema: Schema, words: Words) -> dict[str, Any]:
        try:
            value = Filler({"type": "object", **schema}, words).fill()
        except Unsatisfiable:
            return {}
        return value if isinstance(value, dict) else {}

    def text(self) -> str:
        """Give the text to say: JSON for a schema, results told, an answer from a context, or a reply."""
        if self.ask.schema is not None:
            return self._json(self.ask.schema)
        written = schema_in(self.prompt) or schema_in(self.system)
        if written is not None and not self.results:
            return self._json(written)
        if self.ask.json_mode:
            keys = keys_in(self.words) or keys_in(_shortened(self.system)) or ["answer"]
            shape = {
                "type": "object",
                "properties": {key: {"type": "string"} for key in keys},
                "required": keys,
            }
            return self._json(shape, hidden=keys)
        return self._plain

    @cached_property
    def _plain(self) -> str:
        if self.results:
            return told([call for turn in self.since for call in turn.calls], self.results, self.prompt)
        seen = _seen(self.user.media, is_wide(self.prompt))
        said = formatted(self.prompt)
        found = passage(self.prompt, self.system) if not said else None
        said = said or (answered(found) if found else "")
        if not said and (self.prompt or not seen):
            said = "" if seen else reply(self.words, self.earlier, self.voice)
        return " ".join(part for part in (seen, said) if part)

    def _json(self, schema: Schema, hidden: Sequence[str] = ()) -> str:
        source = self._source
        for key in hidden:
            source = re.sub(rf"[\"'`“]{re.escape(key)}[\"'`”]", " ", source)
        words = Words(
            source,
            around=[*(_shortened(turn.text) for turn in self.results), *self.earlier[-2:]],
            known=[*self._known(), *self._choice()],
            phrase=self._phrase,
        )
        try:
            value = Filler(schema, words).fill()
        except Unsatisfiable:
            value = {}
        return json.dumps(value, ensure_ascii=False)

    @cached_property
    def _source(self) -> str:
        """Give the user's words without the schema that they quote and the talk around it."""
        if schema_in(self.prompt) is None:
            return self.words
        kept = [
            line
            for line in without_json(self.prompt).splitlines()
            if not re.search(r"json|schema", line, re.IGNORECASE)
        ]
        return _shortened("\n".join(kept).strip())

    def _choice(self) -> list[dict[str, Any]]:
        chosen = ranked(self.prompt)
        return [dict.fromkeys(("choice", "index", "number", "selection"), chosen[0][0])] if chosen else []

    def _phrase(self, name: str, schema: Schema) -> str:
        """Make up the text of a field: a whole reply where it is one, else a few words on the topic."""
        if set(stems(name)) & _REPLIES:
            return self._plain
        return named(name, topic_of(self._source), self.words, self.voice)

    def reasoning(self, calls: tuple[ModelCall, ...]) -> str:
        """Say in a sentence or two what was seen, and what follows from it."""
        asked = " ".join(self.prompt.split())[:120] or "nothing in words"
        asked += "" if asked[-1] in ".!?…。！？" else "."
        seen = len(self.user.media)
        media = f" There {'is' if seen == 1 else 'are'} {_counted(seen, 'attachment')}." if seen else ""
        if calls:
            names = ", ".join(
                f"{call.name} with {json.dumps(call.arguments, ensure_ascii=False)}" for call in calls
            )
            return f"The user says: {asked}{media} The tools fit: I call {names}."
        if self.results:
            given = _counted(len(self.results), "result")
            return f"The user says: {asked}{media} The tools gave {given}, which I tell."
        return f"The user says: {asked}{media} No tool is needed; I answer in words."

    def _id(self, name: str, at: int) -> str:
        seen = f"{len(self.ask.turns)}|{at}|{name}|{self.prompt}|{self.ask.seed}|{self.ask.model}"
        return f"call_{hashlib.sha256(seen.encode()).hexdigest()[:24]}"


def _shortened(text: str) -> str:
    return text if len(text) <= 2 * _END else f"{text[:_END]}\n{text[-_END:]}"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _seen(media: Sequence[Medium], wide: bool) -> str:
    parts = [_described(medium, wide) for medium in media]
    if not parts:
        return ""
    listed = "；".join(parts) if wide else "; ".join(parts)
    return f"我看到了{len(parts)}个附件：{listed}。" if wide else f"I see {listed}."


_WIDE_KINDS = {"image": "图片", "file": "文件", "audio": "音频"}


def _described(medium: Medium, wide: bool) -> str:
    pixels, octets = ("像素", "字节") if wide else ("pixels", "bytes")
    side = f"{medium.width}×{medium.height} {pixels}" if medium.width and medium.height else ""
    size = f"{medium.size:,} {octets}" if medium.size is not None else ""
    facts = ("，" if wide else ", ").join(part for part in (medium.mime_type, side, size) if part)
    if wide:
        return f"{_WIDE_KINDS[medium.kind]}{f'“{medium.name}”' if medium.name else ''}（{facts}）"
    article = "an" if medium.kind[0] in "aeiou" else "a"
    return f"{article} {medium.kind}{f' “{medium.name}”' if medium.name else ''} ({facts})"


__all__ = ["RuleModel"]
