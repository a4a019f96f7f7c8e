"""Drawing of one street-like scene: a function of (seed, split, index, size), with exact labels.

Everything is drawn twice with the same hard-edged (not antialiased) strokes: once into the picture, once into the
labels.  Hues, brightness, light and shadow change from scene to scene and overlap between classes, so that a pixel's
colour says little; place, shape and texture say what it is.  Sizes follow a camera at head height: a thing that
stands on the ground at row y is as large as y is far below the horizon.
"""

from __future__ import annotations

import colorsys
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import cv2
import numpy as np
from jaxtyping import UInt8

NAMES = ("sky", "road", "pavement", "building", "vegetation", "vehicle", "person", "pole", "sign")
SKY, ROAD, PAVEMENT, BUILDING, VEGETATION, VEHICLE, PERSON, POLE, SIGN = range(len(NAMES))

# Strength of the fine and of the coarse luminance texture of each class.
_FINE = np.array([0.00, 0.07, 0.05, 0.05, 0.26, 0.02, 0.06, 0.02, 0.02], np.float32)
_COARSE = np.array([0.10, 0.05, 0.06, 0.08, 0.22, 0.05, 0.08, 0.04, 0.02], np.float32)

# Quantiles of the normal distribution at (k + 1/2) / 256.
_NORMAL_QUANTILES = np.array([NormalDist().inv_cdf((k + 0.5) / 256) for k in range(256)])

Color = tuple[int, int, int]
Real = float | int | np.integer


@dataclass
class Canvas:
    """Picture (RGB) and labels that strokes go into together."""

    picture: UInt8[np.ndarray, "height width 3"]
    labels: UInt8[np.ndarray, "height width"]
    horizon: float
    """row of the horizon"""
    vanishing: float
    """column where the road vanishes"""

    def polygon(self, points: Sequence[tuple[Real, Real]], color: Color, train_id: int | None) -> None:
        """Filled polygon of (x, y) corners; train_id None leaves the labels as they are."""
        corners = np.round(np.array(points)).astype(np.int32)
        cv2.fillPoly(self.picture, [corners], color)
        if train_id is not None:
            cv2.fillPoly(self.labels, [corners], train_id)

    def box(self, left: Real, top: Real, right: Real, bottom: Real, color: Color, train_id: int | None) -> None:
        """Filled rectangle, corners included, at least one pixel wide."""
        first, last = (round(left), round(top)), (round(right), round(bottom))
        cv2.rectangle(self.picture, first, last, color, -1)
        if train_id is not None:
            cv2.rectangle(self.labels, first, last, train_id, -1)

    def ellipse(self, x: Real, y: Real, rx: Real, ry: Real, color: Color, train_id: int | None) -> None:
        """Filled ellipse with half axes rx, ry."""
        center, axes = (round(x), round(y)), (max(1, round(rx)), max(1, round(ry)))
        cv2.ellipse(self.picture, center, axes, 0, 0, 360, color, -1)
        if train_id is not None:
            cv2.ellipse(self.labels, center, axes, 0, 0, 360, train_id, -1)

    def ground_shadow(self, x: Real, y: Real, rx: Real, ry: Real, color: Color) -> None:
        """Filled ellipse on road and pavement only: what stands there is not painted over, and labels stay."""
        center, axes = (round(x), round(y)), (max(1, round(rx)), max(1, round(ry)))
        left, top = max(0, center[0] - axes[0] - 1), max(0, center[1] - axes[1] - 1)
        window = (slice(top, max(top, center[1] + axes[1] + 2)), slice(left, max(left, center[0] + axes[0] + 2)))
        if (labels := self.labels[window]).size:
            middle, shade = (center[0] - left, center[1] - top), np.zeros(labels.shape, np.uint8)
            cv2.ellipse(shade, middle, axes, 0, 0, 360, 1, -1)
            self.picture[window][(shade > 0) & ((labels == ROAD) | (labels == PAVEMENT))] = color


