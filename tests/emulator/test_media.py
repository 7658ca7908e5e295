"""Images and videos have the requested size and duration, and their files are served correctly."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import httpx
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from PIL import Image

from piccc.emulator import Emulator
from piccc.emulator.render.drawing import _covers, caption, cjk_font_file, drawable, font
from piccc.emulator.tasks import ASPECT_RATIOS, pixels
from tests.emulator.wire import connect, image, video


def generate(client: httpx.Client, body: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    """Submit a task; return its output and the file's bytes."""
    path = "/v1/videos/tasks" if body["model"] == "piccc-video" else "/v1/images/tasks"
    task_id = client.post(path, json=body).json()["task_id"]
    output = client.get(f"/v1/tasks/{task_id}").json()["result"]["outputs"][0]
    response = httpx.get(output["url"], trust_env=False, timeout=60)
    assert response.headers["content-type"] == output["mime_type"]
    return output, response.content


@pytest.mark.parametrize("ratio", ASPECT_RATIOS)
def test_an_image_has_the_size_of_its_aspect_ratio(client: httpx.Client, ratio: str) -> None:
    output, content = generate(client, image(aspect_ratio=ratio))
    with Image.open(io.BytesIO(content)) as opened:
        opened.load()
        assert opened.size == (output["width"], output["height"]) == pixels("image", "1K", ratio)
        assert opened.format == "PNG"


@pytest.mark.parametrize("resolution", ["2K", "4K"])
def test_an_image_has_the_requested_resolution(client: httpx.Client, resolution: str) -> None:
    _, content = generate(client, image(resolution=resolution, aspect_ratio="21:9"))
    with Image.open(io.BytesIO(content)) as opened:
        assert opened.width == {"2K": 2048, "4K": 4096}[resolution]


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])
def test_an_image_has_the_requested_format(client: httpx.Client, output_format: str) -> None:
    output, content = generate(client, image(output_format=output_format))
    with Image.open(io.BytesIO(content)) as opened:
        assert (opened.format or "").lower() == output_format
    assert output["mime_type"] == f"image/{output_format}"


@pytest.mark.parametrize(
    ("resolution", "ratio", "seconds"), [("480p", "9:16", 1), ("720p", "16:9", 2), ("1080p", "1:1", 1)]
)
def test_a_video_has_the_requested_size_and_duration(
    client: httpx.Client, resolution: str, ratio: str, seconds: int
) -> None:
    output, content = generate(
        client, video(resolution=resolution, aspect_ratio=ratio, duration_seconds=seconds)
    )
    with av.open(io.BytesIO(content), "r") as container:
        stream = container.streams.video[0]
        frames = [frame.to_ndarray(format="gray").mean() for frame in container.decode(stream)]
        assert (stream.width, stream.height) == pixels("video", resolution, ratio)
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert len(frames) == 24 * seconds
        assert stream.duration is not None
        assert stream.time_base is not None
        assert float(stream.duration * stream.time_base) == seconds == output["duration_seconds"]
    assert content.index(b"moov") < content.index(b"mdat"), (
        "a video must be playable before it is fully loaded"
    )


def test_video_frames_differ(client: httpx.Client) -> None:
    _, content = generate(client, video(resolution="480p", duration_seconds=1))
    with av.open(io.BytesIO(content), "r") as container:
        frames = [frame.to_ndarray(format="gray") for frame in container.decode(video=0)]
    assert not (frames[0] == frames[-1]).all()


@pytest.mark.parametrize(
    "body", [image(seed=3), image(output_format="webp"), video(duration_seconds=1, resolution="480p")]
)
def test_the_same_request_gives_the_same_bytes_on_any_emulator(body: dict[str, Any]) -> None:
    contents = []
    for _ in range(2):
        with Emulator(speed=float("inf")) as emulator, connect(emulator) as client:
            contents.append(generate(client, body)[1])
    assert contents[0] == contents[1]


def test_another_prompt_or_seed_gives_another_image(client: httpx.Client) -> None:
    contents = [generate(client, body)[1] for body in (image("one"), image("two"), image("one", seed=1))]
    assert len(set(contents)) == 3


def drawn_caption(text: str) -> bytes:
    """Return the pixels of a caption on black."""
    frame = Image.new("RGB", (512, 512))
    caption(frame, text)
    return frame.tobytes()


