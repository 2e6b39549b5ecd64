"""The extractors that are kept with the package: found by videos and setting, refused where a file is damaged."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lavita.config.plan import make_plan
from lavita.data.find import usable_catalogue
from lavita.data.small_sets.recorded import read_small_set, small_set_names
from lavita.data.synthetic import PLANS, write_synthetic
from lavita.data.video import read_frames, write_video
from lavita.executors.heartbeat import read_event
from lavita.experiment.shared import fit_extractor, fit_setting, networks_of, with_weights_of
from lavita.metrics.features.in_domain import load_in_domain
from lavita.metrics.features.in_domain_training import SHARES
from lavita.metrics.features.published import FOLDER, alike, find_published, known_videos, outline, published
from lavita.metrics.features.stretches import read_stretches

KEPT = {one.name: one for one in published()}
SMALL = {"weizmann": "weizmann", "sky48": "sky_timelapse", "taichi18": "taichi", "faces10": "faceforensics"}
SHARED_DATA = Path(__file__).parents[3] / "shared" / "data"


def silent(done: int, total: int) -> None:
    pass


def experiment_of(dataset: str, *overrides: str):
    return make_plan(dataset, "demo", ["dit"], None, list(overrides))[0]


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory):
    """synthetic("ucf101"): experiment, catalogue and number of classes of the demo without data.root."""
    folder = tmp_path_factory.mktemp("synthetic")

    def of(dataset: str):
        experiment = experiment_of(dataset)
        catalogue = usable_catalogue(experiment.data, write_synthetic(dataset, folder), folder)
        return experiment, catalogue, len(catalogue.class_names) or None

    return of


def test_there_is_one_for_each_synthetic_and_each_small_set_and_all_files_are_small():
    assert set(KEPT) == {f"synthetic-{name}" for name in PLANS} | set(small_set_names())
    suffixes = {".safetensors", ".json", ".csv"}
    assert {path.name for path in FOLDER.iterdir()} == {name + end for name in KEPT for end in suffixes}
    assert all(path.stat().st_size < 500_000 for path in FOLDER.iterdir())


@pytest.mark.parametrize("name", sorted(KEPT))
def test_each_loads_and_is_of_the_setting_of_tier_demo(name):
    one = KEPT[name]
    dataset = name.removeprefix("synthetic-") if name.startswith("synthetic-") else read_small_set(name).dataset
    classes = {video.class_index for video in one.videos}
    assert one.setting == fit_setting(experiment_of(dataset), len(classes) if dataset == "ucf101" else None)
    network = load_in_domain(one.file)
    assert network.weights_hash == one.sha256 and network.num_classes == one.setting.num_classes
    assert network.facts["steps"] == one.setting.steps and network.facts["kinds_right"] > 2 * max(SHARES.values())


@pytest.mark.parametrize("dataset", PLANS)
def test_the_synthetic_videos_are_those_it_was_fitted_to(synthetic, dataset):
    experiment, catalogue, num_classes = synthetic(dataset)
    found = find_published(catalogue.split("train"), fit_setting(experiment, num_classes), silent)
    assert found == KEPT[f"synthetic-{dataset}"]


@pytest.mark.parametrize("name", SMALL)
def test_the_small_sets_are_those_it_was_fitted_to(name):
    root = SHARED_DATA / SMALL[name]
    if not root.is_dir():
        pytest.skip(f"{root} is not there")
    experiment = experiment_of(read_small_set(name).dataset, f"data.root={root}")
    catalogue = usable_catalogue(experiment.data, root, None)
    setting = fit_setting(experiment, len(catalogue.class_names) or None)
    assert find_published(catalogue.split("train"), setting, silent) == KEPT[name]


def test_a_run_takes_it_says_so_and_its_protocol_is_the_same_everywhere(synthetic, tmp_path, capsys):
    experiment, catalogue, num_classes = synthetic("ucf101")
    kept = KEPT["synthetic-ucf101"]
    path = fit_extractor(experiment, catalogue, tmp_path / "cache", num_classes, tmp_path)
    assert path.read_bytes() == kept.file.read_bytes() and not (tmp_path / "cache").exists()
    notes = [event.text for line in capsys.readouterr().out.splitlines() if hasattr(event := read_event(line), "text")]
    assert notes == [f"extractor: synthetic-ucf101's, as published (sha256 {kept.sha256[:12]})"]
    used = with_weights_of(experiment.protocol, networks_of(experiment, path, "cpu"))
    assert used == experiment.protocol.with_weights(kept.sha256, kept.sha256)


@pytest.mark.parametrize(
    "change", [{"frames": 7}, {"interval": 2}, {"resolution": 16}, {"flip": False}, {"steps": 2}, {"num_classes": 5}]
)
def test_another_setting_has_none(synthetic, change):
    experiment, catalogue, num_classes = synthetic("ucf101")
    setting = replace(fit_setting(experiment, num_classes), **change)
    assert find_published(catalogue.split("train"), setting, silent) is None


def test_another_setting_is_fitted_as_before(synthetic, tmp_path, capsys):
    experiment, catalogue, num_classes = synthetic("ucf101")
    experiment = replace(experiment, extractor=replace(experiment.extractor, steps=2))
    path = fit_extractor(experiment, catalogue, tmp_path / "cache", num_classes, tmp_path)
    assert "extractor trained" in capsys.readouterr().out
    assert load_in_domain(path).weights_hash not in {one.sha256 for one in KEPT.values()}


def test_other_videos_have_none(synthetic, tmp_path):
    experiment, catalogue, num_classes = synthetic("ucf101")
    setting, videos = fit_setting(experiment, num_classes), catalogue.split("train")
    assert find_published(videos[1:], setting, silent) is None
    assert find_published([replace(videos[0], class_index=3), *videos[1:]], setting, silent) is None
    assert find_published([replace(videos[0], frames=71), *videos[1:]], setting, silent) is None
    # One video of equal id and length that shows something else, here another's frames.
    other = replace(videos[0], path=videos[-1].path)
    assert find_published([other, *videos[1:]], setting, silent) is None


def test_the_same_pictures_from_another_encoder_are_found(synthetic, tmp_path):
    """Lossless files of what the lossy ones decode to, off by one level as another processor might round."""
    experiment, catalogue, num_classes = synthetic("ucf101")
    setting, videos = fit_setting(experiment, num_classes), catalogue.split("train")
    rng, written = np.random.default_rng(0), []
    for number, video in enumerate(videos[::16]):
        frames = read_frames(video.path, range(video.frames)).astype(int)
        frames = np.clip(frames + rng.integers(-1, 2, frames.shape), 0, 255).astype(np.uint8)
        path = write_video(tmp_path / f"{number}.mkv", frames, 25, lossless=True)
        written.append(replace(video, path=str(path), entries=b""))
    others = [next((one for one in written if one.video_id == video.video_id), video) for video in videos]
    assert find_published(others, setting, silent) == KEPT["synthetic-ucf101"]


def test_blurred_noisy_and_shifted_videos_are_others(synthetic):
    experiment, catalogue, num_classes = synthetic("ucf101")
    setting = fit_setting(experiment, num_classes)
    stretches = read_stretches(catalogue.split("train"), setting.frames, setting.interval, setting.resolution, silent)
    kept, rng = KEPT["synthetic-ucf101"].videos, np.random.default_rng(0)
    assert alike(kept, known_videos(stretches, setting))
    for change in (
        lambda v: np.mean([np.roll(v, step, axis=2) for step in range(-2, 3)], axis=0),
        lambda v: v + rng.normal(0, 10, v.shape),
        lambda v: np.roll(v, 2, axis=2),
        lambda v: v + 5.0,
        lambda v: v[::-1],
    ):
        changed = [np.clip(np.round(change(frames)), 0, 255).astype(np.uint8) for frames in stretches.frames]
        assert not alike(kept, known_videos(replace(stretches, frames=changed), setting))


def test_an_outline_is_mean_and_deviation_of_blocks():
    frames = np.random.default_rng(0).integers(0, 256, (5, 8, 16, 3), dtype=np.uint8)
    found = outline(frames)
    assert found.shape == (3, 2, 4, 4, 3)
    for place, frame in enumerate((0, 2, 4)):
        block = frames[frame, 2:4, 12:16, 1].astype(float)  # second row, last column, green
        mean = block.sum() / 8
        deviation = np.sqrt(((block - mean) ** 2).sum() / 8)
        assert found[place, 0, 1, 3, 1] == round(mean) and found[place, 1, 1, 3, 1] == round(deviation)
    with pytest.raises(ValueError, match="outline: got frames of 16x6, wanted multiples of 4"):
        outline(frames[:, :6])


@pytest.mark.parametrize("suffix", [".safetensors", ".csv", ".json"])
@pytest.mark.parametrize("damage", ["gone", "cut", "changed"])
def test_a_damaged_file_is_one_line(synthetic, tmp_path, suffix, damage):
    experiment, catalogue, num_classes = synthetic("ucf101")
    folder = tmp_path / "kept"
    shutil.copytree(FOLDER, folder)
    path = folder / f"synthetic-ucf101{suffix}"
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif suffix == ".json":
        path.write_text(json.dumps(json.loads(content) | {"weights_sha256": "0" * 64}))
    else:
        path.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    with pytest.raises(ValueError, match="extractor synthetic-ucf101: .*fit anew: lavita extractors --fit") as told:
        find_published(catalogue.split("train"), fit_setting(experiment, num_classes), silent, folder)
    assert "\n" not in str(told.value)