def draw_scene(
    seed: int, split: str, index: int, size: tuple[int, int]
) -> tuple[UInt8[np.ndarray, "height width 3"], UInt8[np.ndarray, "height width"]]:
    """Picture (RGB) and train ids (see NAMES) of one scene; the same arguments give the same bytes.

    Args:
        seed: of the whole set of scenes, from 0.
        split: any text; splits share no scene.
        index: from 0.
        size: height and width in pixels; details become recognisable from about 96x128 on.
    """
    rng = np.random.default_rng((seed, zlib.crc32(split.encode()), index))
    height, width = size
    canvas = Canvas(
        np.zeros((height, width, 3), np.uint8),
        np.full((height, width), SKY, np.uint8),
        horizon=height * rng.uniform(0.38, 0.52),
        vanishing=width * rng.uniform(0.35, 0.65),
    )
    _sky(canvas, rng)
    _ground(canvas, rng)
    _buildings(canvas, rng)
    _shadows(canvas, rng)
    _things(canvas, rng)
    return _light(canvas, rng), canvas.labels


def _color(
    rng: np.random.Generator, low: Real, high: Real, saturation: Real, hue: tuple[Real, Real] = (0.0, 1.0)
) -> Color:
    """Random colour: brightness between low and high (0 to 255), saturation up to the given one, hue in [0, 1]."""
    share = rng.uniform(0, saturation)
    red, green, blue = colorsys.hsv_to_rgb(rng.uniform(*hue) % 1.0, share, rng.uniform(low, high))
    return (round(red), round(green), round(blue))


def _scaled(color: Color, factor: Real) -> Color:
    return (min(255, round(color[0] * factor)), min(255, round(color[1] * factor)), min(255, round(color[2] * factor)))


def _sky(canvas: Canvas, rng: np.random.Generator) -> None:
    rows = canvas.picture.shape[0]
    tint = (0.53, 0.64) if rng.random() < 0.7 else (-0.06, 0.12)  # day, or dusk
    top, bottom = np.array(_color(rng, 70, 230, 0.6, tint)), np.array(_color(rng, 110, 245, 0.3, tint))
    part = np.clip(np.arange(rows) / max(1.0, canvas.horizon), 0, 1)[:, None]
    canvas.picture[:] = (top * (1 - part) + bottom * part)[:, None, :].astype(np.uint8)


def _ground(canvas: Canvas, rng: np.random.Generator) -> None:
    height, width = canvas.labels.shape
    horizon, vanishing = canvas.horizon, canvas.vanishing
    pavement = _color(rng, 60, 200, 0.3, (0.0, 0.2))
    canvas.box(0, horizon, width, height, pavement, PAVEMENT)
    joint = _scaled(pavement, rng.uniform(0.6, 0.8))
    depth = height - horizon
    for part in np.linspace(0.0, 1.0, 14)[1:] ** 2.2:  # slabs: joints lie denser towards the horizon
        row = round(horizon + part * depth)
        cv2.line(canvas.picture, (0, row), (width, row), joint, 1)
    for column in np.linspace(-2.5, 3.5, 25) * width:
        cv2.line(canvas.picture, (round(vanishing), round(horizon)), (round(column), height), joint, 1)
    left, right = width * rng.uniform(-0.35, 0.15), width * rng.uniform(0.85, 1.35)
    half = width * rng.uniform(0.01, 0.05)
    road = _color(rng, 45, 180, 0.15)
    corners = [(vanishing - half, horizon), (vanishing + half, horizon), (right, height), (left, height)]
    canvas.polygon(corners, road, ROAD)
    for near, far in ((left, vanishing - half), (right, vanishing + half)):  # kerbs
        width_below = 0.012 * width
        canvas.polygon(
            [(far, horizon), (near - width_below, height), (near + width_below, height)],
            _scaled(pavement, 1.25),
            PAVEMENT,
        )
    paint = _scaled((230, 230, 225), rng.uniform(0.7, 1.1))
    middle = (left + right) / 2 + width * rng.uniform(-0.1, 0.1)
    for start in np.arange(rng.uniform(0, 0.1), 1, 0.2):  # dashed line
        ends = [(start + length) ** 2 for length in (0.0, 0.09)]
        points = []
        for part, side in ((ends[0], -1), (ends[0], 1), (ends[1], 1), (ends[1], -1)):
            x = vanishing + (middle - vanishing) * part + side * 0.012 * width * part
            points.append((x, horizon + part * depth))
        canvas.polygon(points, paint, None)


