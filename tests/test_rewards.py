"""Rewards by name: reading the config, the built-ins, the user's functions, reward models."""

import asyncio
import json
import math
import subprocess
import sys
from fractions import Fraction
from functools import partial
from importlib.util import find_spec

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelforge import load_config
from modelforge.config import RewardEntry
from modelforge.errors import ConfigError, ModelError
from modelforge.rewards import (
    BUILTIN,
    FROM_TRL,
    build_rewards,
    of_a_run,
    parse_rewards,
    reward_columns,
)
from modelforge.rewards.answers import extract_number, right_answers
from modelforge.rewards.callables import code_of
from modelforge.rewards.completions import completion_text


def entry(name, arguments=(), weight=1.0):
    return RewardEntry(name=name, weight=weight, arguments=dict(arguments))


def score(name, completions, *, arguments=None, **kwargs):
    [function], _ = build_rewards([entry(name, arguments or {})], tokenizer=None)
    kwargs.setdefault("completion_ids", [[0]] * len(completions))
    return function(prompts=["?"] * len(completions), completions=completions, **kwargs)


def entries(values):
    """As a config holds them: names, or entries in full form."""
    return [value if isinstance(value, str) else RewardEntry(**value) for value in values]


def problems(value, **kwargs):
    with pytest.raises(ConfigError) as error:
        parse_rewards(entries(value), where="c.json: rewards", **kwargs)
    return [str(problem) for problem in error.value.problems]


# --- numbers -------------------------------------------------------------------------------------

numbers = st.one_of(
    st.integers(-(10**12), 10**12).map(lambda n: (Fraction(n), [str(n), f"{n:,}", f"{n}.0"])),
    st.decimals(-(10**6), 10**6, places=3).map(
        lambda d: (Fraction(d), [f"{d:f}", f"{d:,f}", f"{d:f}00"])
    ),
    st.tuples(st.integers(-999, 999), st.integers(1, 999)).map(
        lambda f: (Fraction(*f), [f"{f[0]}/{f[1]}", f"\\frac{{{f[0]}}}{{{f[1]}}}"])
    ),
)
layouts = st.sampled_from(
    [
        "{}",
        "The answer is {}.",
        "First 12, then 7, so ${}$!",
        "x = {}\n",
        "3 apples and 4 pears\n#### {}",
        "#### 5\nNo, wait.\n#### {} apples, of 17",
        "so \\boxed{{{}}} as 6 of 9 said",
        "\\boxed{{1}} no: \\boxed{{\\text{{it is }}{}}}",
        "it costs ({})",
    ]
)


@given(numbers, layouts, st.data())
def test_a_number_is_found_in_every_layout(number, layout, data):
    value, forms = number
    text = layout.format(data.draw(st.sampled_from(forms)))
    assert extract_number(text) == value


@given(st.text(max_size=200))
def test_any_text_gives_a_number_or_none(text):
    value = extract_number(text)
    assert value is None or isinstance(value, Fraction)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("10-20", 20),
        ("7 - 3", 3),
        ("a total of −7", -7),
        ("-$1,250.50", Fraction("-1250.5")),
        ("12,34", 34),
        ("see Q4", None),
        ("1/0", None),
        ("50%", 50),
        ("2.5e3", 2500),
        ("1e999999999", 1),  # too large to expand: only the part before the exponent is a number
        ("\\boxed{x} = 3", None),
        ("#### none\nbut 3", 3),
        ("\\boxed{3", 3),
        ("", None),
    ],
)
def test_numbers_that_are_easily_misread(text, value):
    assert extract_number(text) == value


# --- built-ins -----------------------------------------------------------------------------------


def test_numeric_answer_compares_with_a_number_or_a_worked_solution():
    answers = [42, "6 * 7 = 42\n#### 42", "1/3", None, "no number"]
    given_ = ["It is 42.", "#### 41", "about 0.3333333", "42", "42"]
    assert score("numeric_answer", given_, answer=answers) == [1.0, 0.0, 1.0, None, None]
    loose = {"column": "truth", "tolerance": 0.1}
    assert score("numeric_answer", ["109"], truth=["100"], arguments=loose) == [1.0]


