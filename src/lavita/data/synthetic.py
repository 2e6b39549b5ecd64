"""Small procedural videos, written as real files in each data set's own layout, so that nothing need be
downloaded.

They take the same path as downloaded data: read_layout, the decoder, the loader.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from lavita.data.video import write_video

SIZE = 64
Generator = np.random.Generator
Scene = Callable[[Generator, Generator, int], np.ndarray]
# Pixel centres, -1..1, y downwards: (64, 64) each.
Y, X = np.meshgrid(*[(np.arange(SIZE) + 0.5) / SIZE * 2 - 1] * 2, indexing="ij")
WHOLE = (slice(None), slice(None))


def slide_sideways(look: Generator, move: Generator, frames: int) -> np.ndarray:
    """A striped box that slides to and fro between left and right."""
    backdrop, colour, other = _backdrop(look), _colour(look, 0.02), _colour(look, 0.15)
    height, phase, period = move.uniform(-0.35, 0.35), move.uniform(0, 2 * np.pi), move.uniform(30, 40)
    pictures = []
    for t in range(frames):
        x = X - 0.6 * np.sin(2 * np.pi * t / period + phase)
        y = Y - height
        stripes = _blend(other, colour, 0.5 + 0.5 * np.sign(np.sin(14 * x)))
        pictures.append(_paint(backdrop, stripes, np.maximum(abs(x), abs(y)) - 0.3))
    return _to_uint8(pictures)


def bounce_ball(look: Generator, move: Generator, frames: int) -> np.ndarray:
    """A dotted ball that falls, is squeezed on the floor and rises again."""
    backdrop, colour, other = _backdrop(look), _colour(look, 0.58), _colour(look, 0.5)
    place, phase, period = move.uniform(-0.45, 0.45), move.uniform(0, 1), move.uniform(20, 26)
    floor = _paint(backdrop, _colour(look, 0.3) * 0.5, 0.75 - Y)
    pictures = []
    for t in range(frames):
        u = (t / period + phase) % 1
        rise = 4 * u * (1 - u)  # a parabola: thrown from the floor, back on it one period later
        squeeze = 1 - 0.3 * max(0.0, 1 - rise / 0.15)
        x, y = (X - place) * squeeze, (Y - (0.45 - 1.05 * rise)) / squeeze
        dots = _blend(colour, other, (np.sin(11 * x) * np.sin(11 * y) > 0.25).astype(float))
        pictures.append(_paint(floor, dots, np.hypot(x, y) - 0.3))
    return _to_uint8(pictures)


def turn_cross(look: Generator, move: Generator, frames: int) -> np.ndarray:
    """A cross with one marked arm that turns about the middle."""
    backdrop, colour, other = _backdrop(look), _colour(look, 0.33), _colour(look, 0.92)
    phase, period = move.uniform(0, 2 * np.pi), move.uniform(30, 42)
    middle = move.uniform(-0.12, 0.12, 2)
    pictures = []
    for t in range(frames):
        angle = 2 * np.pi * t / period + phase
        x = (X - middle[0]) * np.cos(angle) + (Y - middle[1]) * np.sin(angle)
        y = (Y - middle[1]) * np.cos(angle) - (X - middle[0]) * np.sin(angle)
        bar = np.minimum(np.maximum(abs(x) - 0.72, abs(y) - 0.14), np.maximum(abs(y) - 0.72, abs(x) - 0.14))
        marked = _blend(colour, other, ((x > 0.3) & (abs(y) < 0.3)).astype(float))
        pictures.append(_paint(backdrop, marked, bar))
    return _to_uint8(pictures)


def pulse_star(look: Generator, move: Generator, frames: int) -> np.ndarray:
    """A ringed star that grows and shrinks in its place."""
    backdrop, colour, other = _backdrop(look), _colour(look, 0.14), _colour(look, 0.78)
    phase, period = move.uniform(0, 2 * np.pi), move.uniform(26, 36)
    middle = move.uniform(-0.2, 0.2, 2)
    x, y = X - middle[0], Y - middle[1]
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
    pictures = []
    for t in range(frames):
        size = 0.47 + 0.27 * np.sin(2 * np.pi * t / period + phase)
        outline = size * (1 + 0.25 * np.cos(5 * angle + 0.5))
        rings = _blend(colour, other, 0.5 + 0.5 * np.sin(radius / size * 12))
        pictures.append(_paint(backdrop, rings, radius - outline))
    return _to_uint8(pictures)


def drifting_clouds(look: Generator, move: Generator, frames: int) -> np.ndarray:
    """Clouds in two layers that drift at two speeds over a sky which darkens towards the top."""
    top, bottom = _colour(look, look.uniform(0.55, 0.66)) * 0.7, _colour(look, look.uniform(0.02, 0.16))
    sky = top + (bottom - top) * ((Y + 1) / 2)[..., None] ** 1.5
    layers = [(_noise(move, cells), speed) for cells, speed in (((5, 3), 1.1), ((9, 5), 2.2))]
    direction = move.choice([-1, 1]) * move.uniform(0.7, 1.3)
    ground = 0.72 + 0.08 * np.sin(move.uniform(2, 5) * X + move.uniform(0, 6))
    pictures = []
    for t in range(frames):
        cover = sum(_shift(layer, direction * speed * t, 0.25 * t) for layer, speed in layers)
        lit = np.clip((cover - 0.85) * 2.2, 0, 1)[..., None]
        cloudy = sky * (1 - lit) + (0.8 + 0.2 * _shift(layers[1][0], direction * 2.2 * t, 0)[..., None]) * lit
        pictures.append(_paint(cloudy, 0.18 * bottom, ground - Y))
    return _to_uint8(pictures)


def talking_face(look: Generator, move: Generator, frames: int) -> np.ndarray:
    """A cartoon head that sways, looks about, blinks and talks."""
    backdrop, skin, hair = _backdrop(look), _skin(look), _colour(look, look.uniform(0, 1)) * 0.45
    iris, wide = _colour(look, look.uniform(0, 1)) * 0.5, look.uniform(0.46, 0.56)
    pace, phase = move.uniform(2 * np.pi / 16, 2 * np.pi / 11), move.uniform(0, 2 * np.pi, 3)
    blink = int(move.integers(20, 34))
    pictures = []
    for t in range(frames):
        x = 0.14 * np.sin(2 * np.pi * t / 44 + phase[0])
        y = 0.05 * np.sin(2 * np.pi * t / 27 + phase[1])
        picture = _ellipse(backdrop, hair, x, y - 0.12, 1.08 * wide, 0.8)
        picture = _ellipse(picture, skin, x, y + 0.05, wide, 0.68)
        lids = 0.02 if t % blink < 3 else 0.11
        gaze = 0.05 * np.sin(2 * np.pi * t / 22 + phase[2])
        for side in (-0.21, 0.21):
            picture = _ellipse(picture, np.full(3, 0.96), x + side, y - 0.1, 0.13, lids)
            picture = _ellipse(picture, iris, x + side + gaze, y - 0.1, 0.065, min(0.065, lids))
        picture = _ellipse(picture, skin * 0.8, x, y + 0.1, 0.05, 0.13)
        mouth = 0.03 + 0.07 * (1 + np.sin(pace * t + phase[0]))
        pictures.append(_ellipse(picture, np.array([0.55, 0.1, 0.15]), x, y + 0.38, 0.2, mouth))
    return _to_uint8(pictures)


def slow_boxer(look: Generator, move: Generator, frames: int) -> np.ndarray:
    """A stick figure that shifts its weight and swings arms and legs in slow arcs."""
    backdrop, shirt, trousers = _backdrop(look), _colour(look, look.uniform(0, 1)), _colour(look, 0.6) * 0.35
    skin, phase, period = _skin(look), move.uniform(0, 2 * np.pi), move.uniform(34, 46)
    pictures = []
    for t in range(frames):
        turn = 2 * np.pi * t / period + phase
        hip = np.array([0.18 * np.sin(turn), 0.12 + 0.05 * np.cos(2 * turn)])
        neck = hip + np.array([0.06 * np.sin(turn), -0.48])
        picture = backdrop
        for side in (-1, 1):
            knee = hip + np.array([side * 0.22 + 0.12 * np.sin(turn), 0.34])
            foot = np.array([side * 0.34, 0.86 - 0.18 * max(0.0, side * np.sin(turn))])
            picture = _limb(picture, trousers, (hip, knee, foot), 0.085)
        picture = _limb(picture, shirt, (hip, neck), 0.15)
        for side in (-1, 1):
            swing = side * (0.4 + 1.1 * np.sin(turn + side * 0.9))
            elbow = neck + np.array([side * 0.3 * np.cos(swing), 0.08 + 0.3 * np.sin(swing)])
            hand = elbow + 0.34 * np.array([np.cos(1.6 * swing) * side, np.sin(1.6 * swing)])
            picture = _limb(picture, shirt * 0.8, (neck + (0, 0.07), elbow), 0.075)
            picture = _limb(picture, skin, (elbow, hand), 0.065)
        head = neck + np.array([0, -0.2])
        pictures.append(_ellipse(picture, skin, *head, 0.16, 0.16))
    return _to_uint8(pictures)


def _paint(
    picture: np.ndarray, colour: np.ndarray, distance: np.ndarray, box: tuple[slice, slice] = WHOLE
) -> np.ndarray:
    """Colour over the box of picture where distance < 0, its edge softened over one pixel."""
    cover = np.clip(0.5 - distance * (SIZE / 2), 0, 1)[..., None]
    painted = picture.copy()
    painted[box] += (colour - painted[box]) * cover
    return painted


def _box(x: tuple[float, float], y: tuple[float, float]) -> tuple[slice, slice]:
    """Rows and columns of the pixels from low to high x and y, with two more on each side."""
    ends = [(int((low + 1) * SIZE / 2) - 2, int((high + 1) * SIZE / 2) + 3) for low, high in (y, x)]
    return tuple(slice(max(0, first), max(0, last)) for first, last in ends)


def _ellipse(picture: np.ndarray, colour: np.ndarray, x: float, y: float, wide: float, tall: float) -> np.ndarray:
    """A filled ellipse about (x, y) with half axes wide and tall."""
    box = _box((x - wide, x + wide), (y - tall, y + tall))
    reach = np.sqrt(((X[box] - x) / wide) ** 2 + ((Y[box] - y) / tall) ** 2)
    return _paint(picture, colour, (reach - 1) * min(wide, tall), box)


def _limb(picture: np.ndarray, colour: np.ndarray, joints: tuple, thickness: float) -> np.ndarray:
    """Rounded sticks between joints (x, y)."""
    for a, b in zip(joints, joints[1:], strict=False):
        box = _box(*((min(a[i], b[i]) - thickness, max(a[i], b[i]) + thickness) for i in (0, 1)))
        along = (b - a) / ((b - a) @ (b - a))
        part = np.clip((X[box] - a[0]) * along[0] + (Y[box] - a[1]) * along[1], 0, 1)
        off_x, off_y = X[box] - a[0] - part * (b[0] - a[0]), Y[box] - a[1] - part * (b[1] - a[1])
        picture = _paint(picture, colour, np.sqrt(off_x**2 + off_y**2) - thickness, box)
    return picture


def _blend(a: np.ndarray, b: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Two colours (3,) mixed by share (64, 64) of the second: (64, 64, 3)."""
    return a + (b - a) * share[..., None]


