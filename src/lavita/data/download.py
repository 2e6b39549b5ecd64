"""One file from the web -> disk: resumed where it stopped, checked, and put at its place only when complete."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from lavita.files import atomic_write_text

if TYPE_CHECKING:
    import requests

CHUNK_BYTES = 1 << 18
TIMEOUT_SECONDS = 60.0
TRIES_WITHOUT_PROGRESS = 5
FIRST_PAUSE_SECONDS = 1.0  # urllib3 tries a second time at once, then doubles this
LONGEST_PAUSE_SECONDS = 120  # that a server may ask for
TRY_AGAIN = (408, 425, 429, 500, 502, 503, 504)
HINTS = {401: "it asks for a login", 403: "access is refused", 404: "the file is gone", 410: "the file is gone"}
HTML_STARTS = (b"<!doctype html", b"<html", b"<head", b"<body", b"<?xml")

Report = Callable[[int, int | None], None]


class DownloadError(ValueError):
    """A file that could not be fetched. One line: what was got, what was expected, what is kept, what to do."""


class NoSpace(DownloadError):
    """The disk is too small, so that no other address can help."""


class Refused(Exception):
    """This address will not give the file, however often it is asked."""


class Broken(Exception):
    """It did not work this time. response: what the server said, which may ask for a pause."""

    def __init__(self, reason: str, response: requests.Response | None = None) -> None:
        super().__init__(reason)
        self.response = response


class Changed(Broken):
    """The file on the server has changed since a part of it was kept, so that part is of no use."""


class Unverified(Exception):
    """The certificate of the server can't be verified."""


