"""Votes are counted, held against each other, and written out without losing one."""

import itertools
import json
import math
import random
import statistics
from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import quick

from modelforge.errors import DataError
from modelforge.feedback.agreement import agreement, cohen, fleiss, krippendorff
from modelforge.feedback.annotators import annotators, weights
from modelforge.feedback.collected import Collected
from modelforge.feedback.decided import demonstration_rows, labelled_rows, preference_rows
from modelforge.feedback.layouts import LAYOUTS, recognised, votes_of
from modelforge.feedback.stats import stats
from modelforge.feedback.tables import Said
from modelforge.feedback.votes import Vote, judged

# Krippendorff 2011, section C: three observers, fifteen units; alpha is 0.691 (nominal), 0.807
# (interval) there. Fleiss 1971's table of ten subjects and fourteen raters, kappa 0.210.
FLEISS = [
    [0, 0, 0, 0, 14],
    [0, 2, 6, 4, 2],
    [0, 0, 3, 5, 6],
    [0, 3, 9, 2, 0],
    [2, 2, 8, 1, 1],
    [7, 7, 0, 0, 0],
    [3, 2, 6, 3, 0],
    [2, 5, 3, 2, 2],
    [6, 5, 2, 1, 0],
    [0, 2, 2, 3, 7],
]
TABLES = [
    {
        "A": {6: 3, 7: 4, 8: 1, 9: 2, 10: 1, 11: 1, 12: 3, 13: 3, 15: 3},
        "B": {1: 1, 3: 2, 4: 1, 5: 3, 6: 3, 7: 4, 8: 3},
        "C": {3: 2, 4: 1, 5: 3, 6: 4, 7: 4, 9: 2, 10: 1, 11: 1, 12: 3, 13: 3, 15: 4},
    },
]


def draw(seed, who=4, units=60, known=(-1, 0, 1), missing=0.4):
    rng = random.Random(seed)
    truth = [rng.choice(known) for _ in range(units)]
    return {
        f"P{i}": {
            u: truth[u] if rng.random() < 0.6 else rng.choice(known)
            for u in range(units)
            if rng.random() > missing
        }
        for i in range(who)
    }


def alpha_by_definition(given, distance):
    """1 - observed / expected disagreement, over all pairs of values, one by one."""
    units = {}
    for row in given.values():
        for unit, value in row.items():
            units.setdefault(unit, []).append(value)
    units = [values for values in units.values() if len(values) > 1]
    flat = [value for values in units for value in values]
    seen = sum(
        distance(a, b, flat) / (len(values) - 1)
        for values in units
        for a, b in itertools.permutations(values, 2)
    ) / len(flat)
    chance = sum(distance(a, b, flat) for a, b in itertools.permutations(flat, 2))
    return 1 - seen / (chance / (len(flat) * (len(flat) - 1)))


def ordinal(a, b, flat):
    low, high = sorted((a, b))
    between = sum(low <= value <= high for value in flat)
    return (between - (flat.count(a) + flat.count(b)) / 2) ** 2


def test_agreement_equals_published_examples_and_the_definitions():
    assert fleiss(FLEISS) == pytest.approx(0.210, abs=5e-4)
    assert krippendorff(TABLES[0]) == pytest.approx(0.691, abs=5e-4)
    assert cohen([1] * 25 + [0] * 25, [1] * 20 + [0] * 5 + [1] * 10 + [0] * 15) == pytest.approx(
        0.4
    )
    for seed in range(2):
        table = draw(seed)
        nominal = alpha_by_definition(table, lambda a, b, flat: float(a != b))
        assert krippendorff(table) == pytest.approx(nominal, abs=1e-12)
        assert krippendorff(table, ordinal=True) == pytest.approx(
            alpha_by_definition(table, ordinal), abs=1e-12
        )
    assert math.isnan(krippendorff({"A": {1: 1.0}})) and math.isnan(fleiss([]))
    assert math.isnan(cohen([], [])) and agreement({})["twice"] == 0


