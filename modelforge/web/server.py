"""Pages in a browser of this machine: a server on loopback that gives what a function gives.

It answers GET alone, and only requests whose ``Host`` is this address: a page of another site that
points a name of its own at 127.0.0.1 gets nothing (DNS rebinding). No page may load anything from
elsewhere, or run a script.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from modelforge.errors import Problem, RunError

LOOPBACK = "127.0.0.1"
#: Path and query → a whole page, or None where there is none.
Pages = Callable[[str, Mapping[str, list[str]]], str | None]

_HEADERS = {
    "Content-Type": "text/html; charset=utf-8",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def server(pages: Pages, port: int) -> ThreadingHTTPServer:
    """A server that listens; ``serve_forever`` has it answer.

    Args:
        pages: Gives the pages.
        port: 0 for any that is free.

    Raises:
        RunError: If the port is taken.
    """

    own: set[str] = set()

    class Handler(BaseHTTPRequestHandler):
        server_version, sys_version = "modelforge", ""

        def do_GET(self) -> None:
            """Answer with a page."""
            if self.headers.get("Host") not in own:
                return self._answer(403, "this address is not served")
            asked = urlsplit(self.path)
            page = pages(unquote(asked.path), parse_qs(asked.query))
            self._answer(200 if page is not None else 404, page or "there is no such page")

        def _answer(self, code: int, page: str) -> None:
            body = page.encode("utf-8", "replace")
            self.send_response(code)
            for name, value in {**_HEADERS, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    try:
        made = ThreadingHTTPServer((LOOPBACK, port), Handler)
    except (OSError, OverflowError) as error:
        what = f"cannot be listened on: {getattr(error, 'strerror', None) or error}"
        raise RunError(Problem(f"--port {port}", what, "name another, or 0 for any")) from None
    own |= {f"{name}:{made.server_port}" for name in (LOOPBACK, "localhost")}
    return made
