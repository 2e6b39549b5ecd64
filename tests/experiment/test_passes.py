"""How many clips go through a pass: the most that fit, with a batch's statistics kept, the same in each session."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from lavita.config.plan import make_plan
from lavita.diffusion.rng import SampleRNG
from lavita.experiment import setup
from lavita.experiment.budget import check_budget, on_meta
from lavita.experiment.costs import stage_facts, training_flops_per_clip
from lavita.experiment.memory import MOST_ELEMENTS, Peak
from lavita.experiment.peaks import Memory, choose_passes, meta_copy
from lavita.experiment.preflight import check_machine
from lavita.experiment.shared import check_experiments, check_fitting
from lavita.methods.build import build_method, empty_codec
from lavita.results.records import Passes, Record
from lavita.results.rows import Row

IMAGES = "model.joint_images=2"
TINY = ["model.depth=2", "model.width=16", "model.num_heads=2"]


def stage(batch_clips: int, statistics: bool = False, blocks: int = 4):
    """What `choose_passes` reads of a stage."""
    train = SimpleNamespace(batch_clips=batch_clips)
    return SimpleNamespace(train_config=train, batch_statistics=statistics, recomputed=lambda: [None] * blocks)


def peak_of(passes: Passes) -> Peak:
    """10 bytes of states, 7 a clip, 2 where blocks run again."""
    return Peak(10 + passes.clips * (2 if passes.recomputed else 7))


def compute(*overrides: str):
    (experiment,) = make_plan("ucf101", "demo", ["dit"], [0], list(overrides))
    return experiment.compute


@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize("batch", [8, 12, 40])
@pytest.mark.parametrize("usable", [17, 24, 40, 66, 100, 300])
def test_the_largest_divisor_that_fits_is_taken(batch, usable, processes):
    asked = []

    def peak(passes: Passes) -> Peak:
        asked.append(passes)
        return peak_of(passes)

    memory = Memory(int(usable / 0.85) + 1)
    found, bytes_of = choose_passes(compute(f"compute.devices={processes}"), stage(batch), memory, peak)
    part = batch // processes
    fitting = [n for n in range(1, part + 1) if part % n == 0 and 10 + 7 * n <= memory.usable]
    assert found == Passes(max(fitting, default=1), False) and bytes_of == peak_of(found)
    assert len(asked) <= 4


def test_nothing_that_fits_is_the_least_there_is():
    found, peak = choose_passes(compute(), stage(8), Memory(10), peak_of)
    assert found == Passes(1, False) and not Memory(10).fits(peak)
    with pytest.raises(ValueError, match="^stage: needs .* GiB of memory, allowed are 0.85 of .* GiB; set something$"):
        Memory(10).check("stage", peak, "; set something")


def test_a_tensor_that_kernels_cannot_count_does_not_fit():
    def peak(passes: Passes) -> Peak:
        return Peak(1, passes.clips * 2**29)

    assert choose_passes(compute(), stage(8), Memory(1000), peak)[0].clips == 2
    assert not Memory(1000).fits(Peak(1, MOST_ELEMENTS + 1))


def test_statistics_over_a_batch_are_kept_by_computing_blocks_again():
    """8 clips need 66 bytes, with blocks computed again 26; 4 clips of them 18."""
    assert choose_passes(compute(), stage(8, True), Memory(100), peak_of)[0] == Passes(8, False)
    assert choose_passes(compute(), stage(8, True), Memory(40), peak_of)[0] == Passes(8, True)
    assert choose_passes(compute(), stage(8, False), Memory(40), peak_of)[0] == Passes(2, False)
    assert choose_passes(compute(), stage(8, True), Memory(22), peak_of)[0] == Passes(4, True)
    assert choose_passes(compute(), stage(8, True, blocks=0), Memory(40), peak_of)[0] == Passes(2, False)


def test_a_given_number_is_taken_as_it_is():
    given = compute("compute.pass_clips=4", "compute.checkpoint_activations=true")
    assert choose_passes(given, stage(8), Memory(1), peak_of)[0] == Passes(4, True)
    assert choose_passes(given, stage(2), Memory(1), peak_of)[0] == Passes(2, True)


@pytest.mark.parametrize(("name", "choice"), [("lavita-v1", TINY), ("lavita-v1", [*TINY, IMAGES]), ("pvdm", [])])
def test_facts_are_counted_on_shapes_and_are_those_of_the_real_module(name, choice, monkeypatch):
    (e,) = make_plan("ucf101", "demo", [name], [0], ["data.frames=4", "protocol.frames=4", *choice])
    method = build_method(e, None, empty_codec(e.codec))
    for plan in method.stages():
        module, kind = plan.module, type(plan.module)
        real = {key: value for key, value in batch_of(e.data, module).items()}
        wanted = training_flops_per_clip(module, real)
        plain = kind.loss

        def on_shapes_only(self, batch, rng, plain=plain):
            assert all(value.device.type == "meta" for key, value in batch.items() if key != "clip_index")
            return plain(self, batch, rng)

        monkeypatch.setattr(kind, "loss", on_shapes_only)
        facts = stage_facts(e.data, e.compute, module, Memory(2**34))
        monkeypatch.setattr(kind, "loss", plain)
        assert facts.flops_per_clip == wanted
        assert facts.passes == Passes(module.train_config.batch_clips, False)
        assert (facts.encoding_flops is None) == (module is not method or method.owns_first_stage)
        assert all(parameter.device.type == "cpu" and parameter.grad is None for parameter in module.parameters())


def batch_of(data, module):
    """A real clip of a stage."""
    import torch

    frames = torch.zeros(1, data.frames, 3, data.resolution, data.resolution)
    batch = {"video": frames, "label": torch.zeros(1, dtype=torch.int64), "clip_index": torch.arange(1)}
    if module.joint_images:
        batch["images"] = frames[:, : module.joint_images]
        batch["image_labels"] = torch.zeros(1, module.joint_images, dtype=torch.int64)
    return batch


def test_a_copy_of_shapes_allocates_nothing_and_leaves_the_module_alone():
    (e,) = make_plan("ucf101", "demo", ["lavita-v1"], [0], TINY)
    method = build_method(e, None, empty_codec(e.codec))
    copy = meta_copy(method)
    assert {one.device.type for one in (*copy.parameters(), *copy.buffers())} == {"meta"}
    assert copy.context.codec is copy.codec and method.context.codec is method.codec
    assert {one.device.type for one in (*method.parameters(), *method.buffers())} == {"cpu"}
    assert [p.requires_grad for p in copy.parameters()] == [p.requires_grad for p in method.parameters()]
    assert SampleRNG([0]).normal((2,)).device.type == "cpu"


def test_a_resumed_run_has_the_passes_of_its_first_session(monkeypatch, tmp_path):
    (e,) = make_plan("ucf101", "demo", ["pvdm"], [0], [])
    stages = build_method(e, None, empty_codec(e.codec)).stages()
    kept = [Record(cell="c", status="running", label="c", row=Row())]
    monkeypatch.setattr(setup, "read_record", lambda _: kept[-1])
    monkeypatch.setattr(setup, "write_record", lambda _, record: kept.append(record))
    most = setup.known_facts(e, stages, None, False, Memory(2**34), tmp_path)
    assert {name: facts.passes.clips for name, facts in most.items()} == dict.fromkeys(kept[-1].passes, 8)
    assert list(kept[-1].passes) == ["autoencoder", "autoencoder-gan", "train"]
    kept[-1] = replace(kept[-1], passes=kept[-1].passes | {"train": Passes(2, False)})
    again = setup.known_facts(e, stages, None, False, Memory(2**20), tmp_path)  # too little for any other choice
    assert again["train"].passes == Passes(2, False) and again["autoencoder"] == most["autoencoder"]


def test_a_machine_that_is_too_small_is_refused_in_one_line_that_names_what_would_fit():
    """XL/2 of 16 frames of 256x256 and one clip: about 25 GB in float32, two thirds of it without its activations."""
    (e,) = make_plan("ucf101", "paper", ["lavita-v1"], [0], ["compute.precision=32-true", "data.num_workers=0"])
    stages = [stage for stage, _ in check_budget(e, None)]
    with pytest.raises(ValueError) as error:
        check_machine(e, stages, None, Memory(27 * 10**9))
    said = str(error.value)
    assert said.startswith("lavita-v1, stage train: needs 23.") and "allowed are 0.85 of 25.1 GiB" in said
    assert "; with compute.checkpoint_activations=true it needs 20." in said and "\n" not in said


def test_a_shape_of_a_run_is_not_changed_by_counting():
    (e,) = make_plan("ucf101", "demo", ["lavita-v1"], [0], TINY)
    method, _ = on_meta(e, None)
    before = list(method.state_dict())
    stage_facts(e.data, e.compute, method, Memory(2**34))
    assert list(method.state_dict()) == before and all(p.grad is None for p in method.parameters())


@pytest.mark.parametrize("key", ["n_real", "n_generated"])
def test_too_few_clips_to_score_are_refused_before_anything_is_read(key):
    experiments = make_plan("ucf101", "demo", ["vdt"], [0], [f"protocol.{key}=3", "protocol.is_splits=1"])
    with pytest.raises(ValueError, match=rf"^protocol.{key}: got 3, a run is scored with 4 clips or more$"):
        check_experiments(experiments, None, None)


def test_a_method_whose_own_code_fails_is_left_to_its_run(monkeypatch, capsys):
    """One that does not fit ends the command; one that can't be counted must not end the others."""
    (one,) = make_plan("ucf101", "demo", ["vdt"], [0], TINY)
    (module,) = on_meta(one, None)[0].stages()
    monkeypatch.setattr(type(module.module), "loss", lambda *_: {}["nothing"])
    check_fitting(one, [module], None, Memory(2**40))
    assert "vdt: its memory could not be counted: KeyError: 'nothing'" in capsys.readouterr().out
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"vdt"):
        check_fitting(one, [module], None, Memory(2**10))
