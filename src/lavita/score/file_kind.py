"""What a file that should hold weights is, by its content; nothing in it is run or unpickled here."""

from __future__ import annotations

import zipfile
from pathlib import Path

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
