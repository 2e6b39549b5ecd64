"""Protocols: names, hashes, and errors that help."""

import dataclasses
import hashlib
import json
from pathlib import Path

import pytest
import yaml

from lavita.config.protocol import Protocol
from lavita.metrics.table import I3D_TORCHSCRIPT_HASH

FILES = sorted((Path(__file__).parents[2] / "configs" / "protocols").glob("*.yaml"))


def load(name="suite"):
    path = next(file for file in FILES if file.stem == name)
    return Protocol.from_dict({"name": name, **yaml.safe_load(path.read_text())})


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_file_has_every_key_in_the_same_order(file):
    keys = [field.name for field in dataclasses.fields(Protocol)][1:]
    assert list(yaml.safe_load(file.read_text())) == keys
    assert Protocol.from_dict(load(file.stem).to_dict()) == load(file.stem)


def test_the_suites_protocol_names_the_recorded_network():
    suite = load()
    assert (suite.extractor, suite.extractor_hash) == ("i3d", I3D_TORCHSCRIPT_HASH)
    assert suite.real_interval == suite.generated_interval == 3
    assert (suite.n_real, suite.frames, suite.resolution, suite.split) == (2048, 16, 256, "train")


def test_the_hash_is_sha256_of_canonical_json_without_the_name():
    suite = load()
    fields = {key: value for key, value in dataclasses.asdict(suite).items() if key != "name"}
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    assert suite.hash() == hashlib.sha256(text.encode()).hexdigest()[:12]
    assert dataclasses.replace(suite, name="other").hash() == suite.hash()


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Protocol)][1:])
def test_every_field_but_the_name_changes_the_hash(field):
    suite = load()
    other = {
        "resize_where": "extractor", "crop": "none", "split": "heldout", "ddof": 1, "mirror": True,
        "value_range": None, "precision": None, "is_shuffle_seed": None, "unspecified": ("crop",),
    }.get(field, 7 if isinstance(getattr(suite, field), int) else "x")  # fmt: skip
    changed = dataclasses.replace(suite)
    # Fields of one allowed value so far cannot be replaced; their part in the hash is checked all the same.
    object.__setattr__(changed, field, other)
    assert changed.hash() != suite.hash()


def test_deriving_gives_a_new_name_and_hash():
    suite = load()
    few = suite.derive(n=48)
    assert (few.name, few.n_real, few.n_generated) == ("suite[n=48]", 48, 48) and few.hash() != suite.hash()
    both = suite.derive(n=48, extractor="embedded")
    assert both.name == "suite[n=48,extractor=embedded]"
    assert both.extractor_hash is None and both.is_extractor == "embedded"
    assert suite.derive(extractor="embedded").derive(n=48) == both == few.derive(extractor="embedded")
    assert few.derive(n=16).name == "suite[n=16]"
    assert suite.derive() == suite


def test_known_weights_change_the_hash_and_not_the_name():
    demo = load("demo")
    assert demo.with_weights("abc").name == "demo" and demo.with_weights("abc").hash() != demo.hash()


def test_wrong_keys_and_values_are_refused_with_what_to_do():
    values = load().to_dict()
    with pytest.raises(ValueError, match="protocol.real_intervall.*'real_interval'"):
        Protocol.from_dict({**values, "real_intervall": 3})
    with pytest.raises(ValueError, match="missing key protocol.ddof"):
        Protocol.from_dict({key: value for key, value in values.items() if key != "ddof"})
    with pytest.raises(ValueError, match="protocol.ddof: got 2, allowed: 0, 1"):
        Protocol.from_dict({**values, "ddof": 2})
    with pytest.raises(ValueError, match="protocol.n_real: got 1, wanted at least 2"):
        Protocol.from_dict({**values, "n_real": 1})
    with pytest.raises(ValueError, match="n_generatd.*'n_generated'"):
        load().derive(n_generatd=4)
    with pytest.raises(ValueError, match="is_splits: got 10 for 4 clips"):
        load().derive(n=4)