@pytest.mark.parametrize(
    ("cell", "right", "wrong"),
    [
        (["4", "four"], ["4", " four"], ["4 four", "['4', 'four']"]),
        ([4, None, "four"], ["4", "four"], ["None"]),
        (4.0, ["4"], ["4.0"]),
        (True, ["true", "True"], ["1"]),
        ({"text": ["Paris"], "answer_start": [3]}, ["Paris"], ["3"]),
        ({"value": "Paris", "aliases": ["Lutetia"]}, ["Lutetia"], ["value"]),
    ],
)
def test_any_of_several_answers_is_right(cell, right, wrong):
    for texts, wanted in ((right, 1.0), (wrong, 0.0)):
        given_ = score("exact_match", texts, answer=[cell] * len(texts))
        assert given_ == [wanted] * len(texts)
    assert score("numeric_answer", ["2", "3", "5"], answer=[["2", "x", 3]] * 3) == [1, 1, 0]


@pytest.mark.parametrize("cell", [None, [], [None], "", " ", {}, {"a": 1}, float("nan")])
def test_a_row_without_an_answer_cannot_be_scored(cell):
    assert right_answers(cell) == []
    for name in ("exact_match", "numeric_answer"):
        assert score(name, ["4"], answer=[cell]) == [None]


@pytest.mark.skipif(find_spec("math_verify") is None, reason="math_verify is not installed")
def test_accuracy_is_equality_as_mathematics():
    answers = [r"\frac{1}{2}", "x^2+1", ["7", "seven"], "1,000", "no mathematics", "3"]
    given = [r"so $\boxed{0.5}$", "$1+x^2$", "It is 7.", "1000", "4", "$4$"]
    found = score("accuracy", given, answer=answers)
    assert found == [1.0, 1.0, 1.0, 1.0, None, 0.0]
    assert score("accuracy", ["5"], arguments={"column": "solution"}, solution=["5"]) == [1.0]


@pytest.mark.skipif(find_spec("math_verify") is not None, reason="math_verify is installed")
def test_accuracy_without_its_package_names_the_install_line():
    with pytest.raises(ConfigError, match="pip install 'math-verify"):
        parse_rewards(["accuracy"], where="rewards")


def test_exact_match_of_the_whole_or_of_an_extract():
    assert score("exact_match", [" Paris\n", "paris", "Lyon"], answer=["Paris"] * 3) == [1, 0, 0]
    arguments = {"extract": r"<answer>(.*?)</answer>", "ignore_case": True, "column": "truth"}
    completions = ["<answer>Lyon</answer> <answer>PARIS</answer>", "Paris"]
    assert score("exact_match", completions, truth=["Paris"] * 2, arguments=arguments) == [1, 0]


def test_regex_searches_or_matches_the_whole():
    assert score("regex", ["a1", "b"], arguments={"pattern": r"\d"}) == [1, 0]
    assert score("regex", ["a1", "1"], arguments={"pattern": r"\d", "mode": "fullmatch"}) == [0, 1]


def test_format_wants_each_tag_once_in_order_and_nothing_else():
    good = "<think>a\nb</think>\n<answer>c</answer>\n"
    bad = [
        good + "more",
        "<answer>c</answer><think>a</think>",
        "<think>a</think><think>b</think><answer>c</answer>",
        "<think>a<answer>c</answer>",
    ]
    assert score("format", [good, *bad]) == [1, 0, 0, 0, 0]
    assert score("format", ["<plan>x</plan>"], arguments={"tags": ["plan"]}) == [1]


def test_length_falls_off_linearly():
    texts = ["", "a" * 5, "a" * 10, "a" * 15, "a" * 25]
    assert score("length", texts, completion_ids=[[0] * len(t) for t in texts],
                 arguments={"target": 10}) == [0, 0.5, 1, 0.5, 0]  # fmt: skip
    arguments = {"min": 5, "max": 10, "softness": 5, "unit": "characters"}
    assert score("length", texts, completion_ids=[[]] * 5, arguments=arguments) == [0, 1, 1, 0, 0]


