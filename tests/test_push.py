"""An export goes to the hub under the user's account, or it is said why not before the work."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from huggingface_hub import constants
from tiny import ROOT

from modelforge.errors import RunError
from modelforge.export.push import push, see_that_it_can_be_pushed

MODEL = ROOT / "examples/tiny/model"


class Hub(BaseHTTPRequestHandler):
    """The three addresses that an upload of small files asks."""

    asked: list = []
    refuses = False

    def log_message(self, *args):
        pass

    def do_POST(self):
        sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.asked.append((self.path, self.headers["Authorization"], sent))
        if self.path.endswith("/repos/create"):
            answer = {"url": "https://huggingface.co/me/model"}
        elif "/preupload/" in self.path:
            paths = [each["path"] for each in json.loads(sent)["files"]]
            files = [{"path": p, "uploadMode": "regular", "shouldIgnore": False} for p in paths]
            answer = {"files": files}
        else:
            answer = {"commitUrl": "https://huggingface.co/me/model/commit/1", "commitOid": "1"}
        content = json.dumps(answer).encode()
        self.send_response(403 if self.refuses else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def hub(monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_test")
    monkeypatch.setattr(Hub, "asked", [])
    yield Hub
    server.shutdown()


def test_a_folder_is_uploaded_and_its_repository_is_private(hub, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    assert push(tmp_path, "me/model") == "https://huggingface.co/me/model/commit/1"
    paths = [path for path, _, _ in hub.asked]
    assert paths[0] == "/api/repos/create" and paths[-1] == "/api/models/me/model/commit/main"
    made = json.loads(hub.asked[0][2])
    assert made.get("visibility") == "private" or made.get("private") is True
    assert all(key == "Bearer hf_of_the_test" for _, key, _ in hub.asked)
    assert b"config.json" in hub.asked[-1][2]


def test_what_the_hub_refuses_is_said_and_the_export_stays(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "refuses", True)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(RunError, match=r"the hub refused: .*403"):
        push(tmp_path, "me/model")
    assert (tmp_path / "config.json").is_file()


@pytest.mark.parametrize(
    ("hub_id", "token", "says"),
    [("me/model", None, "needs a token"), ("me/a/b", "hf_x", "is no hub id")],
)
def test_what_cannot_be_pushed_is_said_before_the_work(hub_id, token, says, monkeypatch, tmp_path):
    from typer.testing import CliRunner

    from modelforge.cli.main import app

    monkeypatch.setattr("huggingface_hub.get_token", lambda: token)
    with pytest.raises(RunError, match=says):
        see_that_it_can_be_pushed(hub_id)
    out = tmp_path / "out"
    done = CliRunner().invoke(app, ["export", str(MODEL), "-o", str(out), "--push", hub_id])
    assert done.exit_code == 2 and says in done.stderr and not out.exists()
