"""Two processes are one run: the same losses, one folder, and the end of one is the end of both."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
from machines import CPU, card
from safetensors.torch import load_file
from tiny import held_out

from modelforge import ConfigError, RunError, load_config
from modelforge.errors import Interrupted
from modelforge.machine.launch import (
    EXIT_CODE,
    distributed_choices,
    leave_exit_code,
    refuse_backend,
)
from modelforge.plan.shards import sharding_stage
from modelforge.training.prepare import prepare

TINY = Path(__file__).parents[1] / "configs" / "tiny"

# Answers are drawn row by row, each from a seed of its own: the same answers whatever the number
# of processes, which would else each draw from their own stream.
SAMPLED_ALIKE = """
import sys, torch
from transformers import GenerationMixin
from modelforge.cli import main as cli
from modelforge.common import processes
from modelforge.common.processes import rank, world_size
whole, calls = GenerationMixin.generate, [0]

def generate(self, input_ids=None, attention_mask=None, **kwargs):
    if len(input_ids) < 4 or not self.training:  # a look at held-out prompts
        return whole(self, input_ids=input_ids, attention_mask=attention_mask, **kwargs)
    calls[0] += 1
    rows, state = [], torch.get_rng_state()
    for i in range(len(input_ids)):
        torch.manual_seed(1000 * calls[0] + rank() * len(input_ids) + i)
        rows.append(whole(self, input_ids=input_ids[i:i+1],
                          attention_mask=attention_mask[i:i+1], **kwargs)[0])
    torch.set_rng_state(state)
    return torch.nn.utils.rnn.pad_sequence(
        rows, batch_first=True, padding_value=kwargs.get("pad_token_id") or 0)

GenerationMixin.generate = generate
for line in open(sys.argv[1]):
    calls[0], sys.argv = 0, ["modelforge", *line.split()]
    cli.app(standalone_mode=False)
