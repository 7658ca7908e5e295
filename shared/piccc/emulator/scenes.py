"""The pictures' compositions: what a prompt's hash paints, at any moment of a film."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import blake2b
from random import Random

from PIL import Image, ImageChops, ImageDraw, ImageFilter

Size = tuple[int, int]
Colour = tuple[int, int, int]
Place = Callable[[float], tuple[int, int]]

_FINE = 2
_LARGEST = 1280


@dataclass(frozen=True, slots=True)
class Sprite:
    """One shape with a soft edge, and where its corner is at a moment from 0 to 1."""

    mask: Image.Image
    colour: Colour
    place: Place


@dataclass(slots=True)
class Scene:
    """A ground and the shapes that move before it."""

    ground: Image.Image
    sprites: list[Sprite] = field(default_factory=list)

    def at(self, moment: float) -> Image.Image:
        """Paint the scene at a moment from 0 to 1."""
        frame = self.ground.copy()
        for sprite in self.sprites:
            frame.paste(sprite.colour, sprite.place(moment), sprite.mask)
        return frame


def scene(prompt: str, seed: int, size: Size) -> Scene:
    """Compose what belongs to a prompt and a seed; the same for the same three, at most 1280 pixels long."""
    chance = Random(blake2b(f"{seed}\n{prompt}".encode(), digest_size=16).digest())  # noqa: S311 - a painting
    scale = min(1.0, _LARGEST / max(size))
    canvas = (round(size[0] * scale), round(size[1] * scale))
    compose = chance.choice([_hills, _planets, _lanterns])
    return compose(chance, canvas)


def _hills(chance: Random, size: Size) -> Scene:
    width, height = size
    hue = chance.random()
    made = Scene(_gradient(size, _tone(hue + 0.08, 0.45, 0.98), _tone(hue - 0.04, 0.55, 0.86)))
    radius = round(min(size) * chance.uniform(0.11, 0.17))
    sun_left, sun_top = chance.uniform(0.15, 0.65), chance.uniform(0.12, 0.24)
    sun = _glow(radius)
    made.sprites.append(Sprite(sun, (255, 246, 224), _arc(size, sun.size, sun_left, sun_top)))
    layers = 5
    for layer in range(layers):
        depth = layer / (layers - 1)
        colour = _tone(hue + 0.02 - 0.1 * depth, 0.38 + 0.34 * depth, 0.82 - 0.66 * depth)
        travel = round(width * (0.04 + 0.3 * depth))
        crest = height * (0.42 + 0.13 * layer)
        mask = _ridge(chance, (width + travel, height), crest, height * (0.16 - 0.015 * layer))
        made.sprites.append(Sprite(mask, colour, _slide(-travel)))
    return made


def _planets(chance: Random, size: Size) -> Scene:
    width, height = size
    hue = chance.random()
    ground = _gradient(size, _tone(hue, 0.75, 0.1), _tone(hue + 0.12, 0.6, 0.34))
    _stars(chance, ground)
    made = Scene(ground)
    unit = min(size)
    centre = (width * chance.uniform(0.4, 0.6), height * chance.uniform(0.36, 0.48))
    for number in range(4):
        reach = unit * (0.2 + 0.13 * number)
        ring = _ring(round(reach), max(1, unit // 260))
        spot = (round(centre[0] - ring.width / 2), round(centre[1] - ring.height / 2))
        made.sprites.append(Sprite(ring, _tone(hue + 0.1, 0.25, 0.62), _still(spot)))
        ball = _disc(round(unit * chance.uniform(0.022, 0.062)))
        turn, start = chance.choice([1, -1]) * chance.uniform(0.15, 0.6), chance.random()
        colour = _tone(hue + chance.uniform(-0.25, 0.35), 0.55, 0.98)
        made.sprites.append(Sprite(ball, colour, _orbit(centre, reach, ball.size, start, turn)))
    heart = _glow(round(unit * 0.1))
    spot = (round(centre[0] - heart.width / 2), round(centre[1] - heart.height / 2))
    made.sprites.append(Sprite(heart, _tone(hue + 0.45, 0.3, 1.0), _still(spot)))
    return made


def _lanterns(chance: Random, size: Size) -> Scene:
    width, height = size
    hue = chance.random()
    made = Scene(_gradient(size, _tone(hue, 0.62, 0.5), _tone(hue + 0.16, 0.5, 0.93)))
    unit = min(size)
    for number in range(22):
        radius = unit * (0.02 + 0.2 * (1 - number / 22) ** 1.6) * chance.uniform(0.7, 1.2)
        mask = _disc(round(radius), strength=round(60 + 110 * (number / 22)))
        left = chance.uniform(-0.05, 1.0) * width - radius
        start = chance.uniform(-0.1, 1.1) * height - radius
        colour = _tone(hue + chance.choice([0.0, 0.08, 0.16, 0.5]), chance.uniform(0.15, 0.5), 1.0)
        made.sprites.append(
            Sprite(mask, colour, _rise(left, start, height * chance.uniform(0.1, 0.45), unit))
        )
    return made


def _tone(hue: float, saturation: float, value: float) -> Colour:
    red, green, blue = colorsys.hsv_to_rgb(hue % 1, min(1.0, saturation), max(0.0, min(1.0, value)))
    return round(red * 255), round(green * 255), round(blue * 255)


def _gradient(size: Size, top: Colour, bottom: Colour) -> Image.Image:
    share = Image.linear_gradient("L").resize(size)
    return Image.composite(Image.new("RGB", size, bottom), Image.new("RGB", size, top), share)


def _stars(chance: Random, ground: Image.Image) -> None:
    draw = ImageDraw.Draw(ground)
    for _ in range(140):
        left, top = chance.randrange(ground.width), chance.randrange(ground.height)
        light = chance.randrange(110, 255)
        draw.point((left, top), fill=(light, light, light))


def _ridge(chance: Random, size: Size, crest: float, swing: float) -> Image.Image:
    waves = [(chance.uniform(0.6, 1.4) * 2**octave, chance.random(), 0.55**octave) for octave in range(4)]
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
