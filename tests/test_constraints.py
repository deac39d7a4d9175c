"""Constraints: read, refused, and held to whatever pieces an answer comes in."""

import json
import re
import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from modelforge import ConfigError, load_config
from modelforge.constraints.principles import read_principles
from modelforge.constraints.rules import width
from modelforge.rewards import build_rewards
from modelforge.rewards.of_a_run import parse
from modelforge.safety import Constraints

CAKE = {"name": "no cake", "banned": ["cake"]}


def held(entries, pieces, prompt="?"):
    """What is shown of an answer that comes in these pieces."""
    answer = Constraints(entries).hold(prompt)
    shown = [answer.feed(piece) for piece in pieces]
    return "".join([*shown, answer.close()]), answer


def problem(entries, **values):
    with pytest.raises(ConfigError) as caught:
        Constraints(entries, **values)
    return "\n".join(map(str, caught.value.problems))


# --- what is wrong with them ----------------------------------------------------------------------


@pytest.mark.parametrize(("entry", "said"), [
    ({"nme": "a", "banned": ["x"]}, "constraints[0].nme: is no key of a constraint → did you mean"),
    ({"banned": ["x"]}, "constraints[0].name: is missing"),
    ({"name": "a"}, "constraints[0]: says no rule → add one of banned"),
    ({"name": "a", "banned": []}, "constraints[0].banned: is []"),
    ({"name": "a", "banned": [""]}, "constraints[0].banned.0: is ''"),
    ({"name": "a", "banned": ["x"], "max_words": 3}, "holds banned and max_words"),
    ({"name": "a", "banned": ["x"], "action": "blok"}, "did you mean 'block'?"),
    ({"name": "a", "banned": ["x"], "on": "ouput"}, "did you mean 'output'?"),
    ({"name": "a", "pattern": "(x"}, "constraints[0].pattern: '(x' is not a regular expression"),
    ({"name": "a", "required_pattern": "["}, "constraints[0].required_pattern: '['"),
    ({"name": "a", "pattern": "x*"}, "can match without a character"),
    ({"name": "a", "pattern": r"\b"}, "can match without a character"),
    ({"name": "a", "scripts": ["Latinn"]}, "'Latinn' is no script"),
    ({"name": "a", "max_words": -1}, "constraints[0].max_words: is -1"),
    ({"name": "a", "max_words": 3, "ignore_case": True}, "ignore_case: has no effect on max_words"),
    ({"name": "a", "pattern": "x", "whole_words": True}, "whole_words: has no effect on pattern"),
    ({"name": "a", "banned": ["x"], "replacement": "y"}, "replacement: has no effect"),
    ({"name": "a", "banned": ["x"], "message": "no"}, "message: has no effect"),
    ({"name": "a", "min_words": 3, "action": "rewrite"}, "min_words points at no place"),
    ({"name": "a", "banned": ["x"], "action": "rewrite", "replacement": "axe"},
     "replacement: holds 'x' → say it otherwise: 'a' takes that out"),
    ({"name": "a", "banned": ["cannot"], "on": "both"}, "[0].message: holds 'cannot' → say it oth"),
    ({"name": "a", "classifier": "./none"}, "no such folder: ./none"),
    ({"name": "a", "classifier": "org/c", "question": "?"}, "no effect on classifier"),
    ({"name": "a", "judge": "org/j"}, "constraints[0].question: is missing"),
    ({"name": "a", "judge": "http://h", "question": "?"}, "judge_model: is missing"),
    ({"name": "a", "judge": "org/j", "question": "?", "judge_model": "m"}, "has no effect"),
    ({"name": "a", "banned": ["x"], "threshold": 0.5}, "threshold: has no effect on banned"),
    ({"name": "a", "classifier": "org/c", "threshold": 0}, "threshold: is 0"),
    ({"name": "a", "critique": "?", "revision": "!", "banned": ["x"]}, "no effect in a config"),
    (7, "constraints[0]: is no object"),
])  # fmt: skip
def test_what_cannot_hold_is_refused_with_its_key(entry, said):
    assert said in problem([entry])


def test_all_problems_come_at_once_and_names_stand_once():
    told = problem([CAKE, CAKE, {"name": "b", "pattern": "("}])
    assert "[1].name: 'no cake' stands twice" in told and "[2].pattern" in told


