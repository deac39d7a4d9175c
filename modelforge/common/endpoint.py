"""One question to a model behind an OpenAI-compatible address."""

from __future__ import annotations

import http.client
import json
import os
import urllib.request

from modelforge.errors import Problem, RunError

#: The variables that may hold the key, the first one first. It is read from nowhere else.
KEYS = ("MODELFORGE_JUDGE_KEY", "OPENAI_API_KEY")
# What an address that is not there, or is no such endpoint, ends in; URLError is an OSError.
_UNREAD = (OSError, http.client.HTTPException, ValueError, LookupError, TypeError)
_SECONDS, _TOKENS = 120, 8


def word_of(url: str, model: str, question: str) -> str:
    """The first tokens of the likeliest answer, which are to be a verdict.

    Args:
        url: Of the endpoint, with or without ``/chat/completions``.
        model: Its name there.
        question: What is asked.

    Raises:
        RunError: If nothing can be read as an answer.
    """
    address = url.rstrip("/")
    address += "" if address.endswith("/chat/completions") else "/chat/completions"
    body = {
        "model": model,
        "messages": [{"role": "user", "content": question}],
        "temperature": 0,
        "max_tokens": _TOKENS,
    }
    headers = {"Content-Type": "application/json"}
    key = next((os.environ[k] for k in KEYS if os.environ.get(k)), None)
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    request = urllib.request.Request(address, json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=_SECONDS) as answer:
            return str(json.load(answer)["choices"][0]["message"]["content"])
    except _UNREAD as error:
        fix = f"check the address, and the key in {KEYS[0]}"
        raise RunError(Problem(url, f"gave no verdict: {error}", fix)) from None
