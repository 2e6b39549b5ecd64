"""speed.py data: seconds per clip of the loader, of decoding a whole video for each clip, and of cached latents."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

COLUMNS = (
    "resolution,video,frames,entries,whole_seconds,loader_seconds,latents_seconds,resize_seconds,loader_ratio,"
    "loader_ratio_low,loader_ratio_high,latents_ratio,clip_frames,interval,rounds,hardware,av,pillow,commit,changed"
).split(",")
MEAN = "mean"


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the subcommand."""
    parser.add_argument("root", metavar="ROOT", type=Path, help="a data set of video files, as run.py takes it")
    parser.add_argument("--dataset", help="which data set it is (default: the first whose tree is found)")
    parser.add_argument("--frames", type=int, default=16, help="frames per clip (default: 16)")
    parser.add_argument("--interval", type=int, default=3, help="frame interval (default: 3)")
    parser.add_argument("--resolutions", default="64,128,256", help="pixels per side (default: 64,128,256)")
    parser.add_argument("--videos", type=int, default=4, help="at most so many videos, evenly spaced (default: 4)")
    parser.add_argument("--rounds", type=int, default=25, help="timed clips per video and contestant (default: 25)")
    parser.add_argument("--long-frames", type=int, default=3000, help="length of the long file (default: 3000)")
    parser.add_argument("--csv", metavar="FILE", help="also write CSV; - for CSV alone on standard output")


def run(options: argparse.Namespace) -> None:
    """Measure and print. Raises ValueError for options and data that can't be measured."""
    from lavita.speed.timing import write_csv

    sides = resolutions(options)
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(options, sides, Path(folder))
        seek = long_file(options, Path(folder)) if options.csv != "-" else None
    if options.csv != "-":
        print(table(rows, options))
        print(seek)
    if options.csv is not None:
        write_csv(options.csv, rows, COLUMNS)


