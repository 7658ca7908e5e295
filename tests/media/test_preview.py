"""Cards embed a small copy of an image, so they outlive its URL; showing one never fails or hangs."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import random
import re
import sys
import threading
import types
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import av
import pytest
from PIL import Image

from piccc import AsyncClient, Client
from piccc.emulator import Emulator
from piccc.media import display as preview
from piccc.media.display import gallery
from piccc.media.handles import TaskHandle
from tests.media.driven import QUICK
from tests.media.file_host import FileHost, serving

KEY = "pcc_live_canary_1234567890"


@cache
def image(width: int = 900, height: int = 600, mode: str = "RGB", format: str = "PNG") -> bytes:
    """Return an image of noise, which does not compress."""
    noise = random.Random(1).randbytes(width * height * len(Image.new(mode, (1, 1)).getbands()))
    buffer = io.BytesIO()
    Image.frombytes(mode, (width, height), noise).save(buffer, format)
    return buffer.getvalue()


@pytest.fixture(autouse=True)
def generous_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preview, "SECONDS", 60.0)


@pytest.fixture
def host() -> Iterator[FileHost]:
    with serving(FileHost(content=image())) as running:
        yield running


def body(*urls: str, type: str = "image") -> str:
    outputs = [{"url": url, "type": type} for url in urls]
    return json.dumps(
        {"task_id": "task_1", "status": "completed", "type": type, "result": {"outputs": outputs}}
    )


def finished(host: FileHost, url: str = "", type: str = "image", **settings: Any) -> TaskHandle:
    """Return a finished task whose output is on the host."""
    client = Client(base_url=host.url, api_key=KEY, **settings)
    return client.tasks.load(body(url or f"{host.url}/file/a.png", type=type))


def shown(task: Any) -> str:
    """Return the HTML for a notebook."""
    return str(task._repr_mimebundle_()["text/html"])


def embedded_image(html: str) -> Image.Image:
    """Return the only image that the HTML embeds."""
    [data] = re.findall(r'src="data:image/webp;base64,([^"]+)"', html)
    assert len(data) * 3 // 4 <= preview.MAX_COPY_BYTES
    return Image.open(io.BytesIO(base64.b64decode(data)))


@pytest.mark.parametrize(
    ("mode", "format"), [("RGB", "PNG"), ("RGBA", "PNG"), ("P", "GIF"), ("CMYK", "JPEG"), ("I;16", "PNG")]
)
def test_a_card_embeds_a_small_copy_of_its_image(host: FileHost, mode: str, format: str) -> None:
    if mode in ("P", "I;16"):
        buffer = io.BytesIO()
        Image.open(io.BytesIO(image())).convert("L").convert(mode).save(buffer, format)
        host.content = buffer.getvalue()
    else:
        host.content = image(mode=mode, format=format)
    html = shown(finished(host))
    width, height = embedded_image(html).size
    assert width <= 512
    assert width * 2 == pytest.approx(height * 3, rel=0.02)
    assert host.url not in html


def test_an_image_is_fetched_once_however_often_it_is_shown(host: FileHost) -> None:
    host.task = json.loads(body(f"{host.url}/file/a.png?signature=fresh"))
    task = finished(host)
    html = shown(task)
    assert shown(task) == shown(task.refresh()) == html
    assert len(host.downloads) == 1


def test_the_api_key_is_in_neither_the_card_nor_its_download(host: FileHost) -> None:
    assert KEY not in shown(finished(host)) + repr(host.downloads)


def test_a_preview_renews_an_expired_url(host: FileHost) -> None:
    host.statuses = [403]
    host.task = json.loads(body(f"{host.url}/file/a.png?signature=fresh"))
    assert embedded_image(shown(finished(host)))


@pytest.mark.parametrize(
    "problem",
    ["gone", "huge", "not an image", "many pixels", "unresolvable", "private", "no Pillow", "truncated"],
)
def test_an_image_that_cannot_be_embedded_is_linked(
    host: FileHost, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{host.url}/file/a.png"
    match problem:
        case "gone":
            host.statuses, host.task = [410] * 9, json.loads(body(url))
        case "huge":
            host.declared_size = preview.MAX_BYTES + 1
        case "not an image":
            host.content = b"\x89PNG\r\n\x1a\n" + bytes(500)
        case "many pixels":
            monkeypatch.setattr(preview, "MAX_PIXELS", 900 * 600 - 1)
        case "unresolvable":
            url = "https://files.invalid/a.png"
        case "private":
            url = "https://169.254.169.254/a.png"
        case "no Pillow":
            monkeypatch.setitem(sys.modules, "PIL", None)
        case "truncated":
            host.content, host.declared_size = image()[:1000], 1000
    monkeypatch.setattr("piccc.media.downloads.FIRST_BACKOFF", 0.001)
    assert f'src="{url}"' in shown(finished(host, url))
    assert not (problem == "no Pillow" and host.requests)


def test_a_hanging_host_does_not_block_and_is_not_retried(
    host: FileHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preview, "SECONDS", 0.05)
    is_released, has_answered = threading.Event(), threading.Event()
    host.on_request = lambda: has_answered.set() if is_released.wait(20) else None
    task = finished(host)
    assert "data:" not in shown(task)
    assert not has_answered.is_set()
    is_released.set()
    assert "data:" not in shown(task)
    assert len(host.downloads) <= 1


def test_a_saved_image_is_embedded_from_its_file(host: FileHost, tmp_path: Path) -> None:
    task = finished(host)
    task.save(tmp_path)
    host.statuses = [404] * 9
    assert embedded_image(shown(task))
    assert len(host.downloads) == 1


def test_a_saved_video_plays_from_its_file_if_the_notebook_can_load_it(
    host: FileHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    host.content = b"\x00\x00\x00\x18ftypisom" + bytes(500)
    task = finished(host, type="video")
    assert f'src="{host.url}/file/a.png#' in shown(task)
    task.outputs[0].save(tmp_path / "videos" / "a 狐 #1.mp4")
    assert 'src="videos/a%20%E7%8B%90%20%231.mp4#' in shown(task)
    monkeypatch.chdir("/")
    (tmp_path / "videos" / "a 狐 #1.mp4").unlink()
    assert f'src="{host.url}/file/a.png#' in shown(task)


@cache
def blue_video() -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as video:
        stream: Any = video.add_stream("libx264", rate=1)
        stream.width, stream.height, stream.pix_fmt = 600, 400, "yuv420p"
        video.mux(stream.encode(av.VideoFrame.from_image(Image.new("RGB", (600, 400), "blue"))))
        video.mux(stream.encode(None))
    return buffer.getvalue()


def red_thumbnail() -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (60, 40), "red").save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


POSTERS = {
    "the server's thumbnail": ({"thumbnail_url": red_thumbnail()}, (0, "red")),
    "the first frame": ({}, (1, "blue")),
    "the first frame, as the thumbnail is not an image": ({"thumbnail_url": "data:,no"}, (1, "blue")),
    "no decoder": ({}, (0, None)),
    "a playlist": ({}, (1, None)),
    "many pixels": ({}, (1, None)),
}
"""Extra fields of the task; how often the video is fetched, and the color of its poster."""


@pytest.mark.parametrize("case", POSTERS)
def test_a_video_poster_comes_from_its_thumbnail_or_first_frame(
    host: FileHost, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    extra, expected = POSTERS[case]
    host.content = blue_video()
    match case:
        case "no decoder":
            monkeypatch.setitem(sys.modules, "av", None)
        case "a playlist":
            host.content = f"#EXTM3U\n#EXTINF:1,\n{host.url}/v1/tasks/secret\n".encode()
            host.headers = {"content-type": "video/mp4"}
        case "many pixels":
            monkeypatch.setattr(preview, "MAX_PIXELS", 600 * 400 - 1)
    output = {"url": f"{host.url}/file/a.mp4", "type": "video", **extra}
    task = {"task_id": "task_1", "status": "completed", "result": {"outputs": [output]}}
    html = shown(Client(base_url=host.url, api_key=KEY).tasks.load(json.dumps(task)))
    posters = re.findall(r'poster="data:image/webp;base64,([^"]+)"', html)
    frames = [Image.open(io.BytesIO(base64.b64decode(poster))).convert("RGB") for poster in posters]
    colors = [
        "red" if red > blue else "blue" for red, _, blue in (frame.getpixel((9, 9)) for frame in frames)
    ]
    assert (len(host.requests), next(iter(colors), None)) == expected
    assert f'src="{host.url}/file/a.mp4#' in html


def test_a_gallery_fetches_a_bounded_number_of_images(
    host: FileHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preview, "MAX_PREVIEWS", 5)
    tasks = [finished(host, f"{host.url}/file/{number}") for number in range(7)]
    html = gallery(tasks)
    assert html.count('src="data:') == 5
    assert html.count(f'src="{host.url}') == 2
    assert gallery(tasks) == html
    assert len(host.downloads) == 5


async def test_a_card_of_an_async_client_embeds_its_image(emulator: Emulator) -> None:
    async with AsyncClient(base_url=emulator.base_url, api_key=emulator.api_key, polling=QUICK) as client:
        task = await client.images.generate("a fox", model="piccc-image")
        assert max(embedded_image(shown(task)).size) <= 512


def test_previews_never_bypass_the_callers_async_http_client(host: FileHost) -> None:
    import httpx

    async def show() -> str:
        async with httpx.AsyncClient() as http:
            client = AsyncClient(base_url=host.url, api_key=KEY, http_client=http)
            return shown(client.tasks.load(body(f"{host.url}/file/a.png")))

    assert "data:" not in asyncio.run(show())
    assert host.requests == []


def ipython(monkeypatch: pytest.MonkeyPatch, type: str) -> list[tuple[str, bool]]:
    """Simulate IPython showing this content type; return each displayed text and whether it was an update."""
    displayed: list[tuple[str, bool]] = []
    module, displays = types.ModuleType("IPython"), types.ModuleType("IPython.display")
    shell = types.SimpleNamespace(display_formatter=types.SimpleNamespace(active_types=["text/plain", type]))
    module.get_ipython = lambda: shell  # type: ignore[attr-defined]  # the only functions that are used
    displays.display = lambda item, **options: displayed.append(  # type: ignore[attr-defined]
        (item._repr_mimebundle_()["text/plain"], options.get("update", False))
    )
    monkeypatch.setitem(sys.modules, "IPython", module)
    monkeypatch.setitem(sys.modules, "IPython.display", displays)
    return displayed


def test_ipython_in_a_terminal_fetches_nothing(host: FileHost, monkeypatch: pytest.MonkeyPatch) -> None:
    ipython(monkeypatch, "text/plain")
    task = finished(host)
    assert task._repr_mimebundle_()["text/plain"] == "image task_1: completed"
    assert task.outputs[0]._repr_mimebundle_()["text/plain"] == "image, of task task_1"
    assert host.requests == []


def test_an_output_renders_itself(host: FileHost) -> None:
    assert embedded_image(shown(finished(host).outputs[0]))
    video = finished(host, type="video").outputs[0]
    assert f'<video src="{host.url}/file/a.png#' in shown(video)


class Stderr(io.StringIO):
    def __init__(self, *, is_terminal: bool) -> None:
        super().__init__()
        self._is_terminal = is_terminal

    def isatty(self) -> bool:
        return self._is_terminal


DISPLAYS = {
    "notebook": ("text/html", False, {}, True),
    "terminal": (None, True, {}, True),
    "log": (None, False, {}, False),
    "off": (None, True, {"progress": False}, False),
    "the caller's callback": (None, True, {"on_update": print}, False),
    "both": (None, True, {"on_update": print, "progress": True}, True),
}


@pytest.mark.parametrize("place", DISPLAYS)
def test_generate_shows_progress_in_notebooks_and_terminals(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    type, is_terminal, options, is_shown = DISPLAYS[place]
    displayed = ipython(monkeypatch, type) if type else []
    stderr = Stderr(is_terminal=is_terminal)
    monkeypatch.setattr(sys, "stderr", stderr)
    client = Client(base_url=emulator.base_url, api_key=emulator.api_key, polling=QUICK)
    task = client.images.generate("a fox", model="piccc-image", **options)
    lines = [text for text, _ in displayed] + [line.rstrip() for line in stderr.getvalue().split("\r")]
    assert (f"image {task.id}: completed" in lines) is is_shown
    assert [is_update for _, is_update in displayed] == [number > 0 for number in range(len(displayed))]
    if stderr.getvalue():  # the line is erased at the end
        assert lines[-2:] == ["", ""]


def test_two_concurrent_tasks_show_one_progress_line(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", stderr := Stderr(is_terminal=True))

    async def both() -> None:
        async with AsyncClient(base_url=emulator.base_url, api_key=emulator.api_key, polling=QUICK) as client:
            await asyncio.gather(
                *(client.images.generate(prompt, model="piccc-image") for prompt in ("a fox", "a hare"))
            )

    asyncio.run(both())
    assert len(set(re.findall(r"image (\S+):", stderr.getvalue()))) == 1
