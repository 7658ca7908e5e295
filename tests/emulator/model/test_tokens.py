"""Token counting: the pieces join to the text, and usage is the number of pieces."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from hypothesis import given, settings
from hypothesis import strategies as st

from piccc.emulator.conversation import Completion, Medium, ModelCall, ModelMessage, ModelRequest
from piccc.emulator.model import pieces
from piccc.emulator.model.tokens import measured
from tests.emulator.model.talk import MODEL, TOOLS, ask


@settings(deadline=None)
@given(st.text())
def test_the_pieces_join_to_the_text(text: str) -> None:
    assert "".join(pieces(text)) == text
    assert all(pieces(text))


def test_a_short_word_is_one_piece_and_so_is_a_chinese_character() -> None:
    assert pieces("Hello big world") == ["Hello", " big", " world"]
    assert pieces("你好吗") == ["你", "好", "吗"]
    assert len(pieces("internationalisation")) == 3


@settings(deadline=None)
@given(st.text(st.characters(max_codepoint=127)))
def test_ascii_text_splits_the_same_next_to_chinese(text: str) -> None:
    assert pieces(f"{text}你") == [*pieces(text), "你"]


def test_completion_tokens_count_the_pieces_of_reasoning_and_text() -> None:
    answer = ask("Count to 9", reasoning=True)
    assert answer.usage.reasoning_tokens == len(pieces(answer.reasoning)) > 0
    assert answer.usage.completion_tokens == len(pieces(answer.reasoning)) + len(pieces(answer.text))


def test_prompt_tokens_grow_with_every_part_of_the_prompt() -> None:
    plain = ask("Hello").usage.prompt_tokens
    with_system = MODEL.answer(
        ModelRequest("m", (ModelMessage("system", "Be kind."), ModelMessage("user", "Hello")))
    ).usage.prompt_tokens
    with_image = MODEL.answer(
        ModelRequest("m", (ModelMessage("user", "Hello", media=(Medium("image", "image/png"),)),))
    )
    with_call = MODEL.answer(
        ModelRequest(
            "m",
            (
                ModelMessage("user", "Hello"),
                ModelMessage("assistant", calls=(ModelCall("1", "f", {"a": 1}),)),
            ),
        )
    )
    counts = [
        with_system,
        with_image.usage.prompt_tokens,
        with_call.usage.prompt_tokens,
        ask("Hello", tools=TOOLS).usage.prompt_tokens,
    ]
    assert all(count > plain for count in counts)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 40))
def test_max_tokens_truncates_the_text_with_finish_reason_length(limit: int) -> None:
    whole = ask("Count to 9").text
    answer = ask("Count to 9", max_tokens=limit)
    assert answer.text == "".join(pieces(whole)[:limit])
    assert answer.usage.completion_tokens == min(limit, len(pieces(whole)))
    assert answer.finish_reason == ("length" if limit < len(pieces(whole)) else "stop")


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 60))
def test_max_tokens_truncates_a_tool_call(limit: int) -> None:
    prompt = "weather in Paris and in Rome"
    whole = ask(prompt, tools=TOOLS).calls
    answer = ask(prompt, tools=TOOLS, max_tokens=limit)
    assert answer.usage.completion_tokens <= limit
    for cut, call in zip(answer.calls, whole, strict=False):
        full = json.dumps(call.arguments, separators=(",", ":"))
        assert full.startswith(full if cut.partial is None else cut.partial)
    assert answer.finish_reason == ("tool_calls" if answer.calls == whole else "length")


def test_reasoning_uses_up_max_tokens_before_text() -> None:
    answer = ask("Count to 9", reasoning=True, max_tokens=4)
    assert (answer.text, answer.usage.reasoning_tokens, answer.finish_reason) == ("", 4, "length")


def test_text_ends_before_the_first_stop_sequence() -> None:
    answer = ask("Now in five words.", stop=("words", "has five", "zebra"))
    assert (answer.text, answer.finish_reason, answer.stop_sequence) == ("This answer ", "stop", "has five")
    assert answer.usage.completion_tokens == len(pieces("This answer "))


def test_a_stop_sequence_is_not_reported_when_max_tokens_came_first() -> None:
    answer = ask("Count to 9", stop=("nothing",), max_tokens=3)
    assert (answer.finish_reason, answer.stop_sequence) == ("length", None)


_PRINT = """
from tests.emulator.model.talk import TOOLS, ask
for text in ("Tell me a joke", "Draw a fox and film a cat for 5 seconds", "你好", "in 9 words"):
    print(ask(text, tools=TOOLS, seed=3, reasoning=True))
"""


def _printed(hash_seed: str) -> str:
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    command = [sys.executable, "-c", _PRINT]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)  # noqa: S603  our own command
    return done.stdout


def test_answers_do_not_depend_on_the_hash_seed() -> None:
    first = _printed("0")
    assert first
    assert _printed("1") == first


def test_a_call_with_non_object_arguments_is_truncated_in_its_raw_text() -> None:
    completion = Completion(calls=(ModelCall("c", "weather", {}, partial="[1, 2, 3]"),))
    [cut] = measured(ModelRequest("m", (), max_tokens=3), completion).calls
    assert cut.partial == "".join(pieces("[1, 2, 3]")[:2])
