"""The codecs: the start equals numpy's principal components, patches go there and back, saving changes nothing."""

import math

import numpy as np
import pytest
import torch

from lavita.codecs.base import PixelCodec
from lavita.codecs.kl import KLCodec, frames_of_patches, load_codec, load_kl, patch_side, patches_of_frames, save_codec
from lavita.codecs.training import CONSTANT, CodecTraining, measured_codec, small_autoencoder
from lavita.config.plan import make_plan
from lavita.diffusion.rng import SampleRNG


@pytest.fixture(scope="module")
def experiment():
    return make_plan("ucf101", "demo", ["lavita-v1"], [0], ["data.root=/videos"])[0]


@pytest.fixture(scope="module")
def video():
    """Smooth moving patterns in [-1, 1], (4, 4, 3, 32, 32)."""
    generator = torch.Generator().manual_seed(0)
    small = torch.randn(4, 4 * 3, 6, 6, generator=generator)
    return torch.nn.functional.interpolate(small, size=32, mode="bicubic").view(4, 4, 3, 32, 32).tanh()


def numpy_principal_components(video: torch.Tensor, count: int) -> np.ndarray:
    """The video after projection of its 4 x 4 patches on `count` principal components, by numpy alone."""
    x = video.numpy().reshape(-1, 3, 8, 4, 8, 4).transpose(0, 2, 4, 1, 3, 5).reshape(-1, 48)
    mean = x.mean(0)
    axes = np.linalg.svd(x - mean, full_matrices=False)[2][:count]
    y = (x - mean) @ axes.T @ axes + mean
    return y.reshape(-1, 8, 8, 3, 4, 4).transpose(0, 3, 1, 4, 2, 5).reshape(video.shape)


def test_start_is_the_linear_map_of_principal_components(experiment, video):
    module = CodecTraining(experiment.codec, experiment.train, seed=0)
    module.start(video)
    patch = patch_side(module.autoencoder)
    with torch.no_grad():
        z = module.autoencoder.encode(patches_of_frames(video, patch)).latent_dist.mean
        after = frames_of_patches(module.autoencoder.decode(z).sample, patch, len(video))
    linear = numpy_principal_components(video, experiment.codec.latent_channels)
    # Each of the two norms divides by sqrt(1 + S / CONSTANT^2), where S is the variance of the components in its group:
    # at most the 8 of all components together. So the map is the linear one times 1 / (1 + 8 / 64) or more.
    error = np.linalg.norm(after.numpy() - linear) / np.linalg.norm(linear)
    assert CONSTANT == 8
    assert error < 1 - 1 / (1 + 8 / CONSTANT**2)
    unstarted = CodecTraining(experiment.codec, experiment.train, seed=0)
    with torch.no_grad():
        z = unstarted.autoencoder.encode(patches_of_frames(video, patch)).latent_dist.mean
        random = frames_of_patches(unstarted.autoencoder.decode(z).sample, patch, len(video))
    assert np.linalg.norm(random.numpy() - linear) / np.linalg.norm(linear) > 0.5


def test_patches_there_and_back(video):
    patches = patches_of_frames(video, 4)
    assert patches.shape == (16, 48, 8, 8)
    assert torch.equal(frames_of_patches(patches, 4, 4), video)


def test_measured_statistics_and_saving(experiment, video, tmp_path):
    module = CodecTraining(experiment.codec, experiment.train, seed=0)
    module.start(video)
    codec = measured_codec(module.autoencoder, [{"video": video}], "suite", 512)
    latent = codec.encode(video, SampleRNG(range(4)))
    assert latent.shape == (4, 4, experiment.codec.latent_channels, 8, 8)
    # The posterior's own spread adds exp(-6) to the unit variance, and 4096 values estimate it to 1/sqrt(2048).
    assert float(latent.detach().var()) == pytest.approx(1, abs=0.1)
    assert float((latent.abs() <= codec.latent_bound()).float().mean()) == pytest.approx(0.999, abs=0.002)
    save_codec(codec, tmp_path)
    again = load_codec(tmp_path)
    assert torch.equal(again.encode(video, SampleRNG(range(4))), latent)
    assert torch.equal(again.decode(latent), codec.decode(latent))
    assert (again.name, again.trained_clips, again.latent_bound()) == ("suite", 512, codec.latent_bound())


