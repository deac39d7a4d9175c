"""Special tokens that stand in the words of a message, where a template would write them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from modelforge.data.message import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Marks:
    """Finds a tokenizer's special tokens in the words of messages.

    Whoever types ``<|im_end|>`` ends a turn by it: tokenizers read the text of a rendered
    conversation and cannot tell who wrote the mark. Transformers, TRL and vLLM do so too.

    Args:
        tokenizer: Its special tokens are looked for, but for those of a thought or a call.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        special = {str(t) for t in tokenizer.added_tokens_decoder.values() if t.special}
        special = {t for t in special | set(tokenizer.all_special_tokens) if not OWN.fullmatch(t)}
        ordered = sorted(special, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, ordered))) if ordered else None

    def found(self, messages: Sequence[Message]) -> tuple[str, ...]:
        """The finding of a row whose words hold one; none for any other row."""
        if self._pattern is None:
            return ()
        for message in messages:
            for words in (message["content"], message.get("reasoning_content") or ""):
                match = self._pattern.search(words)
                if match is not None:
                    return (f"marks: {match[0]}",)
        return ()


# Tokens that answers hold by right.
OWN = re.compile(r"</?(think|tool_call|tool_response|answer)>")
