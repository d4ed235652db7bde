"""The page of a run that still goes on, served on this machine and made anew when the run has left more."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory

from mappa.errors import ConfigError, MappaError
from mappa.report.page import model_pieces, stamp, write_page
from mappa.report.records import read_run

HOST = "127.0.0.1"
_ATTEMPTS = 3
"""At reading a run that writes meanwhile."""


class LivePage:
    """Made when it is asked for and the run folder has changed."""

    def __init__(self, run: Path, other: Path | None, path: Path) -> None:
        self._run, self._other, self._path = run, other, path
        self._made, self._lock = "", threading.Lock()

    def stamp(self) -> str:
        return stamp(self._run)

    def html(self) -> bytes:
        """
        Raises:
            ConfigError: the run has written what was being read, time and again.
        """
        with self._lock:
            for attempt in range(_ATTEMPTS):
                now = self.stamp()
                if now == self._made:
                    break
                try:
                    found, other = read_run(self._run), read_run(self._other) if self._other else None
                    write_page(found, self._path, other, model_pieces(found), live=True)
                except ConfigError:
                    if attempt + 1 == _ATTEMPTS:
                        raise
                else:
                    self._made = now
            return self._path.read_bytes()


def server(page: LivePage, port: int) -> ThreadingHTTPServer:
    """
    Raises:
        ConfigError: the port is taken.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.headers.get("Host", "").rpartition(":")[0]
            if name not in (HOST, "localhost"):  # another site's name that was made to lead here
                self.send_error(403)
            elif self.path == "/":
                try:
                    self._send(page.html(), "text/html; charset=utf-8")
                except MappaError as error:  # the run has just written what was read
                    self._send(str(error).encode(), "text/plain", 503)
            elif self.path == "/stamp":
                self._send(page.stamp().encode(), "text/plain")
            else:
                self.send_error(404)

        def _send(self, body: bytes, kind: str, status: int = 200) -> None:
            self.send_response(status)
            if status != 200:
                self.send_header("Refresh", "1")
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            """Nothing a user can act on."""

    try:
        return ThreadingHTTPServer((HOST, port), Handler)
    except OSError as error:
        raise ConfigError(f"live={port}: {error.strerror or error}; take another port") from error


def serve(run: Path, other: Path | None, port: int) -> None:
    """Until it is interrupted."""
    with TemporaryDirectory() as folder, server(LivePage(run, other, Path(folder) / "report.html"), port) as listening:
        print(f"http://{HOST}:{listening.server_port}/ (Ctrl-C ends it)", flush=True)  # noqa: T201 command-line output
        try:
            listening.serve_forever()
        except KeyboardInterrupt:
            return
