"""Whether a clip on disk has lost anything: its codec says so, never the suffix of its name."""

from __future__ import annotations

from pathlib import Path

import av

from lavita.data.decoding.containers import UnreadableVideo
from lavita.data.decoding.pictures import is_jpeg, picture_paths

# Codecs that keep every bit of what they were given, by FFmpeg's names.
LOSSLESS_CODECS = frozenset(
    {
        "apng", "bmp", "ffv1", "ffvhuff", "fraps", "huffyuv", "hymt", "lagarith", "magicyuv", "png", "qtrle",
        "rawvideo", "tiff", "utvideo", "v210", "v308", "v408", "v410", "y41p", "yuv4", "zlib", "zmbv",
    }
)  # fmt: skip
HIGH_444, WITH_CHROMA_FORMAT = 244, (100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135)
SPS = 7  # type of a NAL unit


def stored_as(path: Path) -> str:
    """How the frames of a video file or frame folder lie on disk: lossless, video (a lossy codec) or jpeg.

    A folder in which any picture is JPEG counts as jpeg. Raises UnreadableVideo.
    """
    if path.is_dir():
        return "jpeg" if any(map(is_jpeg, picture_paths(path))) else "lossless"
    try:
        with av.open(str(path), metadata_errors="ignore") as container:
            if not container.streams.video:
                raise UnreadableVideo(path, "the file holds no video stream", "not_video")
            context = container.streams.video[0].codec_context
            if context.codec.name in LOSSLESS_CODECS:
                return "lossless"
            first = b""
            if context.codec.name == "h264" and not context.extradata:
                first = next((bytes(packet) for packet in container.demux(video=0) if packet.size), b"")
            lossless = context.codec.name == "h264" and bypasses_transform(context.extradata or first)
            return "lossless" if lossless else "video"
    except av.FFmpegError as error:
        raise UnreadableVideo(path, error.strerror) from error


def bypasses_transform(header: bytes) -> bool:
    """Whether the first SPS of an H.264 stream (avcC or Annex B) has qpprime_y_zero_transform_bypass_flag, which an
    encoder sets where it codes without loss. Source: ITU-T H.264, section 7.3.2.1.1; ISO/IEC 14496-15, section 5.3.3.1.
    """
    if header[:1] == b"\x01" and len(header) > 8:
        unit = header[8 : 8 + int.from_bytes(header[6:8], "big")] if header[5] & 31 else b""
    else:
        units = header.replace(b"\0\0\0\1", b"\0\0\1").split(b"\0\0\1")[1:]
        unit = next((one for one in units if one and one[0] & 31 == SPS), b"")
    if len(unit) < 5 or unit[1] not in WITH_CHROMA_FORMAT:
        return False
    bits = Bits(unit[4:].replace(b"\0\0\3", b"\0\0"))
    try:
        bits.unsigned()  # seq_parameter_set_id
        if bits.unsigned() == 3:  # chroma_format_idc
            bits.take(1)  # separate_colour_plane_flag
        bits.unsigned(), bits.unsigned()  # bit depths of luma and chroma
        return unit[1] == HIGH_444 and bits.take(1) == 1
    except ValueError:
        return False


class Bits:
    """The bits of a header, read from the first on. Raises ValueError at their end."""

    def __init__(self, data: bytes) -> None:
        self.text, self.place = "".join(f"{byte:08b}" for byte in data), 0

    def take(self, count: int) -> int:
        part = self.text[self.place : self.place + count]
        if len(part) < count:
            raise ValueError("the header ends")
        self.place += count
        return int(part or "0", 2)

    def unsigned(self) -> int:
        """An Exp-Golomb code: n zeros, a one, n bits."""
        zeros = self.text.find("1", self.place) - self.place
        if zeros < 0 or zeros > 32:
            raise ValueError("the header ends")
        self.place += zeros
        return self.take(zeros + 1) - 1
