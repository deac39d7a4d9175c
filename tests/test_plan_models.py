"""The plan on architectures of many kinds, and a plan that fails: it is never in the way."""

import json

import pytest
import torch
from machines import card as a_card
from transformers import AutoConfig

from modelforge import registry
from modelforge.cli.main import main
from modelforge.configfile.load import load_config
from modelforge.errors import ConfigError
from modelforge.plan import memory, plan
from modelforge.plan.architectures import find_architecture, repeats, with_layers
from modelforge.plan.planner import card
from modelforge.runs.folder import RunDir
from modelforge.training.defaults import Facts, fill
from modelforge.training.experts import with_experts_said
from modelforge.training.fit_to_card import within_budget

SMALL = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "vocab_size": 512,
         "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}  # fmt: skip
MIXTURE = SMALL | {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2,
                   "moe_intermediate_size": 64}  # fmt: skip
LATENT = SMALL | {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1,
                  "first_k_dense_replace": 1, "moe_intermediate_size": 64, "q_lora_rank": 32,
                  "kv_lora_rank": 32, "num_key_value_heads": 4, "qk_rope_head_dim": 8,
                  "qk_nope_head_dim": 8, "v_head_dim": 16, "head_dim": 8}  # fmt: skip
MAMBA = {"hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 512, "num_heads": 4,
         "head_dim": 32, "state_size": 16, "n_groups": 1}  # fmt: skip
STATES = SMALL | {"num_hidden_layers": 2, "layer_types": ["linear_attention", "full_attention"]}


def config_of(strategy, model, **said):
    rows = {"num_generations": 2} if strategy == "grpo" else {}
    said = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "lora_r": 4, **said}
    config = load_config(
        {"strategy": strategy, "model_name": str(model), "dataset": "d", "max_seq_length": 192,
         "use_4bit": True, **rows, **said}
    )  # fmt: skip
    return fill(config, Facts(registry.get_strategy(strategy)(), card(12.0)))


def save(folder, kind, **shape):
    AutoConfig.for_model(kind, **shape).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("kind", "shape", "strategy"),
    [
        ("qwen3_5_text", STATES, "grpo"),  # layers with a state beside layers with keys and values
        ("mamba2", MAMBA, "sft"),  # states alone
        ("llama4_text", MIXTURE, "sft"),  # a router that is a linear layer by its class alone
        ("deepseek_v3", LATENT, "grpo"),  # keys and values of other widths, a dense first layer
        ("bart", {"d_model": 32, "decoder_layers": 2, "vocab_size": 512}, "grpo"),
    ],
)
def test_other_architectures_are_planned(kind, shape, strategy, tmp_path):
    made = plan(config_of(strategy, save(tmp_path, kind, **shape)), hardware=card(12))
    assert made.parts["LoRA"] > 0 and made.peak_reserved >= made.peak_allocated
    assert strategy != "grpo" or made.phases["generation"] > 0


def test_layers_before_the_repeating_ones_are_told_apart():
    shape = AutoConfig.for_model("deepseek_v3", **LATENT | {"num_hidden_layers": 9})
    assert repeats(shape) == (1, 1)
    types = ["sliding_attention", "full_attention"] * 3
    listed = AutoConfig.for_model("qwen3", **SMALL | {"num_hidden_layers": 6}, layer_types=types)
    assert repeats(listed) == (0, 2)
    assert with_layers(listed, 4).layer_types == types[:4]
    listed.by_place = {1: "a", 5: "b"}
    assert with_layers(listed, 4).by_place == {1: "a"}


def test_a_window_bounds_what_sampling_keeps(tmp_path):
    """Longer answers, and no more keys and values than the window holds."""
    shape = SMALL | {"num_hidden_layers": 1, "layer_types": ["sliding_attention"]}
    model = save(tmp_path, "qwen3", **shape, sliding_window=64, use_sliding_window=True)
    found = find_architecture(str(model), base_dir=tmp_path, revision=None, where="")
    largest = []
    for new in (96, 192):
        said = {"generation": {"max_new_tokens": new}, "max_seq_length": new + 64}
        tracker = memory.simulate(config_of("grpo", model, **said), found, card(12)).tracker
        tags = tracker.tags
        held = [n for i, n in tracker.events if i > 0 and tags[i].phase == "generation"]
        largest.append(max(held[:8]))
    assert largest[0] == largest[1] == 4 * 2 * 64 * 16 * 2  # rows, heads, entries, width, bytes


def test_a_model_of_other_modes_is_refused_in_one_line(tmp_path, capsys):
    from modelforge.models.attach import head_problems
    from modelforge.models.source import ModelSource

    shape = AutoConfig.for_model("qwen2_5_vl")
    source = ModelSource("m", None, None, "m")
    (problem,) = head_problems(source, shape, head="causal-lm", where="model_name")
    assert "no language model of the type qwen2_5_vl" in problem.what
    fine = AutoConfig.for_model("llama4_text")
    assert not list(head_problems(source, fine, head="causal-lm", where="model_name"))


@pytest.mark.parametrize("name", ["bert", "roberta", "electra", "camembert"])
def test_an_encoder_that_sees_its_own_answer_is_no_language_model(name):
    from modelforge.models.attach import head_problems
    from modelforge.models.source import ModelSource

    shape, source = AutoConfig.for_model(name), ModelSource("m", None, None, "m")
    (problem,) = head_problems(source, shape, head="causal-lm", where="model_name")
    assert "each token sees those behind it" in problem.what
    assert not list(head_problems(source, shape, head="reward", where="model_name"))
    shape.is_decoder = True
    assert not list(head_problems(source, shape, head="causal-lm", where="model_name"))