def _colour(look: Generator, hue: float) -> np.ndarray:
    """A bright colour near the hue (0..1 around the circle): (3,), 0..1."""
    hue = hue + look.uniform(-0.03, 0.03)
    wheel = 0.5 + 0.5 * np.cos(2 * np.pi * (hue - np.array([0, 1 / 3, 2 / 3])))
    return 0.08 + 0.88 * wheel * look.uniform(0.85, 1.0)


def _skin(look: Generator) -> np.ndarray:
    return np.array([0.95, 0.76, 0.62]) * look.uniform(0.6, 1.0)


def _backdrop(look: Generator) -> np.ndarray:
    """A dull gradient with a soft fixed texture: (64, 64, 3), 0..1."""
    a, b = look.uniform(0.25, 0.75, 3), look.uniform(0.25, 0.75, 3)
    angle = look.uniform(0, 2 * np.pi)
    share = np.clip(0.5 + 0.4 * (X * np.cos(angle) + Y * np.sin(angle)), 0, 1)
    return np.clip(_blend(a, b, share) + 0.22 * (_noise(look, (8, 8))[..., None] - 0.5), 0, 1)


def _noise(look: Generator, cells: tuple[int, int]) -> np.ndarray:
    """Smooth noise that repeats at the edges, 0..1: random values on a grid, cosine in between."""
    grid = look.uniform(0, 1, cells)
    for axis, count in enumerate(cells):
        place = np.arange(SIZE) * count / SIZE
        share = (1 - np.cos(np.pi * (place % 1))) / 2
        share = share[:, None] if axis == 0 else share
        low = np.take(grid, place.astype(int), axis)
        high = np.take(grid, (place.astype(int) + 1) % count, axis)
        grid = low + (high - low) * share
    return grid


