"""A proxy between a client and an HTTP server that logs every request, and fails those that a test selects.

It is not specific to S3: requests are forwarded unchanged, including the Host header, so that signatures stay valid.
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
    """One request as received, and the status sent to the client (0: none)."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    status: int = 0
    body: bytes = field(default=b"", repr=False)


@dataclass
class Response:
    """The server's response: status, headers, body."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


@dataclass
class Fault:
    """Fault of the next `times` requests for which `concerns` is true.

    unavailable: 503 instead of the server's response; answered: any other response. refused: the connection is reset
    before the server gets the request. lost: the server executes the request, and the connection is reset before the
    response. cut: half of the response's body is sent.
    """

    kind: str
    concerns: Callable[[Request], bool]
    times: int = 1
    status: int = 503
    body: bytes = SLOW_DOWN


@dataclass
class Proxy:
    """Proxy with its URL, the requests so far, and the pending faults."""

    url: str
    requests: list[Request] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    happened: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def fail(self, kind: str, concerns: Callable[[Request], bool], times: int = 1) -> None:
        self.faults.append(Fault(kind, concerns, times))

    def answer(self, status: int, body: bytes, concerns: Callable[[Request], bool], times: int = 1) -> None:
        self.faults.append(Fault("answered", concerns, times, status, body))

    def match_fault(self, request: Request) -> Fault | None:
        """Record a request and return its fault, if any."""
        with self.lock:
            self.requests.append(request)
            for fault in self.faults:
                if fault.times and fault.concerns(request):
                    fault.times -= 1
                    self.happened.append(fault.kind)
                    return fault
        return None

    def forward(self, request: Request, send: Callable[[], Response]) -> Response:
        """Return the server's response, which `send` requests."""
        return send()


class Listener(ThreadingHTTPServer):
    """A server that does not log clients that disconnected."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


@contextlib.contextmanager
def proxy(server: str, factory: Callable[[str], Any] = Proxy) -> Iterator[Any]:
    """Run a proxy on loopback for the HTTP server of this URL; `factory` creates it from its own URL."""
    listener = Listener(("127.0.0.1", 0), Handler)
    listener.server_host = urlsplit(server).netloc  # type: ignore[attr-defined]
    listener.proxy = factory(f"http://127.0.0.1:{listener.server_port}")  # type: ignore[attr-defined]
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
        target = urlsplit(self.path)
        query = parse_qs(target.query, keep_blank_values=True)
        headers = {name.lower(): value for name, value in self.headers.items()}
        length = int(self.headers.get("Content-Length") or 0)
        body = b"".join(self.chunks()) if "transfer-encoding" in headers else self.rfile.read(length)
        if len(body) < length:  # the client disconnected
            self.close_connection = True
            return
        request = Request(self.command, unquote(target.path), query, headers, body=body)
        fault = self.server.proxy.match_fault(request)
        kind = fault.kind if fault else ""
        if kind == "refused":
            self.cut()
            return
        if kind in ("unavailable", "answered"):
            request.status = fault.status
            self.answer(fault.status, [("Content-Type", "application/xml")], fault.body)
            return
        response = self.server.proxy.forward(request, lambda: self.send(request))
        if kind == "lost":
            self.cut()
            return
        request.status = response.status
        self.answer(response.status, response.headers, response.body, half=kind == "cut")

    def chunks(self) -> Iterator[bytes]:
        """Yield the parts of a body of unknown length, each of which its size precedes."""
        while size := int(self.rfile.readline().partition(b";")[0] or b"0", 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def send(self, request: Request) -> Response:
        """Forward a request with unchanged headers; return the server's response."""
        upstream = http.client.HTTPConnection(self.server.server_host, timeout=60)
        try:
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in ("connection", "expect", "content-length", "transfer-encoding"):
                    upstream.putheader(name, value)
            if request.headers.keys() & {"content-length", "transfer-encoding"}:
                upstream.putheader("Content-Length", str(len(request.body)))
            upstream.endheaders(request.body)
            response = upstream.getresponse()
            return Response(response.status, self.headers_through_here(response), response.read())
        finally:
            upstream.close()

    def headers_through_here(self, response: http.client.HTTPResponse) -> list[tuple[str, str]]:
        """Return the server's headers; an address where the client shall go on is this proxy's."""
        server, here = f"http://{self.server.server_host}/", f"{self.server.proxy.url}/"
        return [(name, value.replace(server, here)) for name, value in response.getheaders()]

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
        """Reset the connection, as a failing load balancer does."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do_PATCH = handle_any

    def log_message(self, *_: object) -> None:
        """Print nothing: requests are kept in a list."""
