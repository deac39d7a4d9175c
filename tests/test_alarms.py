"""RLHF: what is warned of as it trains, and what is refused before."""

import json
from pathlib import Path

import pytest
import torch

from modelforge.callbacks.alarms import findings, first_words, too_many_cut
from modelforge.cli import main as cli

TINY = Path(__file__).parents[1] / "examples" / "tiny"


class Args:
    kl_target = None


def logs(count=40, **series):
    """Logs in which each metric goes from a first to a last value, with a little noise."""
    names = {"kl": "kl/reference", "token": "kl/reference_token", "judge": "rewards/judge/mean",
             "length": "completions/mean_length", "cut": "completions/clipped_ratio"}  # fmt: skip
    return [
        {
            names.get(key, key): a + (b - a) * i / (count - 1) + 0.01 * (-1) ** i
            for key, (a, b) in series.items()
        }
        for i in range(count)
    ]


@pytest.mark.parametrize(
    ("series", "target", "where"),
    [
        ({"token": (0, 2.0)}, None, "kl/reference_token"),
        ({"kl": (0, 20)}, 4.0, "kl/reference"),
        ({"entropy": (2.0, 0.01)}, None, "entropy"),
        ({"length": (20, 200), "cut": (0, 0.9)}, None, "completions/mean_length"),
        ({"reward": (0, 1), "judge": (0, -1)}, None, "rewards/judge/mean"),
        ({"reward": (0, 1), "judge": (0, 1)}, None, None),
        ({"length": (20, 200), "cut": (0, 0)}, None, None),
        ({"kl": (0, 5), "token": (0, 0.3), "entropy": (1.0, 0.5)}, 4.0, None),
    ],
)
def test_what_goes_wrong_is_named_with_advice(series, target, where):
    args = Args()
    args.kl_target = target
    found = findings(logs(**series), [], args)
    assert [problem.where for problem in found] == ([where] if where else [])
    assert all(problem.fix for problem in found)


@pytest.mark.parametrize(
    ("series", "count", "where"),
    [
        ({"ev": (-3, -1)}, 6, "value/explained_variance"),
        ({"ev": (-3, 0.4)}, 6, None),  # it has learned
        ({"ev": (0, 0)}, 4, None),  # too few to tell
        ({"moved": (0, 0), "reward": (0, 1), "reward_std": (1, 1), "learning_rate": (1, 1)}, 20,
         "kl/old_policy"),
        ({"moved": (0, 0), "reward": (0, 1), "reward_std": (1, 1), "learning_rate": (0, 0)}, 20,
         None),
    ],
)  # fmt: skip
def test_the_first_steps_show_what_fails_most(series, count, where):
    names = {"ev": "value/explained_variance", "moved": "kl/old_policy"}
    rows = [
        {"loss": 0.1} | {names.get(k, k): a + (b - a) * i / (count - 1) for k, (a, b) in
                         series.items()}
        for i in range(count)
    ]  # fmt: skip
    found = findings(rows, [], Args())
    assert [problem.where for problem in found] == ([where] if where else [])


def test_noise_is_no_warning():
    torch.manual_seed(0)
    noise = torch.randn(60, 3).tolist()
    rows = [{"reward": a, "rewards/judge/mean": b, "entropy": 1 + 0.1 * c} for a, b, c in noise]
    assert findings(rows, [], Args()) == []


def test_held_out_scores_alone_show_reward_hacking():
    held_out = logs(count=6, reward=(0, 2), judge=(0, -2))
    assert [p.where for p in findings(logs(), held_out, Args())] == ["rewards/judge/mean"]