def test_a_config_holds_a_list_or_names_a_file(tmp_path):
    base = {"strategy": "sft", "model_name": "m", "dataset": "d.jsonl"}
    file = tmp_path / "rules.json"
    file.write_text(json.dumps([CAKE]))
    for said in ([CAKE], str(file)):
        assert load_config(base | {"constraints": said}).settings.constraints is not None
    file.write_text(json.dumps([CAKE | {"name": "b"}, {"name": "a", "pattern": "("}]))
    for wrong, said in (
        ([{"name": "a", "pattern": "("}], "config: constraints[0].pattern: '('"),
        ([{"name": "a", "baned": ["x"]}], "did you mean 'banned'?"),
        ([{"name": "a", "banned": ["x"], "action": "stop"}], "constraints[0].action"),
        ([], "constraints: is []"),
        ("no.json", "there is no file no.json"),
        (str(file), f"{file}[1].pattern: '(' is not"),
    ):
        with pytest.raises(ConfigError) as caught:
            load_config(base | {"constraints": wrong})
        assert said in str(caught.value), wrong


def test_principles_and_constraints_share_a_file(tmp_path):
    file = tmp_path / "principles.json"
    asks = {"critique": "What is rude?", "revision": "Be kind."}
    dear = {"name": "dear", "required": ["dear"], **asks}
    file.write_text(json.dumps([CAKE, {"name": "kind", **asks}, dear]))
    assert [each.name for each in read_principles(file)] == ["kind", "dear"]
    found = Constraints(file)
    assert [v.constraint for v in found.check("?", "cake")] == ["no cake", "dear"]
    file.write_text(json.dumps([CAKE]))
    with pytest.raises(ConfigError, match="no principle with critique and revision"):
        read_principles(file)
    file.write_text(json.dumps([{"name": "kind", "critique": "?"}]))
    assert ".revision: is missing" in problem(file)


# --- as a reward ----------------------------------------------------------------------------------


def rewarded(rewards, **keys):
    base = {"strategy": "grpo", "model_name": "m", "dataset": "d.jsonl", "rewards": rewards}
    return parse(load_config(base | keys))["rewards"]


def test_a_reward_counts_the_configs_constraints_or_its_own(tmp_path):
    own = {"name": "constraints", "weight": 0.5, "arguments": {"constraints": [CAKE]}}
    file = tmp_path / "rules.json"
    file.write_text(json.dumps([CAKE, {"name": "short", "max_words": 1, "action": "log"}]))
    for rewards, constraints, expected in (
        (["constraints"], [CAKE], -1),
        ([own], None, -1),
        ([own], [CAKE | {"name": "b"}, {"name": "c", "banned": ["a"]}], -1),
        (["constraints"], str(file), -2),
    ):
        keys = {} if constraints is None else {"constraints": constraints}
        (reward,), _ = build_rewards(rewarded(rewards, **keys), tokenizer=None)
        assert reward.__name__ == "constraints"
        said = [[{"role": "assistant", "content": text}] for text in ("a cake", "tea")]
        assert reward(prompts=["?", "?"], completions=said) == [expected, 0]


@pytest.mark.parametrize(("rewards", "keys", "said"), [
    (["constraints"], {}, "there are none → add constraints"),
    (["constraints"], {"constraints": [CAKE | {"on": "input"}]}, "all constraints are on prompts"),
    (["constraint"], {"constraints": [CAKE]}, "did you mean 'constraints'?"),
    ([{"name": "constraints", "arguments": {"rules": []}}], {"constraints": [CAKE]}, "no such arg"),
    ([{"name": "constraints", "arguments": {"constraints": [{"name": "a"}]}}], {}, "says no rule"),
])  # fmt: skip
def test_a_reward_that_counts_nothing_is_refused(rewards, keys, said):
    with pytest.raises(ConfigError) as caught:
        rewarded(rewards, **keys)
    assert said in str(caught.value)


# --- what they find -------------------------------------------------------------------------------


