"""How many votes a reward model needs, dealt where they tell most and dealt at random.

    python benchmarks/active_dealing.py [--seeds 3] [--trained]

A simulated annotator judges pairs of the tiny preference data, and errs in 10 %. The votes go
through the store, the dealing and the export of `modelforge collect`. A reward model that learns
from them is held against pairs that were held out: the one that the dealing itself keeps, and with
`--trained` the run of `modelforge train` with strategy `reward` on the exported rows.
"""

import argparse
import json
import random
import statistics
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np

import modelforge
from modelforge.feedback.collected import Collected
from modelforge.feedback.dealing import Dealer, Space
from modelforge.feedback.decided import preference_rows
from modelforge.feedback.tables import Said
from modelforge.feedback.votes import judged, key_of

ROOT = Path(__file__).parents[1]
DATA = ROOT / "examples/tiny/data"
SIZES = (16, 24, 32, 40, 48, 64, 80, 96, 128)
TRAINED = (32, 48, 64, 96)
WRONG = 0.1


def pairs_of(name: str) -> list[tuple[dict, str, str]]:
    """Prompt, better and worse answer."""
    rows = map(json.loads, (DATA / f"{name}.jsonl").read_text().splitlines())
    return [({"messages": r["prompt"]}, r["chosen"][0]["content"], r["rejected"][0]["content"])
            for r in rows]  # fmt: skip


def voted(folder: Path, seed: int, active: bool, sizes: tuple[int, ...]) -> dict[int, list]:
    """The votes after so many, by a simulated annotator."""
    rng = random.Random(seed)
    pool = pairs_of("preference_train")
    rng.shuffle(pool)
    better = {key_of(p) + a for p, a, _ in pool}
    found = {}
    with closing(Collected(folder / f"{seed}-{active}.sqlite", overlap=1)) as store:
        store.add([(p, dict(zip("ab", rng.sample((a, b), 2), strict=True))) for p, a, b in pool])
        dealer, who = Dealer(store, active=active), store.register("simulated")
        for number in range(max(sizes)):
            if number % 8 == 0:
                dealer.choose()
            task = store.deal(who)
            key = key_of(task.prompt)
            best = task.shown[0] if key + task.texts[0] in better else task.shown[1]
            if rng.random() < WRONG:
                best = 1 - best
            store.vote(who, task.id, Said("ranked", tuple(2 - (i == best) for i in (0, 1))))
            if number + 1 in sizes:
                found[number + 1] = store.votes()
    return found


def accuracy(votes: list, held_out: list) -> float:
    """Of the model that the dealing keeps, on held-out pairs."""
    texts = {}
    for prompt, first, second in held_out:
        for text in (first, second):
            texts[len(texts)] = (key_of(prompt), text, ())
    for vote in votes:
        for text in vote.answers:
            key = key_of(vote.prompt)
            texts[len(texts)] = (key, text, ())
    space = Space(texts, {})
    mean, _ = space.posterior(judged(votes))
    won = [float(mean @ (space.of[2 * i] - space.of[2 * i + 1])) for i in range(len(held_out))]
    return float(np.mean(np.array(won) > 0))


def trained(votes: list, folder: Path) -> float:
    """Of a reward model that `modelforge train` makes of the exported rows."""
    folder.mkdir()
    rows = folder / "rows.jsonl"
    found = preference_rows(votes).rows
    rows.write_text("".join(json.dumps(row) + "\n" for row in found))
    said = {"output_dir": folder, "dataset": rows, "report_to": "none", "max_steps": 60,
            "save_strategy": "no", "eval_strategy": "no"}  # fmt: skip
    result = modelforge.train(
        ROOT / "configs" / "tiny" / "reward.json",
        overrides=[f"{key}={value}" for key, value in said.items()],
    )
    return result.after["eval_accuracy"]


def needed(accuracies: dict[int, float], target: float) -> float:
    """The votes at which a target is reached, between two sizes by a line."""
    before = None
    for size, value in accuracies.items():
        if value >= target:
            if before is None or value == before[1]:
                return size
            share = (target - before[1]) / (value - before[1])
            return before[0] + share * (size - before[0])
        before = size, value
    return float("inf")


def compare(name: str, both: list[tuple[dict, dict]]) -> None:
    """Print each size, and the votes that active dealing needs for what random dealing reaches."""
    for seed, (active, chance) in enumerate(both):
        for word, found in (("most telling", active), ("at random", chance)):
            told = "  ".join(f"{size}: {value:.3f}" for size, value in found.items())
            print(f"{name}, seed {seed}, {word}: {told}", flush=True)
    sizes = list(both[0][0])
    means = [{s: statistics.mean(pair[i][s] for pair in both) for s in sizes} for i in (0, 1)]
    for size in sizes:
        target = means[1][size]
        votes = needed(means[0], target)
        least = f"{votes:.0f} where they tell most ({votes / size:.0%})"
        print(f"{name}: {target:.3f} takes {size} votes at random, {least}")


def main() -> None:
    """Read the options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--trained", action="store_true", help="train reward models too")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        votes = [[voted(folder, seed, active, SIZES) for active in (True, False)]
                 for seed in range(args.seeds)]  # fmt: skip
        compare("the dealing's model", [arms(pair, held) for pair in votes])
        if args.trained:
            runs = [arms(pair, learnt, folder / str(n)) for n, pair in enumerate(votes)]
            compare("a reward run", runs)


def held(votes: dict[int, list], folder: Path | None) -> dict[int, float]:
    """The accuracy of the dealing's model after each number of votes."""
    held_out = pairs_of("preference_eval")
    return {size: accuracy(each, held_out) for size, each in votes.items()}


def learnt(votes: dict[int, list], folder: Path) -> dict[int, float]:
    """The accuracy of a reward run after some numbers of votes."""
    folder.mkdir(parents=True)
    return {size: trained(votes[size], folder / str(size)) for size in TRAINED}


def arms(pair: list, of: Callable, folder: Path = Path()) -> tuple[dict, dict]:
    """The accuracies of both ways to deal."""
    return of(pair[0], folder / "active"), of(pair[1], folder / "random")


if __name__ == "__main__":
    main()