@given(st.integers(0, 300), st.integers(0, 100), st.integers(0, 100))
def test_length_is_full_inside_and_never_negative(n, low, span):
    arguments = {"min": low, "max": low + span}
    [value] = score("length", [""], completion_ids=[[0] * n], arguments=arguments)
    assert 0 <= value <= 1 and (value == 1) == (low <= n <= low + span)


def test_json_validity_with_a_fence_and_a_schema():
    texts = ['{"a": 1}', '```json\n{"a": "x"}\n```', "{'a': 1}", "[" * 100_000]
    assert score("json_validity", texts) == [1, 1, 0, 0]
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    assert score("json_validity", texts, arguments={"schema": schema}) == [1, 0, 0, 0]


def test_keyword_any_all_none_as_whole_words():
    texts = ["Red and blue", "reddish", "red"]
    for mode, expected in {"any": [1, 0, 1], "all": [1, 0, 0], "none": [0, 1, 0]}.items():
        arguments = {"keywords": ["red", "blue"], "mode": mode}
        assert score("keyword", texts, arguments=arguments) == expected


def test_conversational_completions_and_what_trl_adds_are_understood():
    completions = [[{"role": "assistant", "content": "so 42"}]]
    columns = {"answer": ["42"], "trainer_state": object(), "log_extra": print}
    assert score("numeric_answer", completions, completion_ids=[[1, 2]], **columns) == [1.0]
    parts = [{"role": "assistant", "content": [{"type": "text", "text": "a"}, {"type": "image"}]}]
    assert completion_text(parts) == "a"


# --- the config ----------------------------------------------------------------------------------


def test_names_weights_and_arguments_are_read():
    specs = parse_rewards(["exact_match", entry(" regex ", {"pattern": "a"}, 2)], where="rewards")
    assert specs == [entry("exact_match"), entry("regex", {"pattern": "a"}, 2.0)]
    functions, weights = build_rewards([*specs, specs[0]], tokenizer=None)
    assert [f.__name__ for f in functions] == ["exact_match", "regex", "exact_match_2"]
    assert weights == [1.0, 2.0, 1.0]


def test_every_problem_is_named_at_once(tmp_path):
    (tmp_path / "r.py").write_text("def good(completions, **kwargs): ...\ndef bare(x): ...\n")
    (tmp_path / "broken.py").write_text("def (")
    (tmp_path / "empty").mkdir()
    (tmp_path / "labels").mkdir()
    shape = {"architectures": ["LlamaForSequenceClassification"], "id2label": {"0": "a", "1": "b"}}
    (tmp_path / "labels" / "config.json").write_text(json.dumps(shape))
    wrong = [
        "exact_mach",
        {"name": "regex"},
        {"name": "regex", "arguments": {"pattern": "("}},
        {"name": "numeric_answer", "arguments": {"tolerence": 1}},
        {"name": "numeric_answer", "arguments": {"tolerance": "small"}},
        {"name": "regex", "arguments": {"pattern": "a", "mode": "match"}},
        {"name": "length", "arguments": {"min": 5, "max": 2}},
        "r.py:goood",
        "r.py:bare",
        "missing.py:f",
        "broken.py:f",
        "empty",
        "labels",
        "no/such/folder",
        {"name": "org/reward-model", "arguments": {"batchsize": 1}},
    ]
    text = "\n".join(problems(wrong, base_dir=tmp_path))
    for i in range(len(wrong)):
        assert f"rewards[{i}]" in text, f"{wrong[i]} passed unnoticed"
    for part in ("did you mean 'exact_match'", "needs 'pattern'", "not a regular expression",
                 "did you mean 'tolerance'", "valid number, not 'small'", "'search' or 'fullmatch'",
                 "min at most max", "did you mean 'good'", "must take **kwargs", "no such file",
                 "is not Python", "holds no model", "no such folder", "gives 2 labels",
                 "did you mean 'batch_size'"):  # fmt: skip
        assert part in text


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "set a list that is not empty"),
        ("exact_match", 'set ["exact_match"]'),
        ({"name": "exact_match"}, "set a list that is not empty"),
        ([7], "rewards[0]"),
        ([{"weight": 1}], "rewards[0].name"),
        ([{"name": "regex", "wieght": 1}], "did you mean 'weight'"),
        ([{"name": "regex", "weight": "much"}], "rewards[0].weight"),
        ([{"name": "regex", "weight": math.inf}], "rewards[0].weight"),
        ([{"name": "regex", "arguments": [1]}], "rewards[0].arguments"),
    ],
)
def test_what_is_no_list_of_rewards_is_refused_by_its_type(value, message):
    with pytest.raises(ConfigError) as error:
        load_config({"strategy": "grpo", "model_name": "m", "dataset": "d.jsonl", "rewards": value})
    assert message in str(error.value)


