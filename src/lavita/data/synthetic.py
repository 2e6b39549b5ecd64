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
from PIL import Image, ImageFilter

from lavita.data.video import write_video

SIZE = 64
Generator = np.random.Generator
Scene = Callable[[Generator, Generator, int], np.ndarray]
# Pixel centres, -1..1, y downwards: (64, 64) each.
Y, X = np.meshgrid(*[(np.arange(SIZE) + 0.5) / SIZE * 2 - 1] * 2, indexing="ij")
WHOLE = (slice(None), slice(None))


def slide_sideways(look: Generator, move: Generator, frames: int) -> np.ndarray:
    """A pink box that slides to and fro between left and right of a green field."""
    backdrop, colour = _plain(look, (0.12, 0.42, 0.2)), _near(look, (0.96, 0.36, 0.62))
    phase, period = move.uniform(0, 2 * np.pi), move.uniform(42, 50)
    pictures = []
    for t in range(frames):
        x = X - 0.45 * np.sin(2 * np.pi * t / period + phase)
        pictures.append(_paint(backdrop, colour, np.maximum(abs(x), abs(Y)) - 0.45))
    return _filmed(pictures, look, move)


def bounce_ball(look: Generator, move: Generator, frames: int) -> np.ndarray:
    """A yellow ball before a blue wall that falls, is squeezed on the floor and rises again."""
    backdrop, colour = _plain(look, (0.14, 0.32, 0.66)), _near(look, (0.96, 0.9, 0.3))
    phase, period = move.uniform(0, 1), move.uniform(32, 38)
    floor = _paint(backdrop, _near(look, (0.2, 0.16, 0.14)), 0.75 - Y)
    pictures = []
    for t in range(frames):
        u = (t / period + phase) % 1
        rise = 4 * u * (1 - u)  # a parabola: thrown from the floor, back on it one period later
        squeeze = 1 - 0.25 * max(0.0, 1 - rise / 0.2)
        x, y = X * squeeze, (Y - (0.33 - 0.75 * rise)) / squeeze
        pictures.append(_paint(floor, colour, np.hypot(x, y) - 0.42))
    return _filmed(pictures, look, move)


def turn_cross(look: Generator, move: Generator, frames: int) -> np.ndarray:
    """A white cross that turns about the middle of a red wall."""
    backdrop, colour = _plain(look, (0.62, 0.14, 0.16)), _near(look, (0.95, 0.95, 0.92))
    phase, period = move.uniform(0, 2 * np.pi), move.uniform(110, 130)
    pictures = []
    for t in range(frames):
        angle = 2 * np.pi * t / period + phase
        x, y = X * np.cos(angle) + Y * np.sin(angle), Y * np.cos(angle) - X * np.sin(angle)
        bar = np.minimum(np.maximum(abs(x) - 0.85, abs(y) - 0.24), np.maximum(abs(y) - 0.85, abs(x) - 0.24))
        pictures.append(_paint(backdrop, colour, bar))
    return _filmed(pictures, look, move)


def pulse_star(look: Generator, move: Generator, frames: int) -> np.ndarray:
    """A light star that grows and shrinks in the middle of a violet wall."""
    backdrop, colour = _plain(look, (0.36, 0.16, 0.5)), _near(look, (0.5, 0.95, 0.85))
    phase, period = move.uniform(0, 2 * np.pi), move.uniform(42, 50)
    radius, angle = np.hypot(X, Y), np.arctan2(Y, X)
    pictures = []
    for t in range(frames):
        size = 0.55 + 0.22 * np.sin(2 * np.pi * t / period + phase)
        pictures.append(_paint(backdrop, colour, radius - size * (1 + 0.22 * np.cos(5 * angle + 0.5 * np.pi))))
    return _filmed(pictures, look, move)


def drifting_clouds(look: Generator, move: Generator, frames: int) -> np.ndarray:
    """A white cloud that drifts one way over a blue sky above dark ground, out at one side and in at the other."""
    top, bottom = _near(look, (0.12, 0.3, 0.68)), _near(look, (0.55, 0.74, 0.92))
    sky = top + (bottom - top) * ((Y + 1) / 2)[..., None]
    start, speed = move.uniform(-1, 1), move.choice([-1, 1]) * move.uniform(0.018, 0.022)
    pictures = []
    for t in range(frames):
        picture = sky
        for loop in (-2, 0, 2):
            middle = (start + speed * t + 1) % 2 - 1 + loop  # around a loop as wide as the picture
            for off, size in ((-0.42, 0.28), (0, 0.42), (0.42, 0.28)):
                picture = _ellipse(picture, np.full(3, 0.97), middle + off, -0.2, 1.2 * size, size)
        pictures.append(_paint(picture, np.array([0.1, 0.16, 0.08]), 0.62 - Y))
    return _filmed(pictures, look, move)


