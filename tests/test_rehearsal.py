"""`check` refuses what the libraries would refuse, and a start that fails leaves nothing."""

import types
from pathlib import Path

import pytest
from bases import TINY, base
from tiny import quick

import modelforge
from modelforge import UserError, load_config
from modelforge.training import rehearsal
from modelforge.training import run as running
from modelforge.training.prepare import prepare

DATA = Path(__file__).parents[1] / "examples" / "tiny" / "data"
ROWS = {"sft": "sft", "qlora": "sft", "reward": "preference", "dpo": "preference"}


def config(folder, **said):
    strategy = said.get("strategy", "sft")
    path = folder / "rows.jsonl"
    rows = (DATA / f"{ROWS.get(strategy, 'prompts')}_train.jsonl").read_text().splitlines()[:8]
    path.write_text("\n".join(rows))
    values = {
        "strategy": strategy, "model_name": str(TINY), "dataset": str(path), "max_steps": 2,
        "per_device_train_batch_size": 4, "max_seq_length": 64, "report_to": "none",
        "output_dir": str(folder / "runs"), "optim": "adamw_torch",
    }  # fmt: skip
    return load_config(values | said)


TIED = "one weight"
REFUSED = {
    "another architecture's module": ({"lora_target_modules": ["query_key_value"]}, "q_proj"),
    "one module of several": ({"lora_target_modules": ["q_proj", "vproj"]}, "v_proj"),
    "no module": ({"lora_target_modules": []}, "names no module"),
    "a list of all-linear": ({"lora_target_modules": ["all-linear"]}, 'set "all-linear"'),
    "a pattern that meets nothing": ({"lora_target_modules": ".*attention"}, "is no module"),
    "a pattern that is none": ({"lora_target_modules": "*proj"}, "is no module"),
    "a module without weights of its own": ({"lora_target_modules": ["mlp"]}, "not supported"),
    "LoRA on a tied embedding": ({"lora_target_modules": ["q_proj", "embed_tokens"]}, TIED),
    "LoRA on the weight of a tied embedding": (
        {"lora": {"target_parameters": ["embed_tokens.weight"]}}, TIED
    ),
    "LoRA on a weight that is none": (
        {"lora": {"target_parameters": ["experts.gate_up_proj"]}}, "no weight of this model"
    ),
    "LoRA on a tied head": ({"lora_target_modules": ["lm_head"]}, TIED),
    "a pattern that meets a tied head": ({"lora_target_modules": r".*(q_proj|lm_head)"}, TIED),
    "a schedule's unknown argument": ({"lr_scheduler_kwargs": {"nosuch": 1}}, "nosuch"),
    "a schedule that ends before it begins": (
        {"lr_scheduler_type": "polynomial", "max_steps": 1, "warmup_ratio": 0.1},
        "no step to decay",
    ),
    "sharding on one process": ({"fsdp": "full_shard"}, "fsdp: on a CPU"),
    "a schedule's text for arguments": ({"gradient_checkpointing_kwargs": "a"}, "an object"),
    "columns that rewards need": (
        {"strategy": "grpo", "remove_unused_columns": True, "num_generations": 4},
        "rewards compare",
    ),
    "no reward, said": ({"strategy": "ppo", "rewards": None}, "is null"),
    "an optimizer's package": (
        {"optim": "galore_adamw", "optim_target_modules": ["q_proj"]}, "galore",
    ),
    "a package for kernels": ({"use_liger_kernel": True}, "iger"),
    "a reference that cannot move": ({"strategy": "dpo", "sync_ref_model": True}, "sync_ref_model"),
    "a loss that has no such name": ({"strategy": "dpo", "loss_type": ["nosuch"]}, "nosuch"),
}  # fmt: skip


@pytest.mark.parametrize("name", list(REFUSED))
def test_check_refuses(name, tmp_path):
    said, words = REFUSED[name]
    with pytest.raises(UserError) as refused:
        prepare(config(tmp_path, **said))
    assert words in str(refused.value), refused.value
    assert not (tmp_path / "runs").exists()


ACCEPTED = {
    "an untied embedding": ({"tied": False}, {"lora_target_modules": ["q_proj", "embed_tokens"]}),
    "a reward model's embedding": (
        {}, {"strategy": "reward", "lora_target_modules": ["q_proj", "embed_tokens"]},
    ),
    "a pattern": ({}, {"lora_target_modules": r"model\.layers\.[01]\..*_proj"}),
    "all weights of a tied model": ({}, {"lora_r": 0}),
}  # fmt: skip


@pytest.mark.parametrize("name", list(ACCEPTED))
def test_check_accepts(name, tmp_path):
    form, said = ACCEPTED[name]
    prepare(config(tmp_path, model_name=str(base(tmp_path / "base", **form)), **said))


def test_tokens_beyond_the_embedding(tmp_path):
    folder = base(tmp_path / "base", tokens=["<new>", "<newer>"])
    with pytest.raises(UserError, match=r"514 tokens.*512 rows.*resize_vocab"):
        prepare(config(tmp_path, model_name=str(folder)))


def test_a_model_that_is_no_language_model(tmp_path):
    folder = base(tmp_path / "base")
    (folder / "config.json").write_text('{"model_type": "t5", "vocab_size": 512}')
    with pytest.raises(UserError, match="no language model of the type t5"):
        prepare(config(tmp_path, model_name=str(folder)))


def test_a_rehearsal_draws_nothing_at_random_and_leaves_the_tokenizer(tmp_path):
    import torch

    chosen = config(tmp_path, strategy="grpo", num_generations=4)
    state = torch.random.get_rng_state()
    prepared = prepare(chosen)
    assert torch.equal(state, torch.random.get_rng_state())
    assert prepared.tokenizer.padding_side == "right"


@pytest.mark.slow
@pytest.mark.parametrize("there", [False, True])
def test_a_run_that_fails_before_its_first_step_leaves_no_folder(there, tmp_path, monkeypatch):
    if there:
        (tmp_path / "runs").mkdir()
    monkeypatch.setattr(running, "preflight", None, raising=False)

    def broken(*args, **kwargs):
        raise RuntimeError("no weights there")

    monkeypatch.setattr(running, "load", broken)
    with pytest.raises(RuntimeError, match="no weights there"):
        modelforge.train(config(tmp_path))
    assert (tmp_path / "runs").exists() == there
    assert not there or not list((tmp_path / "runs").iterdir())


@pytest.mark.slow
def test_a_run_that_fails_after_a_step_keeps_what_it_wrote(tmp_path, monkeypatch):
    from transformers import Trainer

    step = Trainer.training_step

    def second_breaks(self, *args, **kwargs):
        if self.state.global_step == 1:
            raise RuntimeError("in the second step")
        return step(self, *args, **kwargs)

    monkeypatch.setattr(Trainer, "training_step", second_breaks)
    with pytest.raises(RuntimeError, match="second step"):
        modelforge.train(config(tmp_path, save_strategy="no"))
    (run,) = (tmp_path / "runs").iterdir()
    assert (run / "metrics.jsonl").read_text() and not (run / ".owner.json").exists()


def test_a_bug_of_ours_is_said_and_never_blamed_on_the_user(monkeypatch, tmp_path, capsys):
    def broken(*args, **kwargs):
        raise ValueError("no user wrote this")

    broken = types.FunctionType(broken.__code__, {**globals(), "__name__": "modelforge.plan.step"})
    monkeypatch.setattr(rehearsal, "_trainer", broken)
    quick("sft", tmp_path, "max_steps=1")
    said = " ".join(capsys.readouterr().err.split())
    assert "the trainer was not tried before loading (ValueError: no user wrote this)" in said
