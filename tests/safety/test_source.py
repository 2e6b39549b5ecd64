"""The source, read as a tree: nothing in it unpickles, evaluates text, unpacks by itself or opens a connection, but for
the places that are named here with their reasons.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(path for part in ("src", "benchmarks", "baselines", "docs") for path in (ROOT / part).rglob("*.py"))

# Never, whatever the arguments: name -> why.
FORBIDDEN = {
    **dict.fromkeys(
        ("pickle.load", "pickle.loads", "pickle.Unpickler", "_pickle.load", "_pickle.loads", "pandas.read_pickle"),
        "runs what a file says",
    ),
    **dict.fromkeys(("eval", "exec", "compile", "__import__", "os.system", "os.popen"), "runs a text"),
    **dict.fromkeys(
        (
            "yaml.load",
            "yaml.load_all",
            "yaml.unsafe_load",
            "yaml.unsafe_load_all",
            "yaml.full_load",
            "yaml.full_load_all",
        ),
        "makes objects",
    ),
    **dict.fromkeys(
        ("tarfile.extractall", "zipfile.extractall", "rarfile.extractall", "shutil.unpack_archive"),
        "unpacks without a look at the names",
    ),
    **dict.fromkeys(("torch.hub", "torch.package", "torch.utils.model_zoo"), "fetches or runs code"),
}
FORBIDDEN_METHODS = {
    "extractall": "unpacks without a look",
    "load_from_checkpoint": "unpickles",
    "unsafe_load": "makes objects",
}
FORBIDDEN_IMPORTS = {
    "shelve", "marshal", "joblib", "dill", "cloudpickle", "jsonpickle", "httpx", "aiohttp",
    "ftplib", "smtplib", "telnetlib", "xmlrpc", "wandb", "comet_ml", "mlflow", "neptune", "sentry_sdk",
    "huggingface_hub",
}  # fmt: skip
# What one file each may do, and nobody else.
ALLOWED = {
    "torch.jit.load": {
        "src/lavita/metrics/features/torchscript.py"
    },  # feature networks that come as programs, given by the user
    "importlib.import_module": {
        "src/lavita/config/registry.py",
        "src/lavita/parity/run.py",
        "src/lavita/commands/speed.py",
        "src/lavita/cli.py",
    },
    "importlib.util.spec_from_file_location": {"src/lavita/speed/networks.py"},  # a checkout given with --official
    "OmegaConf.load": {"src/lavita/config/registry.py"},
    "OmegaConf.resolve": set(),
    "requests": {"src/lavita/data/download.py"},
    "urllib3": {"src/lavita/data/download.py"},
    "rarfile": {"src/lavita/data/archives.py"},
    "tarfile": {"src/lavita/data/archives.py"},
    **{name: set() for name in ("urllib.request", "http.client", "ssl")},
    # It asks the system for a free port of its own and connects to nothing.
    "socket": {"src/lavita/executors/ranks.py"},
}
# Keywords that a call must have, as literals.
KEYWORDS = {
    "torch.load": {"weights_only": True},
    "AutoencoderKL.from_pretrained": {"local_files_only": True, "use_safetensors": True},
    "*.from_pretrained": {"local_files_only": True, "use_safetensors": True},
}
# Keywords that no call may have with another value than this literal.
ONLY = {"allow_pickle": False, "shell": False, "trust_remote_code": False, "weights_only": True, "resolve": False}


def dotted(node: ast.expr, names: dict[str, str]) -> str:
    """The full name of what an expression refers to, through the file's imports; '' where it is no plain name."""
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        of = dotted(node.value, names)
        return f"{of}.{node.attr}" if of else f"*.{node.attr}"
    return ""


def imports(tree: ast.AST) -> tuple[dict[str, str], set[str]]:
    """What each name of a file stands for, and every module that is imported, wherever in the file."""
    names, modules = {}, set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                names[alias.asname or alias.name.split(".")[0]] = (
                    alias.name if alias.asname else alias.name.split(".")[0]
                )
                modules.add(alias.name)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
            modules |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names, modules


def problems(text: str, file: str) -> Iterator[str]:
    """What is forbidden in a file, a line each."""
    tree = ast.parse(text)
    names, modules = imports(tree)
    for module in sorted(modules):
        if module.split(".")[0] in FORBIDDEN_IMPORTS or module in FORBIDDEN:
            yield f"{file}: imports {module}"
        for name in {module, module.split(".")[0]} & ALLOWED.keys():
            if file not in ALLOWED[name]:
                yield f"{file}: imports {module}, which only {ALLOWED[name] or 'nobody'} may"
    for node in ast.walk(tree):
        # A name that is bound here, such as the setting compute.compile, calls nothing.
        if isinstance(node, ast.Name | ast.Attribute) and not isinstance(node.ctx, ast.Store):
            name = dotted(node, names).removeprefix("omegaconf.").removeprefix("builtins.")
            if name in FORBIDDEN:
                yield f"{file}:{node.lineno}: {name} {FORBIDDEN[name]}"
            if file not in ALLOWED.get(name, {file}):
                yield f"{file}:{node.lineno}: {name}, which only {ALLOWED[name] or 'nobody'} may"
            if isinstance(node, ast.Attribute) and node.attr in FORBIDDEN_METHODS:
                yield f"{file}:{node.lineno}: .{node.attr} {FORBIDDEN_METHODS[node.attr]}"
        if isinstance(node, ast.Call):
            yield from (f"{file}:{node.lineno}: {wrong}" for wrong in problems_of_call(node, names))