def broken(*args, **kwargs):
    raise AttributeError("'LinearAttentionLayer' object has no attribute 'keys'")


def test_no_exception_of_the_planner_ends_a_run(tmp_path, monkeypatch, capsys):
    """Whatever the planner raises, the run goes on as configured; the plan itself says it."""
    config = config_of("sft", save(tmp_path / "m", "qwen3", **SMALL))
    run = RunDir(tmp_path / "run")
    monkeypatch.setattr(memory, "simulate", broken)
    fitted = within_budget(config, a_card(12.0), longest_row=64, run=run, resumed=False)
    after, planned, why = fitted
    assert (after, planned) == (config, None)
    said = capsys.readouterr().err
    assert "no plan: AttributeError: 'LinearAttentionLayer' object" in said and why in said
    assert "its longest batch goes first" in said
    with pytest.raises(AttributeError):
        within_budget(config, a_card(12.0), longest_row=64, run=run, resumed=False, planning=True)


def test_groups_that_several_processes_make_up_together_are_planned(tmp_path):
    model = save(tmp_path / "m", "qwen3", **SMALL)
    keys = {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 2}
    keys |= {"num_generations": 4, "distributed": {"num_processes": 2}}
    config = config_of("grpo", model, **keys)
    assert plan(config, hardware=a_card(12.0), num_processes=2).phases["generation"]


def test_a_mistake_of_the_user_is_no_failure_of_the_planner(tmp_path):
    """TRL refuses a value: the run ends before it loads a model, and trains nothing."""
    model = save(tmp_path / "m", "qwen3", **SMALL)
    config = config_of("grpo", model, generation_batch_size=7)
    run = RunDir(tmp_path / "run")
    with pytest.raises(ConfigError, match="generation_batch_size"):
        within_budget(config, a_card(12.0), longest_row=None, run=run, resumed=False)


def test_plan_says_its_own_failure_in_one_message(tmp_path, monkeypatch, capsys):
    model = "qwen3-0.6b"
    path = tmp_path / "c.json"
    path.write_text(json.dumps({"strategy": "sft", "model_name": model, "dataset": "d"}))
    monkeypatch.setattr(memory, "simulate", broken)
    monkeypatch.setattr("sys.argv", ["modelforge", "plan", str(path), "--vram", "12"])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2
    said = capsys.readouterr().err
    assert "Traceback" in said  # ours to mend
    assert said.rstrip().count("no plan can be made: AttributeError") == 1


def test_a_mixture_says_what_stays_in_16_bits_and_what_lora_on_experts_costs(tmp_path, capsys):
    shape = AutoConfig.for_model("qwen3_moe", **MIXTURE)
    config = with_experts_said(config_of("sft", "m"), shape)
    assert "bitsandbytes passes over its experts" in capsys.readouterr().err
    choice = config.choices["lora_target_modules"]
    # 4 layers × 4 experts: gate and up are one matrix of twice the rank, down another.
    count = 4 * 4 * (8 * (64 + 128) + 4 * (64 + 64))
    assert f"{count / 1e6:.0f} million" in choice.reason
    dense = AutoConfig.for_model("qwen3", **SMALL)
    assert with_experts_said(config_of("sft", "m"), dense) == config_of("sft", "m")
    assert not capsys.readouterr().err


def test_training_on_from_an_adapter_lifts_nothing_that_is_not_trained(tmp_path):
    """Base and adapter cost what base and fresh LoRA cost; PEFT's preparation would add to it."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from modelforge.models.providers.huggingface import _with_adapter
    from modelforge.models.source import ModelSource

    base, adapter = save(tmp_path / "base", "qwen3", **SMALL), tmp_path / "adapter"
    shape = AutoConfig.from_pretrained(base)
    model = AutoModelForCausalLM.from_config(shape, dtype=torch.float32)
    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM",
                      base_model_name_or_path=str(base))  # fmt: skip
    get_peft_model(model, lora).save_pretrained(adapter)
    lora_at = {"lora_target_modules": ["q_proj", "v_proj"]}
    fresh = plan(config_of("sft", base, **lora_at), hardware=card(12))
    further = plan(config_of("sft", adapter, **lora_at), hardware=card(12))
    assert further.parts == fresh.parts

    torch.manual_seed(0)
    half = AutoModelForCausalLM.from_config(shape, dtype=torch.bfloat16)
    whole = AutoModelForCausalLM.from_config(shape, dtype=torch.float32)
    whole.load_state_dict({k: v.float() for k, v in half.state_dict().items()})
    source = ModelSource(str(base), adapter, None, str(base))
    attached = _with_adapter(half, source, head="causal-lm")
    trained = {n for n, p in attached.named_parameters() if p.requires_grad}
    assert trained and all("lora_" in name for name in trained)
    assert {p.dtype for n, p in attached.named_parameters() if "lora_" not in n} == {torch.bfloat16}
    ids = torch.randint(0, 512, (2, 32))
    lifted = _with_adapter(whole, source, head="causal-lm")
    losses = [m(input_ids=ids, labels=ids).loss.item() for m in (attached, lifted)]
    assert losses[0] == pytest.approx(losses[1], rel=2e-3)
