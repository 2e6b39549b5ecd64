"""Each check can fail: methods that are the template with one thing wrong."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import nn

from lavita.codecs.base import PixelCodec
from lavita.config.registry import PLUGINS, add_plugin, load_implementation
from lavita.config.schema import read
from lavita.methods.base import MethodContext

from . import checks, folder_checks
from .subject import Subject, experiment_of

ROOT = Path(__file__).resolve().parents[2]

TEMPLATE = ROOT / "docs" / "template"


@pytest.fixture(scope="module")
def template():
    """The template's module and the configuration of its run, smaller still."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(PLUGINS, "")
        add_plugin(TEMPLATE)
        experiment = experiment_of("template", "ucf101", "demo")
        small = replace(experiment, data=replace(experiment.data, frames=2, resolution=8))
        yield load_implementation("template"), replace(small, model={"width": 8, "groups": 2, "depth": 1})


def subject_with(template: tuple, change: Callable[[ModuleType], type]) -> Subject:
    """A subject whose method is the class that `change` makes of the template's."""
    implementation, experiment = template
    return Subject(experiment, partial(build, change(implementation), implementation, experiment))


def build(method_class: type, implementation: ModuleType, experiment, seed: int):
    torch.manual_seed(seed)
    context = MethodContext(
        experiment.data.frames, experiment.data.resolution, None, PixelCodec(), experiment.train, seed
    )
    return method_class(context, read(implementation.Config, experiment.model, "model"))


def changed_loss(change: Callable) -> Callable[[ModuleType], type]:
    """The template with `change(method, parts, batch)` in place of the parts of its loss."""

    def make(implementation: ModuleType) -> type:
        class Broken(implementation.Method):
            def loss(self, batch, draws):
                return change(self, super().loss(batch, draws), batch)

        return Broken

    return make


def changed_sample(change: Callable) -> Callable[[ModuleType], type]:
    """The template with `change(method, clips, seeds)` in place of its clips; it refuses nothing."""

    def make(implementation: ModuleType) -> type:
        class Broken(implementation.Method):
            def sample(self, seeds, classes, sampling, condition=None):
                plain = replace(sampling, task="generation", num_clips_chained=1)
                return change(self, super().sample(seeds, classes, plain), seeds)

        return Broken

    return make


def changed_network(change: Callable) -> Callable[[ModuleType], type]:
    """The template with `change(method, network)` in place of its network."""

    def make(implementation: ModuleType) -> type:
        class Broken(implementation.Method):
            def build_network(self):
                return change(self, super().build_network())

        return Broken

    return make


