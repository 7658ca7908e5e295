"""Captions and badges in any script that the font covers, Chinese, Japanese and Korean included."""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from importlib.resources import as_file, files

from PIL import Image, ImageDraw, ImageFont

_FONT = "NotoSansCJK-VF.otf.ttc"
_SIMPLIFIED_CHINESE = 2
_UNCOVERED = "·"
_NO_SUCH_CHARACTER = "\U0010ffff"

Font = ImageFont.FreeTypeFont


@lru_cache(maxsize=64)
def font(size: int, weight: int) -> Font:
    """Open the caption font at a size in pixels and a weight from 100 to 900."""
    with as_file(files("manimgx_fonts_cjk") / _FONT) as path:
        opened = ImageFont.truetype(path, size, index=_SIMPLIFIED_CHINESE)
    opened.set_variation_by_axes([weight])
    return opened


def covered(text: str) -> str:
    """Replace what the font cannot show, and drop what shows nothing."""
    one_line = " ".join(text.split())
    return "".join(
        letter if _is_covered(letter) else _UNCOVERED
        for letter in one_line
        if unicodedata.category(letter) not in {"Cc", "Cf", "Mn", "Cs"}
    )


@lru_cache(maxsize=8192)
def _is_covered(letter: str) -> bool:
    return letter.isspace() or _mask(letter) != _mask(_NO_SUCH_CHARACTER)


def _mask(letter: str) -> bytes:
    return bytes(font(24, 400).getmask(letter))


def caption(frame: Image.Image, text: str) -> None:
    """Write the prompt over the foot of the picture, as large as it fits in a few lines."""
    width, height = frame.size
    unit = min(width, height)
    margin = round(unit * 0.055)
    letters, lines = _fitted(covered(text), width - 2 * margin, unit)
    leading = round(letters.size * 1.34)
    top = height - margin - leading * len(lines)
    _shade(frame, round(top - unit * 0.1))
    draw = ImageDraw.Draw(frame)
    for number, line in enumerate(lines):
        draw.text((margin, top + number * leading), line, font=letters, fill="white")


def badge(frame: Image.Image, text: str) -> None:
    """Put a small label into the upper left corner."""
    unit = min(frame.size)
    margin, padding = round(unit * 0.045), round(unit * 0.016)
    letters = font(max(9, round(unit * 0.026)), 500)
    text = covered(text)
    left, top, right, bottom = letters.getbbox(text)
    box = (margin, margin, margin + right - left + 2 * padding, margin + bottom - top + 2 * padding)
    veil = Image.new("L", frame.size)
    ImageDraw.Draw(veil).rounded_rectangle(box, radius=(box[3] - box[1]) // 2, fill=120)
    frame.paste("#0b1020", mask=veil)
    ImageDraw.Draw(frame).text(
        (margin + padding - left, margin + padding - top), text, font=letters, fill="white"
    )


def _fitted(text: str, width: int, unit: int) -> tuple[Font, list[str]]:
    for share, most in ((0.075, 2), (0.058, 3), (0.046, 4)):
        letters = font(max(10, round(unit * share)), 600)
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
    """Split where a line may break: after a space, and around every wide character."""
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
    """Darken the foot of the picture, so that white letters can be read on anything."""
    width, height = frame.size
    depth = height - max(0, top)
    veil = Image.linear_gradient("L").point(lambda level: round(min(1.0, level / 110) * 175))
    frame.paste("#05070f", (0, height - depth), mask=veil.resize((width, depth)))