@pytest.mark.parametrize(("rule", "good", "bad"), [
    ({"banned": ["cake", "Tea"]}, "coffee", "some TEA"),
    ({"banned": ["cake"], "ignore_case": False}, "Cake", "cake"),
    ({"banned": ["cake"], "whole_words": True}, "cupcakes", "a cake."),
    ({"banned": ["ΣΑΣ"]}, "σα", "x σας"),
    ({"banned": ["cafe", "क"], "whole_words": True}, "cafe\u0301 का", "cafe"),
    ({"banned": ["a.b+ #{e<=1}"], "whole_words": True}, "axb #", "a.b+ #{E<=1}"),
    ({"required": ["please", "sir"]}, "Please, Sir", "please"),
    ({"pattern": r"\d{3}-\d{4}"}, "555-12", "call 555-1234"),
    ({"pattern": "cake", "ignore_case": True}, "tea", "CAKE"),
    ({"required_pattern": r"^\w+ing\b"}, "Baking is fun", "I bake"),
    ({"max_words": 2}, "two words ", "two words and"),
    ({"min_words": 2}, "two words", "one"),
    ({"max_characters": 3}, "abc", "abcd"),
    ({"min_characters": 3}, "abc", "ab"),
    ({"scripts": ["Latin"]}, "naïve café, 12 €", "an Привет"),
])  # fmt: skip
def test_each_rule_finds_what_breaks_it(rule, good, bad):
    found = Constraints([{"name": "a", **rule}])
    assert found.check("?", good) == []
    (violation,) = found.check("?", bad)
    assert (violation.constraint, violation.side, violation.action) == ("a", "output", "block")
    assert violation.what


@given(st.lists(st.sampled_from(["gâteau", "straße", "ế", "Ǆ", "σς"]), min_size=1, max_size=2),
       st.sampled_from(["NFC", "NFD"]), st.sampled_from(["NFC", "NFD"]), st.booleans(),
       st.integers(1, 5))  # fmt: skip
@settings(max_examples=40)
def test_a_text_is_banned_in_either_form_of_unicode(texts, form, other, whole, size):
    banned = [unicodedata.normalize(form, text) for text in texts]
    said = unicodedata.normalize(other, f"so {texts[-1].replace('ß', 'ẞ')} was {texts[0]}.")
    pieces = [said[i : i + size] for i in range(0, len(said), size)]
    assert held([CAKE | {"banned": banned, "whole_words": whole}], pieces)[0] == "so "
    found = Constraints([{"name": "a", "required": banned}])
    assert found.check("?", said) == [] and found.check("?", "so")


def test_prompts_are_held_too_and_messages_are_read():
    found = Constraints([CAKE | {"on": "both"}, {"name": "short", "on": "input", "max_words": 3}])
    chat = [{"role": "user", "content": "A cake for all of us"},
            {"role": "assistant", "content": "cake"},
            {"role": "user", "content": [{"type": "text", "text": "Yes?"}]}]  # fmt: skip
    told = found.check(chat, [{"role": "assistant", "content": "Cake!"}])
    assert [(v.constraint, v.side) for v in told] == [
        ("no cake", "input"), ("short", "input"), ("no cake", "output")]  # fmt: skip
    assert found.ask("tea").blocked is None and found.ask(chat).blocked.entry.name == "no cake"
    swap = Constraints([{**CAKE, "on": "input", "action": "rewrite", "replacement": "pie"}])
    asked = swap.ask(chat)
    assert asked.prompt[0]["content"] == "A pie for all of us" and asked.blocked is None
    assert asked.prompt[1:] == [chat[1], {"role": "user", "content": chat[2]["content"]}]
    assert [v.constraint for v in asked.violations] == ["no cake"]


def test_a_pattern_that_takes_for_ever_is_stopped_and_counts(monkeypatch):
    monkeypatch.setattr("modelforge.constraints.rules.SECONDS", 0.05)
    slow = Constraints([{"name": "slow", "pattern": r"(?:x|xx|x?y?x)+(?<=z)$"}])
    assert slow.check("?", "x" * 60 + "!")


# --- held while it is written ---------------------------------------------------------------------


def test_each_action_does_what_it_says():
    say = "I like cake a lot"
    pieces = re.findall("..?", say)
    shown, answer = held([CAKE], pieces)
    assert shown == "I like " and answer.blocked.entry.name == "no cake"
    shown, answer = held([CAKE | {"action": "rewrite", "replacement": "pie"}], pieces)
    assert shown == "I like pie a lot" and answer.blocked is None
    for action in ("warn", "log"):
        found = Constraints([CAKE | {"action": action}])
        answer = found.hold("?")
        assert [answer.feed(piece) for piece in pieces] == pieces and answer.close() == ""
        assert [v.action for v in found.violations(answer)] == [action]
    shown, answer = held([{"name": "a", "required": ["please"], "message": "No."}], pieces)
    assert shown == "No." and answer.blocked
    assert held([{"name": "a", "max_words": 2}], pieces)[0] == "I like "
    assert held([{"name": "a", "max_words": 2, "action": "rewrite"}], pieces)[0] == "I like "
    assert held([{"name": "a", "scripts": ["Latin"], "action": "rewrite"}], "aб!")[0] == "a?!"