def test_statistics_of_clips_without_content_are_finite(experiment):
    module, grey = CodecTraining(experiment.codec, experiment.train, seed=0), torch.zeros(2, 4, 3, 32, 32)
    module.start(grey)
    codec = measured_codec(module.autoencoder, [{"video": grey}], "suite", 8)
    assert bool((codec.std > 0).all()) and np.isfinite(codec.latent_bound())
    assert bool(torch.isfinite(codec.encode(grey, SampleRNG(range(2)))).all())


def test_a_clip_is_encoded_alone_as_in_a_batch(experiment, video):
    module = CodecTraining(experiment.codec, experiment.train, seed=0)
    module.start(video)
    codec = KLCodec(module.autoencoder, torch.zeros(8), torch.ones(8), 1.0)
    together = codec.encode(video, SampleRNG([5, 6, 7, 8]))
    alone = codec.encode(video[2:3], SampleRNG([7]))
    # Equal noise; convolutions over other batch sizes round differently, a few float32 steps of values up to 10.
    assert torch.allclose(together[2:3], alone, atol=1e-4)


def test_pixels_are_left_as_they_are(video):
    codec = PixelCodec()
    assert torch.equal(codec.decode(codec.encode(video, SampleRNG(range(4)))), video)
    assert codec.latent_side(32) == 32


def test_external_codec_from_a_folder(experiment, tmp_path):
    small_autoencoder(experiment.codec).save_pretrained(tmp_path)
    codec = load_kl(str(tmp_path), 0.5)
    assert (codec.latent_channels, codec.downsample) == (8, 4)
    assert codec.latent_bound() == math.inf
    assert torch.equal(codec.std.flatten(), torch.full((8,), 2.0))


def test_external_codec_that_is_not_there_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError, match="codec.path: no AutoencoderKL at") as error:
        load_kl(str(tmp_path / "nothing"), None)
    assert "\n" not in str(error.value)


def test_latent_side_must_divide():
    codec = PixelCodec()
    codec.downsample = 5
    with pytest.raises(ValueError, match="32 pixels is not a multiple of 5"):
        codec.latent_side(32)


def test_stored_moments_give_the_latents_of_the_clip(experiment, video):
    """Frame by frame in calls of any size, and back to clips: the same posterior, the same noise, the same latent."""
    module = CodecTraining(experiment.codec, experiment.train, seed=0)
    module.start(video)
    codec = KLCodec(module.autoencoder, torch.full((8,), 0.3), torch.full((8,), 1.7), 1.0)
    frames = video.flatten(0, 1)  # (16, 3, 32, 32)
    moments = torch.cat([codec.moments(part) for part in frames.split(5)])  # (16, 16, 8, 8)
    drawn = codec.draw(moments.unflatten(0, (4, 4)), SampleRNG(range(4)))
    # Convolutions over other batch sizes round differently, a few float32 steps of values up to 10.
    assert torch.allclose(drawn, codec.encode(video, SampleRNG(range(4))), atol=1e-4)
    posterior = module.autoencoder.encode(patches_of_frames(video, 4)).latent_dist
    noise = SampleRNG(range(4)).normal((4, 8, 8, 8)).flatten(0, 1)
    by_hand = (posterior.mean + posterior.std * noise - 0.3) / 1.7
    assert torch.allclose(drawn.flatten(0, 1), by_hand, atol=1e-4)


def test_pixels_have_no_moments_to_store(video):
    for call in (lambda: PixelCodec().moments(video[0]), lambda: PixelCodec().draw(video, SampleRNG(range(4)))):
        with pytest.raises(ValueError, match="no posterior"):
            call()
