"""Pages from templates. Every value is escaped, and no page has outside files.

A report has no scripts either. The page of a server has one, which shows what models say as text.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

# Characters that do not show: controls, those without a width, and those that turn the direction
# of the text around. The joiners of emoji and of Persian stay.
_UNSEEN = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2064"
    r"\u2066-\u2069\ufeff\ufff9-\ufffb\ud800-\udfff]"
)


def visible(value: Any) -> Any:
    """The value; a text shows its control and direction characters as ``\\u202e`` and the like."""
    if not isinstance(value, str) or hasattr(value, "__html__"):
        return value
    return _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", value)


_environment = Environment(
    loader=PackageLoader("modelforge.web"),
    autoescape=True,
    undefined=StrictUndefined,
    finalize=visible,
    trim_blocks=True,
    lstrip_blocks=True,
)


def render(template: str, **values: Any) -> str:
    """A whole page.

    Args:
        template: The name of a file in ``templates/``.
        values: What the template asks for; texts are escaped, whoever wrote them.

    Raises:
        jinja2.UndefinedError: If the template asks for a value that is not given.
    """
    return _environment.get_template(template).render(**values)


def chat_turns(prompt: Any) -> list[dict[str, str]]:
    """A prompt, messages or text, as turns with a role and a text each."""
    turns = prompt if isinstance(prompt, list) else [{"role": "prompt", "content": prompt}]
    return [
        {"role": str(turn.get("role", "")), "text": shown_text(turn.get("content") or "")}
        for turn in turns
    ]


def shown_text(value: Any) -> str:
    """A message's content, or an answer in messages, as text."""
    if isinstance(value, list) and all(isinstance(v, dict) and "content" in v for v in value):
        return "\n".join(shown_text(turn["content"] or "") for turn in value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=1)


def script(name: str) -> str:
    """The text of a script in ``templates/``, for a server to hand out."""
    return (Path(__file__).parent / "templates" / name).read_text(encoding="utf-8")
