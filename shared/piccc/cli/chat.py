"""`piccc chat`: ask a question and stream the answer."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from piccc._dialects import DialectName
from piccc.cli.common import AsJSON, Prompt, document, notes, option, printable, prompt_of, say, write
from piccc.conversation import DEFAULT_MODEL
from piccc.errors import ResponseError

if TYPE_CHECKING:
    from piccc.conversation import ChatReply, Delta, JSONSchema


def chat(
    prompt: Prompt = None,
    model: Annotated[str, typer.Option("--model", "-m", metavar="NAME", help="The model.")] = DEFAULT_MODEL,
    system: Annotated[str | None, option("--system", "TEXT", "The system message.")] = None,
    json_schema: Annotated[
        str | None,
        option("--json-schema", "SCHEMA", "JSON Schema of the answer: a file, or its text."),
    ] = None,
    dialect: Annotated[DialectName, typer.Option("--dialect", help="The chat route to use.")] = "openai",
    max_tokens: Annotated[
        int | None, option("--max-tokens", "COUNT", "Largest number of tokens in the answer.", min=1)
    ] = None,
    temperature: Annotated[
        float | None, option("--temperature", "NUMBER", "Sampling temperature.", min=0)
    ] = None,
    effort: Annotated[
        str | None, option("--reasoning-effort", "WORD", "Reasoning effort, such as low or high.")
    ] = None,
    timeout: Annotated[float | None, option("--timeout", "SECONDS", "Deadline of the call.", min=0)] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Print token counts and times on stderr.")
    ] = False,
    as_json: AsJSON = False,
) -> None:
    """Ask a model and stream its answer.

    On a terminal its reasoning is shown too, dimmed, on stderr.

    \b
    Examples:
      piccc chat "Write a launch caption for a ceramic mug."
      piccc chat "Summarize this in three lines:" - < README.md > summary.txt
      piccc chat "Anna is 31." --json-schema person.json | jq .age
      piccc chat "Hello" --json | jq .usage
    """
    from piccc.client import ChatOptions, Client

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


def _schema(text: str) -> JSONSchema:
    from piccc.conversation import JSONSchema

    try:
        schema = json.loads(text if text.lstrip().startswith("{") else Path(text).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise typer.BadParameter(str(error), param_hint="--json-schema") from error
    if not isinstance(schema, dict):
        raise typer.BadParameter("A schema is a JSON object.", param_hint="--json-schema")
    return JSONSchema(schema)


class _Page:
    """Print the answer on stdout and, on a terminal, the reasoning dimmed on stderr."""

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
    """Raise ResponseError for a refusal, or where JSON was asked for and the answer is not JSON."""
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
