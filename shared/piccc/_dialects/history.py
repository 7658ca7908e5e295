"""Make of a conversation one that strict servers accept, in neutral words, before a dialect writes it."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from hashlib import blake2b

from piccc.arguments import as_json, join_halves, read_arguments
from piccc.conversation import (
    JSON,
    PROVIDER,
    Audio,
    CachePoint,
    ChatRequest,
    File,
    Image,
    InvalidToolCall,
    Message,
    NamedTool,
    Part,
    Raw,
    Reasoning,
    Refusal,
    Source,
    Text,
    ToolCall,
)
from piccc.errors import InvalidArgumentError, UnsupportedContentError

logger = logging.getLogger("piccc")
Call = ToolCall | InvalidToolCall
_NAME_LENGTH = 64
_ID_LENGTH = 40  # what OpenAI's API takes: "string too long. Expected a string with maximum length 40"
_OUTSIDE = re.compile(r"[^A-Za-z0-9_-]")
_SPEAKER = re.compile(r"[\s<|\\/>]+")  # the complement of the pattern in OpenAI's own error message
_NOT_RUN = "There is no result: the call was not run."


class ToolNames:
    """The names of tools as servers take them, `[A-Za-z0-9_-]{1,64}`, and the way back.

    A name within that alphabet stays; others, such as `files.read`, are rewritten, alike in each request.
    """

    def __init__(self, request: ChatRequest) -> None:
        names = [tool.name for tool in request.tools]
        if not all(names):
            raise InvalidArgumentError("A tool has no name.", hint="Give each tool a name.")
        self._sent = {name: name for name in names if _fits(name)}
        for name in names:
            if name not in self._sent:
                self._sent[name] = _untaken(
                    _fitting(name, _NAME_LENGTH), _NAME_LENGTH, set(self._sent.values())
                )
        choice = request.tool_choice
        if isinstance(choice, NamedTool) and choice.name not in self._sent:
            raise InvalidArgumentError(
                f"tool_choice names the tool {choice.name!r}, which is not on offer.",
                hint=f"Choose one of {', '.join(names)}." if names else "Give it in tools=.",
            )
        if choice == "required" and not names:
            raise InvalidArgumentError(
                "tool_choice is 'required', but no tool is on offer.", hint="Give tools=."
            )

    def sent(self, name: str) -> str:
        """Return the name that is sent for a tool's, whether it is on offer or not."""
        return self._sent.get(name) or _fitting(name, _NAME_LENGTH) or "unnamed"

    @property
    def adapted(self) -> list[str]:
        """What was rewritten, in words."""
        return [f"the tool {name!r} is sent as {sent!r}" for sent, name in self.originals.items()]

    @property
    def originals(self) -> dict[str, str]:
        """The names that were rewritten, by what is sent for them."""
        return {sent: name for name, sent in self._sent.items() if sent != name}


def check(request: ChatRequest) -> None:
    """Raise InvalidArgumentError for what neither dialect can carry or answer."""
    if not request.messages:
        raise InvalidArgumentError("There is no message.", hint="Give a string or at least one message.")
    if request.extra_body.get("n", 1) not in (1, None):
        raise InvalidArgumentError(
            "n is more than 1, but a reply has one answer here; each further one would be paid for and lost.",
            hint="Ask several times, at once if need be.",
        )


def sent_arguments(call: Call) -> JSON:
    """Return a call's arguments as they go back to a server, which takes nothing but an object.

    The text of what is none goes along in it, so that the model sees what it said.
    """
    arguments = read_arguments(call.arguments)
    if isinstance(call, ToolCall) and arguments is not None:
        return arguments
    return {} if arguments == {} else {"invalid_arguments": join_halves(call.arguments)}


def sent_name(message: Message) -> str | None:
    """Return the name of who speaks as servers take it."""
    return _SPEAKER.sub("_", message.name)[:_NAME_LENGTH] if message.name else None


def flat(part: Text | Refusal | Source) -> str:
    """Return a text or a passage as text."""
    if not isinstance(part, Source):
        return part.text
    return "\n".join(each for each in (part.title, part.url, part.text) if each)


def sendable(messages: Sequence[Message]) -> list[Message]:
    """Return the conversation with only what each role may hold, and each call with its one result behind it.

    - Images, files and audio of system and assistant messages follow in a user's turn of their own.
    - What other providers' tools did is left out, and so are their signatures.
    - Results stand right behind their calls, whatever came between; what came twice is one result; a call
      without a result gets one that says so.
    - Ids of calls are within `[A-Za-z0-9_-]`, and no two calls have the same.

    Raise InvalidArgumentError for a result without a call, UnsupportedContentError for a user's message with
    calls.
    """
    turns = [turn for at, message in enumerate(messages) for turn in _turns(message, at)]
    calls, results = _answered(turns)
    return [each for turn in turns if turn.role != "tool" for each in _in_order(turn, calls, results)]