def test_a_reward_that_weighs_nothing_is_refused():
    assert "all weights are 0" in problems([{"name": "exact_match", "weight": 0}])[0]


def test_columns_come_from_arguments_and_signatures(tmp_path):
    (tmp_path / "r.py").write_text(
        "async def f(prompts, completions, answer, level=1, *, unit, bonus, **kwargs): ...\n"
    )
    given_ = [
        "exact_match",
        {"name": "numeric_answer", "arguments": {"column": "truth"}},
        {"name": "regex", "arguments": {"pattern": "a"}},
        {"name": "r.py:f", "arguments": {"bonus": 1}},
        "org/reward-model",
    ]
    specs = parse_rewards(entries(given_), where="rewards", base_dir=tmp_path)
    assert reward_columns(specs, base_dir=tmp_path) == {"answer", "truth", "unit"}
    only_file = [spec for spec in specs if spec.name == "r.py:f"]
    assert reward_columns(only_file, base_dir=tmp_path) == {"answer", "unit"}


def test_checking_loads_no_ml_library(tmp_path):
    (tmp_path / "r.py").write_text("import torch\ndef f(completions, **kwargs): ...\n")
    code = (
        "import sys, pathlib, modelforge.rewards as r\n"
        f"base = pathlib.Path({str(tmp_path)!r})\n"
        "specs = r.parse_rewards(list(['r.py:f', 'exact_match']), where='x', base_dir=base)\n"
        "r.reward_columns(specs, base_dir=base); r.describe()\n"
        "assert not {'torch', 'transformers', 'trl'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_each_builtin_has_a_line_of_its_own():
    from modelforge.rewards import describe

    assert describe().keys() == BUILTIN.keys()
    assert all(len(line) > 20 for line in describe().values())


# --- the user's own functions --------------------------------------------------------------------


def user_function(tmp_path, body, arguments=None):
    path = tmp_path / f"r{abs(hash(body))}.py"
    path.write_text(body)
    specs = parse_rewards([entry(f"{path.name}:f", arguments or {})], where="r", base_dir=tmp_path)
    [function], _ = build_rewards(specs, tokenizer=None, base_dir=tmp_path)
    return function


def test_a_function_is_called_as_trl_calls_it(tmp_path):
    (tmp_path / "helper_of_reward.py").write_text("def half(x): return x / 2\n")
    body = (
        "from helper_of_reward import half\n"
        "def f(prompts, completions, completion_ids, answer, scale=1, **kwargs):\n"
        "    return [half(scale * len(c + a)) for c, a in zip(completions, answer)]\n"
    )
    function = user_function(tmp_path, body, {"scale": 2})
    got = function(prompts=["", ""], completions=["a", "bc"], completion_ids=[], answer=["x", "y"])
    assert got == [2.0, 3.0] and function.__name__ == "f"


def test_an_async_function_stays_async(tmp_path):
    function = user_function(
        tmp_path, "async def f(completions, **kw): return [1 for _ in completions]"
    )
    assert asyncio.iscoroutinefunction(function)
    assert asyncio.run(function(prompts=[""], completions=["a"])) == [1.0]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return [1.0]", "returned 1 values for 2 completions"),
        ("return 3", "returned int, not a list"),
        ("return {0: 1.0, 1: 2.0}", "returned dict, not a list"),
        ("return '12'", "returned str, not a list"),
        ("return ['a', 1]", "value 0 is 'a', not a number"),
        ("return [1, float('inf')]", "value 1 is not finite"),
    ],
)
def test_a_wrong_answer_names_the_function(tmp_path, body, message):
    function = user_function(tmp_path, f"def f(completions, **kwargs):\n    {body}\n")
    with pytest.raises(ConfigError, match=message) as error:
        function(prompts=["", ""], completions=["a", "b"])
    assert ":f" in str(error.value)


