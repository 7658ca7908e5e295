"""A pool of processes makes images; where a worker dies, and the pool with it, the rest goes into a new one.

`python -m tests.engines.process_pool` prints the tasks; `test_process_pool.py` kills a worker.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import cache
from multiprocessing import get_context

from piccc import Client, Polling


@cache
def client() -> Client:
    """Return the process's client, made in the process that uses it; PICCC_LEDGER names the ledger."""
    return Client(polling=Polling(min=0.1, max=0.3))


def make(prompt: str) -> str:
    """Make an image and return its task's id; the key is the same whenever the prompt is tried."""
    key = f"mugs/{prompt}"
    return client().images.generate(prompt, model="piccc-image", key=key, lost="resend").id


def make_all(prompts: list[str]) -> dict[str, str]:
    """Return each prompt's task, however often a worker dies."""
    made: dict[str, str] = {}
    while left := [prompt for prompt in prompts if prompt not in made]:
        # Not by fork: threads of the parent, such as the poller, would be missing in the child.
        with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
            running = {pool.submit(make, prompt): prompt for prompt in left}
            for done in as_completed(running):
                try:
                    made[running[done]] = done.result()
                except BrokenProcessPool:
                    continue
    return made


if __name__ == "__main__":
    print(make_all(["A red mug", "A blue mug", "A green mug"]))
