"""Draw images and videos: a generated composition, the prompt as a caption, and a label."""

from __future__ import annotations

import colorsys
import io
import math
import os
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, cast

from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont

from piccc.emulator.tasks import Task

if TYPE_CHECKING:
    from av.video.stream import VideoStream

# Fonts with Chinese, Japanese and Korean characters, by file name prefix, best first.
_CJK_FONTS = (
    "NotoSansCJK",
    "NotoSansSC",
    "SourceHanSans",
    "wqy-microhei",
    "wqy-zenhei",
    "PingFang",
    "Hiragino Sans GB",
    "STHeiti",
    "msyh",
    "simhei",
    "DroidSansFallback",
    "Arial Unicode",
)
_FONT_SUFFIXES = {".otf", ".otc", ".ttc", ".ttf"}
_NO_SUCH_CHARACTER = "\U0010ffff"

Font = ImageFont.FreeTypeFont


def font_folders() -> list[Path]:
    """Return the system's font folders on Linux, macOS and Windows."""
    home = Path.home()
    return [
        Path("/usr/share/fonts"),
        Path("/usr/local/share/fonts"),
        home / ".local/share/fonts",
        home / ".fonts",
        Path("/System/Library/Fonts"),
        Path("/Library/Fonts"),
        home / "Library/Fonts",
        Path(os.environ.get("WINDIR", "C:/Windows")) / "Fonts",
        Path(os.environ.get("LOCALAPPDATA", home)) / "Microsoft/Windows/Fonts",
    ]


@lru_cache(maxsize=1)
def cjk_font_file() -> Path | None:
    """Return a system font with Chinese, Japanese and Korean characters, or None."""
    found: dict[str, Path] = {}
    for folder in font_folders():
        for root, _, names in os.walk(folder):
            for name in sorted(names):
                start = next((start for start in _CJK_FONTS if name.startswith(start)), None)
                if start and Path(name).suffix.lower() in _FONT_SUFFIXES:
                    found.setdefault(start, Path(root, name))
    return next((found[start] for start in _CJK_FONTS if start in found), None)


@lru_cache(maxsize=64)
def font(size: int, *, cjk: bool = False) -> Font:
    """Return a font at a size in pixels: Pillow's default, or a system font for CJK."""
    path = cjk_font_file() if cjk else None
    if path is not None:
        with suppress(OSError):  # not a font file
            return ImageFont.truetype(path, size)
    return cast(Font, ImageFont.load_default(size))  # given a size, this is a FreeType font or an ImportError


def drawable(text: str) -> tuple[str, bool]:
    """Return the drawable part of the text, and whether to use the CJK font."""
    letters = [letter for letter in " ".join(text.split()) if unicodedata.category(letter) not in _INVISIBLE]
    plain, wide = ("".join(letter for letter in letters if _covers(letter, cjk=cjk)) for cjk in (False, True))
    cjk = len(wide) > len(plain)
    return " ".join((wide if cjk else plain).split()), cjk


_INVISIBLE = {"Cc", "Cf", "Mn", "Cs"}


@lru_cache(maxsize=8192)
def _covers(letter: str, *, cjk: bool) -> bool:
    drawn, missing = (bytes(font(24, cjk=cjk).getmask(one)) for one in (letter, _NO_SUCH_CHARACTER))
    return letter.isspace() or drawn != missing


def caption(frame: Image.Image, text: str) -> None:
    """Write the prompt across the bottom of the frame, as large as fits on a few lines."""
    width, height = frame.size
    unit = min(width, height)
    margin = round(unit * 0.055)
    text, cjk = drawable(text)
    if not text:
        return
    letters, lines = _fitted(text, width - 2 * margin, unit, cjk=cjk)
    leading = round(letters.size * 1.34)
    top = height - margin - leading * len(lines)
    _shade(frame, round(top - unit * 0.1))
    draw = ImageDraw.Draw(frame)
    for number, line in enumerate(lines):
        draw.text((margin, top + number * leading), line, font=letters, fill="white")


