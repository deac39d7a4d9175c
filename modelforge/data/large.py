"""Data that memory does not hold: its tokens are made once, in files, and found again by content.

Files are read again for each pass over them; examples and tokens lie on disk. Tokens are kept in
the cache of ``datasets``, under a digest of all that they follow from.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import fields
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Any

from modelforge.common.console import say, warn
from modelforge.common.processes import usual_processes
from modelforge.data.converted import Pair, convert_all
from modelforge.data.encode import Encode, encode_spooled
from modelforge.data.ledger import Ledger
from modelforge.data.sources import Parts
from modelforge.data.spool import Spool, cache_folder, scratch_folder, written
from modelforge.data.store import Store

LEDGER = "ledger.json"  # written last: a folder with it is whole
LIBRARIES = ("transformers", "tokenizers", "trl", "jinja2", "datasets")


def large_rows(
    parts: Parts, encode: Encode, ledger: Ledger, *, asked: str, processes: int | None
) -> list[Store]:
    """The tokens of each part, made or found.

    Args:
        parts: The files.
        encode: What makes tokens of them.
        ledger: Is told of it, or becomes what it was when they were made.
        asked: All that the run says of its data.
        processes: How many encode; None: `usual_processes`.

    Raises:
        DataError: With all problems of the files.
    """
    key = digest_of(parts, encode, asked)
    kept = cache_folder() / key
    # Of a row that is followed, its way is wanted and not what became of it once.
    if key and ledger.watched is None and (found := found_again(kept, parts.count, ledger)):
        say(f"the tokens of these files are in the cache, and are used: {kept}")
        return found
    scratch = scratch_folder()
    folder = scratch / "tokens"
    numbers = count()

    def keep(pairs: Iterator[Pair]) -> Spool[Pair]:
        return Spool(scratch / f"{next(numbers)}.pickle", pairs)

    with written(scratch):
        made = convert_all(parts, encode.mode, ledger, encode.tokenizer, keep)
        folder.mkdir()
        processes = processes or usual_processes()
        stores = encode_spooled(made, folder, encode, ledger, processes=processes)
        if not key:
            return stores
        (folder / LEDGER).write_text(json.dumps(ledger.to_dict()), encoding="utf-8")
    try:
        folder.replace(kept)
    except OSError:  # another run was faster
        return stores
    say(f"the tokens are kept for the next run: {kept}")
    return [Store(kept / f"{number}.arrow") for number in range(parts.count)]


def found_again(kept: Path, count: int, ledger: Ledger) -> list[Store]:
    """The tokens of so many parts in a folder of the cache; none where they are not whole."""
    if not kept.is_dir():
        return []
    try:
        stores = [Store(kept / f"{number}.arrow") for number in range(count)]
        restore(ledger, kept / LEDGER)
    except (OSError, ValueError):  # the machine lost power, or somebody removed a part
        warn(f"the tokens in the cache are damaged, and are made anew: {kept}")
        shutil.rmtree(kept, ignore_errors=True)
        return []
    return stores


def restore(ledger: Ledger, path: Path) -> None:
    """Have a ledger say what it said when the tokens were made."""
    values = json.loads(path.read_text(encoding="utf-8"))
    before = Ledger.from_dict(values)
    for field in fields(before):
        setattr(ledger, field.name, getattr(before, field.name))


def digest_of(parts: Parts, encode: Encode, asked: str) -> str:
    """A digest of all that the tokens follow from; empty where the tokenizer cannot be told."""
    tokenizer: Any = encode.tokenizer
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return ""
    how = encode.how
    everything = [
        [[t.path, t.sha256, t.revision, t.fingerprint, len(t.rows)] for t in parts.tables],
        [asked, encode.mode.kind, encode.mode.conversational, encode.system],
        [how.train_on, dict(how.template_kwargs), sorted(how.end_ids), how.scores],
        [backend.to_str(), tokenizer.chat_template, type(tokenizer).__name__],
        sorted((name, str(token)) for name, token in tokenizer.special_tokens_map.items()),
        [version(library) for library in LIBRARIES],
        # What is here makes the tokens, whatever version it says it is.
        [path.read_text(encoding="utf-8") for path in sorted(Path(__file__).parent.glob("*.py"))],
    ]
    text = json.dumps(everything, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]