@dataclass(frozen=True)
class Origin:
    """A file on a server. validator: its strong ETag, else its Last-Modified, else None; num_bytes: its size."""

    address: str
    validator: str | None
    num_bytes: int | None

    def may_be(self, other: Origin) -> bool:
        """Whether both may be the same bytes; a server may ignore the condition that it was sent."""
        if None not in (self.num_bytes, other.num_bytes) and self.num_bytes != other.num_bytes:
            return False
        known = self.address == other.address and None not in (self.validator, other.validator)
        return not known or self.validator == other.validator


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

    def origin(self) -> Origin | None:
        """The remote file that the bytes are of; None if that is not known, so that they can't be added to."""
        try:
            return Origin(**json.loads(self.memory.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def start(self, origin: Origin) -> None:
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
    from urllib3 import Retry
    from urllib3.exceptions import MaxRetryError

    pauses = {"backoff_factor": FIRST_PAUSE_SECONDS, "retry_after_max": LONGEST_PAUSE_SECONDS}
    retries = allowed = Retry(TRIES_WITHOUT_PROGRESS - 1, **pauses)
    most_bytes, verify = part.num_bytes(), True
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
                retries, most_bytes = allowed, part.num_bytes()
            try:
                retries = retries.increment(error=error)
            except MaxRetryError:
                raise Refused(f"{error} (tried {TRIES_WITHOUT_PROGRESS} times)") from None
            retries.sleep(error.response.raw if error.response is not None else None)


def _collect(address: str, part: PartialFile, wanted: Wanted, report: Report, verify: bool) -> None:
    """One request: the whole file, or what is missing of it. Returns when all bytes are there."""
    have, condition = _may_add(address, part, wanted)
    origin = part.origin()
    if have and origin is not None and have == origin.num_bytes:
        return  # stopped between the last byte and the rename
    with _get(address, have, condition, verify) as response:
        start, found = _read_headers(address, have, response)
        if start and (start != have or origin is None or not origin.may_be(found)):
            raise Changed("the file on the server has changed")
        if start and start == found.num_bytes:
            return
        # As they come; requests' own iter_content would hold them back until a chunk is full.
        chunks = iter(lambda: response.raw.read1(CHUNK_BYTES, decode_content=False), b"")
        first = next(chunks, b"")
        if not start:
            _refuse_page(response, first)
        if None not in (wanted.num_bytes, found.num_bytes) and found.num_bytes != wanted.num_bytes:
            raise Refused(f"got a file of {found.num_bytes} bytes, expected {wanted.num_bytes} bytes")
        total = found.num_bytes if found.num_bytes is not None else wanted.num_bytes
        _check_space(part, start, total)
        if not start:
            part.start(found)
        _write(part, start, chain((first,), chunks), total, report)
    have = part.num_bytes()
    if total is not None and have < total:
        raise Broken(f"the connection ended at {have} of {total} bytes")


@contextmanager
def _get(address: str, start: int, condition: str | None, verify: bool) -> Iterator[requests.Response]:
    """Ask for a file from byte start on; with a condition (a validator), for all of it unless it still holds.

    verify: whether the certificate of an https server must be good. Raises Refused, Broken, Unverified.
    """
    import requests
    from urllib3.exceptions import HTTPError, InsecureRequestWarning

    if urlsplit(address).scheme not in ("http", "https"):
        raise Refused("only addresses that begin with http:// or https:// are fetched")
    headers = {"User-Agent": "lavita", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    if start and condition:
        headers["If-Range"] = condition
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", InsecureRequestWarning)  # it is known: the bytes are proved otherwise
            hooks, timeout = {"response": _refuse_redirect}, TIMEOUT_SECONDS
            response = requests.get(address, headers=headers, hooks=hooks, timeout=timeout, verify=verify, stream=True)
        with response:
            response.raw.enforce_content_length = False  # how much came is looked at on disk
            yield response
    except (requests.ConnectionError, requests.Timeout, HTTPError) as error:
        _raise_for(error)
    except requests.RequestException as error:
        raise Refused(str(error).split("\n")[0]) from None


def _refuse_redirect(response: requests.Response, **options: object) -> None:
    """Redirects are followed to http and https, never from https to http."""
    if response.is_redirect:
        target = urljoin(response.url, response.headers["location"])
        scheme, before = urlsplit(target).scheme, urlsplit(response.url).scheme
        if scheme not in ("http", "https") or (before == "https" and scheme == "http"):
            raise Refused(f"it redirects to {target}, which is not followed")


def _raise_for(error: Exception) -> None:
    """Raise what a broken connection means, by the first cause that says it."""
    from urllib3.exceptions import NameResolutionError, NewConnectionError, TimeoutError

    causes: list[object] = [error]
    for cause in causes:  # grows on the way
        if isinstance(cause, BaseException) and len(causes) < 50:
            causes += [getattr(cause, "reason", None), cause.__cause__, cause.__context__, *cause.args]
    unverified = [cause.verify_message for cause in causes if hasattr(cause, "verify_message")]
    if unverified:
        raise Unverified(f"the certificate of the server can't be verified ({unverified[0]})") from None
    if any(isinstance(cause, NameResolutionError) for cause in causes):
        raise Refused("the server's name can't be resolved: is this machine on the network?") from None
    if any(isinstance(cause, TimeoutError) and not isinstance(cause, NewConnectionError) for cause in causes):
        raise Broken(f"nothing came for {TIMEOUT_SECONDS:g} seconds") from None
    reasons = [cause.strerror for cause in causes if isinstance(cause, OSError) and cause.strerror]
    raise Broken(f"the connection broke ({reasons[0] if reasons else type(error).__name__})") from None


def _read_headers(address: str, have: int, response: requests.Response) -> tuple[int, Origin]:
    """The byte that the answer begins with, which is have where there are no more, and the file that it is of."""
    status, headers = response.status_code, response.headers
    etag = headers.get("ETag")
    validator = etag if etag and not etag.startswith("W/") else headers.get("Last-Modified")
    content_range = headers.get("Content-Range", "").strip()
    if status == 206:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", content_range)
        if match is None:
            raise Refused(f"got a part of the file without a usable Content-Range ({content_range or None})")
        return int(match[1]), Origin(address, validator, None if match[2] == "*" else int(match[2]))
    if status == 416 and have:
        if content_range != f"bytes */{have}":
            raise Changed("the file on the server has changed")
        return have, Origin(address, validator, have)
    if status in TRY_AGAIN:
        raise Broken(f"got HTTP {status} {response.reason}", response)
    if status >= 400:
        raise Refused(f"got HTTP {status} {response.reason}" + (f": {HINTS[status]}" if status in HINTS else ""))
    if status != 200:
        raise Refused(f"got HTTP status {status}, expected 200")
    length = headers.get("Content-Length", "")
    return 0, Origin(address, validator, int(length) if length.isdigit() else None)


def _refuse_page(response: requests.Response, first: bytes) -> None:
    """Raise Refused for a web page, which is what login walls and dead links send."""
    kind = response.headers.get("Content-Type", "").split(";")[0].strip().lower()
    if kind in ("text/html", "application/xhtml+xml") or first.lstrip()[:64].lower().startswith(HTML_STARTS):
        raise Refused(f"got a web page ({kind}), expected a file: the link is dead or asks for a login")


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
    return f"the same command resumes{kept}"
