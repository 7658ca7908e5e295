"""Inside an engine's task, submissions get keys derived from it, so a rerun is not billed again."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from piccc import Client, Polling
from piccc.emulator import Emulator
from piccc.errors import SubmissionUnknown, TaskFailed
from tests.fleet.server import Counts, counted

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
HOW_TO = (
    "uv run --all-extras --with celery --with 'dask[distributed]' --with dbos --with temporalio pytest {}"
)
FASTER = Polling(min=0.001, max=0.01)


def library(name: str) -> Any:
    """Return an engine's library, an optional dependency; skip the test if it is not installed."""
    return pytest.importorskip(name, reason=f"{name} is not installed: {HOW_TO.format('tests/engines')}")


def celery(job: Callable[[], object], folder: Path) -> None:
    app = library("celery").Celery(broker="memory://", set_as_current=False)

    @app.task
    def make() -> None:
        job()

    for _ in range(2):
        make.apply(task_id="the-same", throw=True)


def dask(job: Callable[[], object], folder: Path) -> None:
    tries = iter("ab")

    def make() -> None:
        job()
        if next(tries) == "a":
            raise OSError("the task failed after it was billed")

    with library("distributed").Client(processes=False, n_workers=1, dashboard_address=None) as client:
        # Dask pickles functions even for workers that are threads, so pass this one through a global.
        held.append(make)
        client.submit(run_held, retries=1).result()


held: list[Callable[[], None]] = []


def run_held() -> None:
    held[-1]()


def dbos(job: Callable[[], object], folder: Path) -> None:
    library("dbos")
    from dbos import DBOS, SetWorkflowID

    DBOS(
        config={
            "name": "piccc",
            "system_database_url": f"sqlite:///{folder}/dbos.db",
            "run_admin_server": False,
        }
    )
    step = DBOS.step(name="step", retries_allowed=True, max_attempts=3, interval_seconds=0.001)

    @DBOS.workflow(name="workflow")
    def workflow() -> None:
        tries = 0

        @step
        def make() -> None:
            nonlocal tries
            tries += 1
            job()
            if tries < 2:
                raise OSError("the step failed after it was billed")

        make()

    DBOS.launch()
    try:
        with SetWorkflowID("the-same"):
            workflow()
    finally:
        DBOS.destroy()


def langgraph(job: Callable[[], object], folder: Path) -> None:
    from langgraph.checkpoint.memory import InMemorySaver
    from langgraph.graph import START, StateGraph

    tries = 0

    def node(state: dict[str, Any]) -> dict[str, Any]:
        nonlocal tries
        tries += 1
        job()
        if tries < 2:
            raise OSError("the node failed after it was billed")
        return {}

    graph = (
        StateGraph(dict).add_node("node", node).add_edge(START, "node").compile(checkpointer=InMemorySaver())
    )
    config: Any = {"configurable": {"thread_id": "t1"}}
    with pytest.raises(OSError, match="after it was billed"):
        graph.invoke({"made": ""}, config)
    graph.invoke(None, config)


def temporal(job: Callable[[], object], folder: Path) -> None:
    library("temporalio")
    from temporalio import activity
    from temporalio.testing import ActivityEnvironment

    for _ in range(2):
        ActivityEnvironment().run(activity.defn(lambda: job(), name="make"))


ENGINES = [celery, dask, dbos, langgraph, temporal]


@pytest.fixture
def emulator(monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    emulator = Emulator(speed=float("inf"))
    # This app ignores the idempotency key, which would otherwise hide double charges.
    emulator.app = counted(emulator.app, Counts())
    with emulator:
        for name, value in emulator.environment.items():
            monkeypatch.setenv(name, value)
        yield emulator


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.__name__)
def test_a_task_that_runs_twice_is_billed_once_per_request(
    engine: Callable[..., None], emulator: Emulator, tmp_path: Path
) -> None:
    client = Client(ledger=tmp_path / "tasks.db", polling=FASTER)
    runs = []

    def job() -> str:
        mug = client.images.generate("A mug", model="piccc-image")
        cup = client.images.generate("A cup", model="piccc-image")
        rows = client.images.map(["A jug", "A jug"], model="piccc-image")
        runs.append([mug.id, cup.id, *(task.id for task in rows.tasks if task is not None)])
        return mug.id

    engine(job, tmp_path)
    first, second = runs
    assert first == second
    assert len(set(first)) == len(emulator.charges) == 4
    # Outside the engine's task, the same request creates a new task.
    assert client.images.generate("A mug", model="piccc-image").id not in first


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.__name__)
def test_a_memory_ledger_in_a_worker_causes_a_warning(
    engine: Callable[..., None], emulator: Emulator, tmp_path: Path
) -> None:
    client, messages = Client(polling=FASTER), []

    def job() -> str:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            client.images.generate("A mug", model="piccc-image")
        messages.extend(str(warning.message) for warning in caught if "PICCC_LEDGER" in str(warning.message))
        return ""

    engine(job, tmp_path)
    assert bool(messages) is (engine is not langgraph)


def test_a_rerun_node_without_a_persistent_ledger_is_billed_again(emulator: Emulator, tmp_path: Path) -> None:
    client, ids = Client(polling=FASTER), []

    def job() -> str:
        ids.extend(client.images.generate("A mug", model="piccc-image").id for _ in range(2))
        return ""

    langgraph(job, tmp_path)
    assert len(set(ids)) == len(ids) == len(emulator.charges) == 4


@pytest.mark.parametrize(
    "error",
    [
        SubmissionUnknown("Lost.", hint="Look.", may_have_been_billed=True, submission_key="celery-1/2/0"),
        TaskFailed("Failed.", code="broken", task_id="task_1"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_survives_celerys_json_serialization(error: Any, tmp_path: Path) -> None:
    app = library("celery").Celery(set_as_current=False)
    app.conf.update(result_backend="cache+memory://", result_serializer="json", accept_content=["json"])
    app.backend.mark_as_failure("1", error)
    loaded = app.AsyncResult("1").result
    assert type(loaded) is type(error)
    assert str(loaded) == str(error)
    assert vars(loaded) == vars(error)