@pytest.fixture(params=[False, True], ids=["no system font", "a system font"])
def cjk_font(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[bool]:
    """Run without a system font, and with one that has a single Chinese character."""
    monkeypatch.setattr("piccc.emulator.render.drawing.font_folders", lambda: [tmp_path])
    if request.param:
        pen = TTGlyphPen(None)
        pen.moveTo((100, 0))
        pen.lineTo((900, 0))
        pen.lineTo((500, 800))
        pen.closePath()
        glyphs = {".notdef": TTGlyphPen(None).glyph(), "cup": pen.glyph(), "space": TTGlyphPen(None).glyph()}
        builder = FontBuilder(1000, isTTF=True)
        builder.setupGlyphOrder(list(glyphs))
        builder.setupCharacterMap({ord("杯"): "cup", ord(" "): "space"})
        builder.setupGlyf(glyphs)
        builder.setupHorizontalMetrics(dict.fromkeys(glyphs, (1000, 0)))
        builder.setupHorizontalHeader(ascent=800, descent=-200)
        builder.setupOS2()
        builder.setupPost()
        (tmp_path / "truetype" / "noto").mkdir(parents=True)
        builder.save(tmp_path / "truetype" / "noto" / "NotoSansCJK-Regular.ttf")
    for cached in (cjk_font_file, font, _covers):
        cached.cache_clear()
    yield request.param
    for cached in (cjk_font_file, font, _covers):
        cached.cache_clear()


def test_a_caption_omits_characters_that_no_font_can_draw(cjk_font: bool) -> None:
    assert drawable("mug क 🎉") == ("mug", False)
    assert drawable("杯") == (("杯", True) if cjk_font else ("", False))
    assert (drawn_caption("杯") != drawn_caption("")) is cjk_font
    assert drawn_caption("mug 🎉") == drawn_caption("mug")


def test_a_caption_of_any_length_stays_inside_the_image() -> None:
    frame = Image.new("RGB", (400, 300))
    caption(frame, "A hand-made ceramic mug in the morning mist. " * 20)
    box = frame.point(lambda level: 255 if level > 200 else 0).getbbox()
    assert box is not None
    assert box[0] > 0
    assert box[2] < 400
    assert box[3] < 300
    assert drawn_caption("") != drawn_caption("x")


@pytest.fixture
def served(client: httpx.Client) -> tuple[str, bytes]:
    """Generate an image; return its URL and its bytes."""
    output, content = generate(client, image())
    return output["url"], content


@pytest.mark.parametrize(
    ("requested", "part"),
    [
        ("bytes=0-9", slice(0, 10)),
        ("bytes=100-", slice(100, None)),
        ("bytes=-7", slice(-7, None)),
        ("bytes=5-99999999", slice(5, None)),
    ],
)
def test_a_byte_range_of_a_file_can_be_requested(
    served: tuple[str, bytes], requested: str, part: slice
) -> None:
    url, content = served
    response = httpx.get(url, headers={"range": requested}, trust_env=False)
    assert response.status_code == 206
    assert response.content == content[part]
    start = content.index(response.content)
    assert (
        response.headers["content-range"]
        == f"bytes {start}-{start + len(response.content) - 1}/{len(content)}"
    )


def test_a_range_beyond_the_end_is_a_416(served: tuple[str, bytes]) -> None:
    url, content = served
    response = httpx.get(url, headers={"range": f"bytes={len(content)}-"}, trust_env=False)
    assert (response.status_code, response.headers["content-range"]) == (416, f"bytes */{len(content)}")


@pytest.mark.parametrize("requested", ["bytes=-", "lines=1-2", "bytes=1-2,4-5"])
def test_an_unsupported_range_returns_the_whole_file(served: tuple[str, bytes], requested: str) -> None:
    url, content = served
    response = httpx.get(url, headers={"range": requested}, trust_env=False)
    assert (response.status_code, response.content) == (200, content)


def test_a_range_of_a_changed_file_returns_the_whole_file(served: tuple[str, bytes]) -> None:
    url, content = served
    etag = httpx.head(url, trust_env=False).headers["etag"]
    same = httpx.get(url, headers={"range": "bytes=0-1", "if-range": etag}, trust_env=False)
    other = httpx.get(url, headers={"range": "bytes=0-1", "if-range": '"x"'}, trust_env=False)
    assert (same.status_code, other.status_code, other.content) == (206, 200, content)


def test_head_returns_the_length_and_etag_without_the_file(served: tuple[str, bytes]) -> None:
    url, content = served
    response = httpx.head(url, trust_env=False)
    assert (response.content, response.headers["content-length"]) == (b"", str(len(content)))
    assert (
        httpx.get(url, headers={"if-none-match": response.headers["etag"]}, trust_env=False).status_code
        == 304
    )


def test_an_expired_url_is_renewed_by_reading_the_task_again(clock: Any) -> None:
    with Emulator(clock=clock, url_lifetime=60) as emulator, connect(emulator) as client:
        task_id = client.post("/v1/images/tasks", json=image()).json()["task_id"]
        emulator.advance(3)
        first = client.get(f"/v1/tasks/{task_id}").json()["result"]
        url = first["outputs"][0]["url"]
        assert first["expires_at"] == clock.now() + 60
        emulator.advance(59)
        assert httpx.get(url, trust_env=False).status_code == 200
        emulator.advance(1)
        rejected = httpx.get(url, trust_env=False)
        assert (rejected.status_code, rejected.json()["error"]["code"]) == (403, "url_expired")
        fresh = client.get(f"/v1/tasks/{task_id}").json()["result"]["outputs"][0]["url"]
        assert httpx.get(fresh, trust_env=False).status_code == 200


@pytest.mark.parametrize(
    "change", [("signature=", "signature=0"), ("expires=", "expires=9"), ("task_", "task_0")]
)
def test_a_forged_url_is_rejected(served: tuple[str, bytes], change: tuple[str, str]) -> None:
    assert httpx.get(served[0].replace(*change), trust_env=False).status_code == 403
