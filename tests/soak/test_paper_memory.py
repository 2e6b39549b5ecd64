"""Every row of every suite at tier paper finds passes with which it fits one GPU of 80 GB, on shapes alone."""

import pytest

from lavita.config.compose import load_yaml
from lavita.config.plan import make_plan
from lavita.config.registry import names_in
from lavita.experiment.memory import MOST_ELEMENTS
from lavita.experiment.peaks import RESERVE, Memory
from lavita.suite.estimates import lines_of

CARD = Memory(80 * 10**9)
# The other suites have the networks, budgets and batches of ucf101; of ucf101-class, whose networks have a table of
# classes beside, the row with the largest peak.
SUITES = ("ucf101", "ablations", "scaling", "space")
ROWS = {(suite, e.label): e for suite in SUITES for e in make_plan(suite, "paper", None, None, [])}
# What a data set has of its own in the model section, which changes no shape.
OWN = ("previous_clip_probability", "released_shift", "released_scale")
ROWS |= {("ucf101-class", e.label): e for e in make_plan("ucf101-class", "paper", ["lavita-v4"], None, [])}


def test_the_other_suites_have_the_rows_of_ucf101():
    rows = {
        e.label: (e.model, e.train.batch_clips, e.data.resolution, e.compute)
        for e in make_plan("ucf101", "paper", None, None, [])
    }
    others = [name for name in names_in("suites") if name not in SUITES]
    assert others == ["faceforensics", "skytimelapse", "taichi", "ucf101-class"]
    for suite in others:
        assert load_yaml("suites", suite)["tiers"].get("paper") is None
        for e in make_plan(suite, "paper", None, None, []):
            model = {key: value for key, value in e.model.items() if key not in OWN}
            ours = {key: value for key, value in rows[e.label][0].items() if key not in OWN}
            assert (model, e.train.batch_clips, e.data.resolution, e.compute) == (ours, *rows[e.label][1:])


@pytest.mark.parametrize(("suite", "label"), ROWS)
def test_a_row_fits(suite, label):
    lines = list(lines_of(ROWS[suite, label], None, CARD))
    assert all(line.said == "" for line in lines)
    trained = [line for line in lines if line.passes is not None]
    assert trained[-1].stage == "train"
    for line in lines:
        assert line.peak_bytes is None or line.peak_bytes <= RESERVE * CARD.bytes, line
    for line in trained:
        assert line.batch % line.passes.clips == 0
        # PVDM's statistics are whole; LVDM's authors had those of one clip a GPU, so that any pass has as many.
        assert line.stage != "autoencoder-gan" or line.passes.clips == line.batch or line.method == "lvdm"


def test_a_tensor_of_2_to_the_31_elements_is_refused():
    assert MOST_ELEMENTS == 2**31 - 1
