"""The feature networks of a run: another file than the protocol records is refused."""

from __future__ import annotations

import pytest
import torch

from lavita.config.plan import make_plan
from lavita.metrics.features.load import load_extractors
from lavita.metrics.features.torchscript import TorchScriptI3D


class TinyI3D(torch.nn.Module):
    """400 means of a clip, called as the packaged I3D is."""

    def forward(
        self, clips: torch.Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False
    ) -> torch.Tensor:
        return clips.mean(dim=(1, 2, 3, 4))[:, None].repeat(1, 400)


def test_another_file_than_the_recorded_is_refused_and_can_be_named(tmp_path):
    file = tmp_path / "i3d.pt"
    torch.jit.script(TinyI3D()).save(str(file))
    own = TorchScriptI3D(str(file)).weights_hash

    def networks(*overrides):
        small = [f"weights.i3d={file}", "protocol.is_extractor=i3d", *overrides]
        (experiment,) = make_plan("skytimelapse", "demo", ["dit"], [0], small)
        return experiment, load_extractors(experiment.protocol, experiment.weights, in_domain=None, device="cpu")

    with pytest.raises(
        ValueError, match=f"protocol.extractor_hash is 93daef59c7ae, the file of i3d at hand has {own[:12]}"
    ):
        networks("protocol.extractor_hash=93daef59c7ae0e9e8f76225521407e60cbafa6aa")
    experiment, found = networks(f"protocol.extractor_hash={own}")
    assert found["distance"].weights_hash == own and f"extractor_hash={own}" in experiment.protocol.name
