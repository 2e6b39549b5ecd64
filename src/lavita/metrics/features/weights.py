"""Files of weights: where they come from, and proof that they are the right ones, on first use and ever after."""

from __future__ import annotations

import hashlib
import json
import pickle
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from lavita.data.download import NoSpace, download
from lavita.files import atomic_write_text
from lavita.metrics.table import I3D_TORCHSCRIPT_HASH

# How a kind is called in a message. The first four can hold weights.
SAFETENSORS, TORCHSCRIPT, CHECKPOINT = "a safetensors file", "a TorchScript archive", "a checkpoint"
FOLDER, EMPTY, WEB_PAGE, LFS_POINTER = "a folder", "an empty file", "a web page", "a Git LFS pointer"
CUT_ARCHIVE, OTHER_ARCHIVE = "a zip archive cut short", "a zip archive without weights"
UNKNOWN = "a file of an unknown kind"

PAGE_STARTS = (b"<!doctype html", b"<html", b"<head", b"<body", b"<?xml")


def file_kind(path: Path) -> str:
    """One of the kinds above. Raises FileNotFoundError where there is nothing at path."""
    if path.is_dir():
        return FOLDER
    with path.open("rb") as file:
        start = file.read(512)
    if not start:
        return EMPTY
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n")
    if text[:64].lower().startswith(PAGE_STARTS) or text.startswith(b"<!--"):
        return WEB_PAGE
    if start.startswith(b"version https://git-lfs"):
        return LFS_POINTER
    if start.startswith(b"PK"):
        return archive_kind(path)
    # A length of eight bytes, then JSON.
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size:
        return SAFETENSORS
    # torch.save before version 1.6: a pickle of protocol 2 that begins with a magic number.
    return CHECKPOINT if start.startswith(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.") else UNKNOWN


def archive_kind(path: Path) -> str:
    """The kind of a file that begins as a zip archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile:
        return CUT_ARCHIVE
    if any("/code/" in name for name in names):
        return TORCHSCRIPT
    return CHECKPOINT if any(name.endswith("/data.pkl") for name in names) else OTHER_ARCHIVE


def what_to_do(kind: str) -> str:
    """The half sentence that follows the kind of a file that holds no weights."""
    remedies = {
        WEB_PAGE: "the address asked for a login or a confirmation; fetch the file itself with a browser",
        LFS_POINTER: "it names the file, it is not the file; fetch it with git lfs pull, or from its download address",
        CUT_ARCHIVE: "the download stopped early; delete it and fetch it again",
        EMPTY: "delete it and fetch it again",
    }
    return remedies.get(kind, "give a file of weights")


# What checkpoints of a training run keep their weights under.
WRAPPERS = ("state_dict", "model", "module")


def read_state_dict(path: Path, title: str) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file or a torch.save file, by name, on the CPU.

    torch.save files are read with weights_only, which builds tensors and plain containers and runs no code. Weights
    under one of WRAPPERS are taken from there. Raises ValueError, one line, for any other file.
    """
    if not path.is_file():
        raise ValueError(f"{title}: looked for {path}: it is not there")
    kind = file_kind(path)
    if kind not in (SAFETENSORS, CHECKPOINT):
        raise ValueError(f"{title}: {path} is {kind}; {what_to_do(kind)}")
    try:
        content = load_file(path) if kind == SAFETENSORS else torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, SafetensorError, RuntimeError, EOFError, ValueError) as error:
        raise ValueError(f"{title}: {path} holds more than weights, or is damaged: {first_line(error)}") from None
    for wrapper in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
            break
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"{title}: {path} holds no state dict, but {described(content)}")
    if not content:
        raise ValueError(f"{title}: {path} holds an empty state dict")
    return dict(content)