def test_none_and_nan_leave_a_row_out_and_tensors_count_as_numbers(tmp_path):
    body = "import torch\ndef f(completions, **kw): return torch.tensor([1.5, float('nan')])\n"
    assert user_function(tmp_path, body)(prompts=["", ""], completions=["", ""]) == [1.5, None]


def test_what_the_file_raises_keeps_its_traceback(tmp_path):
    with pytest.raises(ZeroDivisionError) as error:
        user_function(tmp_path, "def f(completions, **kwargs): ...\n1 / 0\n")
    assert error.traceback[-1].path.name.startswith("r")


# --- reward models -------------------------------------------------------------------------------

TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|> {{ m['content'] }}"
    "{% if m['role'] == 'assistant' %}</s>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|> {% endif %}"
)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A tiny causal base, a full reward model and a reward adapter, with a tokenizer each."""
    import torch
    from peft import LoraConfig, get_peft_model
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        AutoModelForSequenceClassification,
        LlamaConfig,
        LlamaForCausalLM,
        PreTrainedTokenizerFast,
    )

    root = tmp_path_factory.mktemp("models")
    names = ["<pad>", "<unk>", "<s>", "</s>", "<|user|>", "<|assistant|>"]
    words = [*names, "red", "green", "blue", "cat", "dog", "sun"]
    raw = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", unk_token="<unk>", bos_token="<s>",
        eos_token="</s>", additional_special_tokens=["<|user|>", "<|assistant|>"],
        padding_side="left",
    )  # fmt: skip
    tokenizer.chat_template = TEMPLATE
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(words), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, initializer_range=0.2, pad_token_id=0,
        bos_token_id=2, eos_token_id=3,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(root / "base")
    full = AutoModelForSequenceClassification.from_pretrained(root / "base", num_labels=1)
    full.save_pretrained(root / "full")
    lora = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False,
                      task_type="SEQ_CLS", modules_to_save=["score"])  # fmt: skip
    get_peft_model(full, lora).save_pretrained(root / "run" / "model")
    for folder in ("base", "full", "run/model"):
        tokenizer.save_pretrained(root / folder)
    return root


CHATS = [
    ([{"role": "user", "content": u}], [{"role": "assistant", "content": a}])
    for u, a in [("red", "cat dog sun blue"), ("green blue red cat", "dog"), ("sun", "")]
]


def scores_by_hand(folder, texts):
    """One text at a time, so that no padding takes part."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    if (folder / "adapter_config.json").exists():
        base = AutoModelForSequenceClassification.from_pretrained(
            folder.parent.parent / "base", num_labels=1
        )
        model = PeftModel.from_pretrained(base, folder).eval()
    else:
        model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    model.config.pad_token_id = tokenizer.pad_token_id
    with torch.no_grad():
        return [
            model(**tokenizer(text, return_tensors="pt", add_special_tokens=False)).logits.item()
            for text in texts
        ]


@pytest.mark.parametrize("name", ["full", "run", "run/model"])
def test_a_reward_model_scores_as_loaded_by_hand(models, name):
    specs = parse_rewards([name], where="rewards", base_dir=models)
    [function], _ = build_rewards(specs, tokenizer=None, base_dir=models, device="cpu")
    prompts, completions = zip(*CHATS, strict=True)
    got = function(prompts=list(prompts), completions=list(completions), answer=[1, 2, 3])
    texts = [f"<|user|> {p[0]['content']}<|assistant|> {c[0]['content']}</s>" for p, c in CHATS]
    wanted = scores_by_hand(models / ("full" if name == "full" else "run/model"), texts)
    assert all(math.isclose(a, b, abs_tol=1e-5) for a, b in zip(got, wanted, strict=True))
    assert len({round(x, 4) for x in got}) == 3
    assert function.__name__ == ("full" if name == "full" else "run")


