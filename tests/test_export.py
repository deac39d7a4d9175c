"""Exports: each is the model that was trained, or is refused and not there."""

import importlib
import json
import shutil

import pytest
from safetensors.torch import load_file, save_file
from tiny import ROOT, quick, talking

from modelforge.errors import UserError
from modelforge.export import export as exports
from modelforge.export import gguf, onnx
from modelforge.export.convert import rule_of
from modelforge.export.export import export, verify
from modelforge.export.ollama import around

MODEL = str(ROOT / "examples/tiny/model")
LESS = ("save_strategy=no", "eval_split=0")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Its base in 4 bits."""
    folder = tmp_path_factory.mktemp("export")
    keys = {"max_steps": 10, "learning_rate": 0.02, "use_4bit": "true"}
    return quick("qlora", folder, *LESS, **keys).run_dir


@pytest.fixture(scope="module")
def merged(run):
    return export(str(run))


def test_a_4bit_run_is_merged_into_what_it_was_trained_on(merged, run):
    proof = merged.about["proof"]
    assert merged.folder == run / "export-merged-bf16" and proof["kl_mean"] <= 1e-5
    assert proof["prompts"] >= 12 and proof["others"] == 0
    weights = load_file(merged.folder / "model.safetensors")
    assert {str(w.dtype) for w in weights.values()} == {"torch.bfloat16"}
    assert json.loads((merged.folder / "export.json").read_text()) == merged.about
    assert merged.about["merged_into"] == "dequantised"
    again = verify(merged.folder)
    assert again.about["proof"] == proof and "is the model that was trained" in again.told()


def test_the_base_before_rounding_is_another_model_and_called_so(merged, run, tmp_path):
    other = export(str(run), base="original", output=tmp_path / "original", kind="f32")
    assert other.about["proof"]["kl_mean"] > 10 * merged.about["proof"]["kl_mean"]
    assert "and another" in other.told()


def test_an_adapter_travels_as_it_is(run, tmp_path):
    made = export(str(run), format="adapter", output=tmp_path / "adapter")
    assert made.about["proof"]["kl_max"] == 0
    assert load_file(made.folder / "adapter_model.safetensors").keys()


def weights_of_the_base(folder):
    shutil.copy(f"{MODEL}/model.safetensors", folder)


def another_template(folder):
    path = folder / "chat_template.jinja"
    path.write_text(path.read_text().replace("user", "human"))


def a_doubled_bos(folder):
    path = folder / "tokenizer.json"
    about = json.loads(path.read_text())
    bos = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    token = json.loads((folder / "tokenizer_config.json").read_text())["bos_token"]
    bos["SpecialToken"]["id"] = token
    ids = [each["id"] for each in about["added_tokens"] if each["content"] == token]
    about["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [bos, bos, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {token: {"id": token, "ids": ids, "tokens": [token]}},
    }
    path.write_text(json.dumps(about))


def a_removed_stop_token(folder):
    path = folder / "generation_config.json"
    about = json.loads(path.read_text())
    about["eos_token_id"] = [*about["eos_token_id"], 7]
    path.write_text(json.dumps(about))


def a_bent_weight(folder):
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if name.endswith("down_proj.weight"))
    weights[name] = weights[name] * 1.5
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (weights_of_the_base, "KL divergence from the trained model"),
        (a_bent_weight, "KL divergence from the trained model"),
        (another_template, "its chat template is another than in training"),
        (a_doubled_bos, "prompts become other tokens than in training"),
        (a_removed_stop_token, "answers end at the tokens"),
    ],
)
def test_a_damaged_export_is_found(merged, tmp_path, damage, said):
    folder = tmp_path / "export"
    shutil.copytree(merged.folder, folder)
    damage(folder)
    with pytest.raises(UserError, match=said):
        verify(folder)


def test_an_export_of_another_training_is_found(merged, run, tmp_path):
    folder, model = tmp_path / "export", run / "model/adapter_model.safetensors"
    shutil.copytree(merged.folder, folder)
    kept = model.read_bytes()
    weights = load_file(model)
    save_file({name: weight * 0.5 for name, weight in weights.items()}, model)
    try:
        with pytest.raises(UserError, match="was made of another model than now lies in"):
            verify(folder)
    finally:
        model.write_bytes(kept)


def test_a_reward_model_keeps_its_head(tmp_path):
    run = quick("reward", tmp_path, *LESS, max_steps=2, learning_rate=0.02).run_dir
    made = export(str(run), kind="f32")
    assert made.about["proof"]["largest_difference"] < 1e-3
    weights = load_file(made.folder / "model.safetensors")
    weights["score.weight"] = weights["score.weight"] * 0
    save_file(weights, made.folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="its scores differ by"):
        verify(made.folder)
    with pytest.raises(UserError, match="a reward model's head has no place in it"):
        export(str(run), format="gguf")
    if onnx.missing(scores=True):
        return
    for kind, most in (("int4", 0.5), ("f32", 1e-4)):
        made = export(str(run), format="onnx", kind=kind)
        assert made.about["proof"]["largest_difference"] < most
    assert verify(made.folder).about["proof"] == made.about["proof"]
    package = importlib.import_module("onnx")
    graph = package.load(made.folder / "model.onnx")
    lost = weights["score.weight"].numpy().T
    (head,) = (each for each in graph.graph.initializer if tuple(each.dims) == lost.shape)
    head.CopyFrom(package.numpy_helper.from_array(lost, head.name))
    package.save(graph, made.folder / "model.onnx")
    with pytest.raises(UserError, match="its scores differ by"):
        verify(made.folder)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"format": "onnx", "kind": "f16"}, "--type f16: is no type of onnx"),
        ({"format": "torchscript"}, "drops the cache of keys and values"),
        ({"format": "mergd"}, "did you mean 'merged'"),
        ({"kind": "q8_0"}, "--type q8_0: is no type of merged → use one of bf16, f16, f32"),
        ({"base": "other"}, "use dequantised"),
        ({"format": "adapter", "base": "original"}, "nothing is merged"),
        ({"model": MODEL, "base": "original"}, "was not trained on quantised weights"),
        ({"model": MODEL, "format": "adapter"}, "holds all weights → use --format merged"),
    ],
)
def test_what_cannot_be_exported_is_said_first(run, tmp_path, keys, said):
    given = {"model": str(run), "output": tmp_path / "out"} | keys
    with pytest.raises(UserError) as caught:
        export(given.pop("model"), **given)
    assert said in str(caught.value) and not (tmp_path / "out").exists()


def test_constraints_travel_with_an_export_and_are_held_to(tmp_path):
    from modelforge.inference.generate import generate
    from modelforge.serving.found import engines_of

    run = tmp_path / "held"
    shutil.copytree(MODEL, run / "model")
    rules = [{"name": "no seven", "banned": ["7"]}]
    said = {"strategy": "sft", "model_name": MODEL, "constraints": rules}
    (run / "config.json").write_text(json.dumps(said))
    (run / "choices.json").write_text(json.dumps({"said": said, "choices": {}}))
    made = export(str(run), kind="f32")
    assert "Its constraints (no seven) lie in constraints.json" in made.told()
    assert made.about["constraints"] == ["no seven"]
    verify(made.folder)
    shutil.copytree(made.folder, tmp_path / "gguf")
    (tmp_path / "gguf/model.gguf").write_bytes(b"GGUF")
    (engine,) = engines_of([str(made.folder)], 1)
    (held,) = engine.constraints.values()
    assert held.told()[0]["banned"] == ["7"]
    assert [e.constraints for e in engines_of([str(made.folder)], 1, "none")] == [{}]
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(json.dumps({"prompt": [{"role": "user", "content": "What is 3 plus 4?"}]}))
    texts = []
    for number, model in enumerate((MODEL, made.folder)):
        path = tmp_path / f"{number}.jsonl"
        generate(str(model), str(prompts), path)
        texts.append(json.loads(path.read_text())["completion"])
    assert "7" in texts[0] and "7" not in texts[1]
    about = (made.folder / "export.json").read_text()
    (made.folder / "export.json").write_text("{")
    with pytest.raises(UserError, match=r"export\.json: cannot be read"):
        engines_of([str(made.folder)], 1)
    (made.folder / "export.json").unlink()
    (engine,) = engines_of([str(made.folder)], 1)
    assert engine.constraints
    (made.folder / "export.json").write_text(about)
    (run / "config.json").write_text(json.dumps(said | {"constraints": "gone.json"}))
    with pytest.raises(UserError, match="put the file back") as refused:
        export(str(run), kind="f32", output=tmp_path / "other")
    assert "--constraints" not in str(refused.value)
    (run / "config.json").write_text(json.dumps(said))
    (made.folder / "constraints.json").unlink()
    with pytest.raises(UserError, match=r"there is no file .*constraints\.json"):
        engines_of([str(made.folder)], 1)
    with pytest.raises(UserError, match=r"there is no file .*constraints\.json"):
        verify(made.folder)


def test_a_failed_proof_leaves_nothing(run, tmp_path, monkeypatch):
    """The bound of a finer type than the export has."""
    monkeypatch.setattr(exports, "bound_of", lambda *given: exports.Bound(1e-12, 1e-12, 0.0))
    with pytest.raises(UserError, match="KL divergence"):
        export(str(run), output=tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_taken_place_is_left_alone(run, merged):
    with pytest.raises(UserError, match="is there already → name another with --output"):
        export(str(run))
    with pytest.raises(UserError, match=r"holds no export\.json"):
        verify(run)


def test_a_place_that_takes_nothing_and_a_damaged_record_are_said(run, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        export(str(run), output=tmp_path / "file" / "out")
    for text in ("{", "{}", '{"format": "tar"}'):
        (tmp_path / "export.json").write_text(text)
        with pytest.raises(UserError, match="is damaged, or of another version"):
            verify(tmp_path)


def test_sampling_values_beside_greedy_do_not_stand_in_the_way(tmp_path):
    """transformers refuses to save such a generation config, and several models have one."""
    shutil.copytree(MODEL, tmp_path / "model")
    path = tmp_path / "model/generation_config.json"
    about = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(about | {"temperature": 0.6, "top_p": 0.9}))
    assert export(str(tmp_path / "model"), kind="f32").about["proof"]["kl_max"] < 1e-6


def test_the_rule_of_a_tokenizer_is_known_by_its_expression():
    assert rule_of(ROOT / "examples/tiny/model") is not None


@pytest.mark.skipif(
    gguf.converter() is None or gguf.problems_of_machine(), reason="needs xllamacpp and gguf"
)
@pytest.mark.parametrize("kind", ["f16", "q8_0"])
def test_llama_cpp_answers_as_the_trained_model(run, tmp_path, kind):
    made = export(str(run), format="gguf", kind=kind, output=tmp_path / "gguf")
    assert sorted(path.name for path in made.folder.iterdir()) == ["export.json", "model.gguf"]
    assert made.about["proof"]["others"] == 0
    if kind == "f16":
        about = importlib.import_module("gguf").GGUFReader(made.folder / "model.gguf", "r+")
        field = about.fields["tokenizer.ggml.eos_token_id"]
        field.parts[field.data[0]][0] = 7
        about.data.flush()
        with pytest.raises(UserError, match="go on where the trained model ended"):
            verify(made.folder)


@pytest.mark.skipif(bool(onnx.missing()), reason="needs onnxruntime-genai")
@pytest.mark.parametrize(("kind", "most"), [("f32", 1e-6), ("int8", 1e-3), ("int4", 0.1)])
def test_onnxruntime_answers_as_the_trained_model(run, tmp_path, kind, most):
    made = export(str(run), format="onnx", kind=kind, output=tmp_path / "onnx")
    assert made.about["proof"]["kl_mean"] < most and made.about["proof"]["others"] == 0
    if kind != "f32":
        return
    path = made.folder / "genai_config.json"
    whole = path.read_text()
    config = json.loads(whole)
    config["model"]["eos_token_id"] = [7]
    path.write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"answers end at the tokens \[7\]"):
        verify(made.folder)
    path.write_text(whole)
    template = made.folder / "chat_template.jinja"
    template.write_text(template.read_text().replace("<|assistant|>", "<|user|>"))
    with pytest.raises(UserError, match="its chat template makes"):
        verify(made.folder)


@pytest.mark.skipif(bool(onnx.missing()), reason="needs onnxruntime-genai")
def test_the_base_in_place_of_the_trained_model_is_seen_in_onnx(run, tmp_path):
    made = export(str(run), format="onnx", output=tmp_path / "onnx")
    base = export(MODEL, format="onnx", output=tmp_path / "base")
    for name in ("model.onnx", "model.onnx.data"):
        shutil.copy(base.folder / name, made.folder)
    with pytest.raises(UserError, match="its KL divergence from the trained model"):
        verify(made.folder)


@pytest.mark.skipif(
    gguf.converter() is None or gguf.problems_of_machine(), reason="needs xllamacpp and gguf"
)
def test_a_folder_for_ollama_says_what_the_models_template_says(tmp_path):
    made = export(MODEL, format="ollama", output=tmp_path / "ollama")
    path = made.folder / "Modelfile"
    text = path.read_text()
    assert text.startswith('FROM ./model.gguf\nTEMPLATE """')
    assert '<|assistant|>{{ .Content }}<|eos|>{{ end }}{{ end }}<|assistant|>"""' in text
    assert 'PARAMETER stop "<|eos|>"' in text
    assert ("<|bos|>" in text) != gguf.adds_bos(made.folder / "model.gguf")
    path.write_text(text.replace("<|user|>", "<|human|>"))
    with pytest.raises(UserError, match="its Modelfile is another"):
        verify(made.folder)


