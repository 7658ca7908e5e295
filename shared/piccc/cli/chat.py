"""`piccc chat`: ask a question and stream the answer, or have a conversation."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from piccc._dialects import DialectName
from piccc.cli.common import (
    AsJSON,
    Prompt,
    document,
    notes,
    option,
    printable,
    prompt_of,
    report_error,
    say,
    write,
)
from piccc.conversation import DEFAULT_MODEL, Message, Text
from piccc.errors import PicccError, ResponseError, StreamError

if TYPE_CHECKING:
    from piccc.client import ChatOptions, Client
    from piccc.conversation import ChatReply, Delta, JSONSchema

_COMMANDS = """\
/system TEXT  set the system message; without TEXT, remove it
/model NAME   switch to another model; without NAME, print the current one
/save FILE    write the conversation to a new file: Markdown, or JSON for *.json
/clear        forget the conversation
/quit         quit, like Ctrl-D; Ctrl-C stops an answer"""


def chat(
    prompt: Prompt = None,
    model: Annotated[str, typer.Option("--model", "-m", metavar="NAME", help="The model.")] = DEFAULT_MODEL,
    system: Annotated[str | None, option("--system", "TEXT", "The system message.")] = None,
    json_schema: Annotated[
        str | None,
        option("--json-schema", "SCHEMA", "JSON Schema for the answer: a file, or the schema itself."),
    ] = None,
    dialect: Annotated[DialectName, typer.Option("--dialect", help="The chat route to use.")] = "openai",
    max_tokens: Annotated[
        int | None, option("--max-tokens", "COUNT", "Maximum number of tokens in the answer.", min=1)
    ] = None,
    temperature: Annotated[
        float | None, option("--temperature", "NUMBER", "Sampling temperature.", min=0)
    ] = None,
    effort: Annotated[
        str | None, option("--reasoning-effort", "WORD", "Reasoning effort, such as low or high.")
    ] = None,
    timeout: Annotated[
        float | None, option("--timeout", "SECONDS", "Deadline for the call, above 0.", above=0)
    ] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Print token counts and timing on stderr.")
    ] = False,
    as_json: AsJSON = False,
) -> None:
    """Ask a model and stream its answer; on a terminal without PROMPT, start a conversation.

    On a terminal, reasoning is shown dimmed on stderr. In a conversation, /help lists the commands.

    \b
    Examples:
      piccc chat
      piccc chat "Write a launch caption for a ceramic mug."
      piccc chat "Summarize this in three lines:" - < README.md > summary.txt
      piccc chat "Anna is 31." --json-schema person.json | jq .age
      piccc chat "Hello" --json | jq .usage
    """
    from piccc.client import Client

    options: ChatOptions = {
        "model": model,
        "system": system,
        "max_tokens": max_tokens,
        "temperature": temperature,
        "reasoning_effort": effort,
    }
    if json_schema is not None:
        options["response_format"] = _schema(json_schema)
    with Client(dialect=dialect) as client:
        if not prompt and not as_json and sys.stdin.isatty() and sys.stdout.isatty():
            _Conversation(client, options, timeout, verbose=verbose).hold()
            return
        if as_json:
            reply = client.chat.create(prompt_of(prompt), timeout=timeout, **options)
            document(_documented(reply))
        else:
            with client.chat.stream(prompt_of(prompt), timeout=timeout, **options) as stream:
                _show(stream)
                reply = stream.reply
    if verbose:
        say(_figures(reply), "dim")
    _check(reply, wants_json=json_schema is not None)


class _Conversation:
    """An interactive conversation that sends its history with each message."""

    def __init__(self, client: Client, options: ChatOptions, timeout: float | None, *, verbose: bool) -> None:
        self._client = client
        self._options = options
        self._timeout = timeout
        self._verbose = verbose
        self._messages: list[Message] = []

    def hold(self) -> None:
        """Run until the user quits."""
        with suppress(ImportError):
            import readline  # noqa: F401  gives `input` line editing and history
        say(f"{self._options['model']}; /help lists the commands, Ctrl-D quits.", "dim")
        while True:
            try:
                line = input("> ").strip()
            except EOFError:
                write("\n")
                return
            except KeyboardInterrupt:  # discard the line, as a shell does
                write("\n")
                continue
            if line in ("/quit", "/exit"):
                return
            if line.startswith("/"):
                self._command(*line.partition(" ")[::2])
            elif line:
                self._ask(line)

    def _command(self, name: str, text: str) -> None:
        text = text.strip()
        match name:
            case "/help":
                say(_COMMANDS)
            case "/system":
                self._options["system"] = text or None
                say("System message set." if text else "System message removed.", "dim")
            case "/model":
                self._options["model"] = text or self._options["model"]
                say(f"Model: {self._options['model']}.", "dim")
            case "/clear":
                self._messages.clear()
                say("Conversation cleared.", "dim")
            case "/save" if text:
                self._save(Path(text).expanduser())
            case "/save":
                say("Name a file: /save talk.md", "yellow")
            case _:
                names = [line.split()[0] for line in _COMMANDS.splitlines()]
                close = get_close_matches(name, names, n=1)
                hint = f"Did you mean {close[0]}?" if close else f"Commands:\n{_COMMANDS}"
                say(f"Unknown command {name}. {hint}", "yellow")

    def _ask(self, text: str) -> None:
        message = Message("user", [Text(text)])
        reply: ChatReply | None = None
        try:
            with self._client.chat.stream(
                [*self._messages, message], timeout=self._timeout, **self._options
            ) as stream:
                try:
                    _show(stream)
                finally:
                    reply = stream.reply
        except KeyboardInterrupt:
            say("Stopped.", "dim")
        except PicccError as error:
            report_error(error)
            if not isinstance(error, StreamError):
                return
        if reply is None or not reply.text:  # an unanswered message is not part of the conversation
            return
        self._messages += [message, Message("assistant", [Text(reply.text)])]
        if self._verbose:
            say(_figures(reply), "dim")

    def _save(self, path: Path) -> None:
        if path.suffix == ".json":
            history = [{"role": message.role, "content": message.text} for message in self._messages]
            text = json.dumps(history, ensure_ascii=False, indent=2)
        else:
            text = "\n\n".join(f"**{message.role}**\n\n{message.text}" for message in self._messages)
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(f"{text}\n")
        except OSError as error:
            say(f"{path}: {error.strerror}", "red")
        else:
            say(f"Saved {path}.", "dim")


def _schema(text: str) -> JSONSchema:
    from piccc.conversation import JSONSchema

    try:
        schema = json.loads(text if text.lstrip().startswith("{") else Path(text).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise typer.BadParameter(str(error), param_hint="--json-schema") from error
    if not isinstance(schema, dict):
        raise typer.BadParameter("The schema must be a JSON object.", param_hint="--json-schema")
    return JSONSchema(schema)


class _Page:
    """Prints the answer on stdout and, on a terminal, the reasoning dimmed on stderr."""

    def __init__(self) -> None:
        self._notes = notes()
        self._is_thinking = False
        self._last = "\n"

    def show(self, delta: Delta) -> None:
        """Print a delta."""
        from piccc.conversation import ReasoningDelta, TextDelta

        if isinstance(delta, ReasoningDelta) and delta.text and self._notes.is_terminal:
            self._notes.out(printable(delta.text), style="dim", end="", highlight=False)
            self._is_thinking = True
        elif isinstance(delta, TextDelta) and delta.text:
            self._end_thinking()
            write(delta.text)
            self._last = delta.text[-1]

    def end(self) -> None:
        """End the last line."""
        self._end_thinking()
        if self._last != "\n":
            write("\n")

    def _end_thinking(self) -> None:
        if self._is_thinking:
            self._notes.out("\n")
            self._is_thinking = False


def _show(stream: Iterable[Delta]) -> None:
    page = _Page()
    try:
        for delta in stream:
            page.show(delta)
    finally:
        page.end()


def _documented(reply: ChatReply) -> dict[str, Any]:
    return {
        "text": reply.text,
        "reasoning": reply.reasoning,
        "refusal": reply.refusal,
        "finish_reason": reply.finish_reason,
        "model": reply.model,
        "id": reply.id,
        "request_id": reply.record.request_id,
        "usage": asdict(reply.usage) if reply.usage else None,
    }


def _figures(reply: ChatReply) -> str:
    usage, record = reply.usage, reply.record
    tokens = f"{usage.input_tokens:,} tokens in, {usage.output_tokens:,} out" if usage else "tokens unknown"
    first = record.time_to_first_event
    facts = [
        tokens,
        f"{usage.reasoning_tokens:,} of them for reasoning" if usage and usage.reasoning_tokens else "",
        f"{record.elapsed:.1f} s" + (f", first token after {first:.1f} s" if first is not None else ""),
        reply.model,
        f"request {record.request_id}" if record.request_id else "",
        f"{len(record.attempts)} attempts" if len(record.attempts) > 1 else "",
    ]
    return "; ".join(fact for fact in facts if fact)


def _check(reply: ChatReply, *, wants_json: bool) -> None:
    """Raise ResponseError for a refusal, or if JSON was requested and the answer is not JSON."""
    if reply.refusal:
        raise ResponseError(f"The model refused: {reply.refusal}", hint="Rephrase the prompt.")
    if reply.finish_reason == "length":
        say("The answer was cut off at the token limit. Raise --max-tokens.", "yellow")
    if wants_json:
        try:
            json.loads(reply.text)
        except ValueError as error:
            raise ResponseError(
                "The answer is not JSON.", hint="Ask again, or simplify the schema."
            ) from error