def test_plain_text_gets_its_eos(models):
    [function], _ = build_rewards(
        [entry("full", {"batch_size": 1})], tokenizer=None, base_dir=models, device="cpu"
    )
    got = function(prompts=["red ", "sun "], completions=["cat", "dog dog </s>"])
    wanted = scores_by_hand(models / "full", ["red cat </s>", "sun dog dog </s>"])
    assert all(math.isclose(a, b, abs_tol=1e-5) for a, b in zip(got, wanted, strict=True))


def test_max_length_keeps_the_end(models):
    specs = [entry("full", {"max_length": 2}), entry("full")]
    (short, whole), _ = build_rewards(specs, tokenizer=None, base_dir=models, device="cpu")
    text = {"prompts": ["red green "], "completions": ["cat dog"]}
    assert short(**text) != whole(**text)
    assert short(**text) == pytest.approx(scores_by_hand(models / "full", ["dog </s>"]), abs=1e-5)


def test_a_missing_head_is_never_random(models, tmp_path):
    import shutil

    import torch
    from safetensors.torch import load_file, save_file

    for name, part in {"full": "model", "run/model": "adapter_model"}.items():
        folder = tmp_path / name
        shutil.copytree(models / name, folder)
        file = folder / f"{part}.safetensors"
        weights = {key: value for key, value in load_file(file).items() if "score" not in key}
        save_file(weights, file, metadata={"format": "pt"})
        with pytest.raises(ModelError, match="random weights"):
            build_rewards([entry(name)], tokenizer=None, base_dir=tmp_path, device="cpu")
    assert "score head" in problems(["run/model"], base_dir=tmp_path)[0]
    assert "not a reward model" in problems(["base"], base_dir=models)[0]
    assert torch.is_tensor(load_file(models / "full" / "model.safetensors")["score.weight"])


def test_a_reward_model_without_a_chat_template_refuses_conversations(models, tmp_path):
    import shutil

    shutil.copytree(models / "full", tmp_path / "full")
    (tmp_path / "full" / "chat_template.jinja").unlink()
    [function], _ = build_rewards([entry("full")], tokenizer=None, base_dir=tmp_path, device="cpu")
    with pytest.raises(ModelError, match="no chat template"):
        function(prompts=[CHATS[0][0]], completions=[CHATS[0][1]])


def test_an_adapter_of_another_task_is_refused(models, tmp_path):
    import shutil

    shutil.copytree(models / "run", tmp_path / "run")
    path = tmp_path / "run" / "model" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"task_type": "CAUSAL_LM"}))
    assert "adapter of CAUSAL_LM" in problems(["run"], base_dir=tmp_path)[0]


# --- TRL's own functions, and functions of installed modules --------------------------------------


def test_the_table_of_trls_rewards_is_what_the_installed_trl_has():
    import inspect

    import trl.rewards

    theirs = {n: getattr(trl.rewards, n) for n in trl.rewards.__all__}
    theirs = {name: function for name, function in theirs.items() if callable(function)}
    assert theirs.keys() == FROM_TRL.keys() and not FROM_TRL.keys() & BUILTIN.keys()
    handed = {"completions", "completion_ids", "log_extra", "kwargs"}
    for name, ours in FROM_TRL.items():
        known = {n: p.default for n, p in inspect.signature(theirs[name]).parameters.items()}
        assert set(ours.columns) <= known.keys() | {"solution"}
        wanted = {n: d for n, d in known.items() if n not in handed | set(ours.columns)}
        took = inspect.signature(ours.arguments).parameters
        assert {n: p.default for n, p in took.items()} == wanted, name