def _shift(field: np.ndarray, right: float, down: float) -> np.ndarray:
    """A repeating field moved by a fraction of pixels."""
    for axis, distance in ((1, right), (0, down)):
        whole = int(np.floor(distance))
        share = distance - whole
        field = np.roll(field, whole, axis) * (1 - share) + np.roll(field, whole + 1, axis) * share
    return field


def _to_uint8(pictures: list[np.ndarray]) -> np.ndarray:
    return (np.clip(np.stack(pictures), 0, 1) * 255).round().astype(np.uint8)


SEED = 101
MARKER = ".finished"
VERSION = "1"  # raise it when a picture changes: data written before is then written anew
FPS = 25


@dataclass(frozen=True)
class _Plan:
    """scenes by class name (one without a name where the set has no classes), videos a split, frames a
    video.
    """

    scenes: dict[str, Scene]
    groups: dict[str, range]
    clips_per_group: int
    frames: int
    write: Callable[[Path, str, str, int, int, np.ndarray], None]


def write_synthetic(dataset: str, folder: Path | str) -> Path:
    """Write the synthetic stand-in for a data set once and return its root, folder/<dataset>, for read_layout.

    64x64 pixels, always the same videos. It is written beside its place and renamed when complete; a folder
    that is complete already is left as it is. Raises ValueError for an unknown data set, and where the
    place holds something else.
    """
    if dataset not in PLANS:
        raise ValueError(f"got data set '{dataset}', synthetic data exist for: {', '.join(PLANS)}")
    root = Path(folder) / dataset
    if _finished(root):
        return root
    if root.exists() and not (root / MARKER).is_file():
        raise ValueError(f"{root}: synthetic data are to be written here, but it holds something else; move it away")
    part = root.with_name(f".{dataset}.{os.getpid()}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        _write_all(PLANS[dataset], part)
        (part / MARKER).write_text(VERSION, encoding="utf-8")
        if root.exists():
            shutil.rmtree(root)  # an older version, by its marker
        try:
            part.rename(root)
        except OSError:
            if not _finished(root):  # otherwise another process was faster, with the same videos
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return root


def _finished(root: Path) -> bool:
    marker = root / MARKER
    return marker.is_file() and marker.read_text(encoding="utf-8") == VERSION


def _write_all(plan: _Plan, root: Path) -> None:
    for number, (class_name, scene) in enumerate(plan.scenes.items()):
        for split, groups in plan.groups.items():
            for group in groups:
                for clip in range(1, plan.clips_per_group + 1):
                    # Clips of a group share their look, as videos of one source do; each moves its own way.
                    look = np.random.default_rng([SEED, number, group])
                    move = np.random.default_rng([SEED, number, group, clip])
                    plan.write(root, split, class_name, group, clip, scene(look, move, plan.frames))
    if len(plan.scenes) > 1:
        _write_lists(plan, root / "ucfTrainTestlist")


def _write_ucf101(root: Path, split: str, class_name: str, group: int, clip: int, frames: np.ndarray) -> None:
    write_video(root / "UCF-101" / class_name / _ucf101_name(class_name, group, clip), frames, FPS, lossless=False)


def _write_faceforensics(root: Path, split: str, _: str, group: int, clip: int, frames: np.ndarray) -> None:
    path = root / "preprocess_ffs" / split / "videos" / f"face{group:02d}.mp4"
    write_video(path, frames, FPS, lossless=False)


def _write_skytimelapse(root: Path, split: str, _: str, group: int, clip: int, frames: np.ndarray) -> None:
    _write_pictures(root / f"sky_{split}" / f"sky{group:02d}" / f"sky{group:02d}_{clip}", frames, digits=5)


def _write_taichi(root: Path, split: str, _: str, group: int, clip: int, frames: np.ndarray) -> None:
    _write_pictures(root / "taichi-256" / "frames" / split / f"video{group:02d}", frames, digits=7)


def _write_pictures(folder: Path, frames: np.ndarray, digits: int) -> None:
    folder.mkdir(parents=True)
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"{number:0{digits}d}.jpg", quality=95)


