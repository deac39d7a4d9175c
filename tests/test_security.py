"""The promises of SECURITY.md: whose code runs, what is read, and where secrets do not go."""

import ast
import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import yaml

from modelforge import ConfigError, ModelError, UserError, load_config, train
from modelforge.cli import main as cli
from modelforge.common.console import say
from modelforge.errors import Problem
from modelforge.models.source import find_model
from modelforge.redact import redact, secrets_in
from modelforge.training.prepare import prepare

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "examples" / "tiny" / "model"
DATA = ROOT / "examples" / "tiny" / "data"
SECRET = "s3cr3t-of-the-environment"


def config(tmp_path, **values):
    return {
        "strategy": "sft",
        "model_name": str(MODEL),
        "dataset": str(DATA / "sft_eval.jsonl"),
        "eval_split": 4,
        "max_steps": 1,
        "max_seq_length": 64,
        "per_device_train_batch_size": 2,
        "report_to": "none",
        "output_dir": str(tmp_path / "runs"),
    } | values


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def command(monkeypatch, capsys, *arguments):
    """What a command line says, and its exit code."""
    monkeypatch.setattr("sys.argv", ["modelforge", *map(str, arguments)])
    try:
        cli.main()
        code = 0
    except SystemExit as stop:
        code = stop.code or 0
    return code, " ".join(capsys.readouterr().err.split())


# --- code ----------------------------------------------------------------------------------------


@pytest.fixture
def own_code(tmp_path, monkeypatch):
    """A model of an architecture that only its own code knows; the code leaves a mark."""
    # Where transformers copies it; a constant by the time this runs.
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "m"))
    monkeypatch.syspath_prepend(str(tmp_path / "m"))
    folder = tmp_path / "model"
    shutil.copytree(MODEL, folder)
    edit(
        folder / "config.json",
        model_type="mine-own",
        architectures=["MineForCausalLM"],
        auto_map={"AutoConfig": "mine.MineConfig", "AutoModelForCausalLM": "mine.MineForCausalLM"},
    )
    (folder / "mine.py").write_text(
        "from pathlib import Path\n"
        "from transformers import LlamaConfig, LlamaForCausalLM\n"
        f"Path({str(tmp_path / 'mark')!r}).touch()\n"
        "class MineConfig(LlamaConfig):\n    model_type = 'mine-own'\n"
        "class MineForCausalLM(LlamaForCausalLM):\n    config_class = MineConfig\n"
    )
    return folder


@pytest.mark.parametrize(
    ("key", "flag", "says"),
    [
        (False, False, 'set "trust_remote_code": true and say --trust-remote-code'),
        (False, True, 'set "trust_remote_code": true and say --trust-remote-code'),
        (True, False, "say --trust-remote-code on the command line too"),
    ],
)
def test_a_models_own_code_needs_the_key_and_the_flag(
    own_code, key, flag, says, tmp_path, monkeypatch, capsys
):
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config(tmp_path, model_name=str(own_code), trust_remote_code=key)))
    flags = ["--trust-remote-code"] if flag else []
    code, said = command(monkeypatch, capsys, "train", file, *flags)
    assert code == 2 and says in said
    assert not (tmp_path / "mark").exists() and not (tmp_path / "runs").exists()


def test_a_models_own_code_runs_with_both(own_code, tmp_path, monkeypatch, capsys):
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config(tmp_path, model_name=str(own_code), trust_remote_code=True)))
    code, said = command(monkeypatch, capsys, "train", file, "--trust-remote-code")
    assert code == 0, said
    assert (tmp_path / "mark").exists()
    assert list((tmp_path / "runs").glob("*/model/adapter_model.safetensors"))