def _buildings(canvas: Canvas, rng: np.random.Generator) -> None:
    height, width = canvas.labels.shape
    x = -width * rng.uniform(0, 0.1)
    while x < width:
        wide = width * rng.uniform(0.1, 0.3)
        if rng.random() < 0.82:
            distance = min(1.0, abs(x + wide / 2 - canvas.vanishing) / (0.6 * width))  # nearer ones stand at the sides
            top = canvas.horizon * (1 - (0.35 + 0.6 * distance) * rng.uniform(0.5, 1.15))
            _building(canvas, rng, (x, top, x + wide, canvas.horizon + height * (0.01 + 0.07 * distance)))
        x += wide * rng.uniform(0.85, 1.1)


def _building(canvas: Canvas, rng: np.random.Generator, frame: tuple[Real, Real, Real, Real]) -> None:
    left, top, right, bottom = frame
    wall = _color(rng, 50, 215, 0.6, (-0.03, 0.17) if rng.random() < 0.7 else (0.0, 1.0))
    canvas.box(left, top, right, bottom, wall, BUILDING)
    if rng.random() < 0.4:
        peak = (left + right) / 2 + (right - left) * rng.uniform(-0.2, 0.2)
        roof = [(left, top), (right, top), (peak, top - (right - left) * rng.uniform(0.15, 0.4))]
        canvas.polygon(roof, _scaled(wall, rng.uniform(0.5, 0.8)), BUILDING)
    glass = _scaled(wall, rng.choice([0.35, 0.5, 1.4, 1.6]))
    step = max(5.0, canvas.labels.shape[0] * rng.uniform(0.035, 0.06))
    for row in np.arange(top + 0.4 * step, bottom - step, step * 1.3):
        for column in np.arange(left + 0.4 * step, right - 0.8 * step, step):
            canvas.box(column, row, column + 0.5 * step, row + 0.75 * step, glass, None)


def _shadows(canvas: Canvas, rng: np.random.Generator) -> None:
    """Darken slanted patches of the ground and of the walls; labels stay."""
    height, width = canvas.labels.shape
    shade = np.zeros((height, width), np.uint8)
    for _ in range(rng.integers(0, 4)):
        x, wide, slant = rng.uniform(-0.2, 1) * width, rng.uniform(0.1, 0.4) * width, rng.uniform(-0.5, 0.5) * width
        top = canvas.horizon - height * rng.uniform(0, 0.2)
        corners = [(x, top), (x + wide, top), (x + wide + slant, height), (x + slant, height)]
        cv2.fillPoly(shade, [np.array(corners, np.int32)], 1)
    factor = rng.uniform(0.5, 0.75)
    shaded = cv2.convertScaleAbs(canvas.picture, alpha=factor)
    shade[canvas.labels == SKY] = 0
    cv2.copyTo(shaded, shade, canvas.picture)


def _things(canvas: Canvas, rng: np.random.Generator) -> None:
    """Objects on the ground, far ones first, so that near ones hide them."""
    drawers: list[tuple[Callable[..., None], int, int]] = [
        (_tree, 1, 4),
        (_vehicle, 2, 5),
        (_person, 3, 7),
        (_pole, 3, 6),
        (_sign, 2, 4),
    ]
    depth = canvas.labels.shape[0] - canvas.horizon
    planned = []
    for drawer, fewest, most in drawers:
        for _ in range(rng.integers(fewest, most + 1)):
            planned.append((depth * (0.1 + 0.75 * rng.beta(1.2, 2.0)), drawer))
    for below, drawer in sorted(planned, key=lambda plan: plan[0]):
        drawer(canvas, rng, canvas.horizon + below, below)


def _tree(canvas: Canvas, rng: np.random.Generator, foot: Real, unit: Real) -> None:
    unit = max(unit, 0.12 * canvas.labels.shape[0])
    x = _beside_road(canvas, rng, foot)
    trunk, leaves = _color(rng, 30, 110, 0.5, (0.03, 0.12)), _color(rng, 40, 170, 0.75, (0.06, 0.42))
    tall = unit * rng.uniform(1.6, 2.6)
    canvas.box(x - 0.06 * unit, foot - tall, x + 0.06 * unit, foot, trunk, VEGETATION)
    wide = unit * rng.uniform(0.35, 0.6)
    for _ in range(9):
        dx, dy = rng.normal(0, 0.55, 2) * wide
        radius = wide * rng.uniform(0.35, 0.7)
        canvas.ellipse(x + dx, foot - tall + dy, radius, radius, _scaled(leaves, rng.uniform(0.7, 1.25)), VEGETATION)


