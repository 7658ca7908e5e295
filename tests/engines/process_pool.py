"""Generate images in a process pool; if a worker dies and breaks the pool, a new pool does the rest.

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
    """Generate an image and return its task ID; each attempt of a prompt uses the same key."""
    key = f"mugs/{prompt}"
    return client().images.generate(prompt, model="piccc-image", key=key, lost="resend").id


def make_all(prompts: list[str]) -> dict[str, str]:
    """Return the task ID of each prompt, even if workers die."""
    made: dict[str, str] = {}
    while left := [prompt for prompt in prompts if prompt not in made]:
        # Do not fork: threads of the parent, such as the poller, would be missing in the child.
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