class Evil:
    """A pickle that leaves a mark where it is loaded."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (os.mkdir, (str(self.mark),))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "adapter_model.bin"])
def test_pickles_are_refused_with_the_reason(name, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(MODEL, folder)
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps(Evil(tmp_path / "mark")))
    if name.startswith("adapter"):
        (folder / "adapter_config.json").write_text(
            json.dumps({"base_model_name_or_path": str(MODEL)})
        )
    with pytest.raises(ModelError, match=r"can run code when loaded"):
        prepare(load_config(config(tmp_path, model_name=str(folder))))
    assert not (tmp_path / "mark").exists()


def test_a_pickled_reward_model_is_refused(tmp_path):
    from modelforge.rewards.model import RewardModel

    folder = tmp_path / "reward"
    shutil.copytree(MODEL, folder)
    edit(folder / "config.json", architectures=["LlamaForSequenceClassification"], num_labels=1)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Evil(tmp_path / "mark")))
    with pytest.raises(ModelError, match="can run code when loaded"):
        RewardModel.load(str(folder))
    assert not (tmp_path / "mark").exists()


def test_a_reward_function_runs_only_for_its_config_and_is_named(tmp_path, capsys):
    (tmp_path / "r.py").write_text(
        f"from pathlib import Path\nPath({str(tmp_path / 'mark')!r}).touch()\n"
        "def score(completions, **kwargs):\n    return [0.0 for _ in completions]\n"
    )
    rows = [{"prompt": f"What is {i}?", "answer": "3", "rewards": "r.py:score"} for i in range(8)]
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    values = config(tmp_path, strategy="grpo", dataset=str(tmp_path / "data.jsonl"))
    values |= {"num_generations": 2, "generation": {"max_new_tokens": 4}}
    # Named by the data alone, it is a column like any other. Named by the config, it is read with
    # the config, and run where it is tried on the first rows.
    train(values)
    reward = f"{tmp_path / 'r.py'}:score"
    named = load_config(values | {"rewards": [reward], "run_name": "second"})
    assert not (tmp_path / "mark").exists()
    capsys.readouterr()
    prepare(named)
    assert (tmp_path / "mark").exists()
    assert f"running {(tmp_path / 'r.py').resolve()}" in capsys.readouterr().err


# Calls that can run what a file says, or start a program; each with why it is safe here.
DANGEROUS = {"eval", "exec", "compile", "__import__", "import_module", "exec_module"}
DANGEROUS |= {"system", "popen", "unpack_archive", "extractall"}
MODULES = {"pickle", "marshal", "shelve", "dill", "joblib", "subprocess", "tarfile", "zipfile"}
ALLOWED = {
    ("modelforge/__init__.py", "import_module"): "of its own literal table",
    ("modelforge/registry.py", "import_module"): "of the registry's own literal table",
    ("modelforge/models/providers/__init__.py", "import_module"): "of its own literal table",
    ("modelforge/rewards/build.py", "exec_module"): "the file that the user's config names",
    ("modelforge/rewards/build.py", "import_module"): "the installed module that it names",
    ("modelforge/rewards/tools.py", "import_module"): "the installed module that it names",
    ("modelforge/export/convert.py", "import_module"): "the converter of the user's llama.cpp",
    ("modelforge/export/gguf.py", "subprocess"): "this Python, that converter, a folder of ours",
    ("modelforge/export/onnx.py", "subprocess"): "this Python, onnxruntime-genai, a folder of ours",
    ("modelforge/feedback/trained.py", "subprocess"): "this Python, `train`, a config of ours",
    ("modelforge/data/spool.py", "pickle"): "what this process wrote, in a folder of its own",
    ("modelforge/data/packed.py", "zipfile"): "one member is read; nothing is unpacked to a path",
    ("modelforge/configfile/load.py", "yaml.load"): "with a loader made from SafeLoader",
    (
        "modelforge/machine/launch.py",
        "subprocess",
    ): "this Python, accelerate, the command's own words",
}


def calls(path):
    """Every call of a file, with its full dotted name."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def test_no_call_runs_what_a_file_says_but_those_listed():
    found = set()
    for path in [*(ROOT / "modelforge").rglob("*.py"), *(ROOT / "strategies").rglob("*.py")]:
        where = path.relative_to(ROOT).as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found |= {(where, n) for n in names if n.partition(".")[0] in MODULES}
        for name, node in calls(path):
            last = name.rpartition(".")[2]
            keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            # model.eval() is a switch, re.compile() makes a pattern; the built-ins stand alone.
            other = last in ("eval", "compile") and name != last
            if last in DANGEROUS and not other:
                found.add((where, last))
            if name in ("yaml.load", "yaml.unsafe_load", "yaml.full_load"):
                found.add((where, name))
            if name in ("torch.load", "np.load", "numpy.load"):
                assert keywords.get("weights_only") == "True", (where, node.lineno)
            if "shell" in keywords:
                found.add((where, "shell="))
    assert found - set(ALLOWED) == set()
    from modelforge.configfile.load import _Loader

    assert issubclass(_Loader, yaml.SafeLoader)


def test_every_weight_is_loaded_from_safetensors_and_no_code_unasked():
    """Each ``from_pretrained`` of transformers says both, there or in the arguments it is given."""
    seen = 0
    for path in [*(ROOT / "modelforge").rglob("*.py"), *(ROOT / "strategies").rglob("*.py")]:
        text = path.read_text(encoding="utf-8")
        for name, node in calls(path):
            owner, _, method = name.rpartition(".")
            # PEFT and generation configs take no such word: they run no code, and an adapter's
            # .safetensors is looked for before (source.py, rewards/folder.py).
            other = ("GenerationConfig", "PeftConfig", "PeftModel", "FastLanguageModel")
            if method != "from_pretrained" or owner in other:
                continue
            seen += 1
            words = {keyword.arg for keyword in node.keywords}
            given = text if None in words else " ".join(map(str, words))
            assert "trust_remote_code" in given, (path, node.lineno)
            if "Model" in owner or owner == "auto":
                assert "use_safetensors" in given, (path, node.lineno)
    assert seen >= 6


