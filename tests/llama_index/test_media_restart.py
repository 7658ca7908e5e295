"""An agent whose process is killed for good, twice, goes on where it was and pays for each thing once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.media.restarting import LLAMA_INDEX, killed_twice


@pytest.mark.parametrize(
    ("mode", "waiting"), [("wait", "saved ToolCall generate_video"), ("event", "saved PicccTaskSubmitted")]
)
def test_an_agent_that_is_killed_twice_pays_for_each_once(tmp_path: Path, mode: str, waiting: str) -> None:
    out = killed_twice(LLAMA_INDEX, tmp_path, mode, "saved ToolCall generate_image", waiting)
    said = [line for line in out.splitlines() if not line.startswith("saved")]
    assert said == ["The video is finished", "Both are done."]