def test_agreement_equals_other_libraries():
    theirs = pytest.importorskip("krippendorff")
    inter_rater = pytest.importorskip("statsmodels.stats.inter_rater")
    import numpy as np

    assert inter_rater.fleiss_kappa(np.array(FLEISS)) == pytest.approx(fleiss(FLEISS), abs=1e-12)
    for seed in range(5):
        table = draw(seed, missing=0.3)
        matrix = [[table[p].get(u, np.nan) for u in range(60)] for p in table]
        for level in ("nominal", "ordinal"):
            found = krippendorff(table, ordinal=level == "ordinal")
            assert theirs.alpha(matrix, level_of_measurement=level) == pytest.approx(found)
        shared = [u for u in table["P0"] if u in table["P1"]]
        first, second = ([table[p][u] for u in shared] for p in ("P0", "P1"))
        counts = [
            [sum(a == x and b == y for a, b in zip(first, second, strict=True)) for y in (-1, 0, 1)]
            for x in (-1, 0, 1)
        ]
        assert inter_rater.cohens_kappa(np.array(counts)).kappa == pytest.approx(
            cohen(first, second)
        )


def vote(who, prompt, side=0, **more):
    """A vote for one of two answers; None is a tie."""
    ranks = (1, 1) if side is None else ((1, 2), (2, 1))[side]
    said = {
        "kind": "ranked",
        "answers": (f"a{prompt}", f"b{prompt} is longer"),
        "models": (("A",), ("B",)),
        "shown": (prompt % 2, 1 - prompt % 2),
        "seconds": 3.0,
        "ranks": ranks,
    }
    return Vote({"prompt": f"p{prompt}"}, annotator=who, name=who, **(said | more))


def crowd(seed, careless=("Cara",), turns=120):
    """Annotators who are right in 85 %, and those who press any key or one key."""
    rng, votes = random.Random(seed), []
    names = ["Ann", "Bo", "Cid", "Dee", "Eve", *careless]
    for prompt in range(turns):
        answers = [f"good {prompt}", f"poor {prompt} is longer"]
        best = rng.randrange(2)
        answers = tuple(answers if best == 0 else reversed(answers))
        for who in rng.sample(names, 3):
            side = best if rng.random() < 0.85 else 1 - best
            if who == "Cara":
                side = int(rng.random() < 0.5)
            if who == "Lee":  # always what stands first
                side = prompt % 2
            sure = rng.choice((1, 2, 3))
            votes.append(vote(who, prompt, side, confidence=sure, answers=answers))
    return votes


@pytest.mark.parametrize("seed", range(3))
def test_careless_annotators_are_found_and_no_others(seed):
    votes = crowd(seed, ("Cara", "Lee"))
    bad = {each.name for each in annotators(votes) if each.problems}
    assert bad == {"Cara", "Lee"}
    assert weights(votes, "drop") == {"Cara": 0.0, "Lee": 0.0} and weights(votes, "keep") == {}
    weighed = weights(votes, "weigh")
    assert max(weighed["Cara"], weighed["Lee"]) < 0.5 * statistics.median(
        weighed[who] for who in ("Ann", "Bo", "Cid", "Dee", "Eve")
    )

    def right(how):
        rows = preference_rows(votes, weights=weights(votes, how)).rows
        return sum(1 if row["chosen"].startswith("good") else -1 for row in rows)

    assert right("weigh") >= right("keep")


def test_annotators_who_share_no_pair_weigh_alike():
    """Nobody tells who is right where each pair is judged once; the votes count all the same."""
    votes = [
        vote(who, 10 * number + place, place % 2)
        for number, who in enumerate(("Ann", "Bo"))
        for place in range(6)
    ]
    assert weights(votes, "weigh") == {"Ann": 1.0, "Bo": 1.0}
    assert len(preference_rows(votes, weights=weights(votes, "weigh")).rows) == len(votes)


def test_careful_annotators_of_hard_pairs_are_not_called_careless():
    rng = random.Random(3)
    names = ("Ann", "Bo", "Cid")
    votes = [vote(w, p, int(rng.random() < 0.3)) for p in range(40) for w in names]
    assert not [each for each in annotators(votes) if each.problems]


