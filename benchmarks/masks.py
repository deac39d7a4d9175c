"""What is trained on, beside TRL's own training templates: each template × seven dialogues.

    OMP_NUM_THREADS=1 python benchmarks/masks.py

A dialogue is equal where the tokens and the mask are those of TRL's ``assistant_only_loss``. Each
other one is printed with the reason. ``--show NAME`` prints both texts of one template,
with what is trained on in brackets.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from fuzz_masks import templates, tokenizer_of

THOUGHT = "<think>\nTwo and two make four.\n</think>\n\nThe answer is 4."
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Rome"}}}


def said(role: str, content: str, **more: Any) -> dict[str, Any]:
    """A message."""
    return {"role": role, "content": content, **more}


ASKED = said("user", "What is 2 plus 2?")
DIALOGUES = {
    "one turn": [ASKED, said("assistant", "4.")],
    "two turns": [ASKED, said("assistant", "4."), ASKED, said("assistant", "Still 4.")],
    "a system message": [said("system", "Be brief."), ASKED, said("assistant", "4.")],
    "a thought": [ASKED, said("assistant", THOUGHT)],
    "two thoughts": [ASKED, said("assistant", THOUGHT), ASKED, said("assistant", THOUGHT)],
    "a thought apart": [ASKED, said("assistant", "4.", reasoning_content="Two and two.")],
    "a call": [
        said("user", "How is the weather?"),
        said("assistant", "", tool_calls=[CALL]),
        said("tool", "sunny", name="weather"),
        said("assistant", "It is sunny."),
    ],
}
Marked = list[tuple[int, int]]


def by_trl(tokenizer: Any, talk: list[dict[str, Any]]) -> Marked | str:
    """Each token with whether TRL trains on it; or why it cannot."""
    from trl.chat_template_utils import get_training_chat_template

    from modelforge.data.render import Renderer

    template = get_training_chat_template(tokenizer) or tokenizer.chat_template
    if Renderer(tokenizer).takes_parts:
        talk = [
            {**message, "content": [{"type": "text", "text": message["content"]}]}
            for message in talk
        ]
    try:
        found = tokenizer.apply_chat_template(
            talk, chat_template=template, return_dict=True, return_assistant_tokens_mask=True
        )
    except Exception as error:  # a template may raise anything
        return f"refused: {' '.join(str(error).split())[:60]}"
    return list(zip(found["input_ids"], found["assistant_masks"], strict=True))


def by_modelforge(tokenizer: Any, talk: list[dict[str, Any]]) -> tuple[Marked | str, str]:
    """The same of ModelForge, and what it says of the row."""
    from modelforge.data.encoded import MASKED
    from modelforge.data.render import RenderError
    from modelforge.data.tokens import How, encode

    (found,) = encode([{"messages": talk}], kind="demonstration", tokenizer=tokenizer, how=How())
    if isinstance(found, RenderError):
        return f"refused: {found.reason}", found.reason
    marks = [int(label != MASKED) for label in found.labels()]
    return list(zip(found.ids[0].tolist(), marks, strict=True)), "; ".join(found.findings)


def reason(theirs: Marked | str, ours: Marked | str, told: str) -> str:
    """Why the two differ."""
    if "template leaves out: thoughts" in told:
        return "the template has no place for the thought: TRL trains on the answer without it"
    if "template leaves out: calls" in told:
        return "the template has no place for the call: TRL trains on an empty turn"
    if "template drops text" in told:
        return "the template takes the thought away: TRL trains on the answer without it"
    if "turn cut: thought" in told:
        return "the earlier turn loses its thought: TRL trains on it, ModelForge reads it"
    if isinstance(theirs, str):
        return "TRL's template fails on it"
    if isinstance(ours, list) and [token for token, _ in ours] != [token for token, _ in theirs]:
        return "the thought or call goes to the template's own place: TRL writes it as text or not"
    return "the same tokens, another mask"


def shown(tokenizer: Any, marked: Marked | str) -> str:
    """A text with what is trained on in brackets."""
    if isinstance(marked, str):
        return marked
    text, inside = "", 0
    for token, trained in marked:
        if trained != inside:
            text += "[" if trained else "]"
            inside = trained
        text += tokenizer.decode([token])
    return text + ("]" if inside else "")


def main() -> None:
    """Print what differs, by its reason."""
    from trl.chat_template_utils import get_training_chat_template

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--show", help="the name of a template")
    options = parser.parse_args()
    equal, compared, without = 0, 0, []
    differing: dict[tuple[str, str], list[str]] = {}
    for name in sorted(templates()):
        tokenizer = tokenizer_of(name)
        try:
            get_training_chat_template(tokenizer)
        except ValueError:
            without.append(name)
            continue
        for title, talk in DIALOGUES.items():
            theirs = by_trl(tokenizer, talk)
            ours, told = by_modelforge(tokenizer, talk)
            compared += 1
            if theirs == ours or (isinstance(theirs, str) and isinstance(ours, str)):
                equal += 1
                continue
            differing.setdefault((title, reason(theirs, ours, told)), []).append(name)
            if options.show == name:
                print(f"{title}\n  TRL: {shown(tokenizer, theirs)!r}")
                print(f"  ModelForge: {shown(tokenizer, ours)!r}")
    print(f"{compared} compared, {equal} equal; no training template: {', '.join(without)}\n")
    print("| dialogue | why it differs | templates |")
    print("|---|---|---|")
    for (title, why), names in differing.items():
        print(f"| {title} | {why} | {', '.join(names)} |")
    print(
        f"\n({datetime.date.today()}, {os.cpu_count()}-core {platform.machine()} CPU, "
        f"Python {platform.python_version()})"
    )


if __name__ == "__main__":
    main()
