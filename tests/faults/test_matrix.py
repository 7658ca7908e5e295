"""Every fault has the outcome in the matrix, for every kind of call and mode."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from piccc.config import resolve
from piccc.conversation import ChatReply
from piccc.errors import PicccError, StreamError
from tests.faults.calls import Mode, call
from tests.faults.matrix import CASES, Expected, Fault
from tests.faults.replies import TEXT, WHOLE
from tests.faults.server import Answer, Case, FaultServer
from tests.faults.virtual import VirtualIO

KEY = "pcc_live_the_key_of_the_matrix"
NOT_RETRIED_BY_LANGGRAPH = (RuntimeError, ValueError, OSError, ImportError)
"""Errors that LangGraph's default retry policy does not retry."""


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[FaultServer]:
    """Run a server on another origin."""
    with FaultServer() as running:
        yield running


@pytest.mark.parametrize(
    ("fault", "kind", "mode"), CASES, ids=[f"{fault.name}-{kind}-{mode}" for fault, kind, mode in CASES]
)
def test_each_fault_has_the_outcome_in_the_matrix(
    server: FaultServer, elsewhere: FaultServer, fault: Fault, kind: str, mode: Mode
) -> None:
    case, other = server.case(), elsewhere.case([b""])
    case.answers = _fill_in(fault.script(kind), {"{here}": case.base_url, "{elsewhere}": other.base_url})
    config = resolve(
        api_key=KEY, base_url=case.base_url, timeout=fault.timeout, retry_unknown=fault.retry_unknown
    )
    io = VirtualIO(mode.port(), jitter=fault.jitter)
    expected = fault.expected(kind)
    try:
        result, error = call(mode, kind, config, io), None
    except PicccError as raised:
        result, error = None, raised
    assert (type(error).__name__ if error else None) == expected.error, error
    assert len(case.requests) == expected.requests
    assert io.skipped == pytest.approx(expected.waits)
    assert other.requests == []
    assert len({request.body for request in case.requests}) == 1
    if error is None:
        _check_answer(result, kind, expected)
    else:
        _check_error(error, expected, case)


def _fill_in(answers: Sequence[Answer], targets: dict[str, str]) -> list[Answer]:
    def filled_in(step: Any) -> Any:
        for name, target in targets.items():
            step = step.replace(name.encode(), target.encode()) if isinstance(step, bytes) else step
        return step

    return [[filled_in(step) for step in answer] for answer in answers]


def _check_answer(result: Any, kind: str, expected: Expected) -> None:
    if isinstance(result, ChatReply):
        assert result.text == (TEXT if expected.partial is None else expected.partial)
        assert result.finish_reason in ("stop", "length")
        assert result.record.attempts[-1].outcome == "200"
    else:
        assert result == WHOLE[kind]


def _check_error(error: PicccError, expected: Expected, case: Case) -> None:
    assert error.may_have_been_billed is expected.billed
    assert not (error.is_retryable and error.may_have_been_billed) or case.requests[1:]
    assert isinstance(error, NOT_RETRIED_BY_LANGGRAPH) or not error.may_have_been_billed
    assert error.hint
    assert len(error.body or "") <= 1024
    assert error.record is not None
    assert error.attempts == len(error.record.attempts)
    assert error.elapsed == error.record.elapsed >= expected.waits
    if isinstance(error, StreamError):
        assert error.partial is not None
        assert expected.partial is None or error.partial.text == expected.partial
    loaded = pickle.loads(pickle.dumps(error))  # noqa: S301  our own bytes
    assert str(loaded) == str(error)
    assert KEY not in f"{error!r} {error}"
    assert KEY.encode() not in pickle.dumps(error)
