"""What an enemy would hand over: pickles and YAML that would make a folder if anything in them were run."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import torch


class Evil:
    """Unpickled, it makes a folder."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def files_of_weights(folder: Path, marker: Path) -> dict[str, Path]:
    """Pickles that call os.mkdir(marker), in every wrapping that a file of weights may have, by what they are."""
    folder.mkdir(exist_ok=True)
    evil = Evil(marker)
    found = {name: folder / f"{name}.pt" for name in ("bare", "ema", "old", "script")}
    found["plain pickle"] = folder / "plain.pth"
    found["named safetensors"] = folder / "named.safetensors"
    torch.save({"weight": torch.zeros(2), "more": evil}, found["bare"])
    torch.save({"ema": {"weight": evil}}, found["ema"])
    torch.save({"state_dict": evil}, found["old"], _use_new_zipfile_serialization=False)
    for name in ("plain pickle", "named safetensors"):
        found[name].write_bytes(pickle.dumps({"ema": evil}, protocol=2))
    script_with_pickle(found["script"], pickle.dumps(evil, protocol=2))
    return found


def script_with_pickle(path: Path, content: bytes) -> None:
    """A real TorchScript archive in which the pickles of its data are others."""
    whole = path.with_suffix(".whole")
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(whole))
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            target.writestr(name, content if name.endswith(("/data.pkl", "/constants.pkl")) else source.read(name))


def arrays(folder: Path, marker: Path) -> dict[str, Path]:
    """An .npy and an .npz of objects, with every key that is read anywhere."""
    folder.mkdir(exist_ok=True)
    objects = np.array([Evil(marker)], dtype=object)
    np.save(folder / "objects.npy", objects, allow_pickle=True)
    keys = ("clips", "features", "names", "probabilities")
    np.savez(folder / "objects.npz", **dict.fromkeys(keys, objects))
    (folder / "pickle.npy").write_bytes(pickle.dumps(Evil(marker)))
    (folder / "pickle.npz").write_bytes(pickle.dumps(Evil(marker)))
    return {name: folder / name for name in ("objects.npy", "objects.npz", "pickle.npy", "pickle.npz")}


def yaml_texts(marker: Path) -> dict[str, str]:
    """Values that would make a folder, or be replaced by what the environment holds."""
    return {
        "apply": f"!!python/object/apply:os.mkdir ['{marker}']",
        "new": f"!!python/object/new:os.mkdir ['{marker}']",
        "name": "!!python/name:os.system",
        "environment": "${oc.env:HOME}",
        "reference": "${train.beta1}",
        "decode": "${oc.decode:'[1]'}",
    }


def one_line(error: BaseException) -> str:
    """The message, after a look that it is a user's: one line that says something."""
    text = str(error)
    assert isinstance(error, ValueError) and text.strip() and "\n" not in text.strip(), repr(error)
    return text
