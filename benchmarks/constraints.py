"""What constraints hold, and what it costs: texts in pieces, bans, a principle learned.

    python benchmarks/constraints.py texts        # 1,000 random texts, each in random pieces
    python benchmarks/constraints.py bans [MODEL] # a ban by tokens beside a ban of the text
    python benchmarks/constraints.py principle    # pairs by a rule, dpo on them, the gate

Each prints a line of JSON. The first needs no model but a tokenizer.
"""

import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
TINY = ROOT / "examples/tiny"
RUDE = ["ugh", "oh please", "again?", "stop asking", "everybody knows", "leave me alone"]
ROWS, PROMPTS = 1000, 300


def tell(name: str, **figures: object) -> None:
    print(name, json.dumps(figures, ensure_ascii=False), flush=True)


def texts() -> None:
    """Is a banned text ever shown, and is a stream what the whole answer is?"""
    from transformers import AutoTokenizer

    from modelforge.safety import Constraints

    tokenizer = AutoTokenizer.from_pretrained(TINY / "model")
    draw = random.Random(0)
    letters = "aàbcéß .,\nЖ中🙂AB"
    shown_banned = differ = broken = 0
    begin = time.perf_counter()
    for _ in range(ROWS):
        banned = ["".join(draw.choices(letters, k=draw.randint(1, 6))) for _ in range(3)]
        words = ["".join(draw.choices(letters, k=draw.randint(1, 8))) for _ in range(30)]
        for _ in range(draw.randint(0, 4)):
            words.insert(draw.randrange(len(words)), draw.choice(banned))
        text = "".join(words)
        if draw.random() < 0.5:  # as a model's tokens come, characters over several of them too
            ids = tokenizer.encode(text, add_special_tokens=False)
            pieces, before = [], ""
            for end in range(1, len(ids) + 1):
                now = tokenizer.decode(ids[:end], skip_special_tokens=True)
                now = before if now.endswith("\ufffd") and end < len(ids) else now
                pieces.append(now[len(before) :])
                before = now
        else:
            cuts = sorted(draw.sample(range(len(text)), min(len(text), 25)))
            pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        action = draw.choice(["block", "rewrite"])
        entry = {"name": "ban", "banned": banned, "action": action}
        entry |= {"replacement": ""} if action == "rewrite" else {}
        rules = Constraints([entry])
        answer = rules.hold("?")
        for piece in pieces:
            answer.feed(piece)
        answer.close()
        whole = "".join(pieces)
        shown_banned += bool(rules.check("?", answer.text))
        differ += answer.text != rules.held("?", whole).text
        broken += bool(rules.check("?", whole))
    tell("texts", rows=ROWS, with_a_banned_text=broken, shown=shown_banned, stream_differs=differ,
         seconds=round(time.perf_counter() - begin, 1))  # fmt: skip


