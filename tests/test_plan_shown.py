"""What `modelforge plan` shows beside memory: time, cost, what else fits, cards and strategies."""

import gc
import importlib.util
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

from modelforge import registry
from modelforge.cli.main import main
from modelforge.configfile.load import load_config
from modelforge.machine.cards import card_named, list_cards
from modelforge.plan import plan
from modelforge.plan.frontier import frontier
from modelforge.plan.planner import card
from modelforge.plan.result import Plan
from modelforge.plan.speed import Load, Reached, bytes_moved, load_of, seconds
from modelforge.training import many_plans
from modelforge.training.defaults import Facts, fill

TINY = Path(__file__).parents[1] / "configs" / "tiny" / "sft.json"

# Few rows, and little left open: each choice that the plan tries is a step to simulate.
FEW = [
    word
    for key in ("max_samples=60", "gradient_checkpointing=true", "per_device_train_batch_size=2")
    for word in ("--set", key)
]


def run(capsys, monkeypatch, *options):
    monkeypatch.setattr("sys.argv", ["modelforge", "plan", str(TINY), "--json", *options])
    with pytest.raises(SystemExit) as left:
        main()
    assert not left.value.code
    shown = capsys.readouterr()
    return json.loads(shown.out), shown.err


def test_a_step_takes_what_its_operators_compute_and_move_or_their_launches():
    card, half = card_named("a100-80gb"), Reached(products=0.5, bandwidth=0.5, launch=1e-6)
    took = {
        "products": (Load("tensor cores", 10**15, 10**12), 1e15 / 156e12 + 1e12 / 1019.5e9),
        "in 32 bits": (Load("32 bits", 10**15, 0), 1e15 / 9.75e12),
        "from memory": (Load("memory", 0, 10**9), 1e9 / 1019.5e9),
        "from the cache": (Load("memory", 0, 10**7), 1e7 / 1019.5e9 / 3),
    }
    for load, expected in took.values():
        assert seconds(Counter({load: 10}), card, half) == pytest.approx(10 * expected)
    small = Counter({Load("memory", 0, 1): 1000})
    assert seconds(small, card, half) == pytest.approx(1000 * half.launch)
    both = small + Counter([took["products"][0]])  # the card works while the processor launches
    assert seconds(both, card, half) == pytest.approx(took["products"][1], rel=1e-3)


def test_an_operator_tells_its_unit_and_what_it_holds_while_it_runs():
    half, single = (torch.empty(4, 4, dtype=t, device="meta") for t in (torch.half, torch.float))
    assert load_of("aten::mm", (half, half), half @ half, flops=128, scratch=10) == (
        "tensor cores", 128, 3 * 32 + 20,
    )  # fmt: skip
    assert load_of("aten::mm", (single, single), single @ single, flops=128, scratch=0) == (
        "32 bits", 128, 3 * 64,
    )  # fmt: skip
    assert load_of("aten::add", (half, half), half + half, flops=0, scratch=0) == (
        "memory", 0, 3 * 32,
    )  # fmt: skip
    assert load_of("aten::t", (half,), half.t(), flops=0, scratch=0) is None


def test_views_move_nothing_and_what_is_expanded_is_read_once():
    x = torch.empty(4, 8, device="meta")
    assert bytes_moved("aten::t", (x,), x.t()) is None
    assert bytes_moved("aten::empty", (), x) is None
    assert bytes_moved("aten::mul", (x, 2.0), x * 2) == 2 * 128
    assert bytes_moved("aten::mul_", (x, 2.0), x) == 128
    wide = torch.empty(8, device="meta").expand(4, 8)
    assert bytes_moved("aten::add", ([x, wide],), x + wide) == 128 + 32 + 128


def test_a_plan_for_a_named_card_says_time_cost_and_what_else_fits(capsys, monkeypatch):
    made, said = run(capsys, monkeypatch, "--gpu", "rtx-4090", "--price", "3.6", *FEW)
    low, high = made["seconds_between"]
    assert low < made["seconds_per_step"] < high
    assert made["hours"] == pytest.approx(made["steps"] * made["seconds_per_step"] / 3600)
    assert made["cost"] == pytest.approx(3.6 * made["hours"])
    (chosen,) = [place for place in made["frontier"] if place["chosen"]]
    assert chosen["length"] > 0
    by_rank = [p["length"] for p in made["frontier"] if p["micro_batch"] == 1]
    assert by_rank == sorted(by_rank, reverse=True)  # a higher rank leaves less for the rows
    assert "by the table of cards" in said and "at once" in said
    assert Plan.from_dict(made).seconds_per_step == made["seconds_per_step"]


