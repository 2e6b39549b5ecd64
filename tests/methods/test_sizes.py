"""model.depth, model.width and model.num_heads beside the named size."""

from __future__ import annotations

import pytest
import torch

from lavita.codecs.base import PixelCodec
from lavita.config.compose import load_yaml
from lavita.config.schema import ConfigError, TrainConfig, read
from lavita.methods.base import MethodContext
from lavita.methods.lavita.model import SIZES
from lavita.methods.lavita.module import Config, Method

TRAIN = TrainConfig(2, 1e-4, 0.0, 0.9, 0.999, 0, 0.999, None, None, 0, 0.1)


def build(name: str = "lavita-v1", **model) -> Method:
    """The configured method on 4 frames of 16 x 16 pixels, without memory."""
    context = MethodContext(4, 16, None, PixelCodec(), TRAIN, seed=0)
    with torch.device("meta"):
        return Method(context, read(Config, load_yaml("methods", name)["model"] | model, "model"))


@pytest.mark.parametrize("size", sorted(SIZES))
def test_null_takes_the_named_size(size):
    shape = build(size=size).network.shape
    assert (shape.depth, shape.width, shape.num_heads) == SIZES[size]


def test_each_given_number_replaces_its_own():
    for key, value in {"depth": 8, "width": 64, "num_heads": 2}.items():
        shape = build(size="XS", **{key: value}).network.shape
        wanted = dict(zip(("depth", "width", "num_heads"), SIZES["XS"], strict=True)) | {key: value}
        assert {name: getattr(shape, name) for name in wanted} == wanted


@pytest.mark.parametrize("name", ["lavita-v3", "lavita-v4"])
def test_depth_is_that_of_variants_1_and_2(name):
    # 12 blocks of 18 D^2 weights and 10 of 22 D^2 are as near as whole blocks come.
    assert len(build(name, size="XS", depth=12).network.blocks) == 10


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"width": 100, "num_heads": 3}, "^model.num_heads: got 3, wanted a divisor of model.width=100$"),
        ({"width": 30, "num_heads": 2}, "^model.width: got 30, wanted a multiple of 4"),
        ({"depth": 5}, "^model.depth: variant 1 needs an even number of blocks, got 5$"),
        ({"num_heads": 0}, "^model.num_heads: got 0, wanted at least 1$"),
        ({"width": "wide"}, "^model.width: got 'wide', wanted int$"),
    ],
)
def test_what_does_not_go_is_named_in_one_line(model, message):
    with pytest.raises(ValueError, match=message):
        build(size="XS", **model)


def test_a_missing_key_is_an_error():
    model = load_yaml("methods", "lavita-v1")["model"]
    del model["depth"]
    with pytest.raises(ConfigError, match="missing key model.depth"):
        read(Config, model, "model")