def test_a_circle_and_a_hurried_vote_are_seen():
    answers, texts = ("x" * 400, "y" * 400, "z" * 400), {}
    for (a, b), best in (((0, 1), 0), ((1, 2), 0), ((0, 2), 1)):
        texts[a, b] = vote("Ann", 1, best, answers=(answers[a], answers[b]), shown=(0, 1))
    (found,) = annotators(list(texts.values()))
    assert found.contradictions == 1 and found.hurried == 1.0 and not found.problems


def test_rows_have_a_margin_and_conflicts_are_settled_or_named():
    votes = [
        vote("Ann", 1, 0, confidence=3),
        vote("Bo", 1, 0, confidence=1),
        vote("Ann", 2, 0, confidence=3),
        vote("Bo", 2, 1, confidence=1),
        vote("Ann", 3, None),
        vote("Bo", 3, kind="bad", ranks=(), better="mine"),
        vote("Ann", 4, 0),
        vote("Bo", 4, 0),
        vote("Cid", 4, 1),
        vote("Ann", 5, kind="skip", ranks=(), better="unsaid"),
    ]
    found = preference_rows(votes)
    margins = {(r["prompt"], r["rejected"][0]): r["margin"] for r in found.rows}
    third = pytest.approx(2 / 9, abs=1e-6)
    two = pytest.approx(2 / 3, abs=1e-6)
    assert margins == {("p1", "b"): two, ("p4", "b"): third, ("p3", "a"): two, ("p3", "b"): two}
    assert {(x["prompt"]["prompt"], x["why"]) for x in found.left_out} == {
        ("p2", "votes contradict each other, as many on each side"),
        ("p3", "only ties"),
    }
    assert found.left_out[0]["said"] == {"Ann": "first", "Bo": "second"}
    strict = preference_rows(votes, conflicts="leave-out")
    assert {r["prompt"] for r in strict.rows} == {"p1", "p3"} and len(strict.left_out) == 3
    labels = {(r["prompt"], r["completion"][0]): r["label"] for r in labelled_rows(votes).rows}
    assert labels[("p1", "a")] and not labels[("p1", "b")] and not labels[("p3", "a")]
    assert labels[("p3", "m")]
    assert [r["completion"] for r in demonstration_rows(votes).rows] == ["mine", "unsaid"]


@given(st.lists(st.integers(1, 4), min_size=2, max_size=5), st.integers(1, 3))
@settings(max_examples=40)
def test_a_ranking_is_its_pairs_each_weighing_its_part(ranks, confidence):
    answers = tuple(f"answer {i}" for i in range(len(ranks)))
    models = tuple((f"M{i}",) for i in range(len(ranks)))
    one = vote(
        "Ann",
        1,
        answers=answers,
        models=models,
        ranks=tuple(ranks),
        confidence=confidence,
        shown=tuple(range(len(ranks))),
    )
    pairs = judged([one])
    assert sum(each.weight for each in pairs) == pytest.approx(len(ranks) - 1)
    found = preference_rows([one])
    for row in found.rows:
        chosen, rejected = (ranks[answers.index(row[k])] for k in ("chosen", "rejected"))
        assert chosen < rejected and row["margin"] == pytest.approx(confidence / 3, abs=1e-6)
        assert row.get("weight", 1.0) == pytest.approx(2 / len(ranks), abs=1e-6)
    ties = sum(a == b for a, b in itertools.combinations(ranks, 2))
    assert len(found.rows) + ties == len(pairs) and len(found.left_out) == ties


TEXT = st.text(min_size=1, max_size=12).filter(lambda t: t.strip())