def test_more_than_a_tenth_of_cut_answers_is_an_alarm_and_the_first_steps_say_both_shares():
    cut = too_many_cut(logs(cut=(0.0, 0.5)), Args())
    assert cut is not None and "mask_truncated_completions" in cut.fix
    ends = Args()
    ends.missing_eos_penalty = 1.0  # teaches to end, as long as the share falls
    assert too_many_cut(logs(8, cut=(0.9, 0.9)), ends) is None
    assert too_many_cut(logs(cut=(0.9, 0.5)), ends) is None
    stays = too_many_cut(logs(cut=(0.9, 0.95)), ends)
    assert stays is not None and "does not make them fewer" in stays.what
    assert too_many_cut(logs(cut=(0.9, 0.0))[:40] + logs(8, cut=(0.05, 0.05)), Args()) is None
    step = {"loss": 0.0, "frac_reward_zero_std": 0.25, "completions/clipped_ratio": 0.5}
    shares, meaning = first_words(step, None, first=True)
    assert shares == "25% of the groups have no signal, 50% of the answers are cut"
    assert "loss near 0 is normal" in meaning
    assert first_words(step, None, first=False) == [shares]
    assert first_words({}, None, first=True) == []
    [told] = first_words({"completions/clipped_ratio": 0.5}, ends, first=True)
    assert told == "50% of the answers are cut, and each loses 1 of its score"


# --- bad input --------------------------------------------------------------------------------

PAIRS = (TINY / "data" / "preference_eval.jsonl").read_text()
BAD = {
    "stages in the wrong order": ("keep the order", {"stages": ["ppo", "reward"]}),
    "an unknown stage": ("did you mean 'sft'", {"stages": ["sftt", "reward"]}),
    "no stage": ("not empty", {"stages": []}),
    "ppo without a reward": ("without a reward", {"stages": ["ppo"]}),
    "misspelt PPO setting": ("did you mean 'kl_coef'", {"ppo": {"kl_coeff": 0.1}}),
    "PPO setting out of range": ("of at most 1", {"ppo": {"gamma": 1.5}}),
    "misspelt key of a stage": (
        "did you mean 'learning_rate'", {"reward_stage": {"learnin_rate": 1e-4}},
    ),
    "a stage's key of the whole": ("not a key", {"reward_stage": {"dataset": "x.jsonl"}}),
    "unknown algorithm": ("did you mean 'grpo'", {"algorithm": "grppo"}),
    "PPO's section without PPO": (
        "algorithm is grpo", {"algorithm": "grpo", "ppo": {"kl_coef": 0.1}},
    ),
    "a setting said twice": ("keep one", {"ppo": {"clip_range": 0.1}, "epsilon": 0.2}),
    "all weights": ("cannot be trained", {"lora_r": 0}),
    "a rollout of one": (
        "nothing to compare", {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 1},
    ),
    "no room for the prompt": (
        "is left for the prompt", {"generation": {"max_new_tokens": 96}, "max_seq_length": 96},
    ),
    "reward model that is not there": ("no such folder", {"reward_model": "./runs/none"}),
    "reward model that is a language model": (
        "not a reward model", {"reward_model": str(TINY / "model")},
    ),
    "judge that is a function": ("is no reward model", {"judge_model": "format"}),
    "checkpoint of one stage": ("the checkpoint of one stage", {"resume": "ppo-1/checkpoint-4"}),
    "KL to a fixed reference": (
        "the base cannot be updated", {"ppo": {"ref_update_steps": 5, "reference": "base"}},
    ),
    "vLLM": ("would send them to vLLM", {"use_vllm": True}),
    "no pairs": ("demonstration or prompt rows", {"dataset": "prompts.jsonl"}),
}  # fmt: skip


@pytest.mark.parametrize("name", list(BAD))
def test_bad_input_is_one_clear_message_and_leaves_nothing(name, tmp_path, monkeypatch, capsys):
    says, values = BAD[name]
    (tmp_path / "pairs.jsonl").write_text(PAIRS)
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "Hi?", "answer": "Ho"}\n' * 4)
    config = {
        "strategy": "rlhf", "model_name": str(TINY / "model"), "dataset": "pairs.jsonl",
        "max_seq_length": 96, "max_steps": 1, "output_dir": str(tmp_path / "runs"),
    } | values  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["modelforge", "train", "config.json"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    said = " ".join(capsys.readouterr().err.split())
    assert stopped.value.code == 2, said
    assert says in said
    assert "Traceback" not in said and "1 problem" in said
    assert sorted(tmp_path.rglob("*")) == before