"""


def command(strategy, folder, *options):
    settings = [f"output_dir={folder}", "run_name=run", "lora_dropout=0", "max_steps=4"]
    settings += ["logging_steps=1", "report_to=none", *options]
    config = str(TINY / f"{strategy}.json")
    return ["train", config, *(part for option in settings for part in ("--set", option))]


@pytest.fixture
def run(python):
    def run(arguments, program=("-m", "modelforge")):
        return subprocess.run(
            [python, *program, *arguments], capture_output=True, text=True, timeout=280
        )

    return run


def figures(folder, *keys):
    rows = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").open()]
    return [[row[key] for key in keys] for row in rows if "loss" in row]


@pytest.mark.slow
def test_two_processes_give_the_losses_of_one_with_the_same_global_batch(run, tmp_path):
    none = ["eval_split=0", "eval_dataset=null"]
    options = {
        # Evaluated before training: transformers then trained two models that never met.
        "sft": [f"eval_dataset={held_out('sft', 5)}"],
        "dpo": [*none, 'loss_type=["sigmoid"]', "loss_weights=[1.0]"],
        "grpo": [f"eval_dataset={held_out('prompts', 5)}", "generation.max_new_tokens=12"],
        "ppo": [f"eval_dataset={held_out('prompts', 5)}", "generation.max_new_tokens=12"],
    }
    (tmp_path / "alike.py").write_text(SAMPLED_ALIKE)
    torchrun = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--rdzv-backend", "c10d"]
    torchrun += ["--rdzv-endpoint", "localhost:0"]
    for number, launcher in (("1", []), ("2", torchrun)):
        batch = f"per_device_train_batch_size={8 // int(number)}"
        processes = f"distributed.num_processes={number}"
        lines = [
            " ".join(command(name, tmp_path / name / number, *said, batch, processes))
            for name, said in options.items()
        ]
        (tmp_path / "commands").write_text("\n".join(lines))
        done = run([str(tmp_path / "commands")], [*launcher, str(tmp_path / "alike.py")])
        assert done.returncode == 0, done.stderr[-3000:]
    for name in options:
        keys = ["loss", "grad_norm"]
        keys += ["reward", "completions/mean_length"] if name in ("grpo", "ppo") else []
        losses = [figures(tmp_path / name / number, *keys) for number in "12"]
        assert len(losses[0]) == 4
        for ours, theirs in zip(*losses, strict=True):
            assert ours == pytest.approx(theirs, rel=2e-3, abs=2e-5), (name, losses)
        if name != "dpo":  # five rows are no whole number of batches
            one, two = (
                json.loads((tmp_path / name / number / "run" / "before.json").read_text())
                for number in "12"
            )
            # Before the first step each process has a value head of its own, made at random.
            keys = [k for k in one["figures"] if name == "sft" or not ("value" in k or "loss" in k)]
            ours, theirs = ({k: each["figures"][k] for k in keys} for each in (one, two))
            assert len(keys) > 2 and ours == pytest.approx(theirs, abs=1e-6, rel=1e-6)
            assert len(one["rows"]) == len(two["rows"]) == 5


@pytest.mark.slow
@pytest.mark.timeout(600)  # DeepSpeed compiles what it needs, the first time
@pytest.mark.parametrize("backend", ["zero2", "zero3"])
def test_sharded_by_deepspeed_the_losses_are_those_of_one_process(run, tmp_path, backend):
    if find_spec("deepspeed") is None:
        pytest.skip("deepspeed is not installed")
    start = ["eval_split=0", "eval_dataset=null", "per_device_train_batch_size=8"]
    one = run(command("sft", tmp_path / "1", *start))
    assert one.returncode == 0, one.stderr[-3000:]
    # From an adapter: one that begins at random does not begin alike under ZeRO-3.
    options = [*start, f"model_name={tmp_path / '1' / 'run'}"]
    assert run(command("sft", tmp_path / "2", *options)).returncode == 0
    sharded = ["per_device_train_batch_size=4", f"distributed.backend={backend}"]
    two = run([*command("sft", tmp_path / "3", *options, *sharded), "--num-processes", "2"])
    assert two.returncode == 0, two.stderr[-3000:]
    losses = [figures(tmp_path / number, "loss", "grad_norm") for number in "23"]
    for ours, theirs in zip(*losses, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4), losses


@pytest.mark.slow
def test_a_killed_process_ends_both_and_the_run_goes_on(python, tmp_path):
    arguments = [*command("sft", tmp_path, "max_steps=3000", "save_steps=2", "eval_split=0")]
    arguments += ["--set", "eval_dataset=null", "--num-processes", "2"]
    folder = tmp_path / "run"

    def start():
        process = subprocess.Popen(
            [python, "-m", "modelforge", *arguments], stderr=subprocess.PIPE, text=True
        )
        while process.poll() is None and not list(folder.glob("checkpoints/checkpoint-*")):
            time.sleep(0.05)
        assert process.poll() is None, process.stderr.read()[-3000:]
        return process

    process = start()
    owner = json.loads((folder / ".owner.json").read_text())["pid"]
    os.kill(owner, signal.SIGKILL)
    assert process.wait(timeout=120) == 1
    before = {path.name for path in folder.glob("checkpoints/checkpoint-*")}

    process = start()
    while {path.name for path in folder.glob("checkpoints/checkpoint-*")} == before:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)  # both stop after the same step, and save it once
    said = process.communicate(timeout=120)[1]
    assert process.returncode == Interrupted.exit_code, said[-3000:]
    assert said.count("resumes it") == 1 and "resuming from" in said
    newest = max(folder.glob("checkpoints/checkpoint-*"), key=lambda p: int(p.name[11:]))
    assert load_file(newest / "adapter_model.safetensors")
    assert (newest / "rng_state_1.pth").is_file()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("distributed.backend=fsdp", "on a CPU, fsdp trains as plain DDP"),
        ("dataset=nowhere.jsonl", "nowhere.jsonl"),
    ],
)
def test_a_users_mistake_is_said_once_with_exit_code_2_and_nothing_left(
    run, tmp_path, option, says
):
    done = run(command("sft", tmp_path, "distributed.num_processes=2", option))
    assert done.returncode == 2, done.stderr[-3000:]
    assert says in done.stderr and done.stderr.count("1 problem") == 1
    assert not (tmp_path / "run").exists()


def test_a_backend_that_cannot_run_here_is_refused_before_anything_is_loaded(monkeypatch):
    def config(strategy, backend):
        values = {"strategy": strategy, "model_name": "m", "dataset": "d.jsonl"}
        return load_config(
            values | {"rewards": ["length"], "distributed": {"backend": backend}}
            if strategy == "ppo"
            else values | {"distributed": {"backend": backend}}
        )

    with pytest.raises(RunError, match="plain DDP"):
        refuse_backend(config("sft", "fsdp"), CPU)
    refuse_backend(config("sft", "fsdp"), card(24))
    monkeypatch.setattr("modelforge.machine.launch.find_spec", lambda name: None)
    with pytest.raises(RunError, match="not installed"):
        refuse_backend(config("sft", "zero2"), card(24))
    for backend in ("fsdp", "zero3"):
        with pytest.raises(ConfigError, match="switches adapters within a step"):
            config("ppo", backend)


@pytest.mark.slow
def test_two_machines_meet_where_the_config_says(python, tmp_path):
    """Each starts its part of the processes, which know their rank and where the first one is."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    told = """
