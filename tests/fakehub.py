"""A model hub on this machine: the few addresses that huggingface_hub and datasets ask."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "c0ffee" * 6 + "abcd"


class FakeHub(ThreadingHTTPServer):
    """Serves folders as repositories, each at one commit.

    Attributes:
        repos: ``models/org/name`` or ``datasets/org/name`` → folder.
        busy: A request's beginning (``GET``, ``HEAD``) and end → how many of its kind are answered
            "busy, try again".
        gated: Repositories that want an account.
        asked: Every request.
    """

    daemon_threads = True

    def __init__(self, repos: dict[str, Path]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos, self.asked = repos, []
        self.busy: dict[tuple[str, str], int] = {}
        self.gated: set[str] = set()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: FakeHub

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.reply(body=False)

    def do_GET(self):
        self.reply(body=True)

    def do_POST(self):
        self.reply(body=True)

    def reply(self, body):
        self.server.asked.append(f"{self.command} {self.path}")
        length = int(self.headers.get("Content-Length", 0))
        sent = self.rfile.read(length).decode()
        for (command, end), count in self.server.busy.items():
            if count and self.command == command and self.path.endswith(end):
                self.server.busy[command, end] -= 1
                return self.send(429, b"", {}, body)
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        if parts[0] == "api":
            return self.api(parts[1:], sent, body)
        kind = "datasets" if parts[0] == "datasets" else "models"
        parts = parts[1:] if kind == "datasets" else parts
        folder = self.server.repos.get("/".join([kind, *parts[:2]]))
        if "/".join([kind, *parts[:2]]) in self.server.gated:
            return self.send(403, b"", {"X-Error-Code": "GatedRepo"}, body)
        if folder is None:
            return self.missing("RepoNotFound", body)
        file = folder / "/".join(parts[4:])
        if parts[2:3] != ["resolve"] or parts[3] not in ("main", COMMIT) or not file.is_file():
            return self.missing("EntryNotFound", body)
        content = file.read_bytes()
        etag = f'"{hashlib.sha1(content).hexdigest()}"'
        return self.send(200, content, {"ETag": etag, "X-Repo-Commit": COMMIT}, body)

    def api(self, parts, sent, body):
        if "/".join(parts[:3]) in self.server.gated:
            return self.send(403, b"", {"X-Error-Code": "GatedRepo"}, body)
        folder = self.server.repos.get("/".join(parts[:3]))
        if folder is None:
            return self.missing("RepoNotFound", body)
        names = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
        what = parts[3] if len(parts) > 3 else "revision"
        if what == "revision":
            value = {
                "id": "/".join(parts[1:3]),
                "sha": COMMIT,
                "siblings": [{"rfilename": name} for name in names],
                "tags": [],
            }
        elif what in ("tree", "paths-info"):
            form = parse_qs(sent)
            wanted = json.loads(sent)["paths"] if sent[:1] == "{" else form.get("paths", names)
            value = [
                {"type": "file", "path": name, "size": (folder / name).stat().st_size, "oid": "0"}
                for name in names
                if name in wanted
            ]
        else:
            return self.missing("EntryNotFound", body)
        headers = {"Content-Type": "application/json"}
        return self.send(200, json.dumps(value).encode(), headers, body)

    def missing(self, code, body):
        self.send(404, b"", {"X-Error-Code": code}, body)

    def send(self, status, content, headers, body):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)