@st.composite
def any_votes(draw_):
    found = []
    for _ in range(draw_(st.integers(1, 4))):
        answers = tuple(draw_(st.lists(TEXT, min_size=2, max_size=4, unique=True)))
        count = len(answers)
        prompt = draw_(TEXT)
        prompt = (
            {"messages": [{"role": "user", "content": prompt}]} if count % 2 else {"prompt": prompt}
        )
        models = tuple((f"M{i}", *(["twin"] if i == 1 else [])) for i in range(count))
        for who in draw_(st.sets(st.sampled_from(["u-1", "u-2", "u-3"]), min_size=1)):
            kind = draw_(st.sampled_from(["ranked", "ranked", "bad", "skip"]))
            ranks = draw_(st.lists(st.integers(1, count), min_size=count, max_size=count))
            dense = {r: i for i, r in enumerate(sorted(set(ranks)), 1)}
            skip = kind == "skip"
            found.append(
                Vote(
                    prompt,
                    answers,
                    models,
                    who,
                    f"name of {who}",
                    kind,
                    tuple(dense[r] for r in ranks) if kind == "ranked" else (),
                    None if skip else draw_(st.sampled_from([None, 1, 2, 3])),
                    tuple(draw_(st.permutations(range(count)))),
                    None if skip else draw_(st.none() | TEXT),
                    None if skip else draw_(st.none() | TEXT),
                    draw_(st.none() | st.floats(0, 1e4)),
                    draw_(st.floats(1e9, 2e9)),
                )
            )
    return list({(json.dumps(v.prompt), v.answers, v.annotator): v for v in found}.values())


def plain(votes):
    """The votes with their answers in one order."""
    found = []
    for each in votes:
        order = sorted(range(len(each.answers)), key=lambda i: each.answers[i])
        place = {old: now for now, old in enumerate(order)}
        found.append(
            (
                json.dumps(each.prompt, sort_keys=True),
                each.annotator,
                each.name,
                each.kind,
                tuple(each.answers[i] for i in order),
                tuple(each.models[i] for i in order),
                tuple(each.ranks[i] for i in order if each.ranks),
                each.confidence,
                tuple(place[i] for i in each.shown),
                each.better,
                each.comment,
                each.seconds,
                each.at,
            )
        )
    return sorted(found, key=repr)


@pytest.mark.parametrize("name", LAYOUTS)
@given(votes=any_votes())
@settings(max_examples=12)
def test_no_vote_is_lost_on_the_way_to_a_layout_and_back(name, votes, tmp_path_factory):
    write, read = LAYOUTS[name]
    records = json.loads(json.dumps(write(votes)))
    assert {recognised(record) for record in records} == {name}
    path = tmp_path_factory.mktemp("votes") / "votes.sqlite"
    found = votes_of(records, read, path)
    assert plain(found) == plain(votes)
    with closing(Collected(path)) as store:
        assert store.keep(found) == len(votes) and store.keep(found) == 0
        assert plain(store.votes()) == plain(votes)


def test_files_of_the_tools_themselves_are_read(tmp_path):
    argilla = [
        {
            "id": "1",
            "fields": {"instruction": "Hi", "response_1": "a", "response_2": "b"},
            "responses": {
                "ranking": [
                    {"value": ["response_2", "response_1"], "user_id": "u1"},
                    {
                        "value": [
                            {"value": "response_1", "rank": 1},
                            {"value": "response_2", "rank": 1},
                        ],
                        "user_id": "u2",
                    },
                ]
            },
        }
    ]
    studio = [
        {
            "id": 7,
            "data": {"prompt": "Hi", "text1": "a", "text2": "b"},
            "annotations": [
                {
                    "id": 1,
                    "completed_by": 3,
                    "lead_time": 4.5,
                    "created_at": "2024-05-01T10:00:00Z",
                    "result": [
                        {
                            "from_name": "pw",
                            "to_name": "text1",
                            "type": "pairwise",
                            "value": {"selected": "right"},
                        }
                    ],
                },
                {
                    "id": 2,
                    "completed_by": {"id": 4, "email": "x@y.z"},
                    "was_cancelled": True,
                    "result": [],
                },
            ],
        }
    ]
    turns = [{"role": "user", "content": "Hi"}]
    arena = [
        {
            "question_id": "q",
            "model_a": "x",
            "model_b": "y",
            "winner": w,
            "judge": "j1",
            "conversation_a": [*turns, {"role": "assistant", "content": "a"}],
            "conversation_b": [*turns, {"role": "assistant", "content": "b"}],
            "turn": 1,
        }
        for w in ("model_b", "tie (bothbad)")
    ]
    fifty = [
        {
            "id": 1,
            "model_a": "x",
            "model_b": "y",
            "prompt": '["Hi"]',
            "response_a": '["a"]',
            "response_b": '["b"]',
            "winner_model_a": 0,
            "winner_model_b": 1,
            "winner_tie": 0,
        }
    ]
    expected = {"argilla": [(2, 1), (1, 1)], "label-studio": [(2, 1), ()], "arena": [(2, 1), ()]}
    for name, records in (("argilla", argilla), ("label-studio", studio), ("arena", arena)):
        found = votes_of(records, LAYOUTS[name][1], tmp_path)
        assert [v.ranks for v in found] == expected[name], name
        assert {v.answers for v in found} == {("a", "b")}
    assert recognised(fifty[0]) == "arena"
    assert votes_of(fifty, LAYOUTS["arena"][1], tmp_path)[0].ranks == (2, 1)
    with pytest.raises(DataError, match=r"record 1: has the winner 'both'"):
        votes_of([{**arena[0], "winner": "both"}], LAYOUTS["arena"][1], tmp_path)
    argilla[0]["fields"]["response_2"] = "a"
    with pytest.raises(DataError, match="record 1: has the same answer twice"):
        votes_of(argilla, LAYOUTS["argilla"][1], tmp_path)