def _vehicle(canvas: Canvas, rng: np.random.Generator, foot: Real, unit: Real) -> None:
    unit = max(unit, 0.08 * canvas.labels.shape[0])
    x = canvas.vanishing + (rng.uniform(-0.1, 1.1) * canvas.labels.shape[1] - canvas.vanishing) * 0.9
    high = unit * rng.uniform(0.65, 0.9)
    half = high * rng.uniform(0.75, 1.3)
    paint = _color(rng, 40, 240, 0.85)
    glass, tyre = _color(rng, 25, 120, 0.3), _color(rng, 10, 45, 0.1)
    canvas.ground_shadow(x, foot, half * 1.1, 0.1 * high, _color(rng, 15, 50, 0.1))
    for side in (-0.62, 0.62):
        canvas.ellipse(x + side * half, foot - 0.12 * high, 0.2 * high, 0.2 * high, tyre, VEHICLE)
    canvas.box(x - half, foot - 0.58 * high, x + half, foot - 0.14 * high, paint, VEHICLE)
    cabin = [(-0.75, 0.56), (0.75, 0.56), (0.52, 1.0), (-0.52, 1.0)]
    canvas.polygon([(x + a * half, foot - b * high) for a, b in cabin], _scaled(paint, 0.85), VEHICLE)
    window = [(-0.62, 0.6), (0.62, 0.6), (0.45, 0.93), (-0.45, 0.93)]
    canvas.polygon([(x + a * half, foot - b * high) for a, b in window], glass, None)
    for side in (-0.8, 0.8):
        light = (235, 225, 190) if rng.random() < 0.5 else (200, 40, 35)
        canvas.ellipse(x + side * half, foot - 0.4 * high, 0.07 * high, 0.07 * high, light, None)


def _person(canvas: Canvas, rng: np.random.Generator, foot: Real, unit: Real) -> None:
    unit = max(unit, 0.1 * canvas.labels.shape[0])
    x = rng.uniform(0.02, 0.98) * canvas.labels.shape[1]
    tall = unit * rng.uniform(0.9, 1.15)
    coat, trousers = _color(rng, 30, 235, 0.8), _color(rng, 20, 140, 0.5)
    skin = _scaled((224, 178, 150), rng.uniform(0.4, 1.05))
    half = 0.13 * tall
    spread = rng.uniform(0.2, 1.0) * half
    for side in (-1, 1):
        legs = [(x + side * 0.15 * half, foot - 0.5 * tall), (x + side * half * 0.8, foot - 0.5 * tall)]
        feet = [(x + side * spread + 0.35 * half, foot), (x + side * spread - 0.35 * half, foot)]
        canvas.polygon(legs + feet, trousers, PERSON)
    canvas.box(x - half, foot - 0.83 * tall, x + half, foot - 0.45 * tall, coat, PERSON)
    for side in (-1, 1):
        arm = x + side * 1.2 * half
        canvas.box(
            arm - 0.25 * half, foot - 0.82 * tall, arm + 0.25 * half, foot - 0.48 * tall, _scaled(coat, 0.8), PERSON
        )
    canvas.ellipse(x, foot - 0.91 * tall, 0.075 * tall, 0.09 * tall, skin, PERSON)


def _pole(canvas: Canvas, rng: np.random.Generator, foot: Real, unit: Real) -> None:
    unit = max(unit, 0.06 * canvas.labels.shape[0])
    x = _beside_road(canvas, rng, foot)
    shaft = _shaft(canvas, rng, x, foot, unit * rng.uniform(1.8, 3.2), unit)
    if rng.random() < 0.5:  # a lamp on an arm towards the road
        left, top, right = shaft[0], shaft[1], shaft[2]
        reach = 0.5 * unit if x < canvas.vanishing else -0.5 * unit
        thick = max(0, round(0.5 * (right - left)))
        canvas.box(min(left, left + reach), top, max(right, right + reach), top + thick, shaft[3], POLE)


