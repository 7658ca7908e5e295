"""Ray Data: generate images or replies from the prompts of a dataset. `test_ray.py` kills a worker."""

from __future__ import annotations

from typing import Any

from langchain_core.messages import AIMessage

from langchain_piccc import ChatPiccc
from piccc import Client, RateLimit, TaskHandle
from piccc.errors import TaskError

Columns = dict[str, Any]


class Images:
    """Generate an image for each row's prompt, for `Dataset.map_batches`; failed rows have their error.

    A rerun batch finds its tasks by `run` and prompt, so nothing is billed twice. For the same reason, equal
    prompts in two batches share one image.
    """

    def __init__(self, run: str, **options: Any) -> None:
        self.client = Client()  # its API key, and PICCC_LEDGER, come from the worker's environment
        self.options = {"run": run, "lost": "resend", **options}

    def __call__(self, batch: Columns) -> Columns:
        made = self.client.images.map([str(each) for each in batch["prompt"]], **self.options)
        rows = [self.row(task, made.errors.get(number)) for number, task in enumerate(made.tasks)]
        return {**batch, **{name: [row[name] for row in rows] for name in ("task_id", "url", "error")}}

    def row(self, task: TaskHandle | None, error: Exception | None) -> dict[str, str]:
        if task is None:
            return {"task_id": "", "url": "", "error": str(error)}
        error = error or TaskError.of(task)
        url = "" if error else task.outputs[0].url
        return {"task_id": task.id, "url": url, "error": str(error or "")}


class Replies:
    """Answer each row's prompt, for `Dataset.map_batches`; all workers share the limit `rate`."""

    def __init__(self, rate: str, **options: Any) -> None:
        self.model = ChatPiccc(rate_limiter=RateLimit(rate), **options)  # counted in PICCC_LEDGER

    def __call__(self, batch: Columns) -> Columns:
        prompts = [str(each) for each in batch["prompt"]]
        replies = self.model.batch(prompts, {"max_concurrency": 16}, return_exceptions=True)
        return {
            **batch,
            "reply": [each.text if isinstance(each, AIMessage) else "" for each in replies],
            "error": ["" if isinstance(each, AIMessage) else str(each) for each in replies],
        }
