"""Carry over the example configs of other projects, and count what becomes of them.

    git clone https://github.com/hiyouga/LLaMA-Factory …     # and the others
    python benchmarks/imports.py --clones FOLDER

Nothing is downloaded and nothing of a clone is run. A file is imported (what is written passes
ModelForge's own checks), refused with a reason, or it crashed. Of the imported ones some need a
word of their user, and some lose keys. A key of a file that no line speaks of is unsaid.
"""

from __future__ import annotations

import argparse
import collections
import traceback
from collections.abc import Iterator
from pathlib import Path

from modelforge import load_config
from modelforge.configfile.peers import leaves
from modelforge.errors import ConfigError
from modelforge.importing.carry import import_config
from modelforge.importing.files import read

#: Project → the folder of its clone and its files.
PLACES = {
    "alignment-handbook": ("alignment-handbook/recipes", ("*.yaml",)),
    "TRL": ("trl/examples", ("*.yaml",)),
    "LLaMA-Factory": ("LLaMA-Factory/examples", ("*.yaml", "*.sh")),
    "Axolotl": ("axolotl/examples", ("*.yml", "*.yaml")),
    "ms-swift": ("ms-swift/examples", ("*.sh", "*.yaml")),
    "torchtune": ("torchtune/recipes/configs", ("*.yaml",)),
    "Unsloth": ("notebooks/nb", ("*.ipynb",)),
}
#: Words of a refusal → what it is called in the table.
KINDS = (
    (("pictures", "sounds", "Vision"), "pictures, sounds"),
    (("another engine", "Megatron"), "other engine"),
    (("no training", "Accelerate's"), "no training"),
    (("names no", "shows no key", "calls nothing"), "not said in the file"),
)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clones", type=Path, required=True, help="where the clones lie")
    parser.add_argument("--only", default="", help="one project")
    options = parser.parse_args()
    print("| project | files | imported | of these with lost keys | to settle | refused: pictures, "
          "sounds | other engine | no training | not said in the file | other method | crashed | "
          "keys unsaid |")  # fmt: skip
    print("|" + "---|" * 12)
    for project, (folder, patterns) in PLACES.items():
        if options.only in ("", project):
            found = [
                p for pattern in patterns for p in sorted((options.clones / folder).rglob(pattern))
            ]
            print(row(project, found), flush=True)


def row(project: str, files: list[Path]) -> str:
    """One project's line."""
    count = collections.Counter(word for path in files for word in outcomes(path))
    names = ("imported", "lost", "open", *(name for _, name in KINDS), "other method", "crashed",
             "unsaid")  # fmt: skip
    return f"| {project} | {len(files)} | " + " | ".join(str(count[name]) for name in names) + " |"


def outcomes(path: Path) -> Iterator[str]:
    """What became of a file."""
    try:
        found = import_config(path)
        load_config(found.config)
        values = read(path).values
    except ConfigError as error:
        text = str(error)
        yield next((name for words, name in KINDS if any(w in text for w in words)), "other method")
        return
    except Exception:
        traceback.print_exc()
        yield "crashed"
        return
    yield "imported"
    became = {line.became for line in found.lines}
    yield from became & {"lost", "open"}
    told = [line for line in found.lines if line.theirs]
    for key, _ in leaves(values):
        # A line of a whole section that was read with other keys says nothing of what is in it.
        if not any(
            line.theirs == key
            or within(line.theirs, key)
            or (within(key, line.theirs) and "read with" not in line.note)
            for line in told
        ):
            yield "unsaid"


def within(place: str, whole: str) -> bool:
    """Whether a place is a part of another, or the same."""
    return place == whole or place.startswith((f"{whole}.", f"{whole}["))


if __name__ == "__main__":
    main()
