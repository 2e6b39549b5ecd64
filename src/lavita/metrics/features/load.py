"""A feature network from a name or a file: `i3d`, `i3d_pretrained_400`, `c3d`, `videomae`, `embedded:FILE`, FILE."""

from __future__ import annotations

from pathlib import Path

from lavita.config.protocol import Protocol
from lavita.config.schema import WeightsConfig, nearest
from lavita.data.download import download
from lavita.metrics.features.base import INSIDE, Extractor
from lavita.metrics.features.i3d import USUAL, load_i3d
from lavita.metrics.features.in_domain import load_in_domain
from lavita.metrics.features.torchscript import TorchScriptC3D, TorchScriptI3D, load_torchscript
from lavita.metrics.features.videomae import is_official, load_videomae
from lavita.metrics.features.weights import (
    C3D_UCF101,
    CHECKPOINT,
    FOLDER,
    I3D_PRETRAINED,
    I3D_TORCHSCRIPT,
    SAFETENSORS,
    TORCHSCRIPT,
    VIDEOMAE_SSV2,
    Fetch,
    KnownFile,
    file_kind,
    find_weights,
    read_state_dict,
    what_to_do,
)
from lavita.metrics.features.weights import WEIGHTS_FOLDER as CACHE_FOLDER

IN_DOMAIN = "embedded"
# Two packagings of one network stand under two names, so that none is ever taken for the other.
KNOWN: dict[str, KnownFile] = {
    "i3d": I3D_TORCHSCRIPT,
    "i3d_pretrained_400": I3D_PRETRAINED,
    "c3d": C3D_UCF101,
    "videomae": VIDEOMAE_SSV2,
}


def load_extractor(
    name_or_file: str,
    weights: Path | str | None = None,
    device: str = "cpu",
    preprocess: str | None = None,
    folder: Path | str = CACHE_FOLDER,
    offline: bool = False,
    fetch: Fetch = download,
) -> Extractor:
    """The extractor of a name of KNOWN, of `embedded:FILE`, or of a FILE, whose content decides what it is.

    A name stands for exactly the file that others score with (`weights.find_weights`: at the path weights, in folder,
    or fetched); a FILE may hold any weights in one of the formats. preprocess: None for the network's usual one.
    Raises ValueError, one line, for an unknown name, for a file that is nowhere, and for one that is no such network.
    """
    name, colon, file = name_or_file.partition(":")
    if name == IN_DOMAIN and (colon or weights is not None):
        return with_usual_preprocess(IN_DOMAIN, preprocess, lambda: load_in_domain(file or weights, device))
    if name_or_file not in KNOWN:
        if weights is not None:
            raise ValueError(f"extractor: got {name_or_file!r} and weights; weights go with {', '.join(KNOWN)}")
        if not Path(name_or_file).exists():
            names = [*KNOWN, f"{IN_DOMAIN}:FILE"]
            raise ValueError(
                f"extractor: got {name_or_file!r}, which is no name and no file at {Path(name_or_file).absolute()}; "
                f"{nearest(name_or_file, names)}, or give a file of weights"
            )
        return load_file(Path(name_or_file), device, preprocess)
    known = KNOWN[name_or_file]
    if name_or_file == "videomae" and weights is not None and Path(weights).is_dir():
        return with_usual_preprocess("videomae", preprocess, lambda: load_videomae(weights, device), "unit")
    return load_file(find_weights(known, weights, folder, offline, fetch), device, preprocess)


def load_file(path: Path, device: str, preprocess: str | None) -> Extractor:
    """The extractor that a file's content says it is. Raises ValueError for a file that is none."""
    kind = file_kind(path)
    if kind == TORCHSCRIPT:
        return load_script(path, device, preprocess)
    if kind == FOLDER:
        return with_usual_preprocess("videomae", preprocess, lambda: load_videomae(path, device), "unit")
    if kind not in (SAFETENSORS, CHECKPOINT):
        raise ValueError(f"extractor: {path} is {kind}; {what_to_do(kind)}")
    if kind == SAFETENSORS and path.with_suffix(".json").is_file():
        return with_usual_preprocess(IN_DOMAIN, preprocess, lambda: load_in_domain(path, device))
    state = read_state_dict(path, "extractor")
    if "Conv3d_1a_7x7.conv3d.weight" in state:
        return load_i3d(path, device, preprocess or USUAL)
    if is_official(state):
        return with_usual_preprocess("videomae", preprocess, lambda: load_videomae(path, device), "unit")
    raise ValueError(
        f"extractor: {path} holds the weights of another network ({len(state)} tensors, first {next(iter(state))}); "
        "wanted I3D (i3d_pretrained_400.pt), VideoMAE, or an in-domain extractor with its .json beside it"
    )


