"""Random sequences of calls and faults: nothing is charged twice, and no connection stays open.

A Hypothesis state machine calls a server that charges. For each call it draws how the server handles the
attempts: charge and answer, charge and reset, charge and close, reject, and so on. It compares the charges
with the calls, and the sleeps with the deadline.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from piccc._http import connections
from piccc._http import session as budget
from piccc._http.session import STALE
from piccc.config import Config, Timeout, resolve
from piccc.errors import PicccError, SubmissionUnknown
from tests.faults.calls import MODES, Mode, call
from tests.faults.matrix import healthy
from tests.faults.server import CLOSE, HANG, RESET, Answer, FaultServer, Step, head, reply
from tests.faults.virtual import VirtualIO

DEADLINE = 30.0
PAID = ("chat", "chat-stream", "messages", "messages-stream", "submit")
FREE = ("poll", "list")

# How the server handles an attempt, made from a function that charges and the healthy answer.
ACTS: dict[str, Callable[[Step, Answer], Answer]] = {
    "answer": lambda charge, answer: [charge, *answer],
    "charge and reset": lambda charge, answer: [charge, RESET],
    "charge and close": lambda charge, answer: [charge, CLOSE],
    "charge and truncate": lambda charge, answer: [charge, head(200, "content-length: 9"), b"{", CLOSE],
    "charge and send a web page": lambda charge, answer: [charge, reply(200, b"<html>", type="text/html")],
    "reset": lambda charge, answer: [RESET],
    "close": lambda charge, answer: [CLOSE],
    "429": lambda charge, answer: [reply(429)],
    "429 for 7 s": lambda charge, answer: [reply(429, b"", "retry-after: 7")],
    "429 for an hour": lambda charge, answer: [reply(429, b"", "retry-after: 3600")],
    "503": lambda charge, answer: [reply(503)],
    "503 and close": lambda charge, answer: [reply(503, b"", "connection: close"), CLOSE],
    "400": lambda charge, answer: [reply(400)],
}


class Charges(RuleBasedStateMachine):
    """Calls, faults and charges in one mode."""

    mode: Mode

    @initialize()
    def open(self) -> None:
        budget._budgets.clear()
        self.server = FaultServer().__enter__()
        self.case = self.server.case()
        self.charges: list[str] = []
        self.keys = ["pcc_live_first_key"]
        self.accepted = self.keys[0]
        self.config = self._configure()

    def _configure(self) -> Config:
        return resolve(
            api_key=lambda: self.keys[-1], base_url=self.case.base_url, timeout=Timeout(total=DEADLINE)
        )

    def _call_and_check(self, kind: str, acts: list[str]) -> None:
        """Make a call whose attempts get these answers, and check its outcome."""
        charged, received = len(self.charges), len(self.case.requests)
        answers = [ACTS[act](lambda: self.charges.append(kind), healthy(kind)) for act in acts]
        if self.keys[-1] != self.accepted:
            answers.insert(0, [lambda: self.keys.append(self.accepted), reply(401)])
        self.case.answers = [[]] * received + answers
        io = VirtualIO(self.mode.port())
        try:
            result, failure = call(self.mode, kind, self.config, io), None
        except PicccError as error:
            result, failure = None, error
        cost = len(self.charges) - charged
        # A request is resent if the server charges for it and then closes the idle connection without a byte.
        record = failure.record if failure else getattr(result, "record", None)
        stale = [attempt.outcome for attempt in record.attempts].count(STALE) if record else 0
        assert stale <= (kind != "submit")
        assert cost <= 1 + stale
        assert io.skipped < DEADLINE
        assert len(self.case.requests) - received <= 3 + stale
        if failure is not None and cost:
            assert failure.may_have_been_billed
            assert kind != "submit" or isinstance(failure, SubmissionUnknown)
        if failure is None:
            assert cost >= 1

    @rule(kind=st.sampled_from(PAID), acts=st.lists(st.sampled_from(sorted(ACTS)), min_size=1, max_size=4))
    def call_paid(self, kind: str, acts: list[str]) -> None:
        self._call_and_check(kind, acts)

    @rule(kind=st.sampled_from(FREE))
    def call_free(self, kind: str) -> None:
        self.case.answers = [[]] * len(self.case.requests) + [healthy(kind)]
        config = resolve(api_key=self.accepted, base_url=self.case.base_url)
        call(self.mode, kind, config, VirtualIO(self.mode.port()))

    @rule(kind=st.sampled_from(PAID))
    def time_out(self, kind: str) -> None:
        charged = len(self.charges)
        self.case.answers = [[]] * len(self.case.requests) + [[lambda: self.charges.append(kind), HANG]]
        config = resolve(api_key=self.accepted, base_url=self.case.base_url, timeout=Timeout(total=0.05))
        with pytest.raises(PicccError) as caught:
            call(self.mode, kind, config, VirtualIO(self.mode.port()))
        self.restart()  # so that nothing more is charged for this call
        assert len(self.charges) - charged <= caught.value.may_have_been_billed

    @rule()
    def restart(self) -> None:
        cases = self.server._cases
        self.server.__exit__()
        self.server = FaultServer().__enter__()
        self.server._cases.update(cases)
        self.case.base_url = f"http://127.0.0.1:{self.server.port}/{self.case.name}"
        self.config = self._configure()

    @rule()
    def rotate_the_key(self) -> None:
        self.accepted = f"pcc_live_key_number_{len(self.keys)}"

    @invariant()
    def no_more_charges_than_requests(self) -> None:
        if hasattr(self, "case"):
            assert len(self.charges) <= len(self.case.requests)

    def teardown(self) -> None:
        if hasattr(self, "server"):
            connections.blocking_pool.close()
            self.server.wait_until_all_closed()
            self.server.__exit__()


def machine(mode: Mode) -> Any:
    """Return the state machine's test case for a mode."""
    case = type("Charges", (Charges,), {"mode": mode}).TestCase
    case.settings = settings(
        max_examples=20,
        stateful_step_count=12,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    return case


TestBlocking, TestAsync, TestBlockingHttpx, TestAsyncHttpx = map(machine, MODES[:4])
