"""Errors form one hierarchy; each says what happened and what to do, and can be pickled and copied."""

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


def subclasses(kind: type[PicccError] = PicccError) -> Iterator[type[PicccError]]:
    yield kind
    for subclass in kind.__subclasses__():
        if subclass.__module__ == errors.__name__:
            yield from subclasses(subclass)


ALL = sorted(set(subclasses()), key=lambda kind: kind.__name__)


def _pickled(error: PicccError) -> PicccError:
    loaded: PicccError = pickle.loads(pickle.dumps(error))  # noqa: S301  our own bytes
    return loaded


@pytest.mark.parametrize(
    "duplicate", [_pickled, copy.copy, copy.deepcopy], ids=["pickle", "copy", "deepcopy"]
)
@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_a_pickled_or_copied_error_keeps_all_its_data(
    kind: type[PicccError], duplicate: Callable[[PicccError], PicccError]
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
    copied = duplicate(error)
    assert type(copied) is kind
    assert vars(copied) == vars(error)
    assert str(copied) == str(error)
    assert copied.args == error.args


def test_the_text_of_an_error_has_its_facts_and_its_hint() -> None:
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


def test_errors_also_derive_from_matching_built_in_exceptions() -> None:
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
def test_only_retryable_errors_lack_a_base_that_retry_policies_skip(
    kind: type[PicccError],
) -> None:
    assert kind("x").is_retryable is (kind.__name__ in RETRYABLE)
    is_skipped = issubclass(kind, RuntimeError | ValueError | OSError | ImportError)
    assert is_skipped is (kind.__name__ not in RETRYABLE | FAMILIES)


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_the_hierarchy_in_the_module_docstring_has_every_error(kind: type[PicccError]) -> None:
    assert errors.__doc__ is not None
    assert f" {kind.__name__} " in errors.__doc__.replace("\n", " \n")
    assert kind.__doc__


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_a_traceback_links_to_the_documentation_of_its_error(
    kind: type[PicccError], monkeypatch: pytest.MonkeyPatch
) -> None:
    anchor = f"#{kind.__name__.lower()}"
    shown = "".join(traceback.format_exception_only(kind("It broke.")))
    assert shown.endswith(f"\nDocumentation: docs/guides/errors.md{anchor}\n")
    page = Path(__file__).parents[1] / "docs" / "guides" / "errors.md"
    assert kind is PicccError or f"\n## {kind.__name__}\n" in page.read_text("utf-8")
    monkeypatch.setenv("PICCC_DOCS_URL", "https://docs.example.com/piccc/")
    assert kind("It broke.").docs_url == f"https://docs.example.com/piccc/guides/errors/{anchor}"


def test_a_traceback_in_a_notebook_shows_only_the_users_frames() -> None:
    from piccc import Client

    try:
        Client(api_key="pcc_test_x", base_url="http://127.0.0.1:9", timeout=-1)
    except PicccError as error:
        shown = error._render_traceback_()
    frames = [line for line in shown if line.startswith("  File ")]
    assert [__file__ in frame for frame in frames] == [True]
    assert "piccc.errors.ConfigurationError: timeout" in "\n".join(shown)
