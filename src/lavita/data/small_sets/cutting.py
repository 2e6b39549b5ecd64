"""Published files -> the small real sets: cut, written in their data set's layout, held against recorded hashes.

Each recipe is exact. Decoders agree bit for bit on every processor, and so do the conversion to RGB here, Pillow's
resize and its JPEG encoder; FFmpeg's video encoders do not. So frames are hashed twice: before they are written, which
must agree everywhere, and as the written file decodes, which agrees where the encoder rounds as on the machine that
the recorded hashes are from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from itertools import islice
from pathlib import Path

import av
import numpy as np
from PIL import Image

from lavita.data.decoding.containers import UnreadableVideo
from lavita.data.small_sets.recorded import RecordedVideo, SmallSet
from lavita.data.video import decode, each_frame

WEIZMANN_SIDE = 64
SKY_SIDE, SKY_LINE = 128, 2
TAICHI_SIDE, TAICHI_FRAMES = 256, 64
FACE_SIDE, FACE_FRAMES = 256, 160
HELDOUT_PERFORMERS = ("g08", "g09")
BT709 = 1  # AVCOL_SPC_BT709; what a file does not say is BT.601, as FFmpeg takes it
RED_BLUE_WEIGHTS = {True: (0.2126, 0.0722), False: (0.299, 0.114)}  # of luma, by whether it is BT.709

Cut = Callable[[Path], Iterator[np.ndarray]]
Write = Callable[[Path, np.ndarray], None]


class NotAsRecorded(ValueError):
    """A set that can't be made as recorded. One line: what was got, what was expected, what to do."""


@dataclass(frozen=True)
class Recipe:
    """cut: the videos of a published file in the order of the rows, uint8 (F, H, W, 3) RGB each; write: puts one at its
    path; finish: adds what the layout has beside the videos to a folder.
    """

    cut: Cut
    write: Write
    finish: Callable[[Path, Sequence[RecordedVideo]], None] = field(default=lambda folder, videos: None)


def write_small_set(small: SmallSet, sources: Path, folder: Path) -> None:
    """Cut the published files in sources, by their names, and write the set's tree into folder.

    Raises NotAsRecorded where a video's frames are not the recorded ones before they are written.
    """
    recipe, videos = RECIPES[small.name], small.videos()
    by_source: dict[str, list[RecordedVideo]] = {}
    for video in videos:
        by_source.setdefault(video.source, []).append(video)
    for source, shown in by_source.items():
        for video, frames in zip(shown, recipe.cut(sources / Path(source).name), strict=True):
            if (found := hashlib.sha256(np.ascontiguousarray(frames)).hexdigest()) != video.rgb_sha256:
                raise NotAsRecorded(
                    f"{video.path}: cut from {source}, got frames of sha256 {found}, expected {video.rgb_sha256}; this "
                    f"decoder (av {av.__version__}) gives others: install what constraints.txt names"
                )
            recipe.write(folder / video.path, frames)
    recipe.finish(folder, videos)


def differences(small: SmallSet, base: Path, found: Sequence[str]) -> list[str]:
    """The videos of a copy that are not the recorded ones, a reason each: "path: reason".

    base: the folder that holds the tree; found: paths of the videos in it, relative to base.
    """
    videos = {video.path: video for video in small.videos()}
    lines = [f"{path}: is not one of the recorded videos" for path in sorted(set(found) - videos.keys())]
    for path, video in videos.items():
        try:
            if decoded_sha256(base / path) != video.decoded_sha256:
                lines.append(f"{path}: decodes to other frames than recorded")
        except UnreadableVideo as error:
            lines.append(f"{path}: {error.reason}")
    return lines


def decoded_sha256(path: Path) -> str:
    """sha256 of all frames of a video as its decoder gives them, hexadecimal.

    Of a folder of pictures: uint8 (F, H, W, 3) RGB. Of a file: for each frame its Y, U and V planes, since their
    conversion to RGB is what differs between processors. Raises UnreadableVideo.
    """
    digest = hashlib.sha256()
    if path.is_dir():
        for frame in each_frame(path):
            digest.update(np.ascontiguousarray(frame))
    else:
        for _, frame in decode(path):
            for plane in _planes(frame):
                digest.update(np.ascontiguousarray(plane))
    return digest.hexdigest()


def _planes(frame: av.VideoFrame) -> list[np.ndarray]:
    """Y (H, W), U and V (H/2, W/2), uint8, of a frame in yuv420p."""
    rows = [np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size) for plane in frame.planes]
    return [array[: plane.height, : plane.width] for array, plane in zip(rows, frame.planes, strict=True)]


