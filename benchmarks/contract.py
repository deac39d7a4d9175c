"""Requests that schemathesis makes of a server's own schema: does any of them bring a 5xx?

    pip install schemathesis
    python benchmarks/contract.py [--examples 50] [--seed 1]

It serves the tiny model, the same with a template that takes tools, and the same held to
constraints. Beside the status of each answer it holds its content type and its form against
the schema.
It needs the extra `serve`.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from serve import MODEL, Server
from transformers import AutoTokenizer

from modelforge.data import load_tokenizer_template

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "unsupported_method",
)
HELD = [
    {"name": "quiet", "pattern": "[!?]"},
    {"name": "7", "banned": ["7"], "action": "rewrite", "replacement": "seven"},
    {"name": "no cake", "on": "input", "banned": ["cake"], "message": "No cake."},
]


def served(folder: Path) -> dict[str, str]:
    """Three models, so that tools and constraints are reached too."""
    shutil.copytree(MODEL, folder / "tools")
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    load_tokenizer_template(
        tokenizer, chat_template="qwen3", task="text-generation", base_dir=Path()
    )
    tokenizer.save_pretrained(folder / "tools")
    held = folder / "held"
    shutil.copytree(MODEL, held / "model")
    said = {"strategy": "sft", "model_name": str(MODEL), "constraints": HELD}
    (held / "config.json").write_text(json.dumps(said))
    (held / "choices.json").write_text(json.dumps({"said": said, "choices": {}}))
    return {"tiny": str(MODEL), "tools": str(folder / "tools"), "held": str(held)}


def main(examples: int, seed: int) -> int:
    """Start a server and have it asked; schemathesis prints what it finds.

    Returns:
        Its exit code, which is 0 if it finds nothing.
    """
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        server = Server(folder, served(folder), "--feedback", str(folder / "f.sqlite"))
        command = [sys.executable, "-c", "from schemathesis.cli import schemathesis as s; s()"]
        command += ["run", f"{server.url}/openapi.json", "--checks", ",".join(CHECKS)]
        command += ["--max-examples", str(examples), "--seed", str(seed)]
        command += ["--phases", "coverage,fuzzing", "--continue-on-failure", "--warnings", "off"]
        try:
            return subprocess.run(command, cwd=folder, check=False).returncode
        finally:
            server.process.terminate()
            server.process.wait(60)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--examples", type=int, default=50, help="a route, of the fuzzing")
    parser.add_argument("--seed", type=int, default=1)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    given = parser.parse_args()
    sys.exit(main(given.examples, given.seed))
