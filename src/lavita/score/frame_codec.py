"""What frames go through when they lie on disk: JPEG pictures, MP4 files. Lossy, so part of a protocol."""

from __future__ import annotations

import io
from collections.abc import Callable

import av
import numpy as np
from PIL import Image

from lavita.score.protocol import JPEG, MP4_THEN_JPEG
from lavita.shape import check

JPEG_QUALITY = 75  # Pillow's own, and what is left where "q=95" is given in a way that it ignores
MP4_CRF, MP4_FPS = 5, 8


def jpeg(clip: np.ndarray) -> np.ndarray:
    """Every frame saved and read as JPEG by Pillow with its default settings: uint8 (F, H, W, 3) -> the same shape."""
    frames = []
    for frame in clip:
        buffer = io.BytesIO()
        Image.fromarray(frame).save(buffer, "JPEG", quality=JPEG_QUALITY)
        frames.append(np.asarray(Image.open(buffer).convert("RGB")))
    return np.stack(frames)


def mp4(clip: np.ndarray) -> np.ndarray:
    """The clip saved and read as H.264, yuv420p, CRF 5: uint8 (F, H, W, 3), even H and W -> the same shape.

    The bytes are those of the x264 at hand, so the last grey levels can differ from one version to another.
    Raises ValueError for odd sizes, and where FFmpeg has no x264.
    Source: imageio's quality 9, int(0.1 * 51), as in https://github.com/imageio/imageio-ffmpeg/blob/
    ae47d8028c237ca5507ceef1b843ee427b442887/imageio_ffmpeg/_io.py
    """
    sizes = check(clip, "F H W 3", "clip", dtype=np.uint8)
    if sizes["H"] % 2 or sizes["W"] % 2:
        raise ValueError(f"codec mp4: got frames of {sizes['W']}x{sizes['H']}, H.264 in 4:2:0 wants even sides")
    if "libx264" not in av.codecs_available:
        raise ValueError("codec mp4: this build of FFmpeg has no x264, so the protocol can't be followed here")
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=MP4_FPS, options={"crf": str(MP4_CRF)})
        stream.height, stream.width, stream.pix_fmt = sizes["H"], sizes["W"], "yuv420p"
        stream.codec_context.thread_count = 1
        for frame in clip:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode(None))
    buffer.seek(0)
    with av.open(buffer) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return np.stack(frames)


# What is still to be done to frames that lie on disk in one way, so that they have been through a codec once.
STEPS: dict[tuple[str, str], tuple[Callable[[np.ndarray], np.ndarray], ...]] = {
    (JPEG, "lossless"): (jpeg,),
    (JPEG, "video"): (jpeg,),
    (MP4_THEN_JPEG, "lossless"): (mp4, jpeg),
    (MP4_THEN_JPEG, "video"): (jpeg,),
}


def through(codec: str, stored: str, clip: np.ndarray) -> np.ndarray:
    """A clip, uint8 (F, H, W, 3), after a protocol's codec; stored: lossless, video or jpeg, as it lies on disk."""
    for step in STEPS.get((codec, stored), ()):
        clip = step(clip)
    return clip
