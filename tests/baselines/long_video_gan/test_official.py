"""Official names and shapes, and files of state dicts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from lavita.baselines.long_video_gan.low_resolution import GeneratorConfig, LowResolutionGenerator
from lavita.baselines.long_video_gan.low_resolution_discriminator import (
    DiscriminatorConfig,
    LowResolutionDiscriminator,
)
from lavita.baselines.long_video_gan.module import load_official
from lavita.baselines.long_video_gan.super_resolution import SuperResolutionGenerator, UpsamplerConfig
from lavita.baselines.long_video_gan.super_resolution_discriminator import PairConfig, SuperResolutionDiscriminator
from lavita.methods.checkpoints import CheckpointError
from tests.training.test_resume import build

SHAPES = Path(__file__).resolve().parents[4] / "shared" / "reference" / "long_video_gan_shapes.json"
NETWORKS = {
    "lres_G": lambda: LowResolutionGenerator(GeneratorConfig(36, 64)),
    "lres_D": lambda: LowResolutionDiscriminator(DiscriminatorConfig(128, 64)),
    "sres_G": lambda: SuperResolutionGenerator(UpsamplerConfig(144, 256, 36, 64)),
    "sres_D": lambda: SuperResolutionDiscriminator(PairConfig(4, 256, 64)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_names_and_shapes_are_the_official_ones(name):
    if not SHAPES.is_file():
        pytest.skip(f"{SHAPES} is not here")
    recorded = json.loads(SHAPES.read_text())[name]["state_dict"]
    with torch.device("meta"):
        network = NETWORKS[name]()
    assert {key: list(value.shape) for key, value in network.state_dict().items()} == recorded


def test_two_state_dicts_fill_both_generators_or_none(tmp_path):
    method, other = (build("long-video-gan super-resolution") for _ in range(2))
    with torch.no_grad():
        for value in (*other.low_resolution.parameters(), *other.generator.parameters()):
            value += 1
    paths = [tmp_path / "low.pt", tmp_path / "super.pt"]
    torch.save(other.low_resolution.state_dict(), paths[0])
    torch.save(other.generator.state_dict(), paths[1])
    before = method.low_resolution.spatial_input.clone()
    with pytest.raises(CheckpointError, match="does not fit SuperResolutionGenerator"):
        load_official(method, [paths[0], paths[0]])
    assert torch.equal(method.low_resolution.spatial_input, before)
    with pytest.raises(ValueError, match="long-video-gan has two"):
        load_official(method, paths[:1])
    load_official(method, paths)
    for ours, theirs in ((method.low_resolution, other.low_resolution), (method.generator, other.generator)):
        assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