@pytest.mark.parametrize("name", ["auto", "qwen2_5", "qwen3", "llama3", "gemma"])
def test_a_template_is_said_in_gos_words(name):
    tokenizer = talking()
    if name != "auto":
        theirs = importlib.import_module("trl.chat_template_utils")
        tokenizer.chat_template = getattr(theirs, f"{name}_chat_template")
    found = around(tokenizer)
    talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "{{ x }}"}]
    talk.append({"role": "user", "content": "And?"})
    own = tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
    assert found.said(talk) == own
    assert found.go().count("{{ .Content }}") == len(found.roles)


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}[{{ loop.index }}]{{ m.content }}{% endfor %}",
        "{% for m in messages %}{{ m.role }}: {{ m.content | upper }}\n{% endfor %}",
        "{{ strftime_now('%d') }}{% for m in messages %}{{ m.role }}{{ m.content }}{% endfor %}",
        "{{ messages[-1].content }}",
    ],
)
def test_a_template_that_does_more_is_not_said_in_gos_words(template):
    tokenizer = talking()
    tokenizer.chat_template = template
    assert around(tokenizer) is None


def test_the_command_exports_and_verifies(run, command, tmp_path):
    folder = tmp_path / "out"
    code, out, err = command("export", run, "--type", "f32", "-o", folder, "--json")
    assert code == 0, err
    assert json.loads(out)["proof"]["kl_mean"] < 1e-6
    code, _, err = command("export", run, "--format", "torchscript")
    assert code == 2 and "drops the cache of keys and values" in err
