"""What rounding does to a model: no update is lost by it, and it sets the bound of a proof."""

import importlib
import json
import shutil
import types

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import ROOT, quick

from modelforge.errors import UserError
from modelforge.evaluation.opened import named
from modelforge.export import gguf
from modelforge.export.bound import bound_of
from modelforge.export.convert import scores_of
from modelforge.export.export import export, verify
from modelforge.export.merge import merged
from modelforge.export.proof import CEILING, compared, logps_of
from modelforge.export.reference import reference_of
from modelforge.export.rounding import Rounding, at_random, move

MODEL = ROOT / "examples/tiny/model"
NEEDS = pytest.mark.skipif(
    gguf.converter() is None or bool(gguf.problems_of_machine()), reason="needs llama.cpp"
)


@pytest.mark.parametrize(("kind", "dtype"), [("bf16", torch.bfloat16), ("f16", torch.float16)])
def test_an_update_below_half_a_step_stays_on_average(kind, dtype):
    drawn = torch.Generator().manual_seed(3)
    base = torch.rand(400, 400, generator=drawn).mul(0.9).add(1).to(dtype).float()  # one step
    step = 2.0 ** (-7 if kind == "bf16" else -10)
    trained = base + 0.2 * step
    assert torch.equal(trained.to(dtype).float(), base)  # to the nearest, all of it is lost
    found = at_random(trained, kind, drawn)
    assert set(((found - base) / step).unique().tolist()) == {0.0, 1.0}
    # Of 160,000 draws the share is 0.2 within 0.004: four standard errors.
    assert ((found - base) / step).mean().item() == pytest.approx(0.2, abs=0.004)
    assert torch.equal(at_random(-trained, kind, drawn).to(dtype).float().sign(), -base.sign())
    assert torch.equal(at_random(found, kind, drawn), found)


