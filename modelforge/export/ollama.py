"""A folder for Ollama: a GGUF, and a Modelfile whose template says what the model's own says.

Ollama has a template language of its own, Go's, and knows the templates of some models by their
text. So the model's template is tried out: what it puts before and behind the messages of each role
is written in Go's words, and held against what the template itself makes of several conversations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelforge.errors import Problem, RunError
from modelforge.evaluation.opened import Named
from modelforge.evaluation.samples import ends_of
from modelforge.export import gguf
from modelforge.export.merge import Base
from modelforge.export.proof import Bound
from modelforge.export.reference import Reference
from modelforge.inference.trained import load_tokenizer, weights_of

NAME = "Modelfile"
_WHERE = "--format ollama"
_INSTEAD = "use --format gguf: llama.cpp runs the model's own template"
_ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Around:
    """What a chat template puts around messages.

    Attributes:
        opening: Before a conversation whose first message is not the system's.
        roles: Before and behind a message of each role that it takes.
        answer: Before an answer that is to be written.
    """

    opening: str
    roles: dict[str, tuple[str, str]]
    answer: str

    def said(self, messages: Sequence[dict[str, str]]) -> str:
        """What Ollama makes of a conversation."""
        parts = [] if messages[0]["role"] == "system" else [self.opening]
        for message in messages:
            before, behind = self.roles[message["role"]]
            parts += [before, message["content"], behind]
        return "".join([*parts, self.answer])

    def go(self) -> str:
        """The same in Go's template language."""
        text = ""
        if self.opening:
            text = '{{- if ne (index .Messages 0).Role "system" }}' + _quoted(self.opening)
            text += "{{ end }}"
        text += "{{- range .Messages }}" if not text else "{{ range .Messages }}"
        for number, (role, (before, behind)) in enumerate(self.roles.items()):
            text += "{{ else if" if number else "{{ if"
            text += f' eq .Role "{role}" }}}}{_quoted(before)}{{{{ .Content }}}}{_quoted(behind)}'
        return text + "{{ end }}{{ end }}" + _quoted(self.answer)


def _quoted(text: str) -> str:
    return text.replace("{{", '{{ "{{" }}')


def around(tokenizer: Any) -> Around | None:
    """What a tokenizer's chat template puts around messages; None if it does more than that."""
    if not tokenizer.chat_template or "strftime_now" in tokenizer.chat_template:
        return None  # a date would stand still
    taken = [role for role in _ROLES if role != "system" or _takes_system(tokenizer)]
    try:
        found = _tried(tokenizer, taken)
    except ValueError:  # what is around one message is not what is around the next
        return None
    for messages in _conversations(taken):
        if _made(tokenizer, messages, answer=True) != found.said(messages):
            return None
    return found if '"""' not in found.go() else None


def _tried(tokenizer: Any, taken: Sequence[str]) -> Around:
    words = [f"«{number}»" for number in range(5)]
    roles = ("user", "assistant", "user", "assistant")
    talk = [{"role": role, "content": word} for role, word in zip(roles, words, strict=False)]
    three, four = (_made(tokenizer, talk[:count]) for count in (3, 4))
    user_end, assistant_end = three.partition(words[2])[2], four.partition(words[3])[2]
    first, rest = four.split(words[0])
    gap, rest = rest.split(words[1])
    second, _ = rest.split(words[2])
    user, assistant = _without(second, assistant_end), _without(gap, user_end)
    found = {"user": (user, user_end), "assistant": (assistant, assistant_end)}
    if "system" in taken:
        system = [{"role": "system", "content": words[4]}, *talk[:1]]
        before, rest = _made(tokenizer, system).split(words[4])
        behind = rest.split(words[0])[0]
        if not behind.endswith(user):
            raise ValueError
        found = {"system": (before, behind[: len(behind) - len(user)]), **found}
    if not first.endswith(user):
        raise ValueError
    answer = _without(_made(tokenizer, talk[:3], answer=True), three)
    return Around(first[: len(first) - len(user)], found, answer)


def _without(text: str, begin: str) -> str:
    if not text.startswith(begin):
        raise ValueError
    return text[len(begin) :]


def _conversations(taken: Sequence[str]) -> list[list[dict[str, str]]]:
    """That the template is held to."""
    words = ("Hello.", "A line\n\nand another", 'with {{ braces }} and "quotes"', "4 + 5 = 9", "x")
    found = []
    for length in (1, 3, 5):
        roles = ["user" if i % 2 == 0 else "assistant" for i in range(length)]
        talk = [{"role": r, "content": w} for r, w in zip(roles, words, strict=False)]
        found.append(talk)
        if "system" in taken:
            found.append([{"role": "system", "content": "Be brief."}, *talk])
    return found


def _takes_system(tokenizer: Any) -> bool:
    talk = [{"role": "system", "content": "«s»"}, {"role": "user", "content": "«u»"}]
    try:
        return "«s»" in _made(tokenizer, talk)
    except Exception:  # a template refuses by what error it likes
        return False


def _made(tokenizer: Any, messages: Sequence[dict[str, str]], *, answer: bool = False) -> str:
    text: str = tokenizer.apply_chat_template(
        list(messages), tokenize=False, add_generation_prompt=answer
    )
    return text


def problems(found: Named, kind: str) -> list[Problem]:
    """Why no folder for Ollama can be made and proven here."""
    wrong = gguf.problems(found, kind)
    if not found.scores and around(load_tokenizer(found)) is None:
        what = "the chat template does more than to put texts around messages"
        wrong.append(Problem(_WHERE, what, _INSTEAD))
    return wrong


def write(found: Named, folder: Path, *, kind: str, base: Base) -> None:
    """The GGUF and its Modelfile."""
    gguf.write(found, folder, kind=kind, base=base)
    (folder / NAME).write_text(modelfile(found, folder), encoding="utf-8")


def differences(
    found: Named, folder: Path, reference: Reference, *, bound: Bound
) -> tuple[dict[str, Any], list[str]]:
    """As of a GGUF; and the Modelfile is the one that the model's template gives.

    Returns:
        The figures, and what is wrong in words.
    """
    figures, wrong = gguf.differences(found, folder, reference, bound=bound)
    path = folder / NAME
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    if text != modelfile(found, folder):
        wrong.append("its Modelfile is another than the model's template and stop tokens give")
    return figures, wrong


def modelfile(found: Named, folder: Path) -> str:
    """What Ollama is told of the model beside its weights.

    Raises:
        RunError: If the template cannot be said in Ollama's words.
    """
    tokenizer: Any = load_tokenizer(found)
    template = around(tokenizer)
    if template is None:
        raise RunError(Problem(_WHERE, "its chat template cannot be said in Go's", _INSTEAD))
    text = template.go()
    if gguf.adds_bos(folder / gguf.NAME):  # it would stand there twice
        text = text.replace(_quoted(tokenizer.bos_token or ""), "")
    lines = [f"FROM ./{gguf.NAME}", f'TEMPLATE """{text}"""']
    for token in tokenizer.convert_ids_to_tokens(_stops(found, tokenizer)):
        lines.append(f'PARAMETER stop "{token}"')
    system = found.recorded.get("system_prompt")
    if system and '"""' not in system:
        lines.append(f'SYSTEM """{system}"""')
    return "\n".join(lines) + "\n"


def _stops(found: Named, tokenizer: Any) -> list[int]:
    from transformers import GenerationConfig

    folders = [Path(weights_of(found)), Path(found.source.base)]
    held = next((f for f in folders if (f / "generation_config.json").is_file()), None)
    return ends_of(held and GenerationConfig.from_pretrained(held), tokenizer)