class Judge(nn.Module):
    """A hinge loss within its margin: its bias has no gradient there, though the loss depends on it."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, x):
        real, fake = 0.1 * x.flatten(1).mean(dim=1) + self.bias, self.bias
        return torch.relu(1 - real) + torch.relu(1 + fake)


class Around(nn.Module):
    """A network with something done to its output."""

    def __init__(self, network: nn.Module, change: Callable) -> None:
        super().__init__()
        self.network, self.change = network, change

    def forward(self, x, t, y=None):
        return self.change(self.network(x, t, y))


def unused_layer(method, network):
    network.never_called = nn.Linear(2, 2)
    return network


def hidden_in_a_list(method, network):
    """A layer that no state dict sees, in the way of the output."""
    hidden = [nn.Linear(1, 1)]
    return Around(network, lambda out: out + hidden[0].weight.detach())


def some_attributes(**values) -> Callable[[ModuleType], type]:
    return lambda implementation: type("Broken", (implementation.Method,), values)


BROKEN = {
    "one loss for all": (
        checks.check_loss,
        "one value|mean for each",
        changed_loss(lambda m, p, b: {"loss": p["loss"].mean()}),
    ),
    "loss without its name": (checks.check_loss, '"loss"', changed_loss(lambda m, p, b: {"mse": p["mse"]})),
    "loss in half precision": (
        checks.check_loss,
        "wanted float32",
        changed_loss(lambda m, p, b: {"loss": p["loss"].half()}),
    ),
    "infinite loss": (checks.check_loss, "not finite", changed_loss(lambda m, p, b: {"loss": p["loss"] / 0})),
    "layer without a use": (checks.check_gradients, "never_called", changed_network(unused_layer)),
    "dropout": (
        checks.check_own_draws,
        "global random state",
        changed_network(lambda m, net: Around(net, nn.Dropout(0.5))),
    ),
    "numpy noise in sample": (
        checks.check_own_draws,
        "sample: draws from the global",
        changed_sample(lambda m, clips, seeds: clips * float(checks.np.random.rand())),
    ),
    "mean over the batch in the loss": (
        checks.check_loss_of_a_clip_alone,
        "within each clip only",
        changed_loss(lambda m, p, b: {"loss": p["loss"] + 0.01 * b["video"].mean()}),
    ),
    "network that sees neighbours": (
        checks.check_loss_of_a_clip_alone,
        "within each clip only",
        changed_network(lambda m, net: Around(net, lambda out: out - 0.1 * out.mean(dim=0))),
    ),
    "clips that see neighbours": (
        checks.check_sample,
        "may depend on",
        changed_sample(lambda m, clips, seeds: (clips - 0.05 * clips.mean(dim=0)).clamp(-1, 1)),
    ),
    "frames in the wrong place": (checks.check_sample, "n, F, 3", changed_sample(lambda m, c, s: c.transpose(1, 2))),
    "clips out of range": (checks.check_sample, "clamp", changed_sample(lambda m, c, s: c + 3)),
    "deaf to seeds": (checks.check_sample, "ClipDraws", changed_sample(lambda m, c, s: torch.zeros_like(c))),
    "not finite clips": (checks.check_sample, "not finite", changed_sample(lambda m, c, s: c * float("nan"))),
    "refuses nothing": (checks.check_refusals, "num_clips_chained", changed_sample(lambda m, c, s: c)),
    "weights in a list": (checks.check_state_dict, "no plain list", changed_network(hidden_in_a_list)),
    "declares numbers": (checks.check_declared, "declared", some_attributes(declared={"layers": 3})),
    "tasks as text": (checks.check_declared, "tasks", some_attributes(tasks="generation")),
}


@pytest.mark.parametrize("check", checks.OF_A_METHOD, ids=lambda check: check.__name__)
def test_the_template_passes_at_this_size(template, check):
    check(subject_with(template, lambda implementation: implementation.Method))


def test_a_bias_within_the_margin_of_a_hinge_loss_is_in_use(template):
    def make(implementation: ModuleType) -> type:
        class Judged(implementation.Method):
            def build_network(self):
                self.judge = Judge()
                return super().build_network()

            def loss(self, batch, draws):
                parts = super().loss(batch, draws)
                return parts | {"loss": parts["loss"] + self.judge(batch["video"])}

        return Judged

    subject = subject_with(template, make)
    method = subject.build(0)
    method.judge(torch.zeros(2, 2)).mean().backward()
    assert not method.judge.bias.grad.any()
    checks.check_gradients(subject)


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_found(template, name):
    check, message, change = BROKEN[name]
    with pytest.raises(AssertionError, match=message):
        check(subject_with(template, change))


@pytest.mark.parametrize("shares", [(0.5, 0.4), (1.2, -0.2), (1.0, 0.0)])
def test_shares_that_are_none(shares):
    stages = [SimpleNamespace(name=f"stage {share}", share=share) for share in shares]
    with pytest.raises(AssertionError, match="sum to 1"):
        checks.check_shares(stages)


def test_config_that_can_change():
    with pytest.raises(AssertionError, match="frozen"):
        checks.check_config_class(dataclass(type("Config", (), {})))


@pytest.fixture
def copy(tmp_path, monkeypatch) -> Path:
    """A copy of the template under a name of its own, known as a method."""
    folder = tmp_path / "copied"
    shutil.copytree(TEMPLATE, folder)
    settings = folder / "method.yaml"
    settings.write_text(settings.read_text().replace(": template\n", ": copied\n"))
    monkeypatch.setenv(PLUGINS, "")
    add_plugin(folder)
    return folder


def test_configuration_that_lacks_a_key(copy):
    settings = copy / "method.yaml"
    settings.write_text(settings.read_text().replace("  width: 128\n", "").replace("{width: 64}", "{}"))
    with pytest.raises(AssertionError, match="missing key model.width"):
        checks.check_composes("copied")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("from model import SpaceTimeNet", "with the dot"),
        ("from lavita.metrics import torchmetrics", "imports lavita.metrics"),
        ("from lavita.baselines.dit import model", "imports lavita.baselines"),
        ("from ..other import model", "outside its folder"),
    ],
)
def test_imports(copy, line, message):
    folder_checks.check_imports(copy)
    with open(copy / "module.py", "a", encoding="utf-8") as file:
        file.write(f"\n{line}\n")
    with pytest.raises(AssertionError, match=message):
        folder_checks.check_imports(copy)


def test_readme_without_a_heading_and_with_nothing_under_one(copy):
    path = copy / "README.md"
    text = path.read_text()
    folder_checks.check_readme(copy)
    path.write_text(text.replace("## Size and cost", "## Size"))
    with pytest.raises(AssertionError, match="headings"):
        folder_checks.check_readme(copy)
    path.write_text(text.replace("None. Give data set", "None.").rpartition("protocol\n")[0] + "protocol\nNone.\n")
    with pytest.raises(AssertionError, match="ten words"):
        folder_checks.check_readme(copy)