def resolutions(options: argparse.Namespace) -> list[int]:
    """The resolutions to measure. Raises ValueError, naming the option, for an invalid value."""
    for name in ("frames", "interval", "videos", "rounds", "long_frames"):
        if getattr(options, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')}: got {getattr(options, name)}, wanted at least 1")
    try:
        sides = [int(part) for part in options.resolutions.split(",")]
    except ValueError:
        sides = []
    if not sides or any(side < 8 or side % 8 for side in sides):
        raise ValueError(f"--resolutions: got {options.resolutions!r}, wanted multiples of 8 separated by commas")
    return sides


def chosen_videos(options: argparse.Namespace) -> list[Any]:
    """Some video files of the data set that are long enough, evenly spaced over all. Raises ValueError."""
    from lavita.data.layouts import read_layout
    from lavita.data.trees import LAYOUTS

    root = options.root.expanduser().resolve()
    found = [name for name, layout in LAYOUTS.items() if root.is_dir() and layout.locate(root)]
    if options.dataset is None and not found:
        raise ValueError(f"{root}: no tree of {', '.join(LAYOUTS)}; see prepare.py DATASET ROOT for what is expected")
    catalogue = read_layout(options.dataset or found[0], root)
    videos = [
        v for v in catalogue.long_enough(options.frames, options.interval, "skip").videos if Path(v.path).is_file()
    ]
    if not videos:
        raise ValueError(f"{root}: frame folders only; decoding is measured on video files")
    count = min(options.videos, len(videos))
    return [videos[i * len(videos) // count] for i in range(count)]


def whole_video(path: str, indices: list[int], resolution: int) -> Any:
    """A clip as the official loaders make it: every frame of the file becomes RGB and is kept, then some are taken.

    Source: torchvision.io.read_video as called in https://github.com/Vchitect/Latte at b27c24a, datasets/*.py.
    """
    import av
    import numpy as np

    from lavita.data.clips import centre_crop_resize, to_tensor

    with av.open(path) as container:
        frames = np.stack([frame.to_rgb().to_ndarray() for frame in container.decode(video=0)])
    return to_tensor(centre_crop_resize(frames[indices], resolution))


def measure(options: argparse.Namespace, sides: list[int], folder: Path) -> list[dict[str, Any]]:
    """A row a resolution and video, and the means over the videos, with the columns of COLUMNS."""
    import av
    import PIL
    import torch

    from lavita.results import provenance

    torch.set_num_threads(1)
    videos = chosen_videos(options)
    commit, changed = provenance.commit()
    common = {"clip_frames": options.frames, "interval": options.interval, "rounds": options.rounds}
    common |= {"hardware": provenance.hardware(), "av": av.__version__, "pillow": PIL.__version__}
    common |= {"commit": commit, "changed": changed}
    rows = []
    for side in sides:
        latents = stored(videos, side, folder / str(side))
        each = [one_video(options, video, side, latents) for video in videos]
        rows += [row | common for row in [*each, means(each, side)]]
    return rows


def stored(videos: list[Any], side: int, folder: Path) -> Any:
    """A latent cache of Stable Diffusion's shape; what its numbers are makes no difference to reading them."""
    import torch

    from lavita.data.latent_cache import LatentCache, LatentKey, videos_hash
    from lavita.data.latent_filling import fill_latents

    key = LatentKey("none", "none", videos_hash(videos), side, "centre", 1, True, 8, side // 8)

    def encode(frames):
        small = torch.nn.functional.avg_pool2d(frames, 8)  # (n, 3, h, w)
        return torch.cat([small, small, small], dim=1)[:, :8]  # (n, 8, h, w)

    fill_latents(folder, key, videos, [lambda: encode], lambda text: None, lambda done, total: None)
    return LatentCache(folder / key.name(), key, videos)


def one_video(options: argparse.Namespace, video: Any, side: int, latents: Any) -> dict[str, Any]:
    """Seconds per clip of each contestant, which take turns on the same windows of one video."""
    import numpy as np
    import torch

    from lavita.data.clips import centre_crop_resize, clip_starts, frame_indices, normalised, to_tensor
    from lavita.data.datamodule import ResizedFrames
    from lavita.data.seek import unpack
    from lavita.data.video import read_frames
    from lavita.speed import timing

    starts = np.random.default_rng(0).integers(clip_starts(video.frames, options.frames, options.interval), size=512)
    loader, turn = ResizedFrames(side, max_bytes=0), dict.fromkeys(("whole", "loader", "latents"), 0)

    def window(name: str) -> list[int]:
        turn[name] += 1  # each contestant meets the same windows in the same order
        return frame_indices(int(starts[turn[name] % len(starts)]), options.frames, options.interval)

    decoded = read_frames(video.path, frame_indices(0, options.frames, options.interval))
    one = frame_indices(int(starts[0]), options.frames, options.interval)
    if not torch.equal(whole_video(video.path, one, side), normalised(loader.clip(video, one, False))):
        raise ValueError(f"{video.path}: the loader's frames are not those of a whole decode")
    seconds = timing.take_turns(
        {
            "whole": lambda: whole_video(video.path, window("whole"), side),
            "loader": lambda: loader.clip(video, window("loader"), False),
            "latents": lambda: latents.clip(video, window("latents"), False),
            "resize": lambda: to_tensor(centre_crop_resize(decoded, side)),
        },
        options.rounds,
    )
    low, ratio, high = timing.ratio(seconds["whole"], seconds["loader"])
    row = {"resolution": side, "video": video.video_id, "frames": video.frames, "entries": len(unpack(video.entries))}
    row |= {f"{name}_seconds": timing.quartiles(values)[1] for name, values in seconds.items()}
    row |= {"loader_ratio": ratio, "loader_ratio_low": low, "loader_ratio_high": high}
    return row | {"latents_ratio": timing.ratio(seconds["whole"], seconds["latents"])[1]}


def means(rows: list[dict[str, Any]], side: int) -> dict[str, Any]:
    """The mean over the videos of every seconds and ratio column."""
    keys = [key for key in rows[0] if key.endswith("_seconds") or "ratio" in key]
    return {"resolution": side, "video": MEAN} | {key: sum(row[key] for row in rows) / len(rows) for key in keys}


def long_file(options: argparse.Namespace, folder: Path) -> str:
    """Counts the frames decoded for a window near the end of a long file with a key frame every 12 frames."""
    from unittest.mock import patch

    import numpy as np

    from lavita.data import video
    from lavita.data.clips import frame_indices, span

    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    frames = np.stack([np.roll(noise, t, 0) for t in range(options.long_frames)])
    path = video.write_video(folder / "long.avi", frames, 25, lossless=False)  # MPEG-4 part 2: a key frame every 12
    info = video.probe(path, thorough=True)
    length = span(options.frames, options.interval)
    if info.frames < length:
        raise ValueError(f"--long-frames: got {options.long_frames}, a clip spans {length}")
    most, decode = 0, video.decode
    for start in range(max(0, info.frames - length - 11), info.frames - length + 1):
        seen: list[int] = []
        with patch.object(video, "decode", lambda *given, s=seen: (s.append(1) or item for item in decode(*given))):
            video.read_frames(path, frame_indices(start, options.frames, options.interval), info.entries)
        most = max(most, len(seen))
    return (
        f"long file: {info.frames} frames, a key frame every 12; windows near its end span {length} frames and decode "
        f"at most {most} (counted), not {info.frames}"
    )


def table(rows: list[dict[str, Any]], options: argparse.Namespace) -> str:
    """What is printed: a line a resolution and video, their means, then where it was measured."""
    first = rows[0]
    lines = [
        f"one clip of {options.frames} frames at interval {options.interval}, crop and resize included; milliseconds, "
        f"median of {options.rounds} clips in turn, one thread",
        line("", "", "frames", "whole", "loader", "latents", "resize", "whole/loader", "quartiles", "whole/latents"),
    ]
    for row in rows:
        lines.append(
            line(
                f"{row['resolution']}",
                row["video"][-30:],
                str(row.get("frames", "")),
                *(f"{1e3 * row[f'{name}_seconds']:.3g}" for name in ("whole", "loader", "latents", "resize")),
                f"{row['loader_ratio']:.2f}",
                f"{row['loader_ratio_low']:.2f} {row['loader_ratio_high']:.2f}",
                f"{row['latents_ratio']:.0f}",
            )
        )
    lines += [
        "whole: every frame of the file decoded and converted for each clip; loader: ours; latents: from a cache of",
        "Stable Diffusion's shape; resize: the crop and resize that whole and loader share, which no decoder can save",
        f"{first['hardware']}; av {first['av']}, pillow {first['pillow']}; commit {first['commit'][:12]}"
        f"{' with changes' if first['changed'] == 'true' else ''}",
    ]
    return "\n".join(lines)


def line(side: str, video: str, *cells: str) -> str:
    """One line of the printed table."""
    widths = (7, 9, 9, 9, 9, 14, 12, 14)
    return f"{side:>4} {video:30}" + "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
