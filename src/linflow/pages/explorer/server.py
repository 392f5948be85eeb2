"""The server of the explorer: this machine only, one page, and answers that are functions of what was sent."""

from __future__ import annotations

import json
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from linflow import plots
from linflow.pages import play
from linflow.pages.explorer.state import Given
from linflow.pages.explorer.views import VIEWS, View
from linflow.plots.saving import rendered

ADDRESS = "127.0.0.1"
LARGEST = 20_000
"""Largest number of bytes that a request may send."""

KINDS = {"svg": "image/svg+xml", "pdf": "application/pdf"}
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)


class Explorer:
    """A server on the loopback address.

    Args:
        port: the port; 0 takes a free one.

    Raises:
        OSError: the port is taken.

    Example:
        >>> from linflow.pages.explorer import Explorer
        >>> with Explorer() as explorer:
        ...     explorer.url.startswith("http://127.0.0.1:")
        True
    """

    def __init__(self, port: int = 0):
        self.server = _Server((ADDRESS, port), _Handler)
        self.url = f"http://{ADDRESS}:{self.server.server_address[1]}/"

    def run(self) -> None:
        """Answer until Ctrl-C."""
        self.server.serve_forever()

    def close(self) -> None:
        """Free the port. Connections that are open get no further answer."""
        self.server.closed = True
        self.server.server_close()

    def __enter__(self) -> Explorer:
        threading.Thread(target=self.run, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.close()


class _Server(ThreadingHTTPServer):
    daemon_threads, closed = True, False
    drawing = threading.Lock()
    """matplotlib draws one figure at a time."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60
    server: _Server  # pyright: ignore[reportIncompatibleVariableOverride] - what it was made with

    def do_GET(self) -> None:
        """Send the page."""
        if not self._from_here():
            return
        if self.path == "/":
            self._send(play.page(served=True).encode(), "text/html; charset=utf-8")
        else:
            self._refuse(HTTPStatus.NOT_FOUND, "There is one page here, at /.")

    def do_POST(self) -> None:
        """Answer a view, or send its figure: `/VIEW` and `/VIEW.svg`, with the state as JSON."""
        if not self._from_here():
            return
        name, _, kind = self.path.removeprefix("/").partition(".")
        if name not in VIEWS or (kind and kind not in KINDS):
            self._refuse(HTTPStatus.NOT_FOUND, f"Views are {', '.join(VIEWS)}, and {', '.join(KINDS)} of them.")
            return
        state = self._state()
        if state is None:
            return
        try:
            view = VIEWS[name](Given(state))
            if kind:
                self._send(self._figure(view, kind), KINDS[kind])
            else:
                self._send(json.dumps(view.document(), allow_nan=False).encode(), "application/json")
        except (ValueError, ArithmeticError) as error:
            self._refuse(HTTPStatus.UNPROCESSABLE_ENTITY, str(error))

    def _figure(self, view: View, kind: str) -> bytes:
        with self.server.drawing, plots.style():
            return rendered(view.draw().figure, kind, {}, "explorer", editable=True)

    def _from_here(self) -> bool:
        """Refuse other origins, and names of other hosts: a page elsewhere may make its name lead to this machine."""
        if self.server.closed:
            self.close_connection = True
            return False
        port = self.server.server_address[1]
        hosts = {f"{name}:{port}" for name in (ADDRESS, "localhost")}
        origin = self.headers.get("Origin")
        if self.headers.get("Host") in hosts and (origin is None or origin in {f"http://{host}" for host in hosts}):
            return True
        self._refuse(HTTPStatus.FORBIDDEN, "Only this page may ask.")
        return False

    def _state(self) -> dict[str, Any] | None:
        """Return what was sent; None if it was refused."""
        length = self.headers.get("Content-Length", "")
        if self.headers.get_content_type() != "application/json" or not (length.isascii() and length.isdigit()):
            self._refuse(HTTPStatus.BAD_REQUEST, "A state is sent as JSON, with its length.")
            return None
        if len(length) > 9 or int(length) > LARGEST:
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"A state has at most {LARGEST} bytes.")
            return None
        try:
            state = json.loads(self.rfile.read(int(length)))
        except (ValueError, RecursionError):
            state = None
        if not isinstance(state, dict):
            self._refuse(HTTPStatus.BAD_REQUEST, "A state is a JSON object.")
            return None
        return state

    def _refuse(self, status: HTTPStatus, reason: str) -> None:
        self.close_connection = True  # what else was sent is not read
        self._send(json.dumps({"error": reason}).encode(), "application/json", status)

    def _send(self, content: bytes, kind: str, status: HTTPStatus = HTTPStatus.OK) -> None:
        self.send_response(status)
        for name, value in (
            ("Content-Type", kind),
            ("Content-Length", str(len(content))),
            ("Content-Security-Policy", POLICY),
            ("X-Content-Type-Options", "nosniff"),
            ("Referrer-Policy", "no-referrer"),
            ("Cache-Control", "no-store"),
        ):
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing for each request."""
