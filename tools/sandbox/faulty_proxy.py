"""A proxy between a client and an HTTP server that logs every request, and fails those that a test names.

Nothing of it is made for S3: a request goes on as it came, its Host header too, so that signatures hold.
"""

import contextlib
import http.client
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"


@dataclass
class Request:
    """One request as it came, and the status that the client was told (0: it was told nothing)."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    status: int = 0
    body: bytes = field(default=b"", repr=False)


@dataclass
class Answer:
    """The server's answer: status, headers, body."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


@dataclass
class Fault:
    """Fault of the next requests, as many as `times`, for which `concerns` is true.

    unavailable: 503 in place of the server's answer; answered: any other one. refused: the connection is cut before
    the server hears of it. lost: the server does it, and the connection is cut before its answer. cut: half of the
    answer's body comes.
    """

    kind: str
    concerns: Callable[[Request], bool]
    times: int = 1
    status: int = 503
    body: bytes = SLOW_DOWN


@dataclass
class Proxy:
    """Proxy with its URL, the requests that came through it, and the faults still to come."""

    url: str
    requests: list[Request] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    happened: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def fail(self, kind: str, concerns: Callable[[Request], bool], times: int = 1) -> None:
        self.faults.append(Fault(kind, concerns, times))

    def answer(self, status: int, body: bytes, concerns: Callable[[Request], bool], times: int = 1) -> None:
        self.faults.append(Fault("answered", concerns, times, status, body))

    def due(self, request: Request) -> Fault | None:
        """The fault that this request is to meet."""
        with self.lock:
            self.requests.append(request)
            for fault in self.faults:
                if fault.times and fault.concerns(request):
                    fault.times -= 1
                    self.happened.append(fault.kind)
                    return fault
        return None

    def forward(self, request: Request, send: Callable[[], Answer]) -> Answer:
        """The server's answer, which `send` asks for."""
        return send()


class Listener(ThreadingHTTPServer):
    """A server that says nothing of clients that went away, be it killed or impatient ones."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


@contextlib.contextmanager
def proxy(server: str, make: Callable[[str], Any] = Proxy) -> Iterator[Any]:
    """A proxy on loopback before the HTTP server of this URL; `make` makes it of its own URL."""
    listener = Listener(("127.0.0.1", 0), Handler)
    listener.server_host = urlsplit(server).netloc  # type: ignore[attr-defined]
    listener.proxy = make(f"http://127.0.0.1:{listener.server_port}")  # type: ignore[attr-defined]
    thread = threading.Thread(target=listener.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield listener.proxy  # type: ignore[attr-defined]
    finally:
        listener.shutdown()
        listener.server_close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Any

    def handle_any(self) -> None:
        parts = urlsplit(self.path)
        query = parse_qs(parts.query, keep_blank_values=True)
        headers = {name.lower(): value for name, value in self.headers.items()}
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        if len(body) < length:  # the client gave up
            self.close_connection = True
            return
        request = Request(self.command, unquote(parts.path), query, headers, body=body)
        fault = self.server.proxy.due(request)
        kind = fault.kind if fault else ""
        if kind == "refused":
            self.cut()
            return
        if kind in ("unavailable", "answered"):
            request.status = fault.status
            self.answer(fault.status, [("Content-Type", "application/xml")], fault.body)
            return
        answer = self.server.proxy.forward(request, lambda: self.send(request))
        if kind == "lost":
            self.cut()
            return
        request.status = answer.status
        self.answer(answer.status, answer.headers, answer.body, half=kind == "cut")

    def send(self, request: Request) -> Answer:
        """The server's answer to a request, of which all but the body goes on as it came."""
        upstream = http.client.HTTPConnection(self.server.server_host, timeout=60)
        try:
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in ("connection", "expect", "content-length"):
                    upstream.putheader(name, value)
            if "content-length" in request.headers:
                upstream.putheader("Content-Length", str(len(request.body)))
            upstream.endheaders(request.body)
            response = upstream.getresponse()
            return Answer(response.status, response.getheaders(), response.read())
        finally:
            upstream.close()

    def answer(self, status: int, headers: list[tuple[str, str]], body: bytes, half: bool = False) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                self.send_header(name, value)
        length = len(body)
        if self.command == "HEAD":
            length = next((int(value) for name, value in headers if name.lower() == "content-length"), 0)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        if half:
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            self.cut()
        elif self.command != "HEAD":
            self.wfile.write(body)

    def cut(self) -> None:
        """End the connection by a reset, as a load balancer that dies does."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do_PATCH = handle_any

    def log_message(self, *_: object) -> None:
        """Requests are kept in a list, not printed."""
