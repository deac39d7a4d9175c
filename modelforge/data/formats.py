"""The table of formats that are recognised by their columns."""

from __future__ import annotations

from modelforge.data.convert import (
    convert_paragraphs,
    read_exchanges,
    read_instances,
    read_messages,
    read_prompt,
    read_reply,
    read_segments,
    read_text,
    read_tokens,
    read_turns,
    row_by_row,
)
from modelforge.data.dialogue import is_messages
from modelforge.data.layout import Format, is_list, is_text
from modelforge.data.names import (
    ANSWERED,
    AROUND,
    ASKED,
    CONVERSATION,
    NAMES,
    PROMPT,
    REPLY,
    SYSTEM,
    TEXT,
)
from modelforge.data.several import SEVERAL
from modelforge.data.spoken import is_alternating, is_spoken, read_alternating, read_spoken
from modelforge.data.turns import is_exchanges

# Most specific first: the first that fits and serves the kind is taken.
TABLE: tuple[Format, ...] = (
    *SEVERAL,
    Format(
        "messages",
        {"messages": CONVERSATION},
        row_by_row(read_messages),
        REPLY,
        SYSTEM,
        {"messages": is_messages},
    ),
    Format(
        "exchanges",
        {"messages": (*CONVERSATION, "texts")},
        row_by_row(read_exchanges),
        REPLY,
        SYSTEM,
        {"messages": is_exchanges},
    ),
    Format(
        "instruction with instances",
        {"prompt": ("instruction",), "instances": ("instances",)},
        row_by_row(read_instances),
        REPLY,
        values={"instances": is_list},
    ),
    Format(
        "context/question/answer",
        {
            "context": NAMES["context"],
            "prompt": ("question",),
            "completion": ("answer", "answers", "response", "output"),
        },
        row_by_row(read_reply),
        REPLY,
        AROUND,
    ),
    Format(
        "articles with questions",
        {"paragraphs": ("paragraphs",)},
        convert_paragraphs,
        REPLY,
        values={"paragraphs": is_list},
    ),
    Format(
        "body/question/answer",
        {"body": ("body",), "prompt": ("question",), "completion": ("answer",)},
        row_by_row(read_reply),
        REPLY,
        AROUND,
    ),
    Format(
        "instruction/input/output",
        {"prompt": ("instruction",), "input": ("input", "context"), "completion": ANSWERED},
        row_by_row(read_reply),
        REPLY,
        AROUND,
    ),
    Format(
        "instruction/output",
        {"prompt": ("instruction",), "completion": ANSWERED},
        row_by_row(read_reply),
        REPLY,
        AROUND,
    ),
    Format(
        "prompt/completion",
        {"prompt": ("prompt", "query"), "completion": ANSWERED},
        row_by_row(read_reply),
        REPLY,
        AROUND,
    ),
    Format(
        "question/answer",
        {
            "prompt": ("question", "problem"),
            "completion": ("best_answer", "solution", *ANSWERED, "answers"),
        },
        row_by_row(read_reply),
        REPLY,
        AROUND,
    ),
    Format(
        "context/response",
        {"prompt": ("context",), "completion": ("response", "answer", "output", "reply")},
        row_by_row(read_reply),
        REPLY,
        SYSTEM,
    ),
    Format(
        "segments",
        {"segments": ("segments",)},
        row_by_row(read_segments),
        TEXT,
        values={"segments": is_list},
    ),
    Format(
        "two messages",
        {"prompt": ("message_1",), "completion": ("message_2",)},
        row_by_row(read_reply),
        REPLY,
        SYSTEM,
    ),
    Format(
        "document/summary",
        {
            "prompt": ("document", "article", "text", "passage", "dialogue", "post", "source"),
            "completion": ("summary", "highlights", "tldr", "abstract", "target"),
        },
        row_by_row(read_reply),
        REPLY,
        SYSTEM,
        {"prompt": is_text},
    ),
    Format(
        "goal/target",
        {"prompt": ("goal",), "completion": ("target",)},
        row_by_row(read_reply),
        REPLY,
        AROUND,
    ),
    Format(
        "input/output",
        {"prompt": ("input",), "completion": ANSWERED},
        row_by_row(read_reply),
        REPLY,
        AROUND,
    ),
    Format(
        "question and answer",
        {"prompt": ASKED, "completion": ANSWERED},
        row_by_row(read_reply),
        REPLY,
        AROUND,
    ),
    Format(
        "texts of two speakers in turn",
        {"messages": ("data", "dialog", "utterances", "conversation", "conversations")},
        row_by_row(read_alternating),
        REPLY,
        SYSTEM,
        {"messages": is_alternating},
    ),
    Format(
        "dialogue with marks in its text",
        {"messages": ("chat", *CONVERSATION, "input")},
        row_by_row(read_spoken),
        REPLY,
        SYSTEM,
        {"messages": is_spoken},
    ),
    Format(
        "turns of the user",
        {"turns": ("turns",)},
        row_by_row(read_turns),
        PROMPT,
        {"completion": ("reference",)},
        {"turns": is_list},
    ),
    Format(
        "tokens",
        {"input_ids": ("input_ids",)},
        row_by_row(read_tokens),
        TEXT,
        {"labels": ("labels",), "mask": ("attention_mask",)},
        {"input_ids": is_list},
    ),
    Format("plain text", {"text": ("text",)}, row_by_row(read_text), TEXT, {"prompt": ASKED}),
    Format("plain text alone", {"text": NAMES["alone"]}, row_by_row(read_text), TEXT, alone=True),
    Format("prompt", {"prompt": ASKED}, row_by_row(read_prompt), PROMPT, AROUND),
)