def test_what_models_say_alike_is_a_tie_and_dealt_to_nobody(tmp_path):
    with closing(Collected(tmp_path / "v.sqlite", overlap=1)) as store:
        rows = [
            ({"prompt": f"p{i}"}, {"A": "same", "B": "same" if i < 12 else "other"})
            for i in range(16)
        ]
        assert store.add(rows) == 4 and store.add(rows) == 0
        who = store.register("Ann")
        while task := store.deal(who):
            best = task.shown[task.texts.index("other")]
            assert store.vote(who, task.id, Said("ranked", tuple(2 - (i == best) for i in (0, 1))))
        found = stats(store.votes(), store.texts())
    (contest,) = found["contests"]
    assert contest["prompts"] == 16 and contest["wins"] == pytest.approx(12 * 0.5 / 16)
    assert contest["more"] or contest["settled"]


def test_the_commands_count_export_and_carry_over(tmp_path, command):
    path, rows = tmp_path / "v.sqlite", tmp_path / "rows.jsonl"
    with closing(Collected(path)) as store:
        store.keep(crowd(1))
    code, out, _ = command("feedback", "stats", path, "--json")
    found = json.loads(out)
    assert code == 0 and found["votes"] == 360 and found["contests"][0]["prompts"] == 120
    assert [a["name"] for a in found["annotators"] if a["problems"]] == ["Cara"]
    code, _, said = command(
        "feedback",
        "export",
        path,
        "-o",
        rows,
        "--for",
        "rlhf",
        "--careless",
        "drop",
        "--conflicts",
        "leave-out",
    )
    assert code == 0 and "left out all of Cara" in said and "votes contradict" in said
    left = [json.loads(line) for line in (tmp_path / "rows.left-out.jsonl").open()]
    assert left and len(left) + len(rows.read_text().splitlines()) == 120
    for name in LAYOUTS:
        out = tmp_path / f"{name}.json"
        assert command("feedback", "export", path, "-o", out, "--layout", name)[0] == 0
        again = tmp_path / f"{name}.sqlite"
        assert command("feedback", "import", again, out)[0] == 0
        with closing(Collected(again)) as store:
            assert len(store.votes()) == 360
    unheard = ("--layout", "arena", "--careless", "drop")
    code, _, said = command("feedback", "export", path, "-o", tmp_path / "none.json", *unheard)
    assert code == 2 and "have no effect" in " ".join(said.split())
    code, _, said = command("feedback", "export", path, "--kind", "dpoo", "-o", rows)
    assert code == 2 and "did you mean 'dpo'" in said
    code, _, said = command("feedback", "export", path, "--for", "sft", "-o", rows)
    assert code == 2 and "write better answers" in said
    few = {"max_steps": 1, "eval_split": 0, "save_strategy": "no"}
    result = quick("reward", tmp_path, "eval_dataset=null", dataset=rows, **few)
    ledger = json.loads((result.run_dir / "data.json").read_text())
    assert any("column margin" in note for note in ledger["notes"])
