"""The files of a checkpoint that somebody else has published: one file, or a folder as diffusers writes it.

Such a folder has a subfolder for each network (`unet`, `vae`, ...) with its weights in one safetensors file, or in
several that an index lists; what holds no network of diffusers (a scheduler, an image encoder) is not read. The folder
of one network alone is read as well.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from torch import Tensor

from lavita.files import sha256_of
from lavita.methods.checkpoints import CheckpointError, read_safetensors, read_state, shards_of

WEIGHTS = "diffusion_pytorch_model"
WHOLE = f"{WEIGHTS}.safetensors"
INDEX = f"{WEIGHTS}.safetensors.index.json"
ALONE = ""  # in place of a subfolder's name: the folder of one network


def read_published(path: Path | str) -> dict[str, Tensor]:
    """The weights of a file (`read_state`), or of all networks in a folder, whose names then begin with that of the
    subfolder: `unet.conv_in.weight`. Raises CheckpointError.
    """
    path = Path(path)
    if not path.is_dir():
        return read_state(path)
    state: dict[str, Tensor] = {}
    for network, files in networks_in(path).items():
        for file in (one for one in files if one.suffix == ".safetensors"):
            state |= {f"{network}.{name}" if network else name: value for name, value in read_safetensors(file).items()}
    return state


def files_of(path: Path | str) -> list[Path]:
    """The files that `read_published` reads, those that list others among them. Raises CheckpointError."""
    path = Path(path)
    if not path.is_dir():
        return shards_of(path) or [path]
    return [file for files in networks_in(path).values() for file in files]


def hash_of(path: Path | str) -> str:
    """sha256 of a checkpoint's file; of several that of their names and sha256, 64 hex digits in any case."""
    path, files = Path(path), files_of(path)
    if files == [path]:
        return sha256_of(path)
    folder = path if path.is_dir() else path.parent
    lines = [f"{file.relative_to(folder).as_posix()} {sha256_of(file)}\n" for file in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def size_of(path: Path | str) -> int:
    """Bytes of a checkpoint's files."""
    return sum(file.stat().st_size for file in files_of(path))


def networks_in(folder: Path) -> dict[str, list[Path]]:
    """The files of each network in a folder by the subfolder's name, both in order. Raises CheckpointError."""
    if alone := files_of_network(folder):
        return {ALONE: alone}
    found = {one.name: files_of_network(one) for one in sorted(folder.iterdir()) if one.is_dir()}
    found = {name: files for name, files in found.items() if files}
    if not found:
        raise CheckpointError(
            f"{folder}: holds no network of diffusers; wanted {WHOLE} or {INDEX} in it, or in subfolders such as unet "
            "and vae; or give one file"
        )
    return found


def files_of_network(folder: Path) -> list[Path]:
    """The files of the network in a folder, [] where it holds none: its one file, else its index with the shards that
    it lists, else the file of its only variant (such as fp16). Raises CheckpointError.
    """
    if (folder / WHOLE).is_file():
        return [folder / WHOLE]
    if (folder / INDEX).is_file():
        return [folder / INDEX, *shards_of(folder / INDEX)]
    variants = sorted(folder.glob(f"{WEIGHTS}.*.safetensors"))
    if len(variants) > 1:
        names = ", ".join(file.name for file in variants)
        raise CheckpointError(f"{folder}: holds {names}; wanted {WHOLE}, {INDEX}, or one of these alone")
    return variants
