"""External samples: those that were made from a real clip are no row of a suite."""

import numpy as np
import pytest

from lavita.config.plan import make_plan
from lavita.experiment.samples import external_clips
from lavita.sampling.generate import Generated, save_samples

OVERRIDES = ["protocol.n_real=2", "protocol.n_generated=2", "data.frames=2", "protocol.frames=2"]


@pytest.mark.parametrize("condition", [None, "sunset.mp4"])
def test_clips_made_from_a_real_one_are_refused_as_a_row(tmp_path, condition):
    (experiment,) = make_plan("skytimelapse", "demo", ["vdt"], [0], OVERRIDES)
    clips = np.arange(2 * 2 * 32 * 32 * 3, dtype=np.uint32).astype(np.uint8).reshape(2, 2, 32, 32, 3)
    made, e = Generated(clips, None, [0, 1], 1.0), experiment
    save_samples(tmp_path / "clips", made, e.method, e.cell, e.sampling, keep_clips=True, condition=condition)
    if condition is None:
        assert np.array_equal(external_clips(tmp_path / "clips", experiment.protocol), clips)
    else:
        with pytest.raises(ValueError, match=r"made from real clips \(sunset.mp4\)"):
            external_clips(tmp_path / "clips", experiment.protocol)
