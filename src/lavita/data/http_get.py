"""One request for a file, or the rest of it: what the server says of it, and its bytes. http and https only."""

from __future__ import annotations

import http.client
import re
import socket
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message
from typing import Any
from urllib.parse import urlsplit

TIMEOUT_SECONDS = 60.0
TRY_AGAIN = (408, 425, 429, 500, 502, 503, 504)
HTML_STARTS = (b"<!doctype html", b"<html", b"<head", b"<body", b"<?xml")


class Refused(Exception):
    """This address will not give the file, however often it is asked."""


class Broken(Exception):
    """It did not work this time."""


class Changed(Broken):
    """The file on the server is another one than that of which bytes are kept: these are of no use."""


class Unverified(Exception):
    """The certificate of the server can't be verified."""


@dataclass(frozen=True)
class Origin:
    """A file on a server. validator: its strong ETag, else its Last-Modified, else None; num_bytes: its size."""

    address: str
    validator: str | None
    num_bytes: int | None


class Answer:
    """What a server answered.

    start: the byte that its bytes begin with, 0 if it sends the whole file; num_bytes: size of the whole file, None
    if the server does not say; all_there: the server has no byte after those asked for.
    """

    def __init__(self, origin: Origin, start: int, all_there: bool = False, response: Any = None) -> None:
        self.origin, self.start, self.all_there = origin, start, all_there
        self.num_bytes = origin.num_bytes
        self._response = response

    def __enter__(self) -> Answer:
        return self

    def __exit__(self, *error: object) -> None:
        if self._response is not None:
            self._response.close()

    def continues(self, origin: Origin | None) -> bool:
        """Whether this is the file of which earlier bytes came; a server may ignore the condition it was sent."""
        if origin is None or None not in (origin.num_bytes, self.num_bytes) and origin.num_bytes != self.num_bytes:
            return False
        same_address = origin.address == self.origin.address
        known = None not in (origin.validator, self.origin.validator)
        return not (same_address and known) or origin.validator == self.origin.validator

    def first_bytes(self, num_bytes: int) -> bytes:
        """The first bytes sent. Raises Refused for a web page, which is what login walls and dead links send."""
        first = self._read(num_bytes)
        if not self.start:
            kind = self._response.headers.get_content_type()
            page = first.lstrip()[:64].lower()
            if kind in ("text/html", "application/xhtml+xml") or page.startswith(HTML_STARTS):
                raise Refused(f"got a web page ({kind}), expected a file: the link is dead or asks for a login")
        return first

    def chunks(self, num_bytes: int) -> Iterator[bytes]:
        """The bytes after the first ones, as they come. Raises Broken."""
        while chunk := self._read(num_bytes):
            yield chunk

    def _read(self, num_bytes: int) -> bytes:
        try:
            return self._response.read1(num_bytes)
        except (OSError, http.client.HTTPException) as error:
            raise Broken(_reason(error)) from None


def get(address: str, start: int = 0, condition: str | None = None, verify: bool = True) -> Answer:
    """Ask for a file from byte start on; with a condition (a validator), for all of it unless it still holds.

    verify: whether the certificate of an https server must be good. Raises Refused, Broken, Unverified.
    """
    if urlsplit(address).scheme not in ("http", "https"):
        raise Refused("only addresses that begin with http:// or https:// are fetched")
    headers = {"User-Agent": "lavita", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    if start and condition:
        headers["If-Range"] = condition
    request = urllib.request.Request(address, headers=headers)
    try:
        response = _opener(verify).open(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        with error:
            return _all_there_or_raise(address, start, error)
    except urllib.error.URLError as error:
        _raise_for(error.reason)
    except (OSError, http.client.HTTPException) as error:
        _raise_for(error)
    try:
        return _read_headers(address, response)
    except BaseException:
        response.close()
        raise


def _read_headers(address: str, response: Any) -> Answer:
    headers = response.headers
    if response.status == 206:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("Content-Range", "").strip())
        if match is None:
            raise Refused(f"got a part of the file without a usable Content-Range ({headers.get('Content-Range')})")
        total = None if match[2] == "*" else int(match[2])
        return Answer(Origin(address, _validator(headers), total), int(match[1]), response=response)
    if response.status != 200:
        raise Refused(f"got HTTP status {response.status}, expected 200")
    length = headers.get("Content-Length", "")
    return Answer(Origin(address, _validator(headers), int(length) if length.isdigit() else None), 0, response=response)


def _validator(headers: Message) -> str | None:
    etag = headers.get("ETag")
    if etag and not etag.startswith("W/"):
        return etag
    return headers.get("Last-Modified")


def _all_there_or_raise(address: str, start: int, error: urllib.error.HTTPError) -> Answer:
    if error.code == 416 and start:
        total = re.fullmatch(r"bytes \*/(\d+)", error.headers.get("Content-Range", "").strip())
        if total and int(total[1]) == start:
            return Answer(Origin(address, _validator(error.headers), start), start, all_there=True)
        raise Changed("the file on the server has changed")
    if error.code in TRY_AGAIN:
        raise Broken(f"got HTTP {error.code} {error.reason}")
    if 300 <= error.code < 400:
        raise Refused(str(error.reason).replace("\n", " "))
    hint = {401: "it asks for a login", 403: "access is refused", 404: "the file is gone", 410: "the file is gone"}
    raise Refused(f"got HTTP {error.code} {error.reason}" + (f": {hint[error.code]}" if error.code in hint else ""))


def _raise_for(reason: Any) -> None:
    if isinstance(reason, ssl.SSLCertVerificationError):
        raise Unverified(f"the certificate of the server can't be verified ({reason.verify_message})")
    if isinstance(reason, socket.gaierror):
        raise Refused(f"the server's name can't be resolved ({reason.strerror}): is this machine on the network?")
    raise Broken(_reason(reason))


def _reason(error: Any) -> str:
    if isinstance(error, TimeoutError):
        return f"nothing came for {TIMEOUT_SECONDS:g} seconds"
    return f"the connection broke ({getattr(error, 'strerror', None) or str(error) or type(error).__name__})"


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to http and https, never from https to http."""

    def redirect_request(self, request, file, code, message, headers, address):
        scheme = urlsplit(address).scheme
        if scheme not in ("http", "https") or (request.type == "https" and scheme == "http"):
            raise Refused(f"it redirects to {address}, which is not followed")
        return super().redirect_request(request, file, code, message, headers, address)


def _opener(verify: bool) -> urllib.request.OpenerDirector:
    """Only the handlers needed: the usual opener would also read files and speak FTP."""
    context = None  # the usual one, which verifies
    if not verify:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.UnknownHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(context=context),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _Redirects(),
    ):
        opener.add_handler(handler)
    return opener
