"""Render videos: the image compositions in motion, as H.264 in a fast-start MP4."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory

import av
from av.video.stream import VideoStream
from PIL import Image, ImageDraw

from piccc.emulator.render.image import badge, caption, composition, font, label
from piccc.emulator.tasks import Task

FRAMES_PER_SECOND = 24


def render_video(task: Task) -> bytes:
    """Render a video task at 24 frames per second; the same task gives the same bytes."""
    seconds = task.duration_seconds or 1
    painted = composition(task.prompt, task.seed, task.size)
    overlay = _overlay(task)
    count = seconds * FRAMES_PER_SECOND

    def frames() -> Iterator[Image.Image]:
        for number in range(count):
            frame = painted.at(number / count)
            if frame.size != task.size:
                frame = frame.resize(task.size, Image.Resampling.BILINEAR)
            frame.paste(overlay, mask=overlay)
            _progress(frame, number, count)
            yield frame

    return _encoded(frames(), task.size)


def _encoded(frames: Iterable[Image.Image], size: tuple[int, int]) -> bytes:
    """Encode frames. Needs a real file: faststart rewrites it to move the index to the front."""
    with TemporaryDirectory() as folder:
        path = Path(folder, "video.mp4")
        with av.open(path, "w", options={"movflags": "+faststart"}) as container:
            stream = container.add_stream("libx264", rate=FRAMES_PER_SECOND)
            _configure(stream, size)
            for number, frame in enumerate(frames):
                shot = av.VideoFrame.from_image(frame)  # type: ignore[no-untyped-call]  # PyAV leaves it untyped
                shot.pts, shot.time_base = number, Fraction(1, FRAMES_PER_SECOND)
                container.mux(stream.encode(shot))
            container.mux(stream.encode())
        return path.read_bytes()


def _configure(stream: VideoStream, size: tuple[int, int]) -> None:
    stream.width, stream.height = size
    stream.pix_fmt = "yuv420p"
    # One thread, because the encoder's output depends on how many there are.
    stream.options = {"preset": "ultrafast", "crf": "26", "threads": "1"}
    stream.codec_context.thread_count = 1


def _overlay(task: Task) -> Image.Image:
    """Draw what is the same in every frame."""
    layer = Image.new("RGBA", task.size)
    caption(layer, task.prompt)
    badge(layer, label(task))
    return layer


def _progress(frame: Image.Image, number: int, count: int) -> None:
    """Draw a progress bar along the bottom and a time code in the upper right corner."""
    width, height = frame.size
    unit = min(frame.size)
    bar = max(4, round(unit * 0.012))
    draw = ImageDraw.Draw(frame)
    draw.rectangle((0, height - bar, width, height), fill="#1b2133")
    draw.rectangle((0, height - bar, round(width * (number + 1) / count), height), fill="white")
    code = f"{number / FRAMES_PER_SECOND:05.2f} / {count / FRAMES_PER_SECOND:05.2f}"
    letters = font(max(9, round(unit * 0.03)))
    spot = (width - round(unit * 0.05), round(unit * 0.045))
    draw.text(spot, code, font=letters, fill="white", stroke_fill="#0b1020", stroke_width=1, anchor="rt")