import os
from pathlib import Path
if "MODELFORGE_EXIT_CODE" in os.environ and "RANK" in os.environ:
    keys = ("RANK", "WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")
    Path(__file__).with_name("of-" + os.environ["RANK"]).write_text(
        " ".join(os.environ[key] for key in keys))
"""
    (tmp_path / "sitecustomize.py").write_text(told)
    said = {"num_processes": 2, "num_machines": 2, "main_address": "127.0.0.1", "main_port": port}
    start = "import sys; from modelforge import load_config; "
    start += "from modelforge.machine.launch import launch; "
    start += "sys.exit(launch(load_config(eval(sys.argv[1])), ['strategies']))"
    values = {"strategy": "sft", "model_name": "m", "dataset": "d.jsonl"}
    started = [
        subprocess.Popen(
            [python, "-c", start, repr(values | {"distributed": said | {"machine_rank": rank}})],
            # The interpreter that looks for sitecustomize: one that stands for it does not.
            env={**os.environ, "PYTHONPATH": str(tmp_path), "PYTHON_EXEC": sys.executable},
        )
        for rank in (0, 1)
    ]
    assert [process.wait(timeout=200) for process in started] == [0, 0]
    for rank in (0, 1):
        found = (tmp_path / f"of-{rank}").read_text()
        assert found == f"{rank} 2 {rank} 127.0.0.1 {port}"


def test_batches_that_one_process_lacks_are_refused_by_check(tmp_path):
    def checked(asked, processes, *said):
        options = [f"output_dir={tmp_path}", f"accelerator_config={json.dumps(asked)}", *said]
        options.append(f"distributed.num_processes={processes}")
        prepare(load_config(TINY / "sft.json", overrides=options))

    checked({"even_batches": False}, 1)
    checked({"split_batches": True}, 2)
    for asked, says in (
        ({"even_batches": False}, "even_batches is false"),
        ({"dispatch_batches": True}, "dispatch_batches is true"),
        ({"split_batches": True}, "16 rows, and of 3 held-out ones, do not go into 2"),
    ):
        with pytest.raises(ConfigError, match=f"accelerator_config: .*{says}"):
            checked(asked, 2, "per_device_eval_batch_size=3")


def test_groups_that_several_processes_make_up_together_are_whole(tmp_path):
    """Before they are started, too: 3 prompts of 8 answers are 12 rows for each of two."""
    options = [f"output_dir={tmp_path}", "prompts_per_step=3", "distributed.num_processes=2"]
    options += ["per_device_train_batch_size=null", "report_to=none"]
    args = prepare(load_config(TINY / "grpo.json", overrides=options)).args
    assert args.per_device_train_batch_size * args.gradient_accumulation_steps == 12
    assert (args.generation_batch_size, args.num_generations) == (24, 8)


def test_a_backend_becomes_the_fields_of_transformers(tmp_path):
    def config(**distributed):
        values = {"strategy": "sft", "model_name": "m", "dataset": "d.jsonl"}
        return load_config(values | {"distributed": distributed})

    assert distributed_choices(config()) == {}
    for backend, stage in (("zero2", 2), ("zero3", 3), ("fsdp", 3)):
        chosen = config(backend=backend)
        assert sharding_stage(chosen.with_choices(distributed_choices(chosen))) == stage
    own = tmp_path / "mine.json"
    own.write_text('{"zero_optimization": {"stage": 1}}')
    chosen = config(backend="zero2", config=str(own))
    assert sharding_stage(chosen.with_choices(distributed_choices(chosen))) == 1
    with pytest.raises(ConfigError, match="is not there"):
        distributed_choices(config(backend="zero2", config="nowhere.json"))


def test_the_main_process_alone_leaves_its_exit_code(tmp_path, monkeypatch):
    path = tmp_path / "code"
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv(EXIT_CODE, str(path))
    leave_exit_code(2)
    assert not path.exists()
    monkeypatch.setenv("RANK", "0")
    leave_exit_code(75)
    assert path.read_text() == "75"
    monkeypatch.delenv(EXIT_CODE)
    leave_exit_code(0)
    assert path.read_text() == "75"
