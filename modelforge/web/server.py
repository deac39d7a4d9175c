"""Pages in a browser: a server that gives what a function gives, and takes forms where it may.

On loopback it answers only requests whose ``Host`` is its own address: a page of another site that
points a name of its own at 127.0.0.1 gets nothing (DNS rebinding). A form is taken only from its
own pages, by what the browser says of where it comes from. No page may load anything from
elsewhere, or run a script that is not the server's own.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import monotonic
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from modelforge.errors import Problem, RunError

LOOPBACK = "127.0.0.1"
#: Path and query → a whole page, or None where there is none.
Pages = Callable[[str, Mapping[str, list[str]]], str | None]

_LARGEST = 1 << 20  # bytes of a form
_FIELDS = 64
_PATIENCE = 30.0  # seconds for a request that has begun

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
#: Over `_HEADERS`, for pages with a form and a script. Without a referrer Chromium would send
#: ``Origin: null`` with a form.
WITH_FORMS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'self'; "
    "connect-src 'self'; img-src data:; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "Referrer-Policy": "same-origin",
}


@dataclass(frozen=True)
class Request:
    """What a browser asks for.

    Attributes:
        method: ``GET`` or ``POST``.
        path, query: Of the address.
        form: The fields of a form; the last where one comes twice.
        cookies: By name.
    """

    method: str
    path: str
    query: Mapping[str, list[str]]
    form: Mapping[str, str]
    cookies: Mapping[str, str]


@dataclass(frozen=True)
class Response:
    """What is answered.

    Attributes:
        body: A page, a script or a line of text.
        status: HTTP's.
        kind: Of the body.
        headers: Over those of every page.
        cookies: To be set: scripts cannot read them, and forms of other sites are sent without.
    """

    body: str
    status: int = 200
    kind: str = "text/html"
    headers: Mapping[str, str] = field(default_factory=dict)
    cookies: Mapping[str, str] = field(default_factory=dict)


Answer = Callable[[Request], Response]


def server(pages: Pages, port: int) -> ThreadingHTTPServer:
    """A server of pages alone, on loopback; ``serve_forever`` has it answer.

    Args:
        pages: Gives the pages.
        port: 0 for any that is free.

    Raises:
        RunError: If the port is taken.
    """

    def answer(asked: Request) -> Response:
        page = pages(asked.path, asked.query)
        return Response(page or "there is no such page", 200 if page is not None else 404)

    return listening(answer, LOOPBACK, port, forms=False)


def listening(answer: Answer, host: str, port: int, *, forms: bool = True) -> ThreadingHTTPServer:
    """A server that listens.

    Args:
        answer: Gives the answers; it is called in a thread for each connection.
        host: Where to listen.
        port: 0 for any that is free.
        forms: Whether it takes any.

    Raises:
        RunError: If it cannot listen there.
    """
    own: set[str] = set()
    try:
        made = _server_class(host)((host, port), _handler(answer, own, forms=forms))
    except (OSError, OverflowError) as error:
        what = f"cannot be listened on: {getattr(error, 'strerror', None) or error}"
        fix = "name another, or 0 for any"
        raise RunError(Problem(f"--port {port}", what, fix)) from None
    if is_loopback(host):
        names = (LOOPBACK, "localhost", "[::1]")
        own |= {f"{name}:{made.server_address[1]}" for name in names}
        own |= {name for name in names if made.server_address[1] == 80}
    return made


def is_loopback(host: str) -> bool:
    """Whether only programs of this machine reach it."""
    return host in (LOOPBACK, "localhost", "::1")


def _server_class(host: str) -> type[ThreadingHTTPServer]:
    class Server(ThreadingHTTPServer):
        """Whose connections end with the process."""

        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        daemon_threads = True
        request_queue_size = 128

    return Server


def _handler(answer: Answer, own: set[str], *, forms: bool) -> type[BaseHTTPRequestHandler]:
    """Answers the requests of a connection.

    Args:
        answer: Gives the answers.
        own: The hosts that may be asked for; empty for all.
        forms: Whether forms are taken.
    """
    kind = _Forms if forms else _Pages
    return type("Handler", (kind,), {"give": staticmethod(answer), "own": own})


class _Pages(BaseHTTPRequestHandler):
    """Answers with pages."""

    give: Answer
    own: set[str]
    server_version, sys_version = "modelforge", ""
    protocol_version, timeout = "HTTP/1.1", _PATIENCE

    def do_GET(self) -> None:
        """Answer with a page."""
        self._take({})

    def _take(self, form: Mapping[str, str]) -> None:
        if self.own and self.headers.get("Host") not in self.own:
            return self._refuse(403, "this address is not served")
        asked = urlsplit(self.path)
        try:
            cookies = SimpleCookie(self.headers.get("Cookie", ""))
        except CookieError:
            cookies = SimpleCookie()
        told = {name: morsel.value for name, morsel in cookies.items()}
        query, method = parse_qs(asked.query), str(self.command)
        self._answer(self.give(Request(method, unquote(asked.path), query, form, told)))

    def _refuse(self, status: int, why: str) -> None:
        self.close_connection = True
        self._answer(Response(why, status, "text/plain"))
        self._read_out()

    def _read_out(self) -> None:
        """Read what is still on its way, and forget it.

        Where a connection is closed with a body unread, the browser gets a broken connection in
        place of the answer (RFC 9112, section 9.6).
        """
        end = monotonic() + _PATIENCE
        try:
            self.connection.shutdown(socket.SHUT_WR)
            while monotonic() < end and self.connection.recv(1 << 16):
                pass
        except OSError:
            pass  # the other side has gone

    def _answer(self, given: Response) -> None:
        body = given.body.encode("utf-8", "replace")
        self.send_response(given.status)
        sent = {**_HEADERS, "Content-Type": f"{given.kind}; charset=utf-8", **given.headers,
                "Content-Length": str(len(body))}  # fmt: skip
        for name, value in sent.items():
            self.send_header(name, value)
        for name, value in given.cookies.items():
            # Lax, not Strict: a browser that comes by a link of another site sends it too.
            rest = "Path=/; HttpOnly; SameSite=Lax; Max-Age=31536000"
            self.send_header("Set-Cookie", f"{name}={value}; {rest}")
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


class _Forms(_Pages):
    """Takes forms too."""

    def do_POST(self) -> None:
        """Take a form of one of our own pages."""
        if not same_site(self.headers):
            return self._refuse(403, "this form is not from a page of this server")
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or len(length) > 9 or int(length) > _LARGEST:
            return self._refuse(413, "this form is too large")
        try:
            body = self.rfile.read(int(length)).decode("utf-8")
            fields = parse_qs(body, keep_blank_values=True, max_num_fields=_FIELDS)
        except ValueError:  # no UTF-8, or too many fields
            return self._refuse(400, "this is no form")
        self._take({name: values[-1] for name, values in fields.items()})


def same_site(headers: Any) -> bool:
    """Whether a form comes from a page of the host that it is sent to, by the browser's word.

    A browser says ``Origin`` with every form; what is no browser has no cookies to be misused.
    """
    origin, site = headers.get("Origin"), headers.get("Sec-Fetch-Site", "same-origin")
    host = headers.get("Host")
    mine = origin is None or origin in (f"http://{host}", f"https://{host}")
    return mine and site in ("same-origin", "none")