@pytest.mark.slow
def test_what_the_table_says_of_another_rank_fits():
    """The largest phase is another at rank 256: its row has to hold when it is planned whole."""
    machine = card(5.0)
    said = {"strategy": "qlora", "model_name": "qwen3-0.6b", "dataset": "d", "lora_r": 16}
    said |= {"per_device_train_batch_size": 1, "max_seq_length": 1024, "optim": "adamw_torch"}

    def filled(**keys):
        strategy = registry.get_strategy("qlora")()
        return fill(load_config(said | keys), Facts(strategy, machine))

    config = filled()
    places = frontier(config, plan(config, hardware=machine, budget_gb=5.0), machine)
    (place,) = [p for p in places if (p.rank, p.micro_batch) == (256, 1)]
    assert place.length >= 256
    high = filled(lora_r=256, max_seq_length=place.length)
    assert plan(high, hardware=machine, budget_gb=5.0).fits


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (("--cards", "--all"), "--all: has no effect with --cards"),
        (("--cards", "--gpu", "t4"), "--gpu: has no effect with --cards"),
        (("--all", "--vram", "8", "--as-it-is"), "--as-it-is: has no effect with --all"),
        (("--gpu", "nope"), "→ say its memory: --vram 24"),
    ],
)
def test_an_option_without_effect_and_an_unknown_card_end_in_a_message(
    options, what, capsys, monkeypatch
):
    monkeypatch.setattr("sys.argv", ["modelforge", "plan", str(TINY), *options])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2 and what in capsys.readouterr().err


def test_one_config_over_cards_shares_what_it_simulates(capsys, monkeypatch):
    few = tuple(card for card in list_cards() if card.name in ("rtx-3070", "rtx-4090", "h100"))
    monkeypatch.setattr(many_plans, "list_cards", lambda: few)
    outcomes, said = run(capsys, monkeypatch, "--cards", *FEW)
    assert [o["name"] for o in outcomes] == ["RTX 3070", "RTX 4090", "H100"]
    assert all(o["fits"] and 0 < o["total"] < o["budget_gb"] * 2**30 for o in outcomes)
    assert "rows" in said


def test_all_strategies_of_one_model_on_one_card(capsys, monkeypatch):
    monkeypatch.setattr(registry, "list_strategies", lambda: ["sft", "dpo"])
    outcomes, _ = run(capsys, monkeypatch, "--all", "--vram", "2", *FEW)
    assert [o["name"] for o in outcomes] == ["sft", "dpo"]
    assert all(o["fits"] for o in outcomes)


def load(name):
    path = Path(__file__).parents[1] / "benchmarks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # a dataclass looks its own module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("seed", [3])
def test_a_plan_and_a_run_choose_the_same_for_one_card(seed):
    """`benchmarks/plan_and_train.py` does the same for 200 configs."""
    assert load("plan_and_train").differences(seed) == {}


def test_the_gpu_check_keeps_its_parts_apart(tmp_path):
    """One that fails, one that hangs and one that is missing take no other with them."""
    gpu_check = load("gpu_check")

    def part(name, code, **more):
        command = ((sys.executable, "-c", code),)
        return gpu_check.Part(name, command, command, 1 if name == "hangs" else 60, **more)

    made = [
        part("fails", "raise SystemExit(3)"),
        part("hangs", "import time; print('on', flush=True); time.sleep(60)"),
        part("lacks", "", missing="Unsloth is not installed"),
        part("works", "import os; print(os.environ['X'])", environment={"X": "seen"}),
    ]
    results = [gpu_check.check(one, tiny=False, left=100) for one in made]
    assert [r.state for r in results] == ["failed", "too long", "left out", "ok"]
    assert results[-1].tail.strip() == "seen" and results[2].tail == "Unsloth is not installed"
    assert gpu_check.check(made[-1], tiny=False, left=1).state == "left out"


def test_the_gpu_check_runs_on_a_cpu(tmp_path):
    """Its parts train in processes of their own: here the one that trains nothing."""
    out = tmp_path / "gpu.json"
    script = Path(__file__).parents[1] / "benchmarks" / "gpu_check.py"
    command = [sys.executable, script, "--tiny", "--only", "environment", "-o", out]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    (result,) = json.loads(out.read_text())
    assert done.returncode == 0, result["tail"]
    assert (result["name"], result["state"]) == ("environment", "ok")
    assert "hardware" in result["tail"]


def test_a_plan_imports_no_compiler_and_leaves_the_process_as_it_was(monkeypatch, capsys):
    seen = []

    def noted(*args, **kwargs):
        seen.append((os.environ["TORCHDYNAMO_DISABLE"], gc.get_threshold()[0]))
        return load_config(*args, **kwargs)

    monkeypatch.delenv("TORCHDYNAMO_DISABLE", raising=False)
    monkeypatch.setattr("modelforge.configfile.load.load_config", noted)
    before = gc.get_threshold()
    monkeypatch.setattr("sys.argv", ["modelforge", "plan", str(TINY), "--set", "dataset=no.jsonl",
                                     "--set", "lora_r=-1"])  # fmt: skip
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2, capsys.readouterr()
    assert seen == [("1", 50_000)]
    assert gc.get_threshold() == before
    assert "TORCHDYNAMO_DISABLE" not in os.environ