def badge(frame: Image.Image, text: str) -> None:
    """Draw a small label in the upper left corner."""
    unit = min(frame.size)
    margin, padding = round(unit * 0.045), round(unit * 0.016)
    text, cjk = drawable(text)
    letters = font(max(9, round(unit * 0.026)), cjk=cjk)
    left, top, right, bottom = letters.getbbox(text)
    box = (margin, margin, margin + right - left + 2 * padding, margin + bottom - top + 2 * padding)
    veil = Image.new("L", frame.size)
    ImageDraw.Draw(veil).rounded_rectangle(box, radius=(box[3] - box[1]) // 2, fill=120)
    frame.paste("#0b1020", mask=veil)
    ImageDraw.Draw(frame).text(
        (margin + padding - left, margin + padding - top), text, font=letters, fill="white"
    )


def _fitted(text: str, width: int, unit: int, *, cjk: bool) -> tuple[Font, list[str]]:
    for share, most in ((0.075, 2), (0.058, 3), (0.046, 4)):
        letters = font(max(10, round(unit * share)), cjk=cjk)
        lines = _wrapped(text, letters, width)
        if len(lines) <= most:
            return letters, lines
    kept = lines[:most]
    while kept[-1] and letters.getlength(kept[-1] + "…") > width:
        kept[-1] = kept[-1][:-1]
    return letters, [*kept[:-1], kept[-1] + "…"]


def _wrapped(text: str, letters: Font, width: int) -> list[str]:
    lines = [""]
    for word in _words(text):
        if letters.getlength((lines[-1] + word).rstrip()) <= width:
            lines[-1] += word
        else:
            lines.append(word)
    return [line.strip() for line in lines if line.strip()] or [""]


def _words(text: str) -> list[str]:
    """Split at line break opportunities: after a space, and around every wide character."""
    words = [""]
    for letter in text:
        wide = unicodedata.east_asian_width(letter) in "WF"
        if wide or (words[-1] and (words[-1][-1] == " " or len(words[-1]) == 24)):
            words.append(letter)
        else:
            words[-1] += letter
        if wide:
            words.append("")
    return words


def _shade(frame: Image.Image, top: int) -> None:
    """Darken the bottom of the frame so that white text is legible."""
    width, height = frame.size
    depth = height - max(0, top)
    veil = Image.linear_gradient("L").point(lambda level: round(min(1.0, level / 110) * 175))
    frame.paste("#05070f", (0, height - depth), mask=veil.resize((width, depth)))


Size = tuple[int, int]
Colour = tuple[int, int, int]
Place = Callable[[float], tuple[int, int]]

_FINE = 2
_LARGEST = 1280


@dataclass(frozen=True, slots=True)
class Sprite:
    """A soft-edged shape and its position over time, from 0 to 1."""

    mask: Image.Image
    colour: Colour
    place: Place


@dataclass(slots=True)
class Composition:
    """A background and the shapes that move across it."""

    ground: Image.Image
    sprites: list[Sprite] = field(default_factory=list)

    def at(self, moment: float) -> Image.Image:
        """Draw the frame at a time from 0 to 1."""
        frame = self.ground.copy()
        for sprite in self.sprites:
            frame.paste(sprite.colour, sprite.place(moment), sprite.mask)
        return frame


def composition(prompt: str, seed: int, size: Size) -> Composition:
    """Compose a scene from the prompt and seed, deterministically, at most 1280 pixels on the longer side."""
    rng = Random(blake2b(f"{seed}\n{prompt}".encode(), digest_size=16).digest())  # noqa: S311  not used for security
    scale = min(1.0, _LARGEST / max(size))
    canvas = (round(size[0] * scale), round(size[1] * scale))
    compose = rng.choice([_hills, _planets, _lanterns])
    return compose(rng, canvas)


def _hills(rng: Random, size: Size) -> Composition:
    width, height = size
    hue = rng.random()
    made = Composition(_gradient(size, _tone(hue + 0.08, 0.45, 0.98), _tone(hue - 0.04, 0.55, 0.86)))
    radius = round(min(size) * rng.uniform(0.11, 0.17))
    sun_left, sun_top = rng.uniform(0.15, 0.65), rng.uniform(0.12, 0.24)
    sun = _glow(radius)
    made.sprites.append(Sprite(sun, (255, 246, 224), _arc(size, sun.size, sun_left, sun_top)))
    layers = 5
    for layer in range(layers):
        depth = layer / (layers - 1)
        colour = _tone(hue + 0.02 - 0.1 * depth, 0.38 + 0.34 * depth, 0.82 - 0.66 * depth)
        travel = round(width * (0.04 + 0.3 * depth))
        crest = height * (0.42 + 0.13 * layer)
        mask = _ridge(rng, (width + travel, height), crest, height * (0.16 - 0.015 * layer))
        made.sprites.append(Sprite(mask, colour, _slide(-travel)))
    return made


def _planets(rng: Random, size: Size) -> Composition:
    width, height = size
    hue = rng.random()
    ground = _gradient(size, _tone(hue, 0.75, 0.1), _tone(hue + 0.12, 0.6, 0.34))
    _stars(rng, ground)
    made = Composition(ground)
    unit = min(size)
    centre = (width * rng.uniform(0.4, 0.6), height * rng.uniform(0.36, 0.48))
    for number in range(4):
        reach = unit * (0.2 + 0.13 * number)
        ring = _ring(round(reach), max(1, unit // 260))
        spot = (round(centre[0] - ring.width / 2), round(centre[1] - ring.height / 2))
        made.sprites.append(Sprite(ring, _tone(hue + 0.1, 0.25, 0.62), _still(spot)))
        ball = _disc(round(unit * rng.uniform(0.022, 0.062)))
        turn, start = rng.choice([1, -1]) * rng.uniform(0.15, 0.6), rng.random()
        colour = _tone(hue + rng.uniform(-0.25, 0.35), 0.55, 0.98)
        made.sprites.append(Sprite(ball, colour, _orbit(centre, reach, ball.size, start, turn)))
    heart = _glow(round(unit * 0.1))
    spot = (round(centre[0] - heart.width / 2), round(centre[1] - heart.height / 2))
    made.sprites.append(Sprite(heart, _tone(hue + 0.45, 0.3, 1.0), _still(spot)))
    return made


def _lanterns(rng: Random, size: Size) -> Composition:
    width, height = size
    hue = rng.random()
    made = Composition(_gradient(size, _tone(hue, 0.62, 0.5), _tone(hue + 0.16, 0.5, 0.93)))
    unit = min(size)
    for number in range(22):
        radius = unit * (0.02 + 0.2 * (1 - number / 22) ** 1.6) * rng.uniform(0.7, 1.2)
        mask = _disc(round(radius), strength=round(60 + 110 * (number / 22)))
        left = rng.uniform(-0.05, 1.0) * width - radius
        start = rng.uniform(-0.1, 1.1) * height - radius
        colour = _tone(hue + rng.choice([0.0, 0.08, 0.16, 0.5]), rng.uniform(0.15, 0.5), 1.0)
        made.sprites.append(Sprite(mask, colour, _rise(left, start, height * rng.uniform(0.1, 0.45), unit)))
    return made


def _tone(hue: float, saturation: float, value: float) -> Colour:
    red, green, blue = colorsys.hsv_to_rgb(hue % 1, min(1.0, saturation), max(0.0, min(1.0, value)))
    return round(red * 255), round(green * 255), round(blue * 255)


def _gradient(size: Size, top: Colour, bottom: Colour) -> Image.Image:
    share = Image.linear_gradient("L").resize(size)
    return Image.composite(Image.new("RGB", size, bottom), Image.new("RGB", size, top), share)


def _stars(rng: Random, ground: Image.Image) -> None:
    draw = ImageDraw.Draw(ground)
    for _ in range(140):
        left, top = rng.randrange(ground.width), rng.randrange(ground.height)
        light = rng.randrange(110, 255)
        draw.point((left, top), fill=(light, light, light))


def _ridge(rng: Random, size: Size, crest: float, swing: float) -> Image.Image:
    waves = [(rng.uniform(0.6, 1.4) * 2**octave, rng.random(), 0.55**octave) for octave in range(4)]
    width, height = size[0] * _FINE, size[1] * _FINE
    points = [(0.0, float(height))]
    for left in range(0, width + 8, 8):
        rise = sum(
            strength * math.sin(math.tau * (rate * left / width + shift)) for rate, shift, strength in waves
        )
        points.append((left, (crest - swing * rise / 2) * _FINE))
    mask = Image.new("L", (width, height))
    ImageDraw.Draw(mask).polygon([*points, (width, height)], fill=255)
    return mask.reduce(_FINE)


def _disc(radius: int, strength: int = 255) -> Image.Image:
    side = 2 * max(2, radius)
    mask = Image.new("L", (side * _FINE, side * _FINE))
    ImageDraw.Draw(mask).ellipse((0, 0, side * _FINE - 1, side * _FINE - 1), fill=strength)
    return mask.reduce(_FINE)


def _ring(radius: int, stroke: int) -> Image.Image:
    outer = _disc(radius, 110)
    hole = Image.new("L", outer.size)
    inner = _disc(radius - stroke, 255)
    hole.paste(inner, ((outer.width - inner.width) // 2, (outer.height - inner.height) // 2))
    return ImageChops.subtract(outer, hole)


def _glow(radius: int) -> Image.Image:
    disc = _disc(radius)
    mask = Image.new("L", (disc.width * 3, disc.height * 3))
    mask.paste(disc, (disc.width, disc.height))
    halo = mask.filter(ImageFilter.GaussianBlur(radius * 0.7)).point(lambda level: level * 0.75)
    return ImageChops.lighter(mask, halo)


def _still(spot: tuple[int, int]) -> Place:
    return lambda moment: spot


def _slide(distance: int) -> Place:
    return lambda moment: (round(distance * moment), 0)


def _arc(size: Size, shape: Size, left: float, top: float) -> Place:
    def place(moment: float) -> tuple[int, int]:
        across = left + 0.2 * moment
        down = top + 0.1 * (1 - math.sin(math.pi * (0.2 + 0.6 * moment)))
        return round(size[0] * across - shape[0] / 3), round(size[1] * down - shape[1] / 3)

    return place


def _orbit(centre: tuple[float, float], reach: float, shape: Size, start: float, turn: float) -> Place:
    def place(moment: float) -> tuple[int, int]:
        angle = math.tau * (start + turn * moment)
        left, top = centre[0] + reach * math.cos(angle), centre[1] + reach * math.sin(angle)
        return round(left - shape[0] / 2), round(top - shape[1] / 2)

    return place


def _rise(left: float, start: float, distance: float, unit: int) -> Place:
    def place(moment: float) -> tuple[int, int]:
        sway = 0.015 * unit * math.sin(math.tau * (moment + start / unit))
        return round(left + sway), round(start - distance * moment)

    return place


FORMATS = {"image/png": "PNG", "image/jpeg": "JPEG", "image/webp": "WEBP"}

_MOMENT = 0.4


def render_image(task: Task) -> bytes:
    """Render an image task as PNG, JPEG or WebP; the same task gives the same bytes."""
    ground = composition(task.prompt, task.seed, task.size).at(_MOMENT)
    frame = ground.resize(task.size, Image.Resampling.BICUBIC)
    caption(frame, task.prompt)
    badge(frame, label(task))
    file = io.BytesIO()
    frame.save(file, FORMATS[task.mime_type], quality=90, compress_level=3)
    return file.getvalue()


def label(task: Task) -> str:
    """Return the label: model, seed, aspect ratio and size."""
    width, height = task.size
    return f"{task.model}  ·  seed {task.seed}  ·  {task.aspect_ratio}  ·  {width} x {height}"


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
    """Encode frames. Needs a real file, because faststart rewrites it to move the index to the front."""
    import av  # 0.2 s and 100 MB of libraries that images do not need

    with TemporaryDirectory() as folder:
        path = Path(folder, "video.mp4")
        with av.open(path, "w", options={"movflags": "+faststart"}) as container:
            stream = container.add_stream("libx264", rate=FRAMES_PER_SECOND)
            _configure(stream, size)
            for number, frame in enumerate(frames):
                shot = av.VideoFrame.from_image(frame)  # type: ignore[no-untyped-call]  # untyped in PyAV
                shot.pts, shot.time_base = number, Fraction(1, FRAMES_PER_SECOND)
                container.mux(stream.encode(shot))
            container.mux(stream.encode())
        return path.read_bytes()


def _configure(stream: VideoStream, size: tuple[int, int]) -> None:
    stream.width, stream.height = size
    stream.pix_fmt = "yuv420p"
    # One thread, because the encoder's output depends on the number of threads.
    stream.options = {"preset": "ultrafast", "crf": "26", "threads": "1"}
    stream.codec_context.thread_count = 1


def _overlay(task: Task) -> Image.Image:
    """Draw what every frame shares."""
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