def bans(model: str) -> None:
    """A word banned by its tokens (``bad_words_ids``), and banned as a text."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from modelforge.constraints.steering import Steering
    from modelforge.safety import Constraints

    tiny = Path(model) == TINY / "model"
    tokenizer = AutoTokenizer.from_pretrained(model)
    lm = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    word = "minus" if tiny else "cake"
    asks = [f"What is {n} minus {m}?" for n in (9, 12, 15) for m in range(1, 9)]
    if not tiny:
        asks = [
            "How do I bake a cake?",
            "Say the word cake in capitals and then plain.",
            "Write one sentence about a birthday cake.",
            "Spell c-a-k-e and then write it.",
        ]

    def answers(**more: object) -> tuple[list[str], float]:
        found, begin = [], time.perf_counter()
        for ask in asks:
            chat = [{"role": "user", "content": ask}]
            ids = tokenizer.apply_chat_template(
                chat, add_generation_prompt=True, return_dict=True, return_tensors="pt"
            )
            torch.manual_seed(0)
            out = lm.generate(**ids, max_new_tokens=40, do_sample=tiny, **more)
            row = out[0, ids["input_ids"].shape[1] :]
            found.append(tokenizer.decode(row, skip_special_tokens=True))
        return found, time.perf_counter() - begin

    def ids_of(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False)

    forms = [blank + form for blank in ("", " ") for form in (word, word.title(), word.upper())]
    begin = time.perf_counter()
    rules = Constraints([{"name": "ban", "banned": [word]}])
    steering = Steering(tokenizer, rules)
    made = time.perf_counter() - begin
    ways = {
        "free": answers(),
        "bad_words_ids of the word": answers(bad_words_ids=[ids_of(word)]),
        "bad_words_ids of 6 forms": answers(bad_words_ids=[ids_of(form) for form in forms]),
        "constraint": answers(logits_processor=steering.processors()),
    }
    shown = {name: sum(word in text.lower() for text in found) for name, (found, _) in ways.items()}
    held = [rules.held("?", text) for text in ways["constraint"][0]]
    tell("bans", model=Path(model).name, word=word, answers=len(asks), with_it=shown,
         cut_in_the_text=sum(each.blocked is not None for each in held),
         seconds={name: round(took, 1) for name, (_, took) in ways.items()},
         seconds_to_read_the_vocabulary=round(made, 2))  # fmt: skip


def run(*command: object, cwd: Path) -> str:
    """What a command of ModelForge prints, as a user says it; of `compare --gate` its exit too."""
    said = [sys.executable, "-m", "modelforge", *map(str, command)]
    done = subprocess.run(said, cwd=cwd, capture_output=True, text=True)
    if done.returncode and "--gate" not in command:
        sys.exit(done.stderr)
    return done.stdout or f"{done.stderr}\nexit {done.returncode}"


def principle() -> None:
    """Be kind, as a rule: pairs of the model's own answers, dpo on them, and the gate.

    The tiny model cannot criticise itself in words. So the critique is the rule's: of four answers
    one that keeps it is preferred to one that breaks it.
    """
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        rules = [{"name": "kind", "banned": RUDE}]
        (folder / "kind.json").write_text(json.dumps(rules))
        lines = (TINY / "data" / "prompts_train.jsonl").read_text().splitlines()[:PROMPTS]
        prompts, model = folder / "prompts.jsonl", TINY / "model"
        prompts.write_text("\n".join(lines) + "\n")
        made = json.loads(run("feedback", "pairs", model, "--prompts", prompts, "--constraints",
                              "kind.json", "--num", 4, "--max-new-tokens", 24, "--batch-size", 32,
                              "--json", cwd=folder))  # fmt: skip
        config = {
            "strategy": "dpo", "model_name": str(model), "dataset": "pairs.jsonl",
            "eval_split": 0, "learning_rate": 3e-4, "max_steps": 60, "beta": 0.35,
            "per_device_train_batch_size": 16, "max_seq_length": 128, "run_name": "kind",
            "report_to": "none", "save_strategy": "no",
        }  # fmt: skip
        (folder / "dpo.json").write_text(json.dumps(config))
        run("train", "dpo.json", cwd=folder)
        held_out = TINY / "data" / "prompts_eval.jsonl"
        print(run("compare", f"base={model}", "kind=runs/kind", "--data", held_out,
                  "--constraints", "kind.json", "--reward", "numeric_answer", "--metrics",
                  "safety_violations,numeric_answer,ended,length,distinct_2", "--max-new-tokens",
                  24, "--samples", 4, "--temperature", 1, "--gate", "--margin", 0.1,
                  cwd=folder))  # fmt: skip
        tell("principle", pairs=made["pairs"], left_out=made["left_out"])


if __name__ == "__main__":
    wanted, *more = sys.argv[1:] or ["texts"]
    if wanted == "bans":
        bans(more[0] if more else str(TINY / "model"))
    else:
        {"texts": texts, "principle": principle}[wanted]()
