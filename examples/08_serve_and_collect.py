"""Serve a model, ask it, say which answers are good, and train on that: the loop of a product.

    python examples/08_serve_and_collect.py

Needs the extra `serve`. Any client of OpenAI's API can ask; this one uses the standard library.
Here the briefest answer is good, and the longest is not. For people, `modelforge collect` is a page
that asks them to compare.
"""

import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

TINY = Path(__file__).parent / "tiny"
MODELFORGE = (sys.executable, "-m", "modelforge")


def ask(url: str, path: str, **body: Any) -> Any:
    """POST JSON, and give what comes back."""
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(url + path, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=120) as reply:
        return json.load(reply)


def started(process: subprocess.Popen[str]) -> str:
    """The address that a server says, once it answers there."""
    assert process.stderr is not None
    said, before = "", ""
    while "/v1 answers" not in said:
        said, before = process.stderr.readline(), before + said
        if not said:
            raise SystemExit(f"the server did not start:\n{before}")
    url = said.partition("/v1 answers")[0].split()[-1]
    while process.poll() is None:
        try:
            urllib.request.urlopen(url + "/ready", timeout=10)
            return url
        except OSError:  # it is not ready yet
            time.sleep(0.1)
    raise SystemExit("the server ended before it was ready")


def main(folder: Path, *, questions: int = 8, answers: int = 4) -> int:
    """Collect preferences of a served model, and give how many pairs they make."""
    rows = (TINY / "data" / "prompts_train.jsonl").read_text().splitlines()[:questions]
    database = folder / "feedback.sqlite"
    serve = (*MODELFORGE, "serve", f"tiny={TINY / 'model'}", "--port", "0")
    serve += ("--feedback", str(database))
    with subprocess.Popen(serve, stderr=subprocess.PIPE, text=True) as server:
        try:
            url = started(server)
            for row in map(json.loads, rows):
                said = ask(
                    url,
                    "/v1/chat/completions",
                    model="tiny",
                    messages=row["prompt"],
                    n=answers,
                    max_tokens=24,
                    temperature=1.2,
                    seed=0,
                )
                brief = sorted(said["choices"], key=lambda c: len(c["message"]["content"]))
                for choice, rating in ((brief[0], "up"), (brief[-1], "down")):
                    asked = {"id": said["id"], "choice": choice["index"], "rating": rating}
                    ask(url, "/v1/feedback", **asked)
        finally:
            server.terminate()
    pairs = folder / "preferences.jsonl"
    subprocess.run([*MODELFORGE, "feedback", "export", str(database), "-o", str(pairs)], check=True)
    return len(pairs.read_text().splitlines())


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        print(f"{main(Path(made))} pairs: `modelforge init dpo` trains on them")
