"""The only door of pictures: one file -> uint8 RGB as it is meant to be seen, or refused with the reason."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from lavita.data.decoding.containers import UnreadableVideo

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png")
JPEG_MAGIC = b"\xff\xd8\xff"
ORIENTATION = 0x0112  # EXIF's tag; 1: as stored
# What brings a stored picture upright, by the tag's value; from 5 on width and height are exchanged.
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip
GREY16 = ("I;16", "I;16L", "I;16B", "I;16N")
EIGHT_BITS = ("1", "L", "P", "RGB", "YCbCr")
WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
COPY = re.compile(r"(?P<first>.+?)(?: ?\(\d+\)| copy(?: \d+)?| - Copy(?: \(\d+\))?)", re.IGNORECASE)
Found = TypeVar("Found")


def picture_paths(folder: Path) -> list[Path]:
    """The pictures of a frame folder in the order of their numbers.

    Raises UnreadableVideo for a folder without any, and where two have one number (1.png beside 01.png or 1.jpg) or
    one is a copy that a file manager made of another ("1 (2).png"): which of them is the frame nobody can know.
    """
    pictures = [
        Path(entry.path)
        for entry in os.scandir(folder)
        if entry.name.lower().endswith(PICTURE_SUFFIXES) and not entry.name.startswith(".")
    ]
    if not pictures:
        raise UnreadableVideo(folder, f"the folder holds no picture ({', '.join(PICTURE_SUFFIXES)})", "empty")
    pictures.sort(key=lambda path: (_natural(path.stem), path.name))
    stems = {path.stem: path for path in pictures}
    for first, second in zip(pictures, pictures[1:], strict=False):
        if _natural(first.stem) == _natural(second.stem):
            raise UnreadableVideo(folder, f"two pictures have one number: {first.name} and {second.name}")
    for path in pictures:
        copied = COPY.fullmatch(path.stem)
        if copied and copied["first"] in stems:
            raise UnreadableVideo(folder, f"{path.name} is a copy of {stems[copied['first']].name}; remove one")
    return pictures


def _natural(stem: str) -> list[tuple[int, str]]:
    """Sort key that puts 2 before 10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", stem.lower())]


def read_picture(picture: Path) -> np.ndarray:
    """uint8 (H, W, 3), 0..255, RGB, turned upright as its EXIF tag says. Of 16-bit pictures the higher eight bits.

    Raises UnreadableVideo: not a picture, truncated, animated, of another kind of colour (CMYK, Lab, floats), or not
    opaque, since nobody says on which ground it should be seen.
    """
    return _opened(picture, lambda image: np.asarray(_rgb(picture, image)))


def picture_size(picture: Path, decode: bool) -> tuple[int, int]:
    """Width and height as shown; a picture without its end mark is truncated. decode: all that reading would refuse is
    refused here. Raises UnreadableVideo.
    """

    def size(image: Image.Image) -> tuple[int, int]:
        shown = _rgb(picture, image) if decode else image
        turned = not decode and image.info.get("exif") and image.getexif().get(ORIENTATION, 1) >= 5
        return (shown.height, shown.width) if turned else shown.size

    found = _opened(picture, size)
    end_mark = b"IEND" if picture.suffix.lower() == ".png" and not is_jpeg(picture) else b"\xff\xd9"
    with picture.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 256))
        if end_mark not in file.read():
            raise UnreadableVideo(picture, "truncated picture (no end mark)")
    return found


def is_jpeg(picture: Path) -> bool:
    """Whether a file's content, whatever its name, is JPEG."""
    with picture.open("rb") as file:
        return file.read(len(JPEG_MAGIC)) == JPEG_MAGIC


def _opened(picture: Path, use: Callable[[Image.Image], Found]) -> Found:
    """What `use` makes of a picture. Raises UnreadableVideo for whatever is wrong with the file."""
    try:
        with Image.open(picture) as image:
            return use(image)
    except UnreadableVideo:
        raise
    except Exception as error:  # Pillow's readers raise many kinds for a damaged file
        raise UnreadableVideo(picture, "not a picture that can be read, or truncated") from error


def _rgb(picture: Path, image: Image.Image) -> Image.Image:
    """The picture as RGB of 8 bits, upright."""
    if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":  # MPO: a camera's JPEG with a preview behind it
        raise UnreadableVideo(picture, f"an animated picture of {image.n_frames} frames, wanted one frame a file")
    image.load()
    mode = image.mode
    if mode in WITH_ALPHA or "transparency" in image.info:
        image = _opaque(picture, image)
    elif mode in GREY16 or (mode == "I" and image.format == "PNG"):
        levels = np.asarray(image).astype(np.uint32) >> 8
        image = _with_tag(Image.fromarray(levels.astype(np.uint8)), image)
    elif mode not in EIGHT_BITS:
        raise UnreadableVideo(picture, f"a picture of mode {mode}, wanted grey or RGB of 8 or 16 bits")
    turn = UPRIGHT.get(image.getexif().get(ORIENTATION, 1))
    rgb = image.convert("RGB")
    return rgb if turn is None else rgb.transpose(turn)


def _opaque(picture: Path, image: Image.Image) -> Image.Image:
    """A picture with alpha or a transparent colour, where nothing of it is transparent."""
    if image.mode in GREY16 or image.mode == "I":
        raise UnreadableVideo(picture, "a 16-bit grey picture with a transparent level, wanted an opaque one")
    whole = image.convert("RGBA")
    if whole.getchannel("A").getextrema()[0] < 255:
        raise UnreadableVideo(picture, "parts of the picture are transparent; put it on the ground that is meant")
    return _with_tag(whole, image)


def _with_tag(image: Image.Image, source: Image.Image) -> Image.Image:
    """An image that still knows how its source is to be turned."""
    image.getexif()[ORIENTATION] = source.getexif().get(ORIENTATION, 1)
    return image
