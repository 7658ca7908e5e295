"""An application of Celery that makes images; `test_celery.py` kills its worker."""

from __future__ import annotations

import os
from functools import cache

from celery import Celery

from piccc import Client, Polling

app = Celery("studio", broker=os.environ["STUDIO_REDIS"], backend=os.environ["STUDIO_REDIS"])
app.conf.task_acks_late = True  # a job is taken off the queue when it is done, not when it begins
app.conf.task_reject_on_worker_lost = True  # also where only the process of a pool dies
# When Redis hands an unacknowledged job to another worker: later than the longest job takes.
app.conf.broker_transport_options = {"visibility_timeout": float(os.environ.get("STUDIO_PATIENCE", "3600"))}


@cache
def client() -> Client:
    """Return the process's client, made in the process that uses it; PICCC_LEDGER names the ledger."""
    return Client(polling=Polling(min=0.05, max=0.2))


@app.task(name="studio.image")
def image(prompt: str) -> str:
    """Make an image; return its task's id, for a handle is no JSON."""
    return client().images.generate(prompt, model="piccc-image").id
