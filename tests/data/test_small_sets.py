"""The small real sets: what is written down of them, and one command from published files to a checked tree."""

from __future__ import annotations

import csv
import hashlib
import io
import shutil
from pathlib import Path
from urllib.parse import urlsplit

import av
import numpy as np
import pytest
import yaml
from PIL import Image

from lavita.commands import prepare
from lavita.data import download
from lavita.data.layouts import LAYOUTS, list_dataset, read_layout
from lavita.data.small_sets import recorded
from lavita.data.small_sets.cutting import RECIPES, decoded_sha256, to_rgb
from lavita.data.small_sets.recorded import read_small_set, small_set_names
from lavita.data.sources import source_of
from tests.data.web_server import WebServer

SHARED = {"weizmann": "weizmann", "sky48": "sky_timelapse", "taichi18": "taichi", "faces10": "faceforensics"}
COUNTS = {"weizmann": (56, 16), "sky48": (40, 8), "taichi18": (15, 3), "faces10": (8, 2)}
FRAMES = 20
LEVELS = np.random.default_rng(3).integers(40, 216, (8, FRAMES))  # a grey level per video and frame


@pytest.mark.parametrize("name", small_set_names())
def test_what_is_written_down_is_complete(name, tmp_path):
    small = read_small_set(name)
    videos, source = small.videos(), source_of(small)
    assert len(videos) == len({video.path for video in videos}) == sum(COUNTS[name]) and name in RECIPES
    assert len({video.rgb_sha256 for video in videos}) == len({video.decoded_sha256 for video in videos}) == len(videos)
    for text in (key for v in videos for key in (v.rgb_sha256, v.decoded_sha256, v.source_sha256)):
        assert len(bytes.fromhex(text)) == 32
    (part,) = source.parts
    (copy,) = part.copies
    assert len({file.name for file in copy.files}) == len(copy.files)
    for file in copy.files:
        (address,) = file.addresses
        parts = urlsplit(address)
        assert parts.scheme == "https" and parts.path.endswith(f"/{file.name}") and file.num_bytes > 0
        commit = parts.path.split("/")[3]
        assert len(bytes.fromhex(commit)) == 20 and commit in small.how_to_get and "ROOT/" in small.how_to_get
    for path in part.tree:
        (tmp_path / path).mkdir(parents=True)
    assert LAYOUTS[small.dataset].locate(tmp_path)


@pytest.mark.parametrize("name", small_set_names())
def test_the_sets_beside_the_repository_are_the_recorded_ones(name, shared, tmp_path, capsys):
    root = shared(SHARED[name])
    arguments = [name, str(root), "--manifest", str(tmp_path / "m.csv"), "--cache", str(tmp_path)]
    assert prepare.main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"recorded     {name}: equal, frame by frame"
    assert [f"train        {COUNTS[name][0]}", f"heldout      {COUNTS[name][1]}"] == [
        line for line in lines if line.startswith(("train ", "heldout "))
    ]


@pytest.mark.parametrize("bt709", [False, True])
def test_planes_become_rgb_by_the_standard(bt709):
    """Each of at most three products has 13 bits and is cut to a whole number: the sum is 0 to 3.05 below the exact."""
    y, u, v = np.random.default_rng(0).integers(0, 256, (3, 16, 16), dtype=np.uint8)
    u, v = u[:8, :8], v[:8, :8]
    red, blue = (0.2126, 0.0722) if bt709 else (0.299, 0.114)
    grown = [np.kron(plane.astype(float) - 128, np.ones((2, 2))) * 255 / 224 for plane in (u, v)]
    luma = (y.astype(float) - 16) * 255 / 219
    r, b = luma + 2 * (1 - red) * grown[1], luma + 2 * (1 - blue) * grown[0]
    g = (luma - red * r - blue * b) / (1 - red - blue)
    below = np.clip(np.stack([r, g, b], axis=-1), 0, 255) - to_rgb(y, u, v, bt709)
    assert below.min() > -0.05 and below.max() < 3.05


# Small published files in the containers, codecs and layouts of the real ones. Grey, since of grey planes the RGB
# frames are known exactly.


def grey(luma: np.ndarray) -> np.ndarray:
    """RGB of grey pixels, by the whole-number formula: 9539 is 255 / 219 with 13 bits."""
    return np.repeat(np.clip((luma.astype(int) - 16) * 8 * 9539 >> 16, 0, 255)[..., None], 3, axis=-1).astype(np.uint8)


