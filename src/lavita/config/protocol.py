"""What a score was made with, as frozen data with a name and a hash. Two hashes never share a column."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lavita.config.schema import ConfigError, check_ranges, nearest, read

DERIVED = re.compile(r"^(?P<base>[^\[\]]+?)(?:\[(?P<changes>[^\[\]]*)\])?$")
# How real clips are chosen where there are more than are scored, or videos longer than a clip.
SELECTIONS = {
    "windows": "non-overlapping windows, spread evenly over the videos, videos and windows in a drawn order",
    "random-start": "videos in a drawn order, one window a video from a drawn start",
    "sorted-random-start": "the first videos by name, one window a video from a drawn start",
    "every-window": "every window of every video, then a drawn subset",
    "evenly-spaced": "videos at an even spacing through the list by name, one window a video from a drawn start",
}
# How frames lie on disk before they are scored.
LOSSLESS, JPEG, MP4_THEN_JPEG = "lossless", "jpeg-q75", "mp4-crf5+jpeg-q75"
ALLOWED = {
    "resize_where": ("loader", "extractor"),
    "crop": ("centre", "none"),
    "value_range": ("uint8",),
    "clip_selection": tuple(SELECTIONS),
    "split": ("train", "heldout", "train+heldout"),
    "ddof": (0, 1),
    "precision": ("float64", "float32-svd"),
    "real_codec": (LOSSLESS, JPEG),
    "generated_codec": (LOSSLESS, JPEG, MP4_THEN_JPEG),
}


@dataclass(frozen=True)
class Protocol:
    """Every choice that moves a score. The hash covers all fields but the name.

    extractor, extractor_hash: network of FVD and KVD and the hash of its weights (None until it is known);
    real_preprocess, generated_preprocess: how clips are brought to it, a name of metrics/features/base.py or "inside";
    is_extractor, is_extractor_hash: network of IS. resolution, resize_filter, resize_where, crop: how frames of another
    size come to the one that is scored. value_range: what the extractor is handed. frames: a clip. real_interval,
    generated_interval: video frames from one clip frame to the next; a model trained at interval 3 generates at 3.
    clip_selection: a key of SELECTIONS. windows_per_video: real clips per video at most, None as many as it has.
    clip_seed: draws which. split: where real clips come from. mirror: real clips also mirrored. ddof, precision: of the
    statistics. is_splits, is_shuffle_seed: of IS. real_codec, generated_codec: what frames go through on disk.
    unspecified: fields of which the code that the protocol follows says nothing; their values are our choice.
    """

    name: str
    extractor: str
    extractor_hash: str | None
    real_preprocess: str
    generated_preprocess: str
    is_extractor: str
    is_extractor_hash: str | None
    resolution: int
    resize_filter: str
    resize_where: str
    crop: str
    value_range: str
    frames: int
    real_interval: int
    generated_interval: int
    clip_selection: str
    windows_per_video: int | None
    clip_seed: int
    split: str
    n_real: int
    n_generated: int
    mirror: bool
    ddof: int
    precision: str
    is_splits: int
    is_shuffle_seed: int | None
    real_codec: str
    generated_codec: str
    unspecified: tuple[str, ...]

    def __post_init__(self) -> None:
        for key, allowed in ALLOWED.items():
            if getattr(self, key) not in allowed:
                choices = ", ".join(map(str, allowed))
                raise ConfigError(f"protocol.{key}: got {getattr(self, key)!r}, allowed: {choices}")
        check_ranges("protocol", self)
        if self.n_generated < self.is_splits:
            raise ConfigError(f"protocol.is_splits: got {self.is_splits} for {self.n_generated} clips; lower it")
        names = [field.name for field in dataclasses.fields(self)]
        for key in self.unspecified:
            if key not in names or key == "name":
                raise ConfigError(f"protocol.unspecified: unknown field {key!r}: {nearest(key, names)}")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Protocol:
        """Read a plain mapping. Raises ConfigError for an unknown, missing or wrong key, naming the nearest
        one.
        """
        return read(cls, values, "protocol")

    def to_dict(self) -> dict[str, Any]:
        """All fields, the name included; `from_dict` undoes it."""
        return dataclasses.asdict(self)

    def full_hash(self) -> str:
        """sha256 in 64 hex digits over all fields but the name, as JSON with sorted keys and no spaces."""
        fields = {key: value for key, value in self.to_dict().items() if key != "name"}
        return hashlib.sha256(json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    def described(self) -> dict[str, str]:
        """Every field but the name as a reader sees it: "unspecified (ours: 0)" where the code followed is silent."""
        return {
            key: f"unspecified (ours: {value})" if key in self.unspecified else str(value)
            for key, value in self.to_dict().items()
            if key not in ("name", "unspecified")
        }

    def hash(self) -> str:
        """The first 12 hex digits of the hash, as tables show it."""
        return self.full_hash()[:12]

    def with_weights(self, extractor_hash: str | None, is_extractor_hash: str | None = None) -> Protocol:
        """The same protocol, name kept, once the weights are known: the hash changes, the choices do not."""
        return dataclasses.replace(self, extractor_hash=extractor_hash, is_extractor_hash=is_extractor_hash)

    def derive(self, **changes: Any) -> Protocol:
        """A protocol with other values and a name that says so, e.g. ``suite[n=48,extractor=embedded]``.

        n sets n_real and n_generated; extractor with embedded, or any name without is_extractor beside it,
        also forgets the recorded hash; embedded serves IS as well, and is fed in its own way. Changes of a derived
        protocol join its brackets. A value that is what it was still counts as said. Raises ConfigError for an unknown
        key or a value not allowed.
        """
        names = [field.name for field in dataclasses.fields(self) if field.name != "name"]
        values: dict[str, Any] = {}
        for key, value in changes.items():
            if key != "n" and key not in names:
                raise ConfigError(f"unknown key protocol.{key}: {nearest(key, [*names, 'n'])}")
            values |= {"n_real": value, "n_generated": value} if key == "n" else {key: value}
        if "extractor" in changes:
            values.setdefault("extractor_hash", None)
            if changes["extractor"] == "embedded":
                values = dict.fromkeys(("real_preprocess", "generated_preprocess"), "inside") | values
                values = {"is_extractor": "embedded", "is_extractor_hash": None} | values
        shown = self._said() | {key: _plain(value) for key, value in changes.items()}
        order = ["n", *names]
        inside = ",".join(f"{key}={shown[key]}" for key in sorted(shown, key=order.index))
        base = self.name.partition("[")[0]
        return self.from_dict(self.to_dict() | values | {"name": f"{base}[{inside}]" if inside else base})

    def _said(self) -> dict[str, str]:
        """What stands in the brackets of the name."""
        match = DERIVED.match(self.name)
        if match is None:
            raise ConfigError(f"protocol.name: got {self.name!r}, allowed: a name, or name[key=value,...]")
        return dict(item.split("=", 1) for item in (match["changes"] or "").split(",") if item)


def _plain(value: Any) -> str:
    """A value as it stands in a name: commas and brackets would end it too early."""
    return re.sub(r"[\[\],\s]", "_", str(value))