def test_trls_rewards_run_on_text_and_on_conversations():
    good, bad = "<think>\nso\n</think>\n4", "<think>\nso 4"
    chats = [[{"role": "assistant", "content": text}] for text in (good, bad)]
    for completions in ([good, bad], chats):
        assert score("think_format_reward", completions) == [1.0, 0.0]
    arguments = {"max_completion_len": 10, "soft_punish_cache": 4}
    ids = [[1] * n for n in (6, 8, 11)]
    name = "get_soft_overlong_punishment"
    got = score(name, ["a", "b", "c"], completion_ids=ids, arguments=arguments)
    assert got == [0.0, -0.5, -1.0]
    got = score("get_repetition_penalty_reward", ["a"], completion_ids=[[5] * 5],
                arguments={"ngram_size": 2})  # fmt: skip
    assert got == [-0.75]


def test_trls_rewards_are_checked_without_trl(tmp_path):
    wrong = [
        "think_format_rewar",
        "get_soft_overlong_punishment",
        {"name": "get_soft_overlong_punishment",
         "arguments": {"max_completion_len": 2, "soft_punish_cache": 4}},
        {"name": "get_repetition_penalty_reward", "arguments": {"ngram_sise": 2}},
        {"name": "think_format_reward", "arguments": {"tags": []}},
    ]  # fmt: skip
    text = problems(wrong, base_dir=tmp_path)
    assert all(any(f"rewards[{i}]" in line for line in text) for i in range(len(wrong)))
    for part in ("did you mean 'think_format_reward'", "needs 'max_completion_len'",
                 "from 0 to max_completion_len", "did you mean 'ngram_size'",
                 "has no such argument"):  # fmt: skip
        assert part in "\n".join(text)
    assert reward_columns([entry("accuracy_reward")]) == {"solution"}


@pytest.mark.skipif(find_spec("math_verify") is not None, reason="math_verify is installed")
@pytest.mark.parametrize("name", [n for n, r in FROM_TRL.items() if r.package])
def test_a_reward_whose_package_is_missing_names_the_install_line(name):
    arguments = {"max_len": 9} if name == "get_cosine_scaled_reward" else {}
    [problem] = problems([{"name": name, "arguments": arguments}])
    assert "needs the package math_verify" in problem
    assert problem.endswith("pip install math-verify")


@pytest.mark.skipif(find_spec("math_verify") is None, reason="math_verify is not installed")
def test_trls_accuracy_reward_compares_mathematics():
    answers = [r"It is \boxed{\frac{2}{6}}", r"It is \boxed{\frac{1}{2}}"]
    assert score("accuracy_reward", answers, solution=[r"\frac{1}{3}"] * 2) == [1.0, 0.0]


