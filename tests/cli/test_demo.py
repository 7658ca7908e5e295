"""`piccc demo`, run as a new user runs it: no key, an empty home folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import av
import pytest
from PIL import Image
from playwright.async_api import Browser

from piccc.emulator import Emulator
from tests.cli.shell import Shell

PLAY = """async () => {
  const video = document.querySelector("video");
  video.playbackRate = 4;
  await Promise.race([
    video.play().then(() => new Promise((ended) => { video.onended = ended; })),
    new Promise((_, late) => setTimeout(() => late(new Error("the video did not end")), 20000)),
  ]);
  return [video.videoWidth, video.videoHeight, video.currentTime];
}"""


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("demo")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PICCC_")}
    environment |= {"HOME": str(tmp_path_factory.mktemp("home")), "COLUMNS": "120"}
    command = [sys.executable, "-W", "error::ResourceWarning", "-m", "piccc", "demo"]
    done = subprocess.run(  # noqa: S603  our own command
        command, cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "piccc-demo", done.stdout


def test_the_image_is_a_valid_png_of_the_expected_size(demo: tuple[Path, str]) -> None:
    with Image.open(demo[0] / "image.png") as image:
        image.load()
        assert (image.format, image.size) == ("PNG", (1024, 1024))


def test_every_video_frame_decodes_and_the_size_and_duration_match(demo: tuple[Path, str]) -> None:
    with av.open(demo[0] / "video.mp4") as video:
        stream = video.streams.video[0]
        assert stream.codec_context.name == "h264"
        frames = list(video.decode(stream))
        assert {(frame.width, frame.height) for frame in frames} == {(1280, 720)}
        assert stream.average_rate is not None
        assert len(frames) / stream.average_rate == 6


@pytest.mark.asyncio(loop_scope="session")
async def test_the_video_plays_to_the_end_in_a_browser(demo: tuple[Path, str], browser: Browser) -> None:
    (demo[0] / "player.html").write_text('<!doctype html><video muted src="video.mp4"></video>')
    page = await browser.new_page()
    await page.goto((demo[0] / "player.html").as_uri())
    played = await page.evaluate(PLAY)
    assert played == [1280, 720, 6]


def test_the_demo_lists_its_files_and_answers_from_the_readme(demo: tuple[Path, str]) -> None:
    out = demo[1]
    assert "piccc-demo/image.png" in out
    assert "piccc-demo/video.mp4" in out
    assert "Ran 2 tasks" in out
    assert "not sent again unless you set" in " ".join(
        out.split("A question about this project's README")[1].split()
    )


def test_live_uses_the_configured_server_and_json_prints_one_document(
    shell: Shell, emulator: Emulator
) -> None:
    done = shell("demo", "--live", "--json", "--to", "shown")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert [task["files"] for task in document["tasks"]] == [["shown/image.png"], ["shown/video.mp4"]]
    assert document["tokens"] > 0
    assert "Ran 2 tasks" in done.stderr
    assert [charge.kind for charge in emulator.charges if charge.kind != "chat"] == ["image", "video"]