def _in_order(turn: Message, ids: dict[int, str], results: dict[int, Message]) -> Iterator[Message]:
    calls = [part for part in turn.parts if isinstance(part, Call)]
    yield replace(
        turn,
        parts=[replace(part, id=ids[id(part)]) if isinstance(part, Call) else part for part in turn.parts],
    )
    for call in calls:
        if (result := results.get(id(call))) is None:
            error = call.error if isinstance(call, InvalidToolCall) else _NOT_RUN
            result = Message("tool", [Text(error)], is_error=True)
        yield replace(result, tool_call_id=ids[id(call)])


def _answered(turns: Iterable[Message]) -> tuple[dict[int, str], dict[int, Message]]:
    """Give each call an id of its own, and find its result; both by the call's identity."""
    ids: dict[int, str] = {}
    results: dict[int, Message] = {}
    latest: dict[str, list[Call]] = {}
    taken: set[str] = set()
    for turn in turns:
        calls = [part for part in turn.parts if isinstance(part, Call)]
        for call in calls:
            ids[id(call)] = _untaken(_fitting(call.id, _ID_LENGTH) or "call", _ID_LENGTH, taken)
            taken.add(ids[id(call)])
        if calls:
            latest.update({call.id: [each for each in calls if each.id == call.id] for call in calls})
        if turn.role == "tool":
            named = latest.get(turn.tool_call_id or "")
            if not named:
                raise InvalidArgumentError(
                    f"There is a result of the call {turn.tool_call_id!r}, which no message before it makes.",
                    hint="Keep calls and their results together when a conversation is shortened.",
                )
            call = next((each for each in named if id(each) not in results), named[-1])
            if (known := results.get(id(call))) is not None:
                turn = replace(
                    known, parts=[*known.parts, *turn.parts], is_error=known.is_error and turn.is_error
                )
            results[id(call)] = turn
    return ids, results


def _turns(message: Message, at: int) -> Iterator[Message]:
    """Yield a message with what its role may hold, and a user's turn with the media that it may not."""
    match message.role:
        case "user":
            yield replace(message, parts=[_users(part) for part in message.parts])
        case "tool":
            if not message.tool_call_id:
                raise InvalidArgumentError(
                    f"Message {at} is the result of a call, but does not say of which.",
                    hint="Give it tool_call_id, the id of the call.",
                )
            yield replace(message, parts=[_results(part) for part in message.parts])
        case "system":
            kept = [part for part in message.parts if isinstance(part, Text | Refusal | Source | CachePoint)]
            if any(not isinstance(part, CachePoint) for part in kept):
                yield replace(
                    message,
                    parts=[part if isinstance(part, CachePoint) else Text(flat(part)) for part in kept],
                )
            yield from _media_of(message, (Raw,))
        case "assistant":
            yield replace(message, parts=[each for part in message.parts for each in _assistants(part)])
            yield from _media_of(message, ())


def _media_of(message: Message, further: tuple[type[Part], ...]) -> Iterator[Message]:
    media: list[Part] = [part for part in message.parts if isinstance(part, (Image, File, Audio, *further))]
    if media:
        yield Message("user", media)


def _users(part: Part) -> Part:
    if isinstance(part, Call):
        raise UnsupportedContentError(
            "A user's message cannot hold a call of a tool.", hint="Put it into an assistant's message."
        )
    return Text(part.text) if isinstance(part, Refusal | Reasoning) else part


def _results(part: Part) -> Part:
    match part:
        case Refusal() | Reasoning():
            return Text(part.text)
        case ToolCall() | InvalidToolCall():
            return Text(f"{part.name}({part.arguments})")
        case Raw():
            return Text(json.dumps(as_json(part.data), ensure_ascii=False))
    return part


def _assistants(part: Part) -> Iterator[Part]:
    match part:
        case Source():
            yield Text(flat(part))
        case ToolCall() if read_arguments(part.arguments) is None:
            yield InvalidToolCall(part.id, part.name, part.arguments, "malformed")
        case ToolCall() | InvalidToolCall():
            yield replace(part)  # one object may stand in two places, and is told by its identity here
        case Reasoning() if part.provider != PROVIDER:
            if part.text:
                yield Reasoning(part.text)
        case Raw() if part.provider != PROVIDER:
            left_out(part, f"it is from {part.provider}")
        case Image() | File() | Audio():
            pass
        case _:
            yield part


def left_out(part: Raw, why: str) -> None:
    """Log that a block of an assistant's message is not sent back."""
    logger.debug("A block of the type %r is not sent back: %s.", part.data.get("type"), why)


def _fits(name: str) -> bool:
    return len(name) <= _NAME_LENGTH and not _OUTSIDE.search(name)


def _fitting(name: str, length: int) -> str:
    """Return a name within the alphabet and the length, the same each time."""
    fitting = _OUTSIDE.sub("_", name)
    if len(fitting) <= length:
        return fitting
    return f"{fitting[: length - 9]}_{blake2b(name.encode(errors='replace'), digest_size=4).hexdigest()}"


def _untaken(name: str, length: int, taken: set[str]) -> str:
    numbered = (f"{name[: length - 6]}_{n}" for n in range(2, len(taken) + 3))
    return name if name not in taken else next(each for each in numbered if each not in taken)