def test_what_a_rewrite_would_put_together_ends_the_answer():
    away = CAKE | {"action": "rewrite", "replacement": "-"}
    assert held([away | {"banned": ["a-b", "axb"], "replacement": "b"}], "aaxbb")[0] == "abb"
    cut = {"name": "x", "banned": ["x"], "action": "rewrite", "replacement": ""}
    shown, answer = held([cut, CAKE], "a caxke")
    assert shown == "a " and answer.blocked.entry.name == "no cake"
    shown, answer = held([away | {"replacement": ""}], "cacakeke!")
    assert "cake" not in shown and answer.blocked


RULES = st.one_of(
    st.fixed_dictionaries({"banned": st.lists(st.text("abA ", min_size=1, max_size=4), min_size=1,
                                              max_size=3), "whole_words": st.booleans()}),
    st.sampled_from(["ab", "a+b", "a.b", r"\bab\b", "a(?!b)", "b$", "(?:ab)+", "[ab]{2,3}a", "^a",
                     r"(a)b\1", "(?<=b)aa", r"a\B"]).map(lambda p: {"pattern": p}),
    st.integers(0, 6).map(lambda n: {"max_words": n}),
    st.integers(0, 6).map(lambda n: {"max_characters": n}),
    st.text("abé", min_size=1, max_size=3).map(lambda t: {"required": [t], "message": "-"}),
)  # fmt: skip


@given(st.lists(st.tuples(RULES, st.sampled_from(["block", "rewrite"])), min_size=1, max_size=3),
       st.lists(st.text("abAé \n", max_size=5), max_size=8))  # fmt: skip
@example([({"max_words": 1}, "block"), ({"max_words": 0}, "block")], ["A ", "A"])
@settings(max_examples=150)
def test_an_answer_is_the_same_in_any_pieces_and_never_shows_what_is_banned(rules, pieces):
    entries = [
        {"name": str(i), **rule, "action": "block" if "required" in rule else action}
        | ({"replacement": ""} if action == "rewrite" and {"banned", "pattern"} & {*rule} else {})
        for i, (rule, action) in enumerate(rules)
    ]
    whole, at_once = held(entries, ["".join(pieces)])
    shown, answer = held(entries, pieces)
    assert shown == whole
    assert (answer.blocked and answer.blocked.entry) == (at_once.blocked and at_once.blocked.entry)
    if answer.blocked is None or answer.cut:
        for entry in entries:
            for text in () if entry.get("whole_words") else entry.get("banned", ()):
                assert text.lower() not in shown.lower()


@pytest.mark.parametrize(("rule", "arguments", "kept"), [
    ({"banned": ['"hi"']}, {"a": 'say "hi"'}, False),
    ({"banned": ["a\nb"]}, {"x": ["y", {"a\nb": 1}]}, False),
    ({"banned": ["a\nb"]}, {"x": "a", "y": "b"}, True),
    ({"max_characters": 30}, {"x": "a" * 20}, True),
    ({"banned": ["gâteau"]}, {"x": "Gâteau"}, False),
])  # fmt: skip
def test_what_a_call_of_a_tool_says_is_held_as_it_is_read(rule, arguments, kept):
    from modelforge.serving.filtering import Filter

    said = json.dumps(arguments)
    calls = [{"index": 0, "id": "c", "function": {"name": "f", "arguments": said}}]
    choice = {"index": 0, "message": {"tool_calls": calls}, "finish_reason": "tool_calls"}
    found = Filter(
        Constraints([{"name": "a", **rule}]), True, {"messages": [{"role": "user", "content": "?"}]}
    )
    (shown,) = found.whole({"choices": [choice]})["choices"]
    assert shown["finish_reason"] == ("tool_calls" if kept else "content_filter")
    assert ("tool_calls" in shown["message"]) == kept and bool(found.violations) != kept


def test_how_far_a_match_can_reach():
    assert width(r"\d{3}-\d{4}") == 8 and width(r"\bab\b") == 2
    for unbounded in ("a+", "a$", "a(?=b)", r"(?:foo){e<=1}", r"\p{Lu}", "a{2,}"):
        assert width(unbounded) is None, unbounded
