"""What a user can do about rows that are dropped, and what is told of rows that are kept."""

from __future__ import annotations

# Reasons for which a row is dropped, each with what the user can do. A reason may carry a detail
# after a colon ("empty cell: answer").
ADVICE = {
    "empty cell": "fill the cell, or map another column with `columns`",
    "holds what is no text": "this strategy trains text: leave these rows out, or the column where "
    "it says nothing",
    "column with a meaning of its own": "name the columns that are to be read in `columns`, or "
    "leave it out of the file",
    "marked not to be trained on": "leave out the mark to train on the row",
    "beside messages": "put it into the messages: it has no place beside them",
    "two system messages": "keep the system message in the messages or in the column",
    "turns not understood": 'use messages, or pairs such as ["question", "answer"]',
    "tokens not understood": "input_ids, labels and attention_mask are lists of whole numbers, "
    "equally long",
    "segments not understood": 'a segment is {"label": true or false, "text": "…"}',
    "choices not understood": "choices are a list of texts",
    "not text": "the cell must hold text; map another column with `columns`",
    "broken messages": 'each message needs a known role and text: {"role": "user", "content": "…"}',
    "no assistant reply": "a conversation to train on needs at least one assistant message",
    "no common prompt": "chosen and rejected share no beginning: give the prompt in its own column",
    "chosen equals rejected": "a pair must differ in something",
    "equal as rendered": "the chat template makes chosen and rejected the same: set another "
    "`chat_template`, or mend the pair",
    "equal once cut": "the pair differs only beyond the length: raise `max_seq_length`",
    "empty as rendered": "the chat template leaves nothing of the answer: set another "
    "`chat_template`, or mend the row",
    "tie": "a tie prefers neither answer",
    "preference not understood": "use a/b, 1/2, 0/1 or 1/-1 in the preference column",
    "label not understood": "use true/false or 1/0 in the label column",
    "score not understood": "a rating must be a number",
    "labelled bad": "answers labelled bad are not trained on as demonstrations",
    "rated below another answer": "only the best-rated answer to a prompt is a demonstration",
    "no partner": "a pair needs a good and a bad answer to the same prompt: "
    "use this file for `sft`, or add rows that answer the same prompt differently",
    "neither best nor worst": "of several rated answers only the best and the worst make a pair",
    "needs a chat template": "these rows are messages: set `chat_template` to auto or a name",
    "tools not understood": "give the functions as a list of objects, or as JSON text of one",
    "not an object": 'give an object, e.g. {"enable_thinking": false}',
    "weight not understood": "use true or false, or a number from 0",
    "weight of a part": "a part is trained on or not: use 0 or 1",
    "template drops text": "set a `chat_template` that renders it, or take it out of the rows",
    "template fails": "set another `chat_template`, or mend the order of roles",
    "prompt fills max_seq_length": "raise `max_seq_length`",
    "prompt is too long": "raise `max_seq_length`, or lower `generation.max_new_tokens`",
    "longer than max_seq_length": "raise `max_seq_length`",
    "no supervised token": "the reply is empty under this chat template; set `chat_template`",
}

# What the chat template does to rows that are kept, told as "3 rows with …", and whether a user
# should look at it (else it is a note). A finding may carry a detail after a colon.
FINDINGS = {
    "turn cut": (
        "assistant turns of which the chat template takes away the {}: these turns are read and "
        "not trained on",
        True,
    ),
    "turn not found": (
        "assistant turns that are not trained on: where they stand under this chat template "
        "cannot be told",
        True,
    ),
    "not opened": (
        "answers that do not begin with {!r}, as every answer does that is generated under this "
        "chat template: train on answers that begin so, or use another template",
        True,
    ),
    "not scored": (
        "replies of which the chat template takes away the {}: a reward model neither sees nor "
        "scores it",
        True,
    ),
    "marks": (
        "words in which the tokenizer reads {}, one of its special tokens: it means there what it "
        "means in a template, and can end a turn; take it out of the words if it is not meant",
        True,
    ),
    "reflowed": (
        "words whose white space the chat template changes, such as line breaks or the indentation "
        "of code: the model reads and learns them so",
        True,
    ),
    "begun": (
        "prompts that end with words of the assistant: that turn is closed and another opened, and "
        "the answer does not go on from them; join the two where they are one answer",
        True,
    ),
    "unread": (
        "the argument {}, which the chat template does not read: it changes nothing",
        True,
    ),
    "earlier thought": (
        "thoughts of earlier turns in the prompt; the chat template leaves them out, as it does "
        "when the model answers",
        False,
    ),
}
