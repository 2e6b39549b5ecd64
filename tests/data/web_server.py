"""A web server on the loopback address that can behave badly in the ways that data set servers do."""

from __future__ import annotations

import re
import ssl
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass
class Page:
    """One address. drops: after how many bytes the connection is closed, a request each; fails: statuses sent first."""

    data: bytes = b""
    etag: str | None = '"one"'
    last_modified: str | None = None
    ranges: bool = True
    if_range: bool = True
    content_type: str = "application/octet-stream"
    claimed_bytes: int | None = None
    says_length: bool = True
    drops: list[int] = field(default_factory=list)
    fails: list[int] = field(default_factory=list)
    redirect: str | None = None
    retry_after: int | None = None
    encoding: str | None = None
    pause_seconds: float = 0.0
    piece_bytes: int = 1 << 20


class WebServer:
    """pages: what it serves, by path. requests: path, Range and If-Range of what it was asked for."""

    def __init__(self) -> None:
        self.pages: dict[str, Page] = {}
        self.requests: list[tuple[str, str | None, str | None]] = []
        self._scheme = "http"
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> WebServer:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    def add(self, name: str, data: bytes = b"", **behaviour) -> str:
        """Serve a page; returns its address."""
        self.pages[f"/{name}"] = Page(data, **behaviour)
        return self.address(name)

    def address(self, name: str) -> str:
        return f"{self._scheme}://127.0.0.1:{self._http.server_port}/{name}"

    def encrypt(self, certificate: Path, key: Path) -> None:
        """Speak https from now on."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self._http.socket, self._scheme = context.wrap_socket(self._http.socket, server_side=True), "https"

    def ranges(self) -> list[str | None]:
        return [asked for _, asked, _ in self.requests]


def _handler(server: WebServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *words: object) -> None:
            pass

        def do_GET(self) -> None:
            asked, condition = self.headers.get("Range"), self.headers.get("If-Range")
            server.requests.append((self.path, asked, condition))
            page = server.pages.get(self.path)
            if page is None:
                return self.send_error(404)
            if page.fails:
                self.send_response(page.fails.pop(0))
                if page.retry_after is not None:
                    self.send_header("Retry-After", str(page.retry_after))
                self.send_header("Content-Length", "0")
                return self.end_headers()
            if page.redirect:
                self.send_response(302)
                self.send_header("Location", page.redirect)
                self.send_header("Content-Length", "0")
                return self.end_headers()
            self._send(page, asked, condition)

        def _send(self, page: Page, asked: str | None, condition: str | None) -> None:
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked and page.ranges else 0
            if condition and page.if_range and condition not in (page.etag, page.last_modified):
                start = 0
            size = len(page.data)
            if start and start >= size:
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{size}")
                self.send_header("Content-Length", "0")
                return self.end_headers()
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
            headers = {"ETag": page.etag, "Last-Modified": page.last_modified, "Content-Encoding": page.encoding}
            for name, value in headers.items():
                if value:
                    self.send_header(name, value)
            self.send_header("Content-Type", page.content_type)
            if page.says_length:
                claimed = page.claimed_bytes if page.claimed_bytes is not None else size
                self.send_header("Content-Length", str(claimed - start))
            self.end_headers()
            end = min(size, start + page.drops.pop(0)) if page.drops else size
            for at in range(start, end, page.piece_bytes):
                self.wfile.write(page.data[at : min(end, at + page.piece_bytes)])
                time.sleep(page.pause_seconds)
            self.close_connection = True

    return Handler