def _write_lists(plan: _Plan, folder: Path) -> None:
    """classInd.txt and the lists of fold 1, as UCF101 has them."""
    folder.mkdir(parents=True)
    names = list(plan.scenes)
    (folder / "classInd.txt").write_text("".join(f"{i} {name}\n" for i, name in enumerate(names, start=1)))
    for split, groups in plan.groups.items():
        lines: Iterator[str] = (
            f"{name}/{_ucf101_name(name, group, clip)}" + (f" {index}" if split == "train" else "")
            for index, name in enumerate(names, start=1)
            for group in groups
            for clip in range(1, plan.clips_per_group + 1)
        )
        (folder / f"{split}list01.txt").write_text("".join(f"{line}\n" for line in lines))


def _ucf101_name(class_name: str, group: int, clip: int) -> str:
    return f"v_{class_name}_g{group:02d}_c{clip:02d}.avi"


UCF101_SCENES = {
    "BounceBall": bounce_ball,
    "PulseStar": pulse_star,
    "SlideSideways": slide_sideways,
    "TurnCross": turn_cross,
}
PLANS = {
    "ucf101": _Plan(UCF101_SCENES, {"train": range(1, 7), "test": range(7, 9)}, 2, 72, _write_ucf101),
    "skytimelapse": _Plan(
        {"": drifting_clouds},
        {"train": range(1, 13), "test": range(13, 16)},
        4,
        32,
        _write_skytimelapse,
    ),
    "faceforensics": _Plan(
        {"": talking_face}, {"train": range(1, 49), "test": range(49, 61)}, 1, 72, _write_faceforensics
    ),
    "taichi": _Plan({"": slow_boxer}, {"train": range(1, 49), "test": range(49, 61)}, 1, 72, _write_taichi),
}