def test_blocks_of_integers_are_rounded_without_bias():
    drawn = torch.Generator().manual_seed(4)
    values = torch.randn(64, 256, generator=drawn)
    for kind, levels in (("q8_0", 256), ("int4", 16)):
        found = at_random(values, kind, drawn)
        assert all(len(block.unique()) <= levels for block in found.reshape(-1, 32))
        error = found - values
        step = values.reshape(-1, 32).abs().amax(1) / (levels / 2)
        assert (error.reshape(-1, 32).abs() <= step[:, None] * 1.001).all()
        assert error.mean().abs() < 4 * error.std() / error.numel() ** 0.5
    odd = torch.randn(3, 33)
    assert torch.equal(at_random(odd, "q8_0", drawn), odd)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A short run with small updates, on a base that was saved in bfloat16."""
    folder = tmp_path_factory.mktemp("small")
    shutil.copytree(MODEL, folder / "base")
    weights = load_file(folder / "base/model.safetensors")
    weights = {name: weight.to(torch.bfloat16) for name, weight in weights.items()}
    save_file(weights, folder / "base/model.safetensors", metadata={"format": "pt"})
    keys = {"model_name": str(folder / "base"), "max_steps": 3, "learning_rate": 1e-3}
    return quick("sft", folder, "save_strategy=no", "eval_split=0", **keys).run_dir


def test_a_merge_keeps_updates_that_rounding_to_the_nearest_would_lose(small):
    path = small / "model/adapter_model.safetensors"
    trained = load_file(path)
    less = {name: w * (0.05 if "lora_B" in name else 1) for name, w in trained.items()}
    save_file(less, path)
    try:
        found = named(str(small))
        base = load_file(small.parent / "base/model.safetensors")
        whole, rounded = (
            merged(found, base="dequantised", dtype=dtype).state_dict()
            for dtype in (torch.float32, torch.bfloat16)
        )
    finally:
        save_file(trained, path)
    updates = {name: whole[name] - base[name].float() for name in base}

    def kept(weights):
        """The share of the update that is in them."""
        each = ((weights[n].float() - base[n].float(), update) for n, update in updates.items())
        along = sum((moved * update).sum().item() for moved, update in each)
        return along / sum(update.square().sum().item() for update in updates.values())

    assert kept(rounded) == pytest.approx(1, abs=0.05)
    assert kept({name: weight.to(torch.bfloat16) for name, weight in whole.items()}) < 0.8


def test_a_merge_is_the_same_each_time(small):
    found = named(str(small))
    one, other = (
        merged(found, base="dequantised", dtype=torch.bfloat16).state_dict() for _ in range(2)
    )
    assert all(torch.equal(weight, other[name]) for name, weight in one.items())


def test_earlier_merges_score_higher(tmp_path):
    for merges in (["h e", "l l", "he ll"], [["h", "e"], ["l", "l"], ["he", "ll"]]):
        about = {"model": {"merges": merges}}
        (tmp_path / "tokenizer.json").write_text(json.dumps(about))
        assert scores_of(tmp_path) == {"he": 0.0, "ll": -1.0, "hell": -2.0}


def of_llamas_first_kind(folder):
    """The tiny model with letters, bytes and merges in place of its own tokens."""
    shutil.copytree(MODEL, folder)
    own = json.loads((folder / "tokenizer.json").read_text())
    special = own["added_tokens"]
    ids = {each["content"]: each["id"] for each in special}
    letters = [*"▁abcdefghijklmnopqrstuvwxyzTIBDQ.,"]
    # "▁the" becomes "▁" and "the"; from the left, it would become "▁t" and "he".
    merges = [["h", "e"], ["t", "he"], ["▁", "t"], ["e", "r"], ["i", "n"]]
    words = [f"<0x{byte:02X}>" for byte in range(256)] + letters + ["".join(m) for m in merges]
    free = (i for i in range(512) if i not in ids.values())
    ids |= {word: next(free) for word in words}
    ids |= {f"<unused{i}>": i for i in free}
    bos, first = {"SpecialToken": {"id": "<|bos|>", "type_id": 0}}, ids["<|bos|>"]
    own |= {
        "model": {"type": "BPE", "vocab": ids, "merges": merges, "byte_fallback": True},
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": "▁"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
            ],
        },
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [bos, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": side, "type_id": 0}} for side in "AB"],
            "special_tokens": {"<|bos|>": {"id": "<|bos|>", "ids": [first], "tokens": ["<|bos|>"]}},
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
    }
    own["model"] |= {"unk_token": None, "fuse_unk": False, "ignore_merges": False, "dropout": None}
    (folder / "tokenizer.json").write_text(json.dumps(own))


@NEEDS
def test_llama_cpp_joins_letters_in_the_order_of_the_merges(tmp_path):
    of_llamas_first_kind(tmp_path / "model")
    made = export(str(tmp_path / "model"), format="gguf", kind="f32", output=tmp_path / "out")
    assert made.about["proof"]["prompts"] >= 10
    reader = importlib.import_module("gguf").GGUFReader(made.folder / "model.gguf", "r+")
    scores = reader.fields["tokenizer.ggml.scores"]
    for place in scores.data:
        scores.parts[place][0] = -1000.0  # as the converter wrote them
    reader.data.flush()
    with pytest.raises(UserError, match=r"makes \d+ of \d+ prompts into other tokens .* stands "):
        verify(made.folder)


@NEEDS
def test_a_gguf_carries_its_runs_constraints(tmp_path):
    from modelforge.serving.found import engines_of

    run = tmp_path / "held"
    shutil.copytree(MODEL, run / "model")
    said = {
        "strategy": "sft",
        "model_name": str(MODEL),
        "constraints": [{"name": "no seven", "banned": ["7"]}],
    }
    (run / "config.json").write_text(json.dumps(said))
    (run / "choices.json").write_text(json.dumps({"said": said, "choices": {}}))
    made = export(str(run), format="gguf", kind="f32")
    assert made.about["constraints"] == ["no seven"]
    verify(made.folder)
    (engine,) = engines_of([str(made.folder)], 1)
    (held,) = engine.constraints.values()
    assert held.told()[0]["banned"] == ["7"]
    (made.folder / "constraints.json").unlink()
    with pytest.raises(UserError, match=r"there is no file .*constraints\.json"):
        verify(made.folder)


@NEEDS
@pytest.mark.skipif(gguf.quantizer() is None, reason="needs llama-quantize")
@pytest.mark.parametrize("kind", ["q6_k", "q4_k_m"])
def test_k_quants_are_within_what_so_many_bits_explain(small, tmp_path, kind):
    made = export(str(small), format="gguf", kind=kind, output=tmp_path / "out")
    proof = made.about["proof"]
    assert proof["kl_mean"] < proof["bound"]["mean"] <= 0.1
    assert sorted(path.name for path in made.folder.iterdir()) == ["export.json", "model.gguf"]


@NEEDS
def test_a_k_quant_without_its_tool_is_refused_first(small, tmp_path, monkeypatch):
    monkeypatch.setattr(gguf, "quantizer", lambda: None)
    with pytest.raises(UserError, match="llama-quantize is not here, which writes it"):
        export(str(small), format="gguf", kind="q4_k_m", output=tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_an_export_is_nearer_to_what_was_trained_than_the_base_whatever_its_type_explains(small):
    """Rounding to 4 bits changes so short a run more than its training did."""
    found = named(str(small))
    cases = reference_of(found).cases
    bound = bound_of(found, cases, Rounding("int4"))
    base = compared(cases, [case.start for case in cases], bound)
    assert base.kl_mean == pytest.approx(base.kl_start) and base.kl_start < bound.mean
    (said,) = base.wrong(bound)
    assert "what was learned drowns in the difference" in said
    whole = merged(found, base="dequantised", dtype=torch.float32)
    for kind, holds in (("q8_0", True), ("int4", False)):
        move(whole, Rounding(kind), seed=7)
        proof = compared(cases, [logps_of(whole, c.ids, c.answer) for c in cases], CEILING)
        assert (not proof.wrong(CEILING)) == holds


def test_what_the_memory_cannot_hold_is_refused_before_the_work(small, tmp_path, monkeypatch):
    free = types.SimpleNamespace(available=2**20)
    monkeypatch.setattr("psutil.virtual_memory", lambda: free)
    with pytest.raises(UserError, match=r"needs 0.0 GiB .* in 32 bits, and 0.0 GiB are free"):
        export(str(small), output=tmp_path / "out")
    assert not list(tmp_path.iterdir())
