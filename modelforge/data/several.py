"""The formats that hold several answers to a prompt; most specific first."""

from __future__ import annotations

from modelforge.data.compare import (
    convert_labelled,
    convert_score_lists,
    convert_scored,
    has_score,
    is_label,
)
from modelforge.data.convert import row_by_row
from modelforge.data.dialogue import is_messages
from modelforge.data.layout import Format, is_dialogue, is_list, is_number
from modelforge.data.names import (
    ANSWERED,
    AROUND,
    ASKED,
    CHOSEN,
    CONVERSATION,
    MARGIN,
    NAMES,
    PAIR,
    SCORED,
    SYSTEM,
    TWO,
)
from modelforge.data.pairs import read_best_and_wrong, read_messages_and_rejected, read_pair
from modelforge.data.sides import (
    convert_compared,
    convert_first_better,
    convert_from_zero,
    read_strength,
    read_two_scores,
    read_winner,
)

SEVERAL: tuple[Format, ...] = (
    Format(
        "conversation, chosen/rejected",
        {"prompt": CONVERSATION, **CHOSEN},
        row_by_row(read_pair),
        PAIR,
        {**SYSTEM, **MARGIN},
        {"prompt": is_messages},
    ),
    Format(
        "instruction/input, chosen/rejected",
        {"prompt": ("instruction",), "input": ("input", "context"), **CHOSEN},
        row_by_row(read_pair),
        PAIR,
        {**AROUND, **MARGIN},
    ),
    Format(
        "prompt, chosen/rejected",
        {"prompt": ASKED, **CHOSEN},
        row_by_row(read_pair),
        PAIR,
        {**AROUND, **MARGIN},
    ),
    Format(
        "chosen/rejected, prompt implicit",
        CHOSEN,
        row_by_row(read_pair),
        PAIR,
        {**SYSTEM, **MARGIN},
    ),
    Format(
        "messages and a rejected reply",
        {"chosen": CONVERSATION, "rejected": NAMES["rejected"]},
        row_by_row(read_messages_and_rejected),
        PAIR,
        {**SYSTEM, **MARGIN},
        {"chosen": is_messages},
    ),
    Format(
        "prompt, reply and rejected reply",
        {"prompt": ASKED, "chosen": ANSWERED, "rejected": NAMES["rejected"]},
        row_by_row(read_pair),
        PAIR,
        {**AROUND, **MARGIN},
    ),
    Format(
        "question, matching/not matching answer",
        {
            "prompt": ("question",),
            "chosen": ("answer_matching_behavior",),
            "rejected": ("answer_not_matching_behavior",),
        },
        row_by_row(read_pair),
        PAIR,
    ),
    Format(
        "question, best/incorrect answers",
        {
            "prompt": ("question",),
            "chosen": ("best_answer",),
            "rejected": ("incorrect_answers",),
        },
        row_by_row(read_best_and_wrong),
        PAIR,
    ),
    Format(
        "two responses counted from 0 and a preference",
        {
            "prompt": (*ASKED, *CONVERSATION),
            "a": ("response_0", "answer_0"),
            "b": ("response_1", "answer_1"),
            "preference": NAMES["preference"],
        },
        convert_from_zero,
        PAIR,
        {**AROUND, "margin": NAMES["margin"]},
    ),
    Format(
        "two responses and how much the second is better",
        {"prompt": (*ASKED, "context"), **TWO, "strength": NAMES["strength"]},
        row_by_row(read_strength),
        PAIR,
        AROUND,
        {"strength": is_number},
    ),
    Format(
        "two replies of people and whether the first is better",
        {
            "prompt": ("history",),
            "a": ("human_ref_a",),
            "b": ("human_ref_b",),
            "preference": ("labels", "label"),
        },
        convert_first_better,
        PAIR,
        SYSTEM,
    ),
    Format(
        "two responses and a preference",
        {
            "prompt": (*ASKED, *CONVERSATION),
            **TWO,
            "preference": NAMES["preference"],
        },
        convert_compared,
        PAIR,
        {**AROUND, "margin": NAMES["margin"]},
    ),
    Format(
        "two responses and whether each of them won",
        {
            "prompt": ASKED,
            **TWO,
            "first_wins": NAMES["first_wins"],
            "second_wins": NAMES["second_wins"],
        },
        row_by_row(read_winner),
        PAIR,
        {**AROUND, "tie": ("winner_tie", "tie")},
    ),
    Format(
        "two responses and a score for each",
        {
            "prompt": ASKED,
            **TWO,
            "score_a": ("score_a", "score_0", "score_1"),
            "score_b": ("score_b", "score_1", "score_2"),
        },
        row_by_row(read_two_scores),
        PAIR,
        AROUND,
        {"score_a": is_number, "score_b": is_number},
    ),
    Format(
        "two conversations and a preference",
        {
            "a": ("conversation_a",),
            "b": ("conversation_b",),
            "preference": NAMES["preference"],
        },
        convert_compared,
        PAIR,
        SYSTEM,
        {"a": is_messages, "b": is_messages},
    ),
    Format(
        "several answers with scores",
        SCORED,
        convert_score_lists,
        PAIR,
        AROUND,
        {"replies": has_score},
    ),
    Format(
        "lists of answers and of scores",
        {**SCORED, "scores": NAMES["scores"]},
        convert_score_lists,
        PAIR,
        AROUND,
        {"replies": is_list, "scores": is_list},
    ),
    Format(
        "lists of answers and of ranks",
        {**SCORED, "ranks": NAMES["ranks"]},
        convert_score_lists,
        PAIR,
        AROUND,
        {"replies": is_list, "ranks": is_list},
    ),
    Format(
        "messages and a label",
        {"messages": CONVERSATION, "label": NAMES["label"]},
        convert_labelled,
        PAIR,
        SYSTEM,
        {"messages": is_messages, "label": is_label},
    ),
    Format(
        "dialogue of a completion and a label",
        {"messages": ("completion",), "label": NAMES["label"]},
        convert_labelled,
        PAIR,
        SYSTEM,
        {"messages": is_dialogue, "label": is_label},
    ),
    Format(
        "completion and a label",
        {"prompt": ASKED, "completion": ANSWERED, "label": NAMES["label"]},
        convert_labelled,
        PAIR,
        AROUND,
        {"label": is_label},
    ),
    Format(
        "answer and a score",
        {"prompt": ASKED, "completion": ANSWERED, "score": NAMES["score"]},
        convert_scored,
        PAIR,
        AROUND,
        {"score": is_number},
    ),
)