def to_rgb(y: np.ndarray, u: np.ndarray, v: np.ndarray, bt709: bool = False) -> np.ndarray:
    """Planes of limited range, uint8 (H, W) and twice (H/2, W/2), H and W even -> uint8 (H, W, 3) RGB.

    Each chroma sample serves four pixels; factors have 13 bits after the point, and products are cut to whole numbers
    before they are summed. So these are FFmpeg's RGB frames on a processor with SSSE3, bit for bit, and the same on any
    other, where FFmpeg's own code rounds otherwise.
    Source: ITU-R BT.601-7 and BT.709-6, derived from their luma weights.
    """
    red, blue = RED_BLUE_WEIGHTS[bt709]
    green = 1 - red - blue

    def times(plane: np.ndarray, zero: int, factor: float) -> np.ndarray:
        table = ((np.arange(256) - zero) * 8 * round(factor * 8192)) >> 16
        return table.astype(np.int16)[plane]

    def grown(plane: np.ndarray) -> np.ndarray:
        return plane.repeat(2, axis=0).repeat(2, axis=1)

    luma, chroma = 255 / 219, 255 / 224
    to_red, to_blue = 2 * (1 - red) * chroma, 2 * (1 - blue) * chroma
    base = times(y, 16, luma)
    from_green = times(u, 128, -to_blue * blue / green) + times(v, 128, -to_red * red / green)
    channels = (times(v, 128, to_red), from_green, times(u, 128, to_blue))
    return np.stack([np.clip(base + grown(channel), 0, 255) for channel in channels], axis=-1).astype(np.uint8)


def _rgb_frames(path: Path, count: int | None = None) -> Iterator[np.ndarray]:
    """The first count frames of a video file (None: all), uint8 (H, W, 3) RGB."""
    for _, frame in islice(decode(path), count):
        yield to_rgb(*_planes(frame), bt709=frame.colorspace == BT709)


def cut_strip(path: Path) -> Iterator[np.ndarray]:
    """One video: a picture that shows its square frames side by side."""
    with Image.open(path) as image:
        strip = np.asarray(image.convert("RGB"))
    yield np.stack(np.split(strip, strip.shape[1] // WEIZMANN_SIDE, axis=1))


def cut_grid(path: Path) -> Iterator[np.ndarray]:
    """The videos that one file shows in rows and columns, with lines between and around them."""
    shown = np.stack(list(_rgb_frames(path)))
    step = SKY_SIDE + SKY_LINE
    for top in range(SKY_LINE, shown.shape[1] - SKY_SIDE, step):
        for left in range(SKY_LINE, shown.shape[2] - SKY_SIDE, step):
            yield shown[:, top : top + SKY_SIDE, left : left + SKY_SIDE]


def cut_top(path: Path) -> Iterator[np.ndarray]:
    """One video: the upper square, first frames only; the lower one shows which body parts were found in it."""
    yield np.stack([frame[:TAICHI_SIDE] for frame in _rgb_frames(path, TAICHI_FRAMES)])


def cut_face(path: Path) -> Iterator[np.ndarray]:
    """One video: centre crop to the short side, Pillow's LANCZOS, first frames only."""
    frames = []
    for frame in _rgb_frames(path, FACE_FRAMES):
        height, width = frame.shape[:2]
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        square = Image.fromarray(np.ascontiguousarray(frame[top : top + side, left : left + side]))
        frames.append(np.asarray(square.resize((FACE_SIDE, FACE_SIDE), Image.Resampling.LANCZOS)))
    yield np.stack(frames)


def write_pictures(quality: int, first: int, digits: int, folder: Path, frames: np.ndarray) -> None:
    """A frame folder: JPEG pictures of a Pillow quality, numbered from first."""
    folder.mkdir(parents=True)
    for number, frame in enumerate(frames, start=first):
        Image.fromarray(np.ascontiguousarray(frame)).save(folder / f"{number:0{digits}d}.jpg", quality=quality)


def write_file(
    codec: str, threads: int, bit_rate: int | None, options: dict[str, str], path: Path, frames: np.ndarray
) -> None:
    """A video file at 25 frames a second; the number of threads decides how a frame is sliced, so it is fixed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if codec not in av.codecs_available:
        raise NotAsRecorded(f"{path.name}: this av {av.__version__} has no {codec}; install what constraints.txt names")
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(25), options=options)
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        stream.codec_context.thread_count = threads
        if bit_rate is not None:
            stream.bit_rate = bit_rate
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode(None))


def write_lists(folder: Path, videos: Sequence[RecordedVideo]) -> None:
    """UCF101's lists, fold 1: the last two of the nine performers are held out."""
    names = [video.path.removeprefix("UCF-101/") for video in videos]
    numbers = {name: number for number, name in enumerate(sorted({name.split("/")[0] for name in names}), start=1)}
    heldout = [name for name in names if name.split("_")[-2] in HELDOUT_PERFORMERS]
    train = [f"{name} {numbers[name.split('/')[0]]}" for name in names if name not in heldout]
    classes = [f"{number} {name}" for name, number in numbers.items()]
    lists = folder / "ucfTrainTestlist"
    lists.mkdir(parents=True)
    for name, lines in (("classInd", classes), ("trainlist01", train), ("testlist01", heldout)):
        (lists / f"{name}.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")


RECIPES = {
    "weizmann": Recipe(cut_strip, partial(write_file, "mpeg4", 3, 2_000_000, {}), write_lists),
    "sky48": Recipe(cut_grid, partial(write_pictures, 95, 1, 5)),
    "taichi18": Recipe(cut_top, partial(write_pictures, 90, 0, 7)),
    "faces10": Recipe(cut_face, partial(write_file, "libx264", 2, None, {"crf": "20"})),
}
