"""Files in the format of i3d_pretrained_400.pt: right ones, wrong ones, and what the extractor makes of clips."""

import os
from collections import OrderedDict

import numpy as np
import pytest
import torch

from lavita.metrics.features.base import straight
from lavita.metrics.features.i3d import I3D, I3DExtractor, load_i3d, read_i3d
from lavita.metrics.features.weights import git_blob_hash, load_strictly, read_state_dict
from lavita.parity.adapters import fill_i3d


@pytest.fixture(scope="module")
def state():
    """As the official conversion from TensorFlow writes it: an OrderedDict without counters."""
    tensors = fill_i3d(I3D()).state_dict()
    return OrderedDict((key, value) for key, value in tensors.items() if "num_batches" not in key)


@pytest.fixture(scope="module")
def path(state, tmp_path_factory):
    path = tmp_path_factory.mktemp("i3d") / "i3d_pretrained_400.pt"
    torch.save(state, path, _use_new_zipfile_serialization=False)  # the format of its year
    return path


@pytest.fixture(scope="module")
def extractor(path):
    return load_i3d(path)


def clips(count=2, frames=9, size=32):
    return np.random.default_rng(0).integers(0, 256, (count, frames, size, size, 3), dtype=np.uint8)


def test_features_are_the_logits_of_the_network(extractor, path, state):
    assert (extractor.name, extractor.num_features, extractor.num_classes) == ("i3d", 400, None)
    assert extractor.preprocess == "straight" and extractor.weights_hash == git_blob_hash(path)
    found = extractor.features(clips(1))
    assert found.shape == (1, 400) and found.dtype == torch.float32
    network = I3D()
    network.load_state_dict(state)
    with torch.no_grad():
        wanted = network.eval()(straight(torch.from_numpy(clips(1)), 224))
    assert (found - wanted).norm() <= 1e-5 * wanted.norm()
    assert extractor.probabilities(clips(1)) is None


def test_features_come_in_clip_order_and_do_not_depend_on_how_clips_are_shared_out(extractor):
    whole = extractor.features(clips())
    # Two processes with a clip each, or one that sees them one by one: bit for bit.
    assert torch.equal(whole, torch.cat([extractor.features(clips()[rank::2]) for rank in (0, 1)]))
    assert not torch.equal(whole[0], whole[1])


def test_another_preprocess_is_another_extractor(path, extractor):
    other = load_i3d(path, preprocess="short-side")
    assert other.name == "i3d-short-side" and other.weights_hash == extractor.weights_hash
    wide = clips(1)[:, :, :16]
    assert not torch.allclose(other.features(wide), extractor.features(wide), atol=1e-3)
    with pytest.raises(ValueError, match="got 'unit', allowed straight, straight-truncated, short-side"):
        I3DExtractor(I3D(), "", preprocess="unit")


def changed(state, **entries):
    copy = OrderedDict(state) | entries
    return {key: value for key, value in copy.items() if value is not None}


@pytest.mark.parametrize(
    "entries, message",
    [
        ({"logits.conv3d.bias": None}, "1 missing names, first logits.conv3d.bias"),
        ({"fc.weight": torch.zeros(2)}, "1 unknown names, first fc.weight"),
        ({"logits.conv3d.bias": torch.zeros(600)}, r"logits.conv3d.bias has shape \(600,\), wanted \(400,\)"),
        ({"logits.conv3d.bias": torch.full((400,), torch.nan)}, "not finite"),
        ({"logits.conv3d.bias": "none"}, "holds no state dict, but a dictionary with"),
    ],
    ids=["missing", "unknown", "600 classes", "nan", "no tensor"],
)
def test_wrong_networks_are_refused_in_one_line(tmp_path, state, entries, message):
    torch.save(changed(state, **entries), tmp_path / "i3d.pt")
    with pytest.raises(ValueError, match=message) as error:
        read_i3d(tmp_path / "i3d.pt")
    assert "\n" not in str(error.value) and "i3d.pt" in str(error.value)


class Trap:
    """Unpickled without weights_only, it makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_with_code_is_refused_and_not_run(tmp_path, zipped):
    file = tmp_path / "i3d.pt"
    torch.save({"a": Trap(tmp_path / "ran")}, file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match="holds more than weights, or is damaged") as error:
        read_i3d(file)
    assert "\n" not in str(error.value) and not (tmp_path / "ran").exists()


def test_a_checkpoint_of_a_training_run_is_opened_at_its_weights(tmp_path):
    torch.save({"epoch": 3, "state_dict": {"weight": torch.ones(2)}}, tmp_path / "run.pt")
    assert list(read_state_dict(tmp_path / "run.pt", "X")) == ["weight"]
    torch.save({"epoch": 3}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="no state dict, but a dictionary with 'epoch'"):
        read_state_dict(tmp_path / "other.pt", "X")
    torch.save([torch.ones(2)], tmp_path / "list.pt")
    with pytest.raises(ValueError, match="no state dict, but a list"):
        read_state_dict(tmp_path / "list.pt", "X")


def test_counters_are_all_there_or_none_is():
    network = torch.nn.Sequential(torch.nn.BatchNorm1d(2), torch.nn.BatchNorm1d(2))
    state = {key: torch.full_like(value, 2) for key, value in network.state_dict().items()}
    load_strictly(network, state, "X", "file")
    assert network[1].running_var.tolist() == [2, 2] and network[1].num_batches_tracked == 2
    del state["0.num_batches_tracked"]
    with pytest.raises(ValueError, match="1 missing names, first 0.num_batches_tracked"):
        load_strictly(network, state, "X", "file")
