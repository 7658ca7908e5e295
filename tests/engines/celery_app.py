"""A Celery application that generates images; `test_celery.py` kills its worker."""

from __future__ import annotations

import os
from functools import cache

from celery import Celery

from piccc import Client, Polling

app = Celery("studio", broker=os.environ["STUDIO_REDIS"], backend=os.environ["STUDIO_REDIS"])
app.conf.task_acks_late = True  # remove a job from the queue when it is done, not when it starts
app.conf.task_reject_on_worker_lost = True  # also if only a process of the pool dies
# After this time Redis redelivers an unacknowledged job, so it must exceed the longest job.
app.conf.broker_transport_options = {"visibility_timeout": float(os.environ.get("STUDIO_PATIENCE", "3600"))}


@cache
def client() -> Client:
    """Return the process's client, made in the process that uses it; PICCC_LEDGER names the ledger."""
    return Client(polling=Polling(min=0.05, max=0.2))


@app.task(name="studio.image")
def image(prompt: str) -> str:
    """Generate an image; return the task ID, as a handle is not JSON serializable."""
    return client().images.generate(prompt, model="piccc-image").id
