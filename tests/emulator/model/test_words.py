"""Words and clauses: the same stems everywhere, whole sentences, requests without their asking."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from piccc.emulator.model.clause import ordered, subject_of, without
from piccc.emulator.model.words import rarity, sentences, stem, stems

_OTHER_ENGINE = """
def algorithms():
    return ["english"]

class Stemmer:
    def __init__(self, language):
        pass

    def stemWord(self, word):
        return "other"
"""


def test_stems_do_not_depend_on_what_else_is_installed(tmp_path: Path) -> None:
    (tmp_path / "Stemmer.py").write_text(_OTHER_ENGINE)
    command = [sys.executable, "-c", "from piccc.emulator.model.words import stem; print(stem('running'))"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)  # noqa: S603  # our own words
    assert done.stdout == "run\n"


@pytest.fixture
def hasty_threads() -> Iterator[None]:
    """Switch threads as often as the interpreter can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("hasty_threads")
def test_threads_get_the_stems_that_one_alone_gets() -> None:
    words = [f"{head}{tail}" for head in ("relat", "gener", "hop", "nation", "creat") for tail in _ENDINGS]
    alone = {word: stem(word) for word in words}
    for _ in range(20):
        stem.cache_clear()
        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(lambda _: {word: stem(word) for word in words} == alone, range(8)))


_ENDINGS = ("ional", "ing", "ization", "ed", "ation", "ively", "fulness", "ousli", "iveness", "ies", "ement")


def test_a_long_text_is_not_kept_in_memory() -> None:
    text = "a long tale " * 1000
    held = sys.getrefcount(text)
    stems(text)
    assert sys.getrefcount(text) == held


class _Counted(str):
    looked_at = 0

    def __hash__(self) -> int:
        _Counted.looked_at += 1
        return super().__hash__()


def test_weighing_looks_at_each_word_a_few_times() -> None:
    weights = rarity([(_Counted(f"word{number}"),) for number in range(500)])
    assert len(weights) == 500
    assert _Counted.looked_at <= 10 * 500


def test_a_rare_word_weighs_more_than_a_common_one() -> None:
    weights = rarity([("tea", "mug"), ("tea", "tea"), ("tea", "pot")])
    assert weights["mug"] == weights["pot"] > weights["tea"] > 0


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("What is 9-4?", {"subtract", "calcul"}),
        ("9 - 4", {"subtract", "calcul"}),
        ("2+3 and 4*5", {"add", "multiply", "calcul"}),
        ("what is 10/2", {"divide", "calcul"}),
        ("3*(4+1)", {"add", "calcul"}),
        ("15% of 80", {"calcul"}),
        ("Write 3-5 bullet points", set()),
        ("What happened in 1914-1918?", set()),
        ("What is on 2027-05-04?", set()),
        ("Is 24/12/2027 a Friday?", set()),
        ("We are open 24/7 for you", set()),
        ("Call 555-1234 now", set()),
    ],
)
def test_a_sum_is_told_from_a_range_a_date_and_a_number_to_call(text: str, meant: set[str]) -> None:
    signs = {"add", "subtract", "multiply", "divide", "calcul"}
    assert set(stems(text)) & signs == meant


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ('He said "Go." Then he left.', ['He said "Go."', "Then he left."]),
        ("(See below.) The rest follows.", ["(See below.)", "The rest follows."]),
        ("It ended (“so soon!”) Then more.", ["It ended (“so soon!”)", "Then more."]),
        ('It ended (he said "no.") Then more.', ['It ended (he said "no.")', "Then more."]),
        ("他说：“你好。”然后走了。再见！", ["他说：“你好。”", "然后走了。", "再见！"]),
        ("Ask Dr. Who. He knows.", ["Ask Dr. Who.", "He knows."]),
        ("one\n\ntwo", ["one", "two"]),
    ],
)
def test_a_sentence_keeps_what_closes_it(text: str, parts: list[str]) -> None:
    assert sentences(text) == parts


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("subtract 2 from 9", "subtract from 9 the number 2"),
        ("take 2 from 9", "take from 9 the number 2"),
        ("take five from twelve", "take from twelve the number five"),
        ("take inspiration from Monet", "take inspiration from Monet"),
        ("take one from the shelf", "take one from the shelf"),
    ],
)
def test_only_numbers_are_put_in_order(text: str, expected: str) -> None:
    assert ordered(text) == expected


@pytest.mark.parametrize(
    ("text", "tool", "subject"),
    [
        ("Translate good morning", "translate", "good morning"),
        ("Translate the following: I love tea", "translate", "I love tea"),
        ("Please classify this long letter", "classify_text", "this long letter"),
        ("Video games on a shelf", "create_video", "Video games on a shelf"),
        ("a translation of good morning", "translate", "good morning"),
        ("draw a fox", "create_image", "a fox"),
    ],
)
def test_the_verb_that_names_the_tool_is_no_part_of_the_subject(text: str, tool: str, subject: str) -> None:
    assert subject_of(text, stems(tool)) == subject


def test_a_run_of_empty_lines_is_one_gap() -> None:
    assert without("a cat" + "\n" * 4000 + "in a hat", []) == "a cat in a hat"