def test_a_function_of_an_installed_module_is_read_when_checked_and_run_when_built(
    tmp_path, monkeypatch, capsys
):
    package = tmp_path / "my_rewards_package"
    (package / "inner").mkdir(parents=True)
    mark = f"import pathlib\npathlib.Path({str(tmp_path / 'mark')!r}).touch()\n"
    (package / "__init__.py").write_text(mark)
    (package / "inner" / "__init__.py").write_text("")
    body = "def score(completions, truth, **kw): return [float(t) for t in truth]\n"
    (package / "inner" / "rewards.py").write_text(body + "def bare(x): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    module = "my_rewards_package.inner.rewards"
    wrong = ["my_reward_package:score", "my_rewards_package.outer:score", f"{module}:scor",
             f"{module}:bare", "sys:exit", "__main__:f"]  # fmt: skip
    text = problems(wrong)
    assert len(text) == len(wrong)
    for line, part in zip(text, ["no installed module 'my_reward_package'", "no installed module",
                                 "did you mean 'score'", "must take **kwargs"],
                          strict=False):  # fmt: skip
        assert part in line
    specs = parse_rewards([f"{module}:score"], where="r")
    assert reward_columns(specs) == {"truth"}
    assert not (tmp_path / "mark").exists() and "my_rewards_package" not in sys.modules
    [function], _ = build_rewards(specs, tokenizer=None)
    assert (tmp_path / "mark").exists()
    assert f"running {package / 'inner' / 'rewards.py'} for 'score'" in capsys.readouterr().err
    assert function(prompts=[""], completions=["a"], truth=["2"]) == [2.0]


# --- anything that can be called ----------------------------------------------------------------


class Counting:
    def __init__(self, sign):
        self.sign = sign

    def __call__(self, completions, **kwargs):
        return [float(c.count(self.sign)) for c in completions]


class Later(Counting):
    async def __call__(self, completions, **kwargs):
        return super().__call__(completions)


def shouts(completions, sign="!", **kwargs):
    return [float(c.count(sign)) for c in completions]


@pytest.mark.parametrize(
    ("body", "name"),
    [
        ("from functools import partial\ndef g(completions, sign, **kw):\n"
         "    return [c.count(sign) for c in completions]\nf = partial(g, sign='!')", "f"),
        ("class C:\n    def __call__(self, completions, **kw):\n"
         "        return [c.count('!') for c in completions]\nf = C()", "f"),
        ("class C:\n    async def __call__(self, completions, **kw):\n"
         "        return [c.count('!') for c in completions]\nf = C()", "f"),
        ("f = lambda completions, **kw: [c.count('!') for c in completions]", "f"),
    ],
)  # fmt: skip
def test_a_file_may_name_anything_that_can_be_called(tmp_path, body, name):
    function = user_function(tmp_path, body)
    answers = function(prompts=[""], completions=["a!!"])
    answers = asyncio.run(answers) if asyncio.iscoroutine(answers) else answers
    assert answers == [2.0] and function.__name__ == name


def test_a_class_is_no_reward_but_an_object_of_it_is(tmp_path):
    with pytest.raises(ConfigError, match=r"is a class.*reward = f\(\)"):
        user_function(tmp_path, "class f:\n    def __call__(self, **kw): ...")


def test_rewards_in_code_have_a_name_of_their_own_in_every_path():
    config = load_config(
        {"strategy": "ppo", "model_name": "m", "dataset": "d.jsonl",
         "rewards": [{"name": "length", "arguments": {"target": 3}}] * 2}
    )  # fmt: skip

    def length(completions, **kwargs):
        return [1.0 for _ in completions]

    def judge(completions, **kwargs):
        return [2.0 for _ in completions]

    given = [length, partial(shouts, sign="?"), partial(shouts), Counting("a"), Later("b"), judge]
    weighted = [(function, 0.5) for function in given]
    expected = ["length", "length_2", "length_3", "shouts", "shouts_2", "Counting", "Later",
                "judge_function"]  # fmt: skip
    assert [name for name, _ in of_a_run.names(config, weighted)] == expected
    made = of_a_run.build(
        config, weighted, tokenizer=None, policy=None, adapted=False, device="cpu", batch_size=1
    )
    assert [function.__name__ for function, _ in made] == expected
    assert made[3][0](prompts=["", ""], completions=["a?", "!"]) == [1.0, 0.0]
    assert asyncio.run(made[6][0](prompts=[""], completions=["bb"])) == [2.0]
    assert length.__name__ == "length"  # the user's own is left as it is
    with pytest.raises(ConfigError, match="all weights are 0"):
        of_a_run.build(
            load_config({"strategy": "ppo", "model_name": "m", "dataset": "d.jsonl"}),
            [(shouts, 0)], tokenizer=None, policy=None, adapted=False, device="cpu", batch_size=1,
        )  # fmt: skip


def test_the_code_of_a_reward_tells_what_it_was_made_with():
    def scaled(by):
        return lambda completions, **kwargs: [by for _ in completions]

    pairs = [
        (partial(shouts, sign="?"), partial(shouts, sign="!")),
        (Counting("a"), Counting("b")),
        (scaled(1), scaled(2)),
        (Counting("a").__call__, Counting("b").__call__),
    ]
    for one, other in pairs:
        assert code_of(one) == code_of(one) != code_of(other)
    assert code_of(scaled(1)) == code_of(scaled(1))
