"""How a chat template writes calls of tools, and how they are read back from what a model says."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from modelforge.errors import ConfigError, Problem

_NAME, _KEY, _VALUE = "minus", "left", "seven"
_CALL = {"type": "function", "function": {"name": _NAME, "arguments": {_KEY: _VALUE}}}
_ASK = [{"role": "user", "content": "dummy"}]


def make_readable(tokenizer: Any, where: str, template_arguments: Mapping[str, Any]) -> None:
    """Have the tokenizer read the calls that its chat template writes.

    TRL knows how those of the templates that it ships are read. Of others it is tried out, among
    them all templates that write a call in Hermes' form, ``<tool_call>{"name": …}</tool_call>``.

    Args:
        tokenizer: Its ``response_template`` is set, where it has none.
        where: What messages name.
        template_arguments: For the chat template.

    Raises:
        ConfigError: If the template has no place for calls, or nothing can read them.
    """
    from trl.chat_template_utils import supports_tool_calling

    fix = f"set chat_template to one of {', '.join(readable_templates())}"
    if not supports_tool_calling(tokenizer):
        what = "the chat template has no place for a call and what it gives"
        raise ConfigError(Problem(where, what, fix))
    written = _written(tokenizer, template_arguments)
    own = getattr(tokenizer, "response_template", None) or getattr(
        tokenizer, "response_schema", None
    )
    if own or _known_to_trl(tokenizer):
        return
    opening = _opening(tokenizer, template_arguments)
    for template in _candidates(tokenizer, opening):
        tokenizer.response_template = template
        if _reads(tokenizer, opening, written):
            return
    tokenizer.response_template = None
    what = f"nothing can read the calls that the chat template writes, such as {written!r}"
    raise ConfigError(Problem(where, what, fix))


def readable_templates() -> list[str]:
    """The names of TRL's chat templates whose calls TRL can read."""
    import trl.chat_template_utils as theirs

    names = ("qwen2_5", "qwen3", "qwen3_instruct_2507", "llama3_1", "llama3_2", "glm4moe", "gptoss")
    return [name for name in names if hasattr(theirs, f"{name}_chat_template")]


def _known_to_trl(tokenizer: Any) -> bool:
    import trl.chat_template_utils as theirs

    names = readable_templates()
    return tokenizer.chat_template in [getattr(theirs, f"{name}_chat_template") for name in names]


def _opening(tokenizer: Any, arguments: Mapping[str, Any]) -> str:
    """What the template puts before an answer."""
    texts = [
        tokenizer.apply_chat_template(
            _ASK, tokenize=False, add_generation_prompt=generate, **arguments
        )
        for generate in (False, True)
    ]
    return str(texts[1]).removeprefix(texts[0])


def _written(tokenizer: Any, arguments: Mapping[str, Any]) -> str:
    """An answer that calls a tool, as the template writes it."""
    said = [*_ASK, {"role": "assistant", "content": "", "tool_calls": [_CALL]}]
    before = tokenizer.apply_chat_template(
        _ASK, tokenize=False, add_generation_prompt=True, **arguments
    )
    text = tokenizer.apply_chat_template(said, tokenize=False, **arguments)
    return str(text).removeprefix(before)


def _reads(tokenizer: Any, opening: str, written: str) -> bool:
    """Whether the call is read back from its tokens."""
    from trl.chat_template_utils import parse_response

    before, ids = (
        tokenizer(text, add_special_tokens=False)["input_ids"] for text in (opening, written)
    )
    try:
        found = parse_response(tokenizer, ids, prefix=before)
        arguments = found["tool_calls"][0]["function"]["arguments"]
        arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
        return bool(arguments == {_KEY: _VALUE})
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        return False


def _candidates(tokenizer: Any, opening: str) -> Iterator[dict[str, Any]]:
    """Response templates to try: TRL's, each with this template's own beginning and end."""
    import trl.chat_template_utils as theirs

    end = re.escape(tokenizer.eos_token) + r"\s*|$"
    for name in ("qwen3", "qwen3_5", "glm4moe", "llama3"):
        template = getattr(theirs, f"{name}_template", None)
        if template is not None:
            fields = template["fields"] | {"content": {"close_pattern": end, "content": "text"}}
            yield template | {"start_anchor": opening, "fields": fields}