def load_script(path: Path, device: str, preprocess: str | None) -> Extractor:
    """I3D or C3D from a TorchScript archive, recognised by the arguments that the network is called with."""
    network = load_torchscript(path, "extractor", "its source")
    arguments = [argument.name for argument in network.forward.schema.arguments[1:]]  # the first is the module
    if "rescale" in arguments and "return_features" in arguments:
        return TorchScriptI3D(path, device, preprocess or INSIDE)
    if len(arguments) == 1:
        return with_usual_preprocess("c3d", preprocess, lambda: TorchScriptC3D(path, device))
    if "return_features" in arguments:
        raise ValueError(
            f"extractor: {path} gives features of images, not of clips; it can serve a frame distance only"
        )
    raise ValueError(f"extractor: {path} is called with ({', '.join(arguments)}), neither as I3D nor as C3D")


def with_usual_preprocess(name: str, preprocess: str | None, load, usual: str = INSIDE) -> Extractor:
    """load(), for a network that is fed in one way only. Raises ValueError for another preprocess."""
    if preprocess not in (None, usual):
        raise ValueError(f"preprocess: got {preprocess!r}, extractor {name} is fed in one way only: {usual}")
    return load()


def load_extractors(
    protocol: Protocol, weights: WeightsConfig, in_domain: str | Path | None, device: str
) -> dict[str, Extractor]:
    """The protocol's feature networks by use: "distance" for FVD and KVD, "classes" for IS.

    weights: files of named networks; in_domain: the folder's own network, where the protocol asks for it. Raises
    ValueError for a network that is nowhere, and for another file than the protocol records.
    """
    loaders = {
        IN_DOMAIN: lambda: load_in_domain(Path(in_domain), device),
        "i3d": lambda: TorchScriptI3D(given(weights.i3d, "i3d"), device),
        "c3d": lambda: TorchScriptC3D(given(weights.c3d, "c3d"), device),
    }
    found: dict[str, Extractor] = {}
    for name in (protocol.extractor, protocol.is_extractor):
        if name not in loaders:
            raise ValueError(f"protocol.extractor: got {name!r}, allowed {', '.join(loaders)}")
        if name not in found:
            found[name] = loaders[name]()
    check_recorded("extractor", protocol.extractor_hash, found[protocol.extractor])
    check_recorded("is_extractor", protocol.is_extractor_hash, found[protocol.is_extractor])
    return {"distance": found[protocol.extractor], "classes": found[protocol.is_extractor]}


def check_recorded(key: str, recorded: str | None, network: Extractor) -> None:
    """Raise ValueError where the protocol records another file than the one at hand."""
    if recorded not in (None, network.weights_hash):
        raise ValueError(
            f"protocol.{key}_hash is {recorded[:12]}, the file of {network.name} at hand has "
            f"{network.weights_hash[:12]}; give the recorded file, or protocol.{key}_hash={network.weights_hash}, "
            "which the protocol's name will say"
        )


def given(path: str | None, name: str) -> str:
    """The path of a feature network: as given, or in the cache of weights, where evaluate.py fetches it to.

    Raises ValueError saying where it was looked for and how to give one.
    """
    if path is not None:
        return path
    try:
        return str(find_weights(KNOWN[name], offline=True))
    except ValueError as error:
        raise ValueError(
            f"protocol.extractor={name}: {error}; or give weights.{name}=FILE, or score with the suite's own small "
            "network, protocol.extractor=embedded protocol.is_extractor=embedded (its scores have another name)"
        ) from None
