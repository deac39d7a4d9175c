"""Models and data of a hub, served on this machine: pinned, tried again, and from the cache."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fakehub import COMMIT, FakeHub

ROOT = Path(__file__).parents[1]
TINY = ROOT / "examples" / "tiny"

PROGRAM = """
import json, sys
from modelforge import load_config
from modelforge.errors import UserError
from modelforge.models.hub import origin
from modelforge.training.prepare import prepare
from modelforge.training.read import read
from modelforge.training.resolve import resolve
from modelforge.training.run import load
whole, streamed = map(json.loads, sys.argv[1:])
job = prepare(load_config(whole))
model = load(job).model
found = origin(job.source, job.data.ledger.sources)
missing = []
changes = [{key: f"org/{name}"} for name in ("other", "gated") for key in ("model_name", "dataset")]
for change in changes:
    try:
        prepare(load_config(whole | change))
    except UserError as error:
        missing.append(str(error))
told = {"origin": found, "parameters": model.num_parameters(), "missing": missing}
try:
    one, two = (read(resolve(load_config(streamed))).data for _ in range(2))
    assert one.train.to_list() == two.train.to_list() and one.eval.to_list() == two.eval.to_list()
    told |= {"source": one.ledger.sources[0], "rows": one.ledger.train_rows}
except UserError as error:
    told["refused"] = str(error)
print(json.dumps(told))
"""


def run(folder, **environment):
    """What the program tells of a model, a whole data set and a streamed one of the hub."""
    whole = {
        "strategy": "sft",
        "model_name": "org/tiny",
        "dataset": "org/sums",
        "max_seq_length": 64,
        "report_to": "none",
        "output_dir": str(folder / "runs"),
    }
    streamed = whole | {
        "model_name": str(TINY / "model"),
        "dataset": "org/shards",
        "streaming": True,
        "max_steps": 2,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 1,
        "eval_split": 4,
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(whole), json.dumps(streamed)],
        env=os.environ | {"HF_HOME": str(folder / "hf"), "HF_HUB_DISABLE_XET": "1"} | environment,
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """The hub, what was asked of it, and what the program told with a network and without one."""
    folder = tmp_path_factory.mktemp("hub")
    rows = (TINY / "data" / "sft_train.jsonl").read_text().splitlines()
    sums, shards = folder / "sums", folder / "shards"
    for each in (sums, shards):
        each.mkdir()
    (sums / "train.jsonl").write_text("\n".join(rows[:20]))
    for n in range(8):
        (shards / f"train-{n:05d}-of-00008.jsonl").write_text("\n".join(rows[n * 100 :][:100]))
    repos = {"models/org/tiny": TINY / "model", "datasets/org/sums": sums}
    hub = FakeHub({**repos, "datasets/org/shards": shards})
    hub.gated = {"models/org/gated", "datasets/org/gated"}
    hub.busy = {("HEAD", "/config.json"): 2, ("GET", "/model.safetensors"): 2}
    first = run(folder, HF_ENDPOINT=hub.address, HF_HUB_OFFLINE="0")
    asked = list(hub.asked)
    again = run(folder, HF_ENDPOINT=hub.address, HF_HUB_OFFLINE="1")
    return hub, asked, first, again


@pytest.mark.slow
def test_what_is_downloaded_is_pinned_and_serves_without_a_network(told):
    hub, asked, first, again = told
    assert first["origin"] == {
        "model": "org/tiny",
        "revision": COMMIT,
        "adapter": None,
        "dataset": [{"path": "org/sums", "revision": COMMIT}],
    }
    assert set(hub.busy.values()) == {0}
    *unknown, model, data = first["missing"]
    assert all("org/other" in line and "HF_TOKEN" in line for line in unknown), unknown
    assert "org/gated" in model and "is gated" in model and "HF_TOKEN" in model
    assert "is gated" in data and "https://huggingface.co/datasets/org/gated" in data
    # From the commit that the config named, not from the branch.
    for name in ("tokenizer.json", "generation_config.json", "model.safetensors"):
        (last,) = {line for line in asked if line.startswith("GET") and line.endswith(name)}
        assert COMMIT in last

    assert hub.asked == asked  # nothing, without a network
    assert again["origin"] == first["origin"] and again["parameters"] == first["parameters"]
    model, data, *_ = again["missing"]
    assert "org/other" in model and "not in the cache" in model and "HF_HUB_OFFLINE" in model
    assert "org/other" in data and "not in the cache" in data and "HF_HUB_OFFLINE" in data


@pytest.mark.slow
def test_a_data_set_is_streamed_from_one_commit_and_its_other_shards_are_left(told):
    _, asked, first, again = told
    assert "refused" not in first, first
    assert first["source"]["revision"] == COMMIT and first["rows"] == 5
    shards = {line for line in asked if line.startswith("GET") and "org/shards" in line}
    shards = {line for line in shards if ".jsonl" in line}
    assert 0 < len(shards) < 8 and all(COMMIT in line for line in shards)
    assert "org/shards" in again["refused"] and "HF_HUB_OFFLINE" in again["refused"]


def test_a_hub_that_cannot_be_reached_is_said_once(monkeypatch, capfd, tmp_path):
    from huggingface_hub import close_session, constants

    from modelforge import load_config
    from modelforge.common import hub
    from modelforge.errors import UserError
    from modelforge.training.prepare import prepare

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(hub, "_unreachable", "")
    close_session()
    tiny, rows = str(TINY / "model"), str(TINY / "data" / "sft_eval.jsonl")
    for model, data in (("org/other", rows), (tiny, "org/other")):
        config = {"strategy": "sft", "model_name": model, "dataset": data, "report_to": "none"}
        with pytest.raises(UserError) as refused:
            prepare(load_config(config | {"output_dir": str(tmp_path)}))
        problem = str(refused.value)
        assert "http://127.0.0.1:9 cannot be reached" in problem and "proxy" in problem
        assert "HF_HUB_OFFLINE" not in problem
        err = capfd.readouterr().err
        assert err.count("cannot be reached") == 1 and "Retry" not in err
    hub._work_offline("")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.mark.parametrize("key", ["reward_model", "judge_model", "rewards", "teacher_model", "file"])
def test_every_model_that_a_config_names_is_looked_for_before_one_is_loaded(
    key, monkeypatch, tmp_path
):
    from modelforge import load_config
    from modelforge.errors import ModelError
    from modelforge.training.prepare import prepare

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    rules = tmp_path / "rules.json"
    judge = {"name": "kind", "judge": "org/judge", "question": "Is it unkind?"}
    rules.write_text(json.dumps([judge, {"name": "toxic", "classifier": "org/other"}]))
    prompts = str(TINY / "data" / "prompts_eval.jsonl")
    config = {"strategy": "grpo", "model_name": str(TINY / "model"), "dataset": prompts}
    config |= {"report_to": "none", "output_dir": str(tmp_path / "runs"), "max_seq_length": 128}
    config |= {"rewards": ["json_validity"], "eval_split": 8}
    if key == "teacher_model":
        config |= {"strategy": "distill", key: "org/other"}
        del config["rewards"]
    elif key == "file":
        config["constraints"] = str(rules)
    else:
        config[key] = ["org/other"] if key == "rewards" else "org/other"
    with pytest.raises(ModelError, match="org/other") as refused:
        prepare(load_config(config))
    assert "not in the cache" in str(refused.value)
    assert ("org/judge" in str(refused.value)) == (key == "file")
    assert not (tmp_path / "runs").exists()
