"""The joules of a machine for Prometheus, as long as a run takes: over HTTP, or in a file for node_exporter."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from greenedge.errors import GreenedgeError

DEFAULT = "127.0.0.1:9477"


def export_metrics(
    sources: tuple[str, ...],
    root: Path,
    required: str | None,
    listen: str | None,
    file: Path | None,
    every_s: float,
    seconds: float | None,
    say: Callable[[str], object],
) -> None:
    """Serves at `listen` ("host:port"; DEFAULT where neither it nor a file is given) and writes `file` every `every_s`,
    for `seconds` or until it is interrupted. Raises GreenedgeError, EvidenceError."""
    from greenedge.energy.monitor import Monitor
    from greenedge.energy.monitor_files import openmetrics_text, save

    if file is not None and file.suffix != ".prom":
        raise GreenedgeError(f"--file {file} does not end in .prom, which is what node_exporter's collector reads.")
    address = _parse_address(listen or DEFAULT) if listen or file is None else None
    with Monitor(sources, root=root, required=required) as monitor:
        server = _serve(address, lambda: openmetrics_text(monitor)) if address else None
        what = " + ".join(part.info.id for part in monitor.totals())
        where = [f"http://{address[0]}:{server.server_port}/metrics"] if address and server else []
        where += [str(file)] if file else []
        say(f"{what} at {' and '.join(where)}; Ctrl-C ends it.")
        if monitor.reason:
            say(f"estimated: {monitor.reason}")
        end = float("inf") if seconds is None else time.monotonic() + seconds
        try:
            while True:
                if file:
                    save(monitor, file)
                left = end - time.monotonic()
                if left <= 0:
                    break
                time.sleep(min(every_s, left))
        except KeyboardInterrupt:
            pass
        finally:
            if server:
                server.shutdown()
                server.server_close()


def _parse_address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not port.isdigit() or int(port) > 65535:
        raise GreenedgeError(f"--listen {text!r} is not HOST:PORT; give {DEFAULT}, or 0.0.0.0:9477 for other machines.")
    return host or "127.0.0.1", int(port)


def _serve(address: tuple[str, int], make_text: Callable[[], str]) -> ThreadingHTTPServer:
    """Raises GreenedgeError where the port is taken."""
    from greenedge.energy.monitor_files import CONTENT_TYPE

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.partition("?")[0] not in ("/metrics", "/"):
                self.send_error(404)
                return
            try:
                body = make_text().encode()
            except GreenedgeError as error:
                self.send_error(503, "the source broke off", str(error))
                return
            self.send_response(200)
            self.send_header("Content-Type", CONTENT_TYPE)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Scrapes are not told on the terminal."""

    try:
        server = ThreadingHTTPServer(address, Handler)
    except OSError as error:
        raise GreenedgeError(
            f"--listen {address[0]}:{address[1]} cannot be opened: {error.strerror}; give another port."
        ) from None
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server
