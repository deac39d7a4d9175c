"""sweep: every combination of a grid is an ordinary run, and all are ranked."""

import json

import pytest
from tiny import ROOT, few, held_out

from modelforge.errors import ConfigError, DivergedError, Problem, RunError
from modelforge.training import sweep as module
from modelforge.training.grid import combinations, read_grid
from modelforge.training.sweep import sweep

CONFIG = ROOT / "configs/tiny/sft.json"


def said(folder):
    keys = {"output_dir": folder, "dataset": few("sft_train", 40), "report_to": "none"}
    keys |= {"eval_dataset": held_out("sft", 8), "max_steps": 4, "per_device_train_batch_size": 4}
    keys |= {"run_name": "mine"}
    return [f"{key}={value}" for key, value in keys.items()]


@pytest.mark.slow
def test_a_sweep_that_is_cut_goes_on_and_ranks_all_runs(tmp_path, monkeypatch, caplog):
    grid = {"learning_rate": ["1e-5", "0.01"], "seed": ["1", "2"]}
    once, calls = module.run_once, []

    def counted(*given):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        if len(calls) == 4:
            raise DivergedError(Problem("run", "the loss is not finite"))
        return once(*given)

    monkeypatch.setattr(module, "run_once", counted)
    with pytest.raises(KeyboardInterrupt):
        sweep(CONFIG, grid=grid, overrides=said(tmp_path))
    found = sweep(CONFIG, grid=grid, overrides=said(tmp_path))
    kept = json.loads((found.folder / "trials.json").read_text())
    names = [f"learning_rate-{n}" for n in ("0.01-seed-2", "1e-5-seed-2", "1e-5-seed-1")]
    assert sorted(kept["said"]) == sorted([*names, "learning_rate-0.01-seed-1"])
    assert next(iter(kept["said"])) == kept["chosen"] == found.chosen == names[0]
    assert list(kept["said"])[-1] == "learning_rate-0.01-seed-1"  # it has diverged
    run = found.result.run_dir
    assert run == found.folder / names[0] and (run / "report.html").is_file()
    best = kept["found"][names[0]]["1"]
    assert best["value"] == pytest.approx(found.result.after["eval_loss"])
    assert best["interval"][0] < best["value"] < best["interval"][1]
    assert "told apart" in caplog.text and "learning_rate 1e-05  2" in caplog.text
    monkeypatch.setattr(module, "run_once", None)  # nothing is trained again
    assert sweep(CONFIG, grid=grid, overrides=said(tmp_path)).chosen == found.chosen
    with pytest.raises(RunError, match=r"holds a run of another config \(weight_decay"):
        sweep(CONFIG, grid=grid, overrides=[*said(tmp_path), "weight_decay=0.1"])


def test_a_grid_is_read_and_its_runs_are_named():
    grid = read_grid(["lr=1e-4,3e-4,3e-4,ppo.kl_coef=0.1", 'lora_target_modules=["q","v"],all'])
    assert grid == {
        "learning_rate": ["1e-4", "3e-4"], "ppo.kl_coef": ["0.1"],
        "lora_target_modules": ['["q","v"]', "all"],
    }  # fmt: skip
    made = combinations(grid, most=4)
    assert len({each.trial.name for each in made}) == 4
    assert made[0].trial.said["lora_target_modules"] == ["q", "v"]
    assert made[0].overrides[0] == "learning_rate=1e-4"
    assert made[1].trial.name.startswith("learning_rate-1e-4-ppo.kl_coef-0.1-lora_target_modules-")
    assert all("/" not in each.trial.name and len(each.trial.name) < 120 for each in made)
    with pytest.raises(ConfigError, match=r"makes 4 runs .*at most 3 .*--max-runs 4"):
        combinations(grid, most=3)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ([], "--grid: names no key"),
        (["--grid", "1e-4"], "--grid 1e-4: has no key before its values"),
        (["--grid", "lr="], "--grid lr=: has no value for learning_rate"),
        (["--grid", "learnin_rate=1,2"], "--grid learnin_rate: is not a key of this strategy"),
        (["--grid", "lr=1,fast"], '--grid learning_rate: is "fast"'),
        (["--grid", "run_name=a,b"], "--grid run_name: says where a run lies"),
        (["--grid", "strategy=sft,dpo"], "--grid strategy: decides what a run is judged by"),
        (["--grid", "eval_split=0.1,0.2"], "--grid eval_split: changes the held-out rows"),
        (["--grid", "loss_type=nll,dft"], "--grid loss_type: changes the held-out loss"),
        (["--grid", f"seed={','.join(map(str, range(40)))}"], "makes 40 runs"),
        (["--grid", "lr=1e-3", "--set", "strategy=rlhf"], "strategy: rlhf trains"),
    ],
)
def test_what_cannot_be_swept_is_one_message(options, told, tmp_path, command):
    keys = [part for key in said(tmp_path / "runs") for part in ("--set", key)]
    code, _, error = command("sweep", CONFIG, *keys, *options)
    assert code == 2 and told in " ".join(error.split()), error
    assert "loading" not in error and not (tmp_path / "runs").exists()