def _sign(canvas: Canvas, rng: np.random.Generator, foot: Real, unit: Real) -> None:
    unit = max(unit, 0.1 * canvas.labels.shape[0])
    x = _beside_road(canvas, rng, foot)
    left, top, right, _ = _shaft(canvas, rng, x, foot, unit * rng.uniform(1.25, 1.7), unit)
    middle, radius = (left + right) / 2, max(3.0, unit * rng.uniform(0.17, 0.26))
    face, rim = _color(rng, 130, 250, 0.9), _color(rng, 25, 250, 0.9)
    inner = 0.68 * radius
    shape = rng.integers(3)
    if shape == 0:
        canvas.ellipse(middle, top, radius, radius, rim, SIGN)
        canvas.ellipse(middle, top, inner, inner, face, None)
    elif shape == 1:
        corners = [(0.0, -1.1), (1.05, 0.8), (-1.05, 0.8)]
        canvas.polygon([(middle + a * radius, top + b * radius) for a, b in corners], rim, SIGN)
        canvas.polygon([(middle + a * inner * 0.85, top + b * inner * 0.85) for a, b in corners], face, None)
    else:
        canvas.box(middle - radius, top - radius, middle + radius, top + radius, rim, SIGN)
        canvas.box(middle - inner, top - inner, middle + inner, top + inner, face, None)
    if radius >= 5:
        mark = _scaled(face, 0.3)
        canvas.box(middle - 0.12 * radius, top - 0.4 * radius, middle + 0.12 * radius, top + 0.35 * radius, mark, None)


def _shaft(
    canvas: Canvas, rng: np.random.Generator, x: Real, foot: Real, tall: Real, unit: Real
) -> tuple[int, int, int, Color]:
    """An upright pole from 1 px wide, darker or brighter than what is behind it; left, top, right, colour."""
    height, width = canvas.labels.shape
    wide = max(1, round(unit * rng.uniform(0.03, 0.07)))
    left = round(np.clip(x, 0, width - wide))
    top, bottom = round(max(0.0, foot - tall)), round(min(foot, height - 1))
    behind = canvas.picture[top : bottom + 1, left : left + wide].mean() if bottom >= top else 128.0
    color = _color(rng, 10, 55, 0.3) if behind > rng.uniform(75, 130) else _color(rng, 190, 245, 0.2)
    canvas.box(left, top, left + wide - 1, bottom, color, POLE)
    if wide >= 3:  # a lit edge, so that wide poles look round
        cv2.line(canvas.picture, (left, top), (left, bottom), _scaled(color, 1.5), 1)
    return left, top, left + wide - 1, color


def _beside_road(canvas: Canvas, rng: np.random.Generator, foot: Real) -> float:
    """A column on the left or right of the road at row `foot`."""
    height, width = canvas.labels.shape
    row = canvas.labels[min(height - 1, max(0, round(foot)))]
    road = np.flatnonzero(row == ROAD)
    first, last = (road[0], road[-1]) if len(road) else (0.3 * width, 0.7 * width)
    room = {"left": max(0.06 * width, float(first)), "right": max(0.06 * width, float(width - 1 - last))}
    if rng.random() < room["left"] / (room["left"] + room["right"]):
        return rng.uniform(0.05, 0.95) * room["left"]
    return width - 1 - rng.uniform(0.05, 0.95) * room["right"]


def _light(canvas: Canvas, rng: np.random.Generator) -> np.ndarray:
    """Texture by class, light that falls off to one side, a cast of colour, exposure and sensor noise."""
    height, width = canvas.labels.shape
    fine = rng.standard_normal((height, width), dtype=np.float32)
    small = (max(2, height // 8), max(2, width // 8))
    coarse = cv2.resize(rng.standard_normal(small, dtype=np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    texture = 1 + _FINE[canvas.labels] * fine + _COARSE[canvas.labels] * coarse
    left, right = rng.uniform(0.75, 1.2, 2)
    texture *= np.linspace(left, right, width, dtype=np.float32)
    cast = (rng.uniform(0.65, 1.2) * rng.uniform(0.82, 1.18, 3)).astype(np.float32)
    lit = canvas.picture * texture[..., None] * cast
    levels = (_NORMAL_QUANTILES * rng.uniform(1.5, 7.0)).astype(np.float32)
    lit += levels[rng.integers(0, 256, (height, width, 3), np.uint8)]  # five times as fast as normal numbers
    return np.clip(lit, 0, 255).astype(np.uint8)
