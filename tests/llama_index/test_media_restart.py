"""An agent whose process is killed twice continues where it stopped and pays for each task once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.media.restarting import LLAMA_INDEX, killed_twice


@pytest.mark.parametrize(
    ("mode", "waiting"), [("wait", "saved ToolCall generate_video"), ("event", "saved PicccTaskSubmitted")]
)
def test_an_agent_killed_twice_pays_for_each_task_once(tmp_path: Path, mode: str, waiting: str) -> None:
    out = killed_twice(LLAMA_INDEX, tmp_path, mode, "saved ToolCall generate_image", waiting)
    results = [line for line in out.splitlines() if not line.startswith("saved")]
    assert results == ["The video is finished", "Both are done."]
