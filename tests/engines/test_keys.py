"""In a task of an engine a submission has that task's key: run again, it is not paid for again."""

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
    """Return an engine's library, which the project does not depend on; skip where it is not installed."""
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
            raise OSError("the task failed after it had paid")

    with library("distributed").Client(processes=False, n_workers=1, dashboard_address=None) as client:
        # With threads for workers the function stays in this process, but it would be pickled.
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
                raise OSError("the step failed after it had paid")

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
            raise OSError("the node failed after it had paid")
        return {}

    graph = (
        StateGraph(dict).add_node("node", node).add_edge(START, "node").compile(checkpointer=InMemorySaver())
    )
    config: Any = {"configurable": {"thread_id": "t1"}}
    with pytest.raises(OSError, match="after it had paid"):
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
    emulator.app = counted(
        emulator.app, Counts()
    )  # it ignores the key in the header, which would hide charges
    with emulator:
        for name, value in emulator.environment.items():
            monkeypatch.setenv(name, value)
        yield emulator


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.__name__)
def test_a_task_that_is_run_twice_pays_once_for_each_request(
    engine: Callable[..., None], emulator: Emulator, tmp_path: Path
) -> None:
    client = Client(ledger=tmp_path / "tasks.db", polling=FASTER)
    runs = []

    def job() -> str:
        one = client.images.generate("A mug", model="piccc-image")
        two = client.images.generate("A cup", model="piccc-image")
        rows = client.images.map(["A jug", "A jug"], model="piccc-image")
        runs.append([one.id, two.id, *(task.id for task in rows.tasks if task is not None)])
        return one.id

    engine(job, tmp_path)
    first, second = runs
    assert first == second
    assert len(set(first)) == len(emulator.charges) == 4
    # Outside of the task nothing is taken for what was made in it.
    assert client.images.generate("A mug", model="piccc-image").id not in first


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.__name__)
def test_a_ledger_in_a_workers_memory_is_warned_of(
    engine: Callable[..., None], emulator: Emulator, tmp_path: Path
) -> None:
    client, said = Client(polling=FASTER), []

    def job() -> str:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            client.images.generate("A mug", model="piccc-image")
        said.extend(str(each.message) for each in caught if "PICCC_LEDGER" in str(each.message))
        return ""

    engine(job, tmp_path)
    assert bool(said) is (engine is not langgraph)


def test_a_node_that_asks_twice_without_a_lasting_ledger_gets_two(emulator: Emulator, tmp_path: Path) -> None:
    client, made = Client(polling=FASTER), []

    def job() -> str:
        made.extend(client.images.generate("A mug", model="piccc-image").id for _ in range(2))
        return ""

    langgraph(job, tmp_path)
    assert len(set(made)) == len(made) == len(emulator.charges) == 4


@pytest.mark.parametrize(
    "error",
    [
        SubmissionUnknown("Lost.", hint="Look.", may_have_been_billed=True, submission_key="celery-1/2/0"),
        TaskFailed("Failed.", code="broken", task_id="task_1"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_comes_back_whole_from_celerys_json(error: Any, tmp_path: Path) -> None:
    app = library("celery").Celery(set_as_current=False)
    app.conf.update(result_backend="cache+memory://", result_serializer="json", accept_content=["json"])
    app.backend.mark_as_failure("1", error)
    there = app.AsyncResult("1").result
    assert type(there) is type(error)
    assert str(there) == str(error)
    assert vars(there) == vars(error)
