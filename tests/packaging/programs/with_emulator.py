"""Use what [emulator] adds: a local API, and its pytest fixture."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

from piccc import Client, Polling
from piccc.emulator import Emulator

TEST = """
from piccc import Client

def test_a_429_is_retried_and_billed_once(piccc_emulator):
    piccc_emulator.fault("429;retry-after=0", times=1)
    with Client() as client:
        assert client.chat.create("Hello", model="piccc-pro").text
    assert [request.status for request in piccc_emulator.requests] == [429, 200]
    assert len(piccc_emulator.charges) == 1
"""

with Emulator(speed=math.inf) as emulator:
    quick = Polling(min=0.01, max=0.05)
    with Client(base_url=emulator.base_url, api_key=emulator.api_key, polling=quick) as client:
        assert client.chat.create("Anna is 31.", model="piccc-pro").text
        image = client.images.generate("the words 'Blue Mug' 蓝色杯子", model="piccc-image")
        video = client.videos.generate(
            "it turns", model="piccc-video", duration_seconds=1, resolution="480p", aspect_ratio="16:9"
        )
        assert image.outputs[0].save("mug.png", overwrite=True).read_bytes().startswith(b"\x89PNG")
        assert b"ftyp" in video.outputs[0].save("mug.mp4", overwrite=True).read_bytes()[:16]
    assert [charge.kind for charge in emulator.charges] == ["chat", "image", "video"]

Path("test_mine.py").write_text(TEST)
done = subprocess.run(
    [sys.executable, "-I", "-m", "pytest", "-W", "error", "test_mine.py"], capture_output=True, text=True
)
assert "1 passed" in done.stdout, done.stdout + done.stderr
