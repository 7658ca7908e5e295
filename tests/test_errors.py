"""Errors: one tree, each member of which says what happened and what to do, and travels between processes."""

from __future__ import annotations

import copy
import pickle
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from piccc import errors
from piccc.conversation import Attempt, ChatReply, Record, Text
from piccc.errors import APITimeoutError, PicccError, StreamTimeoutError


def family(kind: type[PicccError] = PicccError) -> Iterator[type[PicccError]]:
    yield kind
    for each in kind.__subclasses__():
        if each.__module__ == errors.__name__:
            yield from family(each)


ALL = sorted(set(family()), key=lambda kind: kind.__name__)


def _pickled(error: PicccError) -> PicccError:
    loaded: PicccError = pickle.loads(pickle.dumps(error))  # noqa: S301  our own bytes
    return loaded


@pytest.mark.parametrize("travel", [_pickled, copy.copy, copy.deepcopy], ids=["pickle", "copy", "deepcopy"])
@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_every_error_travels_with_all_that_it_knows(
    kind: type[PicccError], travel: Callable[[PicccError], PicccError]
) -> None:
    record = Record("POST", "/v1/messages", attempts=[Attempt("500", 0.1, "req_1", 0.5), Attempt("500", 0.2)])
    error = kind(
        "It broke.",
        hint="Mend it.",
        status=500,
        code="broken",
        request_id="req_1",
        attempts=2,
        elapsed=0.8,
        may_have_been_billed=True,
        retry_after=2.5,
        body="<html>",
        record=record,
        task_id="task_1",
        partial=ChatReply([Text("Hel")]),
    )
    there = travel(error)
    assert type(there) is kind
    assert vars(there) == vars(error)
    assert str(there) == str(error)
    assert there.args == error.args


def test_an_error_says_what_happened_and_what_to_do() -> None:
    error = PicccError(
        "It broke.",
        hint="Mend it.",
        status=500,
        code="broken",
        request_id="req_1",
        attempts=2,
        elapsed=0.84,
        may_have_been_billed=True,
        retry_after=2.0,
    )
    facts = "HTTP 500, code broken, request req_1, retry after 2 s, 2 attempts in 0.8 s, may have been billed"
    assert str(error) == f"It broke. ({facts})\nMend it."
    assert str(PicccError("It broke.")) == "It broke."


def test_errors_are_also_what_python_calls_them() -> None:
    assert issubclass(errors.ConfigurationError, ValueError)
    assert issubclass(errors.InvalidArgumentError, ValueError)
    assert issubclass(errors.MissingExtraError, ImportError)
    assert issubclass(errors.APITimeoutError, TimeoutError)
    assert issubclass(StreamTimeoutError, APITimeoutError)
    assert issubclass(errors.TaskWaitTimeout, TimeoutError)
    assert str(errors.MissingExtraError("Not installed.", hint="pip install it")).endswith("pip install it")


RETRYABLE = {"APIConnectionError", "RateLimitError", "ServerError", "OverloadedError"}
FAMILIES = {"PicccError", "APIStatusError"}


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_what_must_not_be_repeated_is_such_that_a_retry_policy_leaves_it_alone(
    kind: type[PicccError],
) -> None:
    assert kind("x").is_retryable is (kind.__name__ in RETRYABLE)
    left_alone = issubclass(kind, RuntimeError | ValueError | OSError | ImportError)
    assert left_alone is (kind.__name__ not in RETRYABLE | FAMILIES)


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_the_drawing_of_the_tree_has_every_error(kind: type[PicccError]) -> None:
    assert errors.__doc__ is not None
    assert f" {kind.__name__} " in errors.__doc__.replace("\n", " \n")
    assert kind.__doc__


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_a_traceback_names_the_page_of_its_error(
    kind: type[PicccError], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = f"#{kind.__name__.lower()}"
    shown = "".join(traceback.format_exception_only(kind("It broke.")))
    assert shown.endswith(f"\nDocumentation: docs/guides/errors.md{place}\n")
    page = Path(__file__).parents[1] / "docs" / "guides" / "errors.md"
    assert kind is PicccError or f"\n## {kind.__name__}\n" in page.read_text("utf-8")
    monkeypatch.setenv("PICCC_DOCS_URL", "https://docs.example.com/piccc/")
    assert kind("It broke.").docs_url == f"https://docs.example.com/piccc/guides/errors/{place}"


def test_a_notebook_shows_an_error_without_the_frames_of_packages() -> None:
    from piccc import Client

    try:
        Client(api_key="pcc_test_x", base_url="http://127.0.0.1:9", timeout=-1)
    except PicccError as error:
        shown = error._render_traceback_()
    frames = [line for line in shown if line.startswith("  File ")]
    assert [__file__ in frame for frame in frames] == [True]
    assert "piccc.errors.ConfigurationError: timeout" in "\n".join(shown)
