"""The only door from a decoded video frame to RGB: orientation, bit depth, colour matrix and range, alpha."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import av
import numpy as np
from av.sidedata.sidedata import Type
from av.video.reformatter import VideoReformatter

from lavita.data.decoding.containers import UnreadableVideo

UNIT = 1 << 16  # 1 in a display matrix
# Transfer characteristics of high dynamic range, which 8 bits of RGB do not hold (ITU-T H.273, table 3).
HIGH_RANGE = {16: "PQ", 18: "HLG"}


class ToRGB:
    """Frames of one file as uint8 (H, W, 3), 0..255, RGB.

    Any bit depth comes to 8 bits; the matrix and range that a frame is tagged with are used, BT.601 and limited range
    where it has no tags, as FFmpeg does. Turned and mirrored as the file's display matrix says. One converter for all
    frames, in one thread: a new one each costs 20 times as much on small frames.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.converter = VideoReformatter()

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        """Raises UnreadableVideo for a frame that is partly transparent or of high dynamic range."""
        if has_alpha(frame.format.name):
            shown = self.converter.reformat(frame, format="rgba", threads=1).to_ndarray()
            if shown[..., 3].min() < 255:
                raise UnreadableVideo(self.path, "frames are partly transparent; put them on the ground that is meant")
            rgb = np.ascontiguousarray(shown[..., :3])
        else:
            rgb = self.converter.reformat(frame, format="rgb24", threads=1).to_ndarray()
        return turned(rgb, orientation(self.path, frame))


@lru_cache(maxsize=64)
def has_alpha(pixel_format: str) -> bool:
    return any(component.is_alpha for component in av.VideoFormat(pixel_format).components)


def check_shown(path: Path, frame: av.VideoFrame) -> tuple[int, int]:
    """Width and height as shown, of a frame that is not converted. Raises UnreadableVideo where reading would, as far
    as that is known without the pixels.
    """
    transfer = int(frame.color_trc)
    if transfer in HIGH_RANGE:
        raise UnreadableVideo(
            path, f"high dynamic range ({HIGH_RANGE[transfer]}), wanted 8-bit colours of standard range"
        )
    exchanged, _, _ = orientation(path, frame)
    return (frame.height, frame.width) if exchanged else (frame.width, frame.height)


def orientation(path: Path, frame: av.VideoFrame) -> tuple[bool, bool, bool]:
    """What brings a frame upright, in this order: rows and columns exchanged, mirrored left to right, top to bottom.

    A display matrix takes a pixel at (x, y) to (a x + c y, b x + d y), y downwards. Raises UnreadableVideo for one that
    is not made of quarter turns and mirrors. Source: ISO/IEC 14496-12 section 8.3.2.
    """
    if Type.DISPLAYMATRIX not in (data.type for data in frame.side_data):
        return False, False, False
    matrix = np.frombuffer(bytes(frame.side_data[Type.DISPLAYMATRIX]), np.int32)[:9].reshape(3, 3)
    (a, b), (c, d) = matrix[0, :2].tolist(), matrix[1, :2].tolist()
    if b == c == 0 and abs(a) == abs(d) == UNIT:
        return False, a < 0, d < 0
    if a == d == 0 and abs(b) == abs(c) == UNIT:
        return True, c < 0, b < 0
    shown = ", ".join(f"{value / UNIT:.3g}" for value in (a, b, c, d))
    raise UnreadableVideo(path, f"its display matrix ({shown}) is no quarter turn or mirror")


def turned(picture: np.ndarray, how: tuple[bool, bool, bool]) -> np.ndarray:
    """A picture (H, W, 3) brought upright."""
    exchanged, left_right, top_bottom = how
    if exchanged:
        picture = picture.swapaxes(0, 1)
    if left_right:
        picture = picture[:, ::-1]
    return picture[::-1] if top_bottom else picture
