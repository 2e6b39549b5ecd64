"""model.match_params: the sizes chosen against the parameter count of a DiT and of LAVITA written out by hand."""

from dataclasses import replace

import pytest

from lavita.config.plan import make_plan
from lavita.config.schema import ConfigError
from lavita.suite.match import nearest_size, resolve, trained_parameters


def transformer(depth: int, width: int, patch_in: int, patch_out: int) -> int:
    """An adaLN-Zero transformer without classes: 18 D^2 weights a block and their biases, embedders, last layer."""
    block = 18 * width**2 + (3 * width + width + 4 * width + width + 6 * width)
    time = 256 * width + width + width**2 + width
    last = width * patch_out + patch_out + 2 * width**2 + 2 * width
    return depth * block + patch_in * width + width + time + last


def experiments(*methods: str, tier: str = "demo", overrides: tuple[str, ...] = ()):
    return make_plan("ucf101", tier, list(methods), [0], list(overrides))


def test_the_nearest_dit_of_all_that_may_be_chosen():
    overrides = ("model.match_params=lavita-v1", "model.size=XS")
    reference, dit = (
        experiments("lavita-v1", "dit", overrides=("model.size=S",))[0],
        experiments("dit", overrides=overrides)[0],
    )
    wanted = transformer(6, 128, 16, 32)
    assert trained_parameters(experiments("lavita-v1", overrides=("model.size=XS",))[0]) == wanted
    found, flag = nearest_size(dit, list(overrides))
    # XS is 6 blocks of 4 heads of 32: 3 to 5 heads and 3 to 9 blocks may be chosen.
    every = {(d, h): transformer(d, 32 * h, 16, 32) for d in range(3, 10) for h in (3, 4, 5)}
    depth, heads = min(every, key=lambda size: abs(every[size] - wanted))
    assert found == {"depth": depth, "width": 32 * heads, "num_heads": heads} and flag == ""
    assert trained_parameters(reference) > 10 * wanted  # the override shapes the reference too


def test_vdt_comes_within_five_per_cent_at_every_tier():
    for tier in ("demo", "small", "paper"):
        plan = experiments("lavita-v1", "vdt", tier=tier, overrides=("model.match_params=lavita-v1",))
        (reference, vdt), flags = resolve(plan, ["model.match_params=lavita-v1"])
        assert reference == plan[0] and not flags
        assert trained_parameters(vdt) == pytest.approx(trained_parameters(reference), rel=0.05)
        assert vdt.model["depth"] * vdt.model["width"] > 0


def test_what_can_not_come_near_is_flagged():
    """DiT-S shrunk by half in depth and a quarter in width still has several times PVDM's parameters of the demo."""
    overrides = ("model.match_params=pvdm", "model.size=S")
    (experiment,), flags = resolve(experiments("dit", overrides=overrides), overrides)
    assert "above pvdm's" in flags["dit"]
    assert (experiment.model["depth"], experiment.model["num_heads"]) == (
        6,
        5,
    )  # the least: 12 / 2 and 6 less a quarter


def test_an_unknown_reference_is_met_with_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'lavita-v1'"):
        resolve(experiments("dit", overrides=("model.match_params=lavita-v11",)), [])


@pytest.mark.parametrize("tier", ["demo", "small", "paper"])
def test_a_method_with_width_steps_of_its_own_comes_near_and_keeps_its_heads(tier):
    plan = experiments("lavita-v1", "mcvd", tier=tier, overrides=("model.match_params=lavita-v1",))
    wanted = trained_parameters(plan[0])
    before = plan[1].model
    (_, mcvd), flags = resolve(plan, ["model.match_params=lavita-v1"])
    assert mcvd.model["num_heads"] == before["num_heads"] and mcvd.model["width"] % 8 == 0
    assert abs(mcvd.model["width"] / before["width"] - 1) <= 0.25 and mcvd.model["depth"] <= 2 * before["depth"]
    assert bool(flags) == (abs(trained_parameters(mcvd) / wanted - 1) > 0.05)


def test_a_u_net_is_matched_by_its_blocks_and_heads():
    """LVDM at tier paper: heads of 64, of which 3 to 5 may be chosen, and 2 to 4 residual blocks a level."""
    overrides = ("model.match_params=lavita-v1",)
    (reference, lvdm), flags = resolve(experiments("lavita-v1", "lvdm", tier="paper", overrides=overrides), overrides)
    sizes = {}
    for depth in (2, 3, 4):
        for heads in (3, 4, 5):
            model = lvdm.model | {"depth": depth, "width": 64 * heads, "num_heads": heads}
            sizes[depth, heads] = trained_parameters(replace(lvdm, model=model))
    wanted = trained_parameters(reference)
    depth, heads = min(sizes, key=lambda size: abs(sizes[size] - wanted))
    assert (lvdm.model["depth"], lvdm.model["num_heads"], lvdm.model["width"]) == (depth, heads, 64 * heads)
    assert bool(flags) == (abs(sizes[depth, heads] / wanted - 1) > 0.05)


def test_video_ldm_is_matched_by_all_of_its_u_net():
    """Not by the temporal layers alone, which its last stage trains: image layers are trained before, in the budget."""
    overrides = ("model.match_params=lavita-v1",)
    plan = experiments("lavita-v1", "video-ldm", tier="paper", overrides=overrides)
    (reference, found), flags = resolve(plan, overrides)
    sizes = {depth: trained_parameters(replace(found, model=found.model | {"depth": depth})) for depth in (1, 2, 3)}
    assert round(sizes[2] / 1e6, 1) == 511.9
    wanted = trained_parameters(reference)
    nearest = min(sizes, key=lambda depth: abs(sizes[depth] - wanted))
    # Heads of 64: of the widths only 192 is within a quarter.
    assert (found.model["depth"], found.model["width"], found.model["num_heads"]) == (nearest, 192, 3)
    assert bool(flags) == (abs(sizes[nearest] / wanted - 1) > 0.05)
