"""What the page shows: the latest calls and tasks, and what they add up to."""

from __future__ import annotations

from collections import Counter
from typing import Any

from piccc.emulator.journal import RequestRecord
from piccc.emulator.provider import Provider
from piccc.emulator.tasks import Task

_CALLS = 100
_TASKS = 48


def feed(provider: Provider) -> dict[str, Any]:
    """Return the page's data; calls and tasks newest first."""
    charges = list(provider.charges.copy())
    tasks = list(provider.tasks)
    return {
        "calls": [_call(record) for record in reversed(provider.journal.records()[-_CALLS:])],
        "tasks": [_task(task, provider.clock.now()) for task in reversed(tasks[-_TASKS:])],
        "totals": {
            "calls": provider.journal.count,
            "tasks": len(tasks),
            "prompt_tokens": sum(charge.prompt_tokens for charge in charges),
            "completion_tokens": sum(charge.completion_tokens for charge in charges),
            "charges": Counter(charge.kind for charge in charges),
        },
        "speed": str(provider.pace.speed),
        "api_key": provider.api_key if provider.api_key.startswith("pcc_test_") else None,
    }


def _call(record: RequestRecord) -> dict[str, Any]:
    return {
        "number": record.number,
        "method": record.method,
        "path": record.path,
        "status": record.status,
        "model": record.model,
        "prompt_tokens": record.prompt_tokens,
        "completion_tokens": record.completion_tokens,
        "task_id": record.task_id,
        "fault": record.fault,
        "started_at": record.started_at,
        "seconds": record.seconds,
        "done": record.done,
    }


def _task(task: Task, now: float) -> dict[str, Any]:
    width, height = task.size
    status = task.status(now)
    return {
        "task_id": task.id,
        "type": task.kind,
        "status": status,
        "progress": task.progress(now),
        "model": task.model,
        "prompt": task.prompt,
        "width": width,
        "height": height,
        "duration_seconds": task.duration_seconds,
        "output": f"/emulator/outputs/{task.id}" if status == "completed" and task.has_output else None,
        "error": (task.error(now) or {}).get("message"),
    }