def write_luma(luma: np.ndarray, codec: str, suffix: str, **options: str) -> tuple[bytes, np.ndarray]:
    """A video file with these luma planes (F, H, W) and no colour; its bytes, and the luma that it decodes to."""
    buffer = io.BytesIO()
    height, width = luma.shape[1:]
    chroma = np.full((height // 2, width), 128, np.uint8)
    with av.open(buffer, "w", format=suffix) as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for plane in luma:
            frame = av.VideoFrame.from_ndarray(np.concatenate([plane, chroma]), format="yuv420p")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with av.open(io.BytesIO(buffer.getvalue())) as container:
        planes = [frame.to_ndarray() for frame in container.decode(video=0)]
    assert all((plane[height:] == 128).all() for plane in planes)
    return buffer.getvalue(), np.stack([plane[:height] for plane in planes])


def weizmann_files() -> tuple[dict[str, bytes], dict[str, tuple[str, np.ndarray]]]:
    """Two actions of two performers, a strip each."""
    files, videos = {}, {}
    for number, name in enumerate(("Bend_g01", "Bend_g08", "Wave_g01", "Wave_g08")):
        shown = np.arange(64)[:, None] + np.zeros(64) + LEVELS[number, :, None, None] / 2
        strip = np.concatenate(list(np.repeat(shown[..., None], 3, axis=-1)), axis=1).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(strip).save(buffer, "JPEG", quality=90)
        files[f"data/{number}.jpg"] = buffer.getvalue()
        pixels = np.asarray(Image.open(buffer))
        frames = np.stack([pixels[:, 64 * t : 64 * t + 64] for t in range(FRAMES)])
        videos[f"UCF-101/{name[:4]}/v_{name}_c01.avi"] = (f"data/{number}.jpg", frames)
    return files, videos


def sky48_files() -> tuple[dict[str, bytes], dict[str, tuple[str, np.ndarray]]]:
    """Two rows of three clips in one file, lines of two pixels between and around them."""
    luma = np.zeros((FRAMES, 2 * 130 + 2, 3 * 130 + 2), np.uint8)
    for number in range(6):
        top, left = 2 + 130 * (number // 3), 2 + 130 * (number % 3)
        luma[:, top : top + 128, left : left + 128] = LEVELS[number, :, None, None]
    data, shown = write_luma(luma, "mpeg4", "mp4", b="4000000")
    videos = {}
    for number in range(6):
        row, column = divmod(number, 3)
        frames = shown[:, 2 + 130 * row : 130 + 130 * row, 2 + 130 * column : 130 + 130 * column]
        assert np.abs(frames.mean((1, 2)) - LEVELS[number]).max() < 3
        place = "sky_test" if row else "sky_train"
        videos[f"{place}/grid{row}/grid{row}_{column}"] = ("real.mp4", grey(frames))
    return {"real.mp4": data}, videos


def taichi18_files() -> tuple[dict[str, bytes], dict[str, tuple[str, np.ndarray]]]:
    """Three videos of more frames than are taken, each above another picture."""
    files, videos = {}, {}
    for number in range(3):
        luma = np.full((70, 512, 256), 235, np.uint8)
        luma[:, :256] = (np.arange(70) + 40 * number + 16)[:, None, None] + np.arange(256)[None, None] // 8
        files[f"web/{number}.mp4"], shown = write_luma(luma, "libx264", "mp4", qp="0", preset="ultrafast")
        assert np.array_equal(shown, luma)
        split = "test" if number == 2 else "train"
        frames = grey(luma[:64, :256])
        videos[f"taichi-256/frames/{split}/video{number:02d}"] = (f"web/{number}.mp4", frames)
    return files, videos


def faces10_files() -> tuple[dict[str, bytes], dict[str, tuple[str, np.ndarray]]]:
    """Two videos of more frames than are taken: one wider than high, one higher than wide, flat within the square."""
    files, videos = {}, {}
    for number, (height, width) in enumerate(((240, 320), (320, 240))):
        luma = np.full((165, height, width), 235, np.uint8)
        square = luma[:, (height - 240) // 2 :][:, :240, (width - 240) // 2 :][..., :240]
        square[:] = (np.arange(165) + 20 + 15 * number)[:, None, None]
        files[f"d{number}.mp4"], shown = write_luma(luma, "libx264", "mp4", qp="0", preset="ultrafast")
        assert np.array_equal(shown, luma)
        frames = np.broadcast_to(grey(square[:160, :1, :1]), (160, 256, 256, 3)).copy()  # resized, flat stays flat
        videos[f"preprocess_ffs/{'test' if number else 'train'}/videos/face{number}.mp4"] = (f"d{number}.mp4", frames)
    return files, videos


MADE = {
    "weizmann": weizmann_files, "sky48": sky48_files, "taichi18": taichi18_files, "faces10": faces10_files
}  # fmt: skip


class Made:
    """A small set as somebody published it on the web server, and the command on it."""

    def __init__(self, name: str, web: WebServer, folder: Path, capsys) -> None:
        self.name, self.web, self.capsys = name, web, capsys
        self.files, self.videos = MADE[name]()
        self.root, self.cache = folder / "data", folder / "cache"
        self.written = folder / "small_sets"
        self.written.mkdir()
        self.addresses = {path: web.add(path, data) for path, data in self.files.items()}
        facts = yaml.safe_load((recorded.FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
        self.dataset, self.tree = facts["dataset"], facts["tree"]
        facts |= {"address": web.address(""), "terms": "Ask first.", "how_to_get": "By hand into ROOT/.download."}
        (self.written / f"{name}.yaml").write_text(yaml.safe_dump(facts))
        self.rgb = {path: hashlib.sha256(frames.tobytes()).hexdigest() for path, (_, frames) in self.videos.items()}
        self.decoded = {path: "0" * 64 for path in self.videos}
        self.record()

    def record(self) -> None:
        """Write the table of hashes as they are known by now."""
        with open(self.written / f"{self.name}.csv", "w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            names = "path,frames,rgb_sha256,decoded_sha256,source,source_bytes,source_sha256"
            rows.writerow(names.split(","))
            for path, (source, frames) in self.videos.items():
                data = self.files[source]
                known = (self.rgb[path], self.decoded[path], source, len(data), hashlib.sha256(data).hexdigest())
                rows.writerow((path, len(frames), *known))

    def __call__(self, *more: str) -> tuple[int, str, str]:
        """Exit status, what was printed, and the errors."""
        arguments = [self.name, str(self.root), "--download", "--cache", str(self.cache), *more]
        status = prepare.main(arguments, prog="prepare.py")
        said = self.capsys.readouterr()
        return status, said.out, said.err

    def visible(self) -> list[str]:
        return sorted(path.name for path in self.root.iterdir() if not path.name.startswith("."))


@pytest.fixture
def web(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(download, "FIRST_PAUSE_SECONDS", 0.001)
    with WebServer() as server:
        yield server


@pytest.fixture
def publish(web, tmp_path, monkeypatch, capsys):
    """Publishes a small set and replaces what is written down of it."""

    def make(name: str) -> Made:
        made = Made(name, web, tmp_path, capsys)
        monkeypatch.setattr(recorded, "FOLDER", made.written)
        return made

    return make


def decoded(path: Path) -> str:
    """The hash of what a written video decodes to, by libraries alone."""
    if path.is_dir():
        frames = [np.asarray(Image.open(picture).convert("RGB")) for picture in sorted(path.iterdir())]
    else:
        with av.open(str(path)) as container:
            frames = [frame.to_ndarray() for frame in container.decode(video=0)]
    return hashlib.sha256(np.stack(frames).tobytes()).hexdigest()


@pytest.mark.parametrize("name", MADE)
def test_a_set_is_made_checked_and_left_alone(name, publish, web):
    made = publish(name)
    status, said, error = made()
    # Nothing is recorded yet of what the written files decode to: the set is made, and one line says that it differs.
    assert (status, error) == (1, "") and "Ask first." in said
    (line,) = [line for line in said.splitlines() if line.startswith("recorded")]
    path = next(iter(made.videos))
    number = len(made.videos)
    assert line.startswith(f"recorded     {name}: {number} videos differ, such as {path}: decodes to other frames")
    assert f"ok           {number}" in said.splitlines()

    asked = len(web.requests)
    made.decoded = {path: decoded(made.root / path) for path in made.videos}
    assert made.decoded == {path: decoded_sha256(made.root / path) for path in made.videos}
    made.record()
    status, said, error = made("--verify")
    assert (status, error) == (0, "") and said.splitlines()[-1] == f"recorded     {name}: equal, frame by frame"
    assert len(web.requests) == asked == len(made.files)

    for path, (_, frames) in made.videos.items():
        read = np.stack(pictures(made.root / path))
        assert read.shape == frames.shape
        assert np.abs(read.astype(int) - frames).mean() < 3  # lossy, but it is this video
    assert len(read_layout(made.dataset, made.root).videos) == number
    kept = {path.name for path in (made.root / ".download").iterdir()}
    assert kept == {"lock", f"{Path(list(made.files)[-1]).name}.json"}


def pictures(path: Path) -> list[np.ndarray]:
    """The frames of a written video, RGB."""
    if path.is_dir():
        return [np.asarray(Image.open(picture)) for picture in sorted(path.iterdir())]
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_files_are_named_as_in_the_published_layouts(publish, tmp_path):
    sky = publish("sky48")
    sky()
    names = sorted(path.name for path in (sky.root / "sky_train/grid0/grid0_1").iterdir())
    assert (names[0], names[-1], len(names)) == ("00001.jpg", f"{FRAMES:05d}.jpg", FRAMES)


def test_lists_hold_the_last_two_performers_out(publish):
    made = publish("weizmann")
    made()
    lists = made.root / "ucfTrainTestlist"
    assert (lists / "classInd.txt").read_text() == "1 Bend\n2 Wave\n"
    assert (lists / "trainlist01.txt").read_text() == "Bend/v_Bend_g01_c01.avi 1\nWave/v_Wave_g01_c01.avi 2\n"
    assert (lists / "testlist01.txt").read_text() == "Bend/v_Bend_g08_c01.avi\nWave/v_Wave_g08_c01.avi\n"
    assert [item.split for item in list_dataset("ucf101", made.root).items] == ["train"] * 2 + ["heldout"] * 2


def test_a_broken_download_is_resumed(publish, web):
    made = publish("sky48")
    size = len(made.files["real.mp4"])
    web.pages["/real.mp4"].drops = [size // 3] + [0] * 5
    status, _, error = made()
    assert status != 0 and f"{size // 3} bytes are kept" in error and len(error.splitlines()) == 1
    assert not made.visible()
    web.pages["/real.mp4"].drops = []
    status, said, _ = made()
    assert f"found        {len(made.videos)}" in said and web.ranges()[-1] == f"bytes={size // 3}-"


def test_a_damaged_file_is_refused(publish, web):
    made = publish("taichi18")
    page = web.pages["/web/1.mp4"]
    good = page.data
    page.data = good[:-1] + bytes([good[-1] ^ 1])
    status, _, error = made()
    assert status == 2 and "1.mp4: " in error and "got sha256" in error and len(error.splitlines()) == 1
    assert not made.visible()
    page.data = good
    before = len(web.requests)
    assert "found        3" in made()[1]
    assert [path for path, *_ in web.requests[before:]] == ["/web/1.mp4", "/web/2.mp4"]  # the first is kept


def test_other_frames_than_recorded_are_not_put_in_place(publish, web):
    made = publish("faces10")
    path = list(made.videos)[1]
    right, made.rgb[path] = made.rgb[path], "1" * 64
    made.record()
    status, _, error = made()
    assert status == 2 and len(error.splitlines()) == 1
    assert f"{path}: cut from d1.mp4, got frames of sha256 {right}, expected {'1' * 64}" in error
    assert not made.visible() and not list(made.root.glob(".*.unpacking"))
    made.rgb[path] = right
    made.record()
    before = len(web.requests)
    assert "found        2" in made()[1] and len(web.requests) == before


def test_a_copy_that_was_changed_is_named_by_its_videos(publish, web):
    made = publish("taichi18")
    made()
    made.decoded = {path: decoded(made.root / path) for path in made.videos}
    made.record()
    first, second, third = (made.root / path for path in made.videos)
    shutil.rmtree(second)
    (third / "0000003.jpg").write_bytes((third / "0000004.jpg").read_bytes())
    first.rename(first.with_name("other"))
    asked = len(web.requests)
    status, said, _ = made()
    line = said.splitlines()[-1]
    # One that is not of the set, two that are gone, one of which a picture is another.
    assert status == 1 and line.startswith(
        "recorded     taichi18: 4 videos differ, such as taichi-256/frames/train/other"
    )
    assert len(web.requests) == asked


def test_half_a_tree_is_neither_completed_nor_overwritten(publish, web):
    made = publish("sky48")
    (made.root / "sky_train").mkdir(parents=True)
    status, _, error = made()
    assert status == 2 and "sky_train: is there, but of sky_train, sky_test something is missing" in error
    assert not web.requests


def test_files_put_there_by_hand_are_used(publish, web):
    made = publish("sky48")
    (made.root / ".download").mkdir(parents=True)
    (made.root / ".download" / "real.mp4").write_bytes(made.files["real.mp4"])
    assert "found        6" in made()[1] and not web.requests


def test_a_dead_address_says_how_to_get_the_files_by_hand(publish, web):
    made = publish("sky48")
    web.pages.clear()
    status, said, error = made()
    assert status == 2 and "HTTP 404" in error and f"By hand into {made.root}/.download." in said


def test_an_unknown_set_is_answered_with_all_names(capsys):
    with pytest.raises(SystemExit) as end:
        prepare.main(["weizman", "data"])
    said = capsys.readouterr().err
    assert end.value.code == 2 and "got 'weizman'" in said
    assert all(name in said for name in ("ucf101", *small_set_names()))
