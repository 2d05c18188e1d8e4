"""A web hook for notices of failed runs and overdue pipelines."""

import contextlib
import http.server
import json
import threading


@contextlib.contextmanager
def web_hook():
    """Serve a web hook; yield its address, and the list of documents posted to it."""
    notices = []

    class Hook(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            notices.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hook) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", notices
        server.shutdown()
