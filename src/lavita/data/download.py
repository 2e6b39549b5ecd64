"""One file from the web -> disk: goes on where it stopped, is checked, and stands at its place only when whole."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from lavita.data import http_get
from lavita.data.http_get import Broken, Changed, Refused, Unverified
from lavita.files import atomic_write_text

CHUNK_BYTES = 1 << 18
TRIES_WITHOUT_PROGRESS = 5
FIRST_PAUSE_SECONDS = 1.0  # doubled after each try that brought nothing

Report = Callable[[int, int | None], None]


class DownloadError(ValueError):
    """A file that could not be fetched. One line: what was got, what was expected, what is kept, what to do."""


class NoSpace(DownloadError):
    """The disk is too small, so that no other address can help."""


@dataclass(frozen=True)
class Wanted:
    """What is known of a file before it is fetched: its addresses, all of the same bytes; size; sha256."""

    addresses: tuple[str, ...]
    num_bytes: int | None
    sha256: str | None


def download(
    addresses: str | Sequence[str],
    target: Path | str,
    num_bytes: int | None = None,
    sha256: str | None = None,
    report: Report | None = None,
) -> Path:
    """Fetch a file over http or https to target and return its path; nothing is fetched where it already stands.

    Bytes are collected in <target>.part, next to a <target>.part.json that remembers which file on which server they
    are of. A second call asks that server for the rest, on condition that its file is still the same; a server that
    ignores the condition or the range, or whose file changed, starts the file anew. The addresses are tried in turn,
    each as long as bytes come. num_bytes and sha256 (hexadecimal) are checked before the file gets its name, also where
    it was put there by hand. report is called with the bytes done and the total, None if unknown.
    A server whose certificate can't be verified is used only where num_bytes and sha256 are given to prove the bytes.
    Raises DownloadError, one line; NoSpace where the disk is too small.
    Source: HTTP ranges and conditions, RFC 9110, sections 13.1.5 and 14.
    """
    wanted = Wanted((addresses,) if isinstance(addresses, str) else tuple(addresses), num_bytes, sha256)
    part = PartialFile(Path(target))
    try:
        part.target.parent.mkdir(parents=True, exist_ok=True)
        if part.target.exists():
            reason = _wrong(part.target, wanted)
            if reason:
                raise DownloadError(f"{target}: {reason}; move the file away and start the same command again")
            return part.target
        return _fetch(part, wanted, report or (lambda done, total: None))
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpace(f"{part.target}: the disk is full; free some space, then {_go_on(part)}") from None
        raise DownloadError(f"{part.target}: {error.strerror or error}; {_go_on(part)}") from None


@dataclass(frozen=True)
class PartialFile:
    """A file that is being collected. target: its final place."""

    target: Path

    @property
    def path(self) -> Path:
        return self.target.with_name(self.target.name + ".part")

    @property
    def memory(self) -> Path:
        return self.target.with_name(self.target.name + ".part.json")

    def num_bytes(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def origin(self) -> http_get.Origin | None:
        """The remote file that the bytes are of; None if that is not known, so that they can't be added to."""
        try:
            return http_get.Origin(**json.loads(self.memory.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def start(self, origin: http_get.Origin) -> None:
        """Drop all bytes, then remember whose the next ones are: in this order, so that no kill can mix two files."""
        self.path.write_bytes(b"")
        atomic_write_text(self.memory, json.dumps(vars(origin)))

    def paths(self) -> tuple[Path, Path]:
        """What it consists of on disk."""
        return self.path, self.memory

    def drop(self) -> None:
        for path in self.paths():
            path.unlink(missing_ok=True)


def _fetch(part: PartialFile, wanted: Wanted, report: Report) -> Path:
    """Try the addresses in turn, first the one that the collected bytes came from."""
    origin, reasons = part.origin(), []
    first = origin.address if origin else ""
    for address in sorted(wanted.addresses, key=lambda address: address != first):
        try:
            _collect_right(address, part, wanted, report)
            _put_in_place(part)
            return part.target
        except Refused as error:
            reasons.append(f"{address}: {error}")
    raise DownloadError(f"{part.target.name}: {'; '.join(reasons)}; {_go_on(part)}")


def _collect_right(address: str, part: PartialFile, wanted: Wanted, report: Report) -> None:
    """Collect the file; wrong bytes are dropped, and once fetched anew where a part of them was of an earlier call."""
    for resumed in (part.num_bytes() > 0, False):
        _collect_patiently(address, part, wanted, report)
        reason = _wrong(part.path, wanted)
        if reason is None:
            return
        part.drop()
        if not resumed:
            raise Refused(f"{reason}; these bytes were dropped")


def _collect_patiently(address: str, part: PartialFile, wanted: Wanted, report: Report) -> None:
    """Collect until the file is whole; broken connections are tried again. Raises Refused."""
    failures, most_bytes, verify = 0, part.num_bytes(), True
    while True:
        try:
            return _collect(address, part, wanted, report, verify)
        except Unverified as error:
            if not (verify and wanted.sha256 and wanted.num_bytes):
                raise Refused(f"{error}; fetch the file with a browser and put it at {part.target}") from None
            verify = False
        except Broken as error:
            if isinstance(error, Changed):
                part.drop()
            if part.num_bytes() > most_bytes:
                failures, most_bytes = 0, part.num_bytes()
            failures += 1
            if failures == TRIES_WITHOUT_PROGRESS:
                raise Refused(f"{error} (tried {failures} times)") from None
            time.sleep(FIRST_PAUSE_SECONDS * 2 ** (failures - 1))


def _collect(address: str, part: PartialFile, wanted: Wanted, report: Report, verify: bool) -> None:
    """One request: the whole file, or what is missing of it. Returns when all bytes are there."""
    have, condition = _may_add(address, part, wanted)
    origin = part.origin()
    if have and origin is not None and have == origin.num_bytes:
        return  # stopped between the last byte and the rename
    with http_get.get(address, have, condition, verify) as answer:
        if answer.start and (answer.start != have or not answer.continues(origin)):
            raise Changed("the file on the server has changed")
        if answer.all_there:
            return
        first = answer.first_bytes(CHUNK_BYTES)
        if None not in (wanted.num_bytes, answer.num_bytes) and answer.num_bytes != wanted.num_bytes:
            raise Refused(f"got a file of {answer.num_bytes} bytes, expected {wanted.num_bytes} bytes")
        total = answer.num_bytes if answer.num_bytes is not None else wanted.num_bytes
        _check_space(part, answer.start, total)
        if not answer.start:
            part.start(answer.origin)
        _write(part, answer.start, chain((first,), answer.chunks(CHUNK_BYTES)), total, report)
    have = part.num_bytes()
    if total is not None and have < total:
        raise Broken(f"the connection ended at {have} of {total} bytes")


def _may_add(address: str, part: PartialFile, wanted: Wanted) -> tuple[int, str | None]:
    """How many collected bytes the server may be asked to add to, and the condition that its file is still theirs.

    Without a condition to set, bytes are added to only where a sha256 will prove the sum.
    """
    origin = part.origin()
    if origin is None:
        return 0, None
    if origin.address == address and origin.validator:
        return part.num_bytes(), origin.validator
    return (part.num_bytes() if wanted.sha256 else 0), None


def _check_space(part: PartialFile, start: int, total: int | None) -> None:
    folder = part.target.parent
    free = shutil.disk_usage(folder).free + (0 if start else part.num_bytes())
    if total is not None and total - start > free:
        raise NoSpace(
            f"{part.target.name}: {total - start} bytes are to come, {free} bytes are free in {folder}; "
            f"free some space, then {_go_on(part)}"
        )


def _write(part: PartialFile, start: int, chunks: Iterable[bytes], total: int | None, report: Report) -> None:
    with open(part.path, "r+b") as file:
        file.seek(start)
        done = start
        for chunk in chunks:
            done += len(chunk)
            if total is not None and done > total:
                raise Refused(f"got more than {total} bytes")
            file.write(chunk)
            report(done, total)
            if done == total:
                return  # some servers keep the connection open


def _wrong(path: Path, wanted: Wanted) -> str | None:
    """What is wrong with a file, or None."""
    if wanted.num_bytes is not None and (size := path.stat().st_size) != wanted.num_bytes:
        return f"got {size} bytes, expected {wanted.num_bytes} bytes"
    if wanted.sha256 is not None and (got := file_sha256(path)) != wanted.sha256.lower():
        return f"got sha256 {got}, expected {wanted.sha256.lower()}"
    return None


def file_sha256(path: Path) -> str:
    """sha256 of a file's bytes, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _put_in_place(part: PartialFile) -> None:
    with open(part.path, "rb") as file:
        os.fsync(file.fileno())
    os.replace(part.path, part.target)
    part.memory.unlink(missing_ok=True)


def _go_on(part: PartialFile) -> str:
    num_bytes = part.num_bytes()
    kept = f" ({num_bytes} bytes are kept in {part.path})" if num_bytes else ""
    return f"the same command goes on where it stopped{kept}"