def problems_of_call(node: ast.Call, names: dict[str, str]) -> Iterator[str]:
    """What a call lacks, or has and must not."""
    name = dotted(node.func, names)
    given = {keyword.arg: getattr(keyword.value, "value", "no literal") for keyword in node.keywords}
    wanted = KEYWORDS.get(name, {})
    if name.endswith(".from_pretrained"):
        wanted = KEYWORDS["*.from_pretrained"]
    for key, value in wanted.items():
        if given.get(key, "not given") is not value:
            yield f"{name} without {key}={value}"
    for key, value in ONLY.items():
        if key in given and given[key] is not value:
            yield f"{name} with {key} other than {value}"
    # ckpt_path: Lightning unpickles the file; None as a variable would pass, so it is no keyword at all.
    if "ckpt_path" in given and given.get("weights_only") is not True:
        yield f"{name} with ckpt_path and without weights_only=True"


def test_the_source():
    assert len(FILES) > 150
    found = [wrong for path in FILES for wrong in problems(path.read_text(), path.relative_to(ROOT).as_posix())]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "text",
    [
        "import torch\ntorch.load(path)",
        "import torch\ntorch.load(path, weights_only=False)",
        "import torch\ntorch.load(path, weights_only=flag)",
        "import torch as t\nt.load(path, map_location='cpu')",
        "from torch import load\nload(path)",
        "from torch import load as read\nread(path)",
        "import torch\ntorch.jit.load(path)",
        "from torch.jit import load\nload(path)",
        "import torch\ntorch.hub.load('a', 'b')",
        "import numpy as np\nnp.load(path, allow_pickle=True)",
        "from numpy import load\nload(path, allow_pickle=flag)",
        "import pickle\npickle.load(file)",
        "import pickle\nread = pickle.loads",
        "from pickle import loads",
        "from pickle import Unpickler as U\nU(file)",
        "import yaml\nyaml.load(text, Loader=yaml.SafeLoader)",
        "import yaml\nyaml.unsafe_load(text)",
        "eval(text)",
        "exec(text)",
        "import shelve",
        "import marshal",
        "from joblib import load",
        "def f():\n    import dill",
        "import requests",
        "import requests.sessions as s",
        "from requests.adapters import HTTPAdapter",
        "def f():\n    from urllib3 import PoolManager",
        "import rarfile\nrarfile.RarFile(path).extractall(folder)",
        "import http.client",
        "import ssl",
        "import socket",
        "from urllib.request import urlopen",
        "import urllib.request",
        "import os\nos.system(text)",
        "import subprocess\nsubprocess.run(text, shell=True)",
        "import tarfile\ntarfile.open(path).extractall(folder)",
        "from diffusers import AutoencoderKL\nAutoencoderKL.from_pretrained(path)",
        "from diffusers import AutoencoderKL\nAutoencoderKL.from_pretrained(path, local_files_only=True)",
        "import transformers\ntransformers.M.from_pretrained(path, use_safetensors=True)",
        "from omegaconf import OmegaConf\nOmegaConf.load(path)",
        "from omegaconf import OmegaConf\nOmegaConf.to_container(values, resolve=True)",
        "from omegaconf import OmegaConf\nOmegaConf.resolve(values)",
        "import importlib\nimportlib.import_module(name)",
        "trainer.fit(module, ckpt_path=path)",
        "Module.load_from_checkpoint(path)",
    ],
)
def test_what_is_forbidden_is_found(text):
    assert list(problems(text, "src/lavita/somewhere.py"))


@pytest.mark.parametrize(
    "text",
    [
        "import torch\ntorch.load(path, map_location='cpu', weights_only=True)",
        "import numpy as np\nnp.load(path)\nnp.load(path, allow_pickle=False)",
        "import pickle\ntry:\n    pass\nexcept pickle.UnpicklingError:\n    pass",
        "network.eval()\nimport re\nre.compile('a')",
        "import yaml\nyaml.safe_load(text)",
        "from urllib.parse import urlsplit",
        "from omegaconf import OmegaConf\nOmegaConf.to_container(OmegaConf.create(values))",
    ],
)
def test_what_is_allowed_is_not(text):
    assert not list(problems(text, "src/lavita/somewhere.py"))