def talking_face(look: Generator, move: Generator, frames: int) -> np.ndarray:
    """A cartoon head that tilts from side to side and opens its mouth as it goes to the right."""
    backdrop, skin, hair = _plain(look, (0.2, 0.45, 0.5)), _skin(look), _near(look, (0.3, 0.17, 0.1))
    phase, period = move.uniform(0, 2 * np.pi), move.uniform(42, 50)
    neck = np.array([0, 0.75])
    pictures = []
    for t in range(frames):
        turn = np.sin(2 * np.pi * t / period + phase)
        right, up = (np.array([np.cos(0.6 * turn + off), np.sin(0.6 * turn + off)]) for off in (0, -np.pi / 2))
        picture = _limb(backdrop, hair, (neck + 0.5 * up, neck + 1.0 * up), 0.56)
        picture = _limb(picture, skin, (neck + 0.4 * up, neck + 0.75 * up), 0.48)
        for side in (-0.2, 0.2):
            picture = _ellipse(picture, np.full(3, 0.08), *(neck + 0.8 * up + side * right), 0.11, 0.11)
        mouth = [neck + 0.28 * up + side * right for side in (-0.14, 0.14)]
        pictures.append(_limb(picture, np.array([0.55, 0.08, 0.12]), tuple(mouth), 0.12 + 0.08 * turn))
    return _filmed(pictures, look, move)


def slow_boxer(look: Generator, move: Generator, frames: int) -> np.ndarray:
    """A figure that leans from side to side and raises one straight arm while the other sinks."""
    backdrop, shirt = _plain(look, (0.82, 0.8, 0.72)), _near(look, (0.75, 0.15, 0.15))
    trousers, skin = _near(look, (0.12, 0.16, 0.35)), _skin(look) * 0.85
    phase, period = move.uniform(0, 2 * np.pi), move.uniform(42, 50)
    hip, standing = np.array([0, 0.14]), backdrop
    for side in (-1, 1):
        standing = _limb(standing, trousers, (hip, np.array([side * 0.36, 0.86])), 0.15)
    pictures = []
    for t in range(frames):
        lean = np.sin(2 * np.pi * t / period + phase)
        neck = np.array([0.14 * lean, -0.36])
        picture = _limb(standing, shirt, (hip, neck), 0.22)
        for side in (-1, 1):
            angle = 0.75 * side * lean
            hand = neck + 0.66 * np.array([side * np.cos(angle), -np.sin(angle)])
            picture = _limb(picture, skin, (neck + (0, 0.08), hand), 0.14)
        pictures.append(_ellipse(picture, skin, *(neck + (0, -0.26)), 0.23, 0.25))
    return _filmed(pictures, look, move)


def _paint(
    picture: np.ndarray, colour: np.ndarray, distance: np.ndarray, box: tuple[slice, slice] = WHOLE
) -> np.ndarray:
    """Colour over the box of picture where distance < 0, its edge softened over two pixels."""
    cover = np.clip(0.5 - distance * (SIZE / 4), 0, 1)[..., None]
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


def _skin(look: Generator) -> np.ndarray:
    return np.array([0.95, 0.76, 0.62]) * look.uniform(0.85, 1.0)


def _near(look: Generator, colour: tuple[float, float, float]) -> np.ndarray:
    """A colour (3,), 0..1, within 0.02 of the given one."""
    return np.clip(np.array(colour) + look.uniform(-0.02, 0.02, 3), 0, 1)


def _plain(look: Generator, colour: tuple[float, float, float]) -> np.ndarray:
    """A picture near one colour: (64, 64, 3), 0..1."""
    return np.broadcast_to(_near(look, colour), (SIZE, SIZE, 3))


def _filmed(pictures: list[np.ndarray], look: Generator, move: Generator) -> np.ndarray:
    """Frames as a camera gives them, uint8 (F, 64, 64, 3): out of focus and noisy, each video to its own degree.

    Without that real clips would be so much alike in sharpness and noise that a feature network sees nothing else.
    """
    blur, noise = ImageFilter.GaussianBlur(look.uniform(0.3, 1.6)), look.uniform(2, 8)
    sharp = [Image.fromarray((np.clip(picture, 0, 1) * 255).round().astype(np.uint8)) for picture in pictures]
    soft = np.stack([np.asarray(picture.filter(blur)) for picture in sharp])
    return np.clip(soft + move.normal(0, noise, soft.shape), 0, 255).round().astype(np.uint8)


SEED = 101
MARKER = ".finished"
VERSION = "4"  # raise it when a picture changes: data written before is then written anew
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