# What ../shared/protocols.md's table says of each code base, cell by cell; None where it has no value.
TABLE = {
    "latte-2024": dict(
        extractor="i3d", resolution=256, real_interval=3, generated_interval=1, clip_selection="random-start",
        n_real=2048, split="train+heldout", ddof=0, precision="float64", real_preprocess="inside", mirror=False,
        generated_codec="mp4-crf5+jpeg-q75", clip_seed=None,
    ),
    "stylegan-v": dict(
        extractor="i3d", resolution=256, real_interval=1, generated_interval=1, clip_selection="sorted-random-start",
        n_real=2048, split="train+heldout", ddof=0, precision="float64", real_codec="jpeg-q75",
        generated_codec="jpeg-q75", mirror=False, real_preprocess="inside",
    ),
    "pvdm": dict(
        extractor="i3d_pretrained_400", resolution=256, real_interval=1, generated_interval=1, n_real=2048,
        split="train", ddof=1, precision="float32-svd", real_preprocess="short-side",
        generated_preprocess="short-side", clip_selection="random-start", real_codec=None, generated_codec=None,
    ),
    "lvdm": dict(
        extractor="i3d_pretrained_400", resolution=256, real_interval=1, generated_interval=1, n_real=2048,
        split="train+heldout", ddof=1, precision="float32-svd", real_preprocess="straight-truncated",
        generated_codec="lossless", clip_selection="random-start",
    ),
    "digan": dict(
        extractor="i3d_pretrained_400", resolution=128, real_interval=1, generated_interval=1, n_real=2048,
        split="train+heldout", ddof=1, precision="float32-svd", clip_selection="every-window",
        windows_per_video=None, real_codec=None, generated_codec=None,
    ),
    "mcvd": dict(
        extractor="i3d", resolution=64, real_interval=1, frames=20, n_real=256, n_generated=2560, split="heldout",
        ddof=1, precision="float64", real_preprocess="short-side", clip_selection="evenly-spaced",
        windows_per_video=None, real_codec=None,
    ),
}  # fmt: skip
HASHES = {"i3d": I3D_TORCHSCRIPT_HASH, "i3d_pretrained_400": "a867b87ac3a9097d200598b1d48a1b890d8ec744"}


@pytest.mark.parametrize("name", TABLE)
def test_presets_say_what_the_table_says_and_mark_the_rest(name):
    preset = load(name)
    for key, value in TABLE[name].items():
        if value is None and not (name == "digan" and key == "windows_per_video"):
            assert key in preset.unspecified, key
            assert preset.described()[key] == f"unspecified (ours: {getattr(preset, key)})"
        else:
            assert getattr(preset, key) == value and key not in preset.unspecified, key
    assert preset.extractor_hash == HASHES[preset.extractor]
    assert (preset.is_extractor, preset.is_splits, preset.is_shuffle_seed) == ("c3d", 10, 42)
    # All score as many generated clips of 16 frames as real ones but MCVD: 10 samples of 20 frames for each.
    assert (preset.frames, preset.n_generated) == ((20, 2560) if name == "mcvd" else (16, preset.n_real))
    # Nobody says with which filter frames come to 256 pixels, nor with which seed real clips were drawn.
    assert {"resize_filter", "clip_seed"} <= set(preset.unspecified)


def test_no_two_presets_share_a_hash():
    assert len({load(file.stem).hash() for file in FILES}) == len(FILES) == 8


def test_what_is_unspecified_is_part_of_the_hash_and_must_be_a_field():
    suite = load()
    assert dataclasses.replace(suite, unspecified=("crop",)).hash() != suite.hash()
    with pytest.raises(ValueError, match="protocol.unspecified: unknown field 'corp'.*did you mean 'crop'"):
        dataclasses.replace(suite, unspecified=("corp",))


def test_the_in_domain_extractor_is_fed_in_its_own_way():
    derived = load("pvdm").derive(n=48, extractor="embedded")
    assert derived.name == "pvdm[n=48,extractor=embedded]"
    assert (derived.real_preprocess, derived.generated_preprocess, derived.is_extractor) == (
        "inside",
        "inside",
        "embedded",
    )