# --- paths ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        (
            "model.safetensors.index.json",
            {"metadata": {}, "weight_map": {"a": "../../../etc/x.safetensors", "b": "/etc/passwd"}},
            "outside its folder: '../../../etc/x.safetensors'",
        ),
        (
            "model.safetensors.index.json",
            {"metadata": {}, "weight_map": {"a": "pytorch_model.bin"}},
            "not .safetensors",
        ),
        ("model.safetensors.index.json", {"metadata": {}, "weight_map": {"a": "b.safetensors"}},
         "holds no b.safetensors"),
        ("model.safetensors.index.json", ["x"], "no weight_map"),
        ("tokenizer_config.json", {"vocab_file": "/etc/passwd"}, "vocab_file names a file outside"),
        ("tokenizer_config.json", {"fast_tokenizer_files": ["../t.json"]}, "names a file outside"),
        ("adapter_config.json", {"base_model_name_or_path": ["x"]}, "names no base model"),
        ("adapter_config.json", [], "names no base model"),
    ],
)  # fmt: skip
def test_a_models_folder_cannot_name_files_outside_it(file, content, says, tmp_path):
    shutil.copytree(MODEL, tmp_path / "model")
    (tmp_path / "model" / file).write_text(json.dumps(content))
    with pytest.raises(ModelError) as refused:
        find_model(str(tmp_path / "model"), base_dir=tmp_path, revision=None, where="model_name")
    assert says in str(refused.value)


def test_a_cell_that_is_a_path_is_a_text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "private").write_text(SECRET)
    rows = [{"prompt": "private", "completion": "../private"}] * 4
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    job = prepare(load_config(config(tmp_path, dataset="data.jsonl", eval_split=0)))
    assert SECRET not in json.dumps(list(job.data.train), default=str)


# --- secrets -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values",
    [
        {"hub_token": "hf_" + "a" * 30},
        {"run_name": "hf_" + "a" * 30},
        {"model_name": SECRET},
        {"model_name": "https://me:my-password@example.org/x"},
        {"lr_scheduler_kwargs": {"api_key": "abcdefgh"}},
        {"learning_rate": "hf_" + "a" * 30},
    ],
)
def test_a_config_that_holds_a_secret_is_refused_without_showing_it(values, tmp_path, monkeypatch):
    monkeypatch.setenv("SOME_SERVICE_API_KEY", SECRET)
    with pytest.raises(ConfigError) as refused:
        load_config(config(tmp_path) | values)
    said = str(refused.value)
    assert "secret" in said
    assert not any(word in said for word in ("hf_aaa", SECRET, "my-password", "abcdefgh"))


def test_words_that_only_sound_like_secrets_are_none():
    harmless = {
        "columns": {"password": "column"},
        "generation": {"max_new_tokens": 8},
        "rewards": [{"name": "regex", "arguments": {"key": "answer", "eos_token": "</s>"}}],
        "average_tokens_across_devices": True,
    }
    assert list(secrets_in(harmless)) == []
    assert list(secrets_in({"rewards": [{"arguments": {"api_key": "x"}}]})) == [
        "rewards[0].arguments.api_key"
    ]


def test_errors_and_lines_show_no_secret(monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", SECRET)
    assert SECRET not in str(UserError(Problem("hub", f"401 with {SECRET}", f"not {SECRET}")))
    say(f"Authorization: Bearer {SECRET}")
    said = capsys.readouterr().err
    assert SECRET not in said and "<HF_TOKEN>" in said
    assert redact("sk-" + "x" * 30) == "<secret>" and redact("a risk-free task") != "<secret>"


def test_a_runs_folder_and_its_words_hold_no_secret(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", SECRET)
    monkeypatch.setenv("WANDB_API_KEY", SECRET + "-wandb")
    result = train(config(tmp_path, report_to="tensorboard"))
    for path in result.run_dir.rglob("*"):
        assert path.is_dir() or SECRET.encode() not in path.read_bytes(), path
    assert SECRET not in "".join(capsys.readouterr())


# --- YAML ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: &a [x]\nb: [*a, *a]\n", "no \\*alias"),
        ("strategy: &a [*a]\n", "no \\*alias"),
        ("strategy: !!python/object/apply:os.system ['true']\n", "could not determine"),
        ("strategy: sft\nstrategy: dpo\n", "stands twice"),
        ("generation: {top_k: 1, top_k: 2}\n", "stands twice"),
    ],
)
def test_yaml_runs_nothing_expands_nothing_and_hides_nothing(text, says, tmp_path):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ConfigError, match=says):
        load_config(tmp_path / "config.yaml")