def first_line(error: Exception) -> str:
    """The first line of an error's text, short."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:160]


def described(content: object) -> str:
    """A value that is no state dict, in a few words."""
    if isinstance(content, Mapping):
        return f"a dictionary with {', '.join(repr(key) for key in list(content)[:3]) or 'nothing'}"
    return f"a {type(content).__name__}"


def load_strictly(network: nn.Module, state: Mapping[str, Tensor], title: str, source: Path | str) -> None:
    """Copy a state dict into a network of exactly its names and shapes.

    Counters (num_batches_tracked) may all be absent: converted networks have none. Raises ValueError, one line,
    naming the first names that are missing or unknown, or the first shapes that differ.
    """
    wanted = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    if not any(name.endswith("num_batches_tracked") for name in state):
        wanted = {name: shape for name, shape in wanted.items() if not name.endswith("num_batches_tracked")}
    found = {name: tuple(value.shape) for name, value in state.items()}
    problems = []
    for what, names in (("missing", wanted.keys() - found.keys()), ("unknown", found.keys() - wanted.keys())):
        if names:
            problems.append(f"{len(names)} {what} names, first {', '.join(sorted(names)[:3])}")
    shapes = [name for name in wanted if name in found and found[name] != wanted[name]]
    problems += [f"{name} has shape {found[name]}, wanted {wanted[name]}" for name in shapes[:2]]
    if problems:
        raise ValueError(f"{title}: {source} is another network: {'; '.join(problems)}")
    # Not strict for the counters alone: everything else was compared above.
    network.load_state_dict(state, strict=False)


WEIGHTS_FOLDER = Path("results/cache/weights")  # below the working directory
MIRROR = "https://github.com/JunyaoHu/common_metrics_on_video_quality/raw/5f751734ce9cef4cd2dddb235726b75dff62a387/fvd/"
# Fetches an address to a path where nothing stands yet; raises OSError or ValueError.
Fetch = Callable[[str, Path], object]


@dataclass(frozen=True)
class KnownFile:
    """A file of weights that others score with.

    name: in the cache folder; title: of the network; addresses: tried in turn; git_blob: what `git hash-object FILE`
    prints, None where nobody has recorded it: then the sha256 of the first file seen is what later ones must have.
    """

    name: str
    title: str
    addresses: tuple[str, ...]
    git_blob: str | None = None


I3D_TORCHSCRIPT = KnownFile(
    "i3d_torchscript.pt",
    "I3D",
    (
        "https://www.dropbox.com/s/ge9e5ujwgetktms/i3d_torchscript.pt?dl=1",
        MIRROR + "styleganv/i3d_torchscript.pt",
    ),
    I3D_TORCHSCRIPT_HASH,
)
I3D_PRETRAINED = KnownFile(
    "i3d_pretrained_400.pt",
    "I3D",
    (
        "https://github.com/songweige/TATS/raw/03bbce1daa3da7e9bff8221e9ec433df9484817f/tats/fvd/i3d_pretrained_400.pt",
        MIRROR + "videogpt/i3d_pretrained_400.pt",
    ),
    "a867b87ac3a9097d200598b1d48a1b890d8ec744",
)
C3D_UCF101 = KnownFile("c3d_ucf101.pt", "C3D", ("https://www.dropbox.com/s/jxpu7avzdc9n97q/c3d_ucf101.pt?dl=1",))
VIDEOMAE_SSV2 = KnownFile(
    "vit_g_hybrid_pt_1200e_ssv2_ft.pth",
    "VideoMAE",
    ("https://huggingface.co/OpenGVLab/InternVideoMAE_models/resolve/main/mae-g/vit_g_hybrid_pt_1200e_ssv2_ft.pth",),
)
INCEPTION = KnownFile(
    "inception-2015-12-05.pt",
    "Inception",
    ("https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/inception-2015-12-05.pt",),
)


@dataclass(frozen=True)
class FileHashes:
    """Size and hashes of a file, hexadecimal."""

    num_bytes: int
    sha256: str
    git_blob: str


def file_hashes(path: Path | str) -> FileHashes:
    """Read a file once for both hashes; git_blob is the sha1 of "blob <bytes>", a zero byte and the content."""
    num_bytes = Path(path).stat().st_size
    sha256, git_blob = hashlib.sha256(), hashlib.sha1(f"blob {num_bytes}\0".encode())
    with open(path, "rb") as file:
        while part := file.read(1 << 20):
            sha256.update(part)
            git_blob.update(part)
    return FileHashes(num_bytes, sha256.hexdigest(), git_blob.hexdigest())


def git_blob_hash(path: Path | str) -> str:
    """What `git hash-object FILE` prints: 40 hex digits."""
    return file_hashes(path).git_blob


def find_weights(
    known: KnownFile,
    path: Path | str | None = None,
    folder: Path | str = WEIGHTS_FOLDER,
    offline: bool = False,
    fetch: Fetch = download,
) -> Path:
    """Return the path of a known file after checking that it is that file.

    It is path where one is given, else folder/<name>, fetched there first if it is not there; offline, nothing is
    fetched. Its sha256 is written to folder/<name>.json on first use. Raises ValueError, one line, for a file that is
    nowhere (saying where it was looked for), no weights, or another file than the one known or recorded.
    """
    folder = Path(folder)
    place = folder / known.name if path is None else Path(path)
    if place.is_file():
        check_file(known, place, folder)
        return place
    by_hand = f"fetch {' or '.join(known.addresses)} and put it there"
    if path is not None:
        raise ValueError(f"{known.title}: looked for {place}: it is not there; {by_hand}, or give another path")
    if offline:
        raise ValueError(
            f"{known.title}: looked for {place}: it is not there, and offline nothing is fetched; on a machine with a "
            f"network {by_hand}, or give its path"
        )
    return fetched(known, folder, fetch)


def fetched(known: KnownFile, folder: Path, fetch: Fetch) -> Path:
    """Fetch a known file into folder from the first address that gives the right one.

    Each is fetched under a name of its own and checked before it gets its place. Raises ValueError with the reason of
    every address; NoSpace at once.
    """
    folder.mkdir(parents=True, exist_ok=True)
    reasons = []
    for number, address in enumerate(known.addresses):
        part = folder / f".{known.name}.from-{number}"
        try:
            fetch(address, part)
            check_file(known, part, folder, address)
            part.replace(folder / known.name)
            return folder / known.name
        except NoSpace:
            raise
        except (OSError, ValueError) as error:
            reasons.append(f"{address}: {' '.join(str(error).split())}")
        finally:
            part.unlink(missing_ok=True)
    raise ValueError(
        f"{known.title}: {folder / known.name} could not be fetched: {'; '.join(reasons)}; fetch it by hand and put it "
        "there, or give its path"
    )


def check_file(known: KnownFile, path: Path, folder: Path, address: str | None = None) -> FileHashes:
    """Raise ValueError unless path holds the weights known by this name; a new file is recorded in folder."""
    kind = file_kind(path)
    if kind not in (SAFETENSORS, TORCHSCRIPT, CHECKPOINT):
        raise ValueError(f"{known.title}: {path} is {kind}, no network; {what_to_do(kind)} ({known.addresses[0]})")
    found, note = file_hashes(path), folder / f"{known.name}.json"
    if known.git_blob is not None and found.git_blob != known.git_blob:
        raise ValueError(
            f"{known.title}: {path} has git blob name {found.git_blob[:12]}, {known.name} has {known.git_blob[:12]}: "
            f"another file; delete it and fetch {known.addresses[0]}, or give it as FILE, without the name"
        )
    recorded = read_record(note)
    if recorded is None:
        record = {"name": known.name, "address": address, "num_bytes": found.num_bytes}
        record |= {"sha256": found.sha256, "git_blob": found.git_blob}
        atomic_write_text(note, json.dumps(record, indent=1) + "\n")
    elif recorded != found.sha256:
        raise ValueError(
            f"{known.title}: {path} has sha256 {found.sha256[:12]}, {note} says {recorded[:12]} of the file used "
            "before: scores of the two must not be compared; restore that file, or delete the note to change over"
        )
    return found


def read_record(note: Path) -> str | None:
    """The sha256 that was recorded, None if there is no record. Raises ValueError for a note that can't be read."""
    if not note.exists():
        return None
    try:
        return str(json.loads(note.read_text(encoding="utf-8"))["sha256"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{note}: is no record of a file ({error}); delete it to record the file anew") from None
