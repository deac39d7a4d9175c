"""What the site has beside these pages: the README as its start, and pages made from the code.

mkdocs runs this as a hook. The pages themselves read well in the repository too, so they link to
files beside them. What such a link names outside this folder becomes a page of the site.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
_LINK = re.compile(r"\]\((?!\w+:|#)([^)#]+)(#[^)]*)?\)")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that do not lie in this folder."""
    from mkdocs.structure.files import File, InclusionLevel

    pages = {"index.md": (ROOT / "README.md").read_text(encoding="utf-8")}
    pages |= {"reference/keys.md": keys(), "reference/commands.md": commands()}
    beside = {page_of(path): as_page(path) for path in linked()}
    for name, text in (pages | beside).items():
        made = File.generated(config, name, content=text)
        if name in beside and name != "SECURITY.md":
            made.inclusion = InclusionLevel.NOT_IN_NAV
        files.append(made)
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Lead the links of a page to the pages of the site."""
    here = source_of(page.file.src_uri)

    def led(found: re.Match[str]) -> str:
        target = (here.parent / found[1]).resolve()
        if not target.is_file():
            return found[0]
        back = "../" * page.file.src_uri.count("/")
        return f"]({back}{page_of(target)}{found[2] or ''})"

    return _LINK.sub(led, markdown)


def page_of(path: Path) -> str:
    """What a file of the repository is called in the site."""
    name = path.resolve().relative_to(ROOT).as_posix()
    if name == "README.md":
        return "index.md"
    if name.startswith("docs/"):
        return name.removeprefix("docs/")
    return name if name.endswith(".md") else f"{name}.md"


def source_of(page: str) -> Path:
    """The file of the repository that a page of the site is made of."""
    if page == "index.md":
        return ROOT / "README.md"
    inside = ROOT / "docs" / page
    return inside if inside.is_file() else ROOT / page.removesuffix(".md")


def linked() -> list[Path]:
    """The files outside this folder that a page, or one of them, links to."""
    found: dict[Path, None] = {}
    looked = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    while looked:
        page = looked.pop()
        for name, _ in _LINK.findall(page.read_text(encoding="utf-8")):
            target = (page.parent / name).resolve()
            ours = target == ROOT / "README.md" or ROOT / "docs" in target.parents
            if target.is_file() and not ours and target not in found:
                found[target] = None
                looked += [target] if target.suffix == ".md" else []
    return list(found)


def as_page(path: Path) -> str:
    """A file as a page: Markdown as it is, code in a block."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return text
    name = os.fspath(path.relative_to(ROOT))
    return f"# {name}\n\n````{path.suffix.removeprefix('.')}\n{text.rstrip()}\n````\n"


def keys() -> str:
    """The keys of every strategy, from the JSON Schemas that a config is held against."""
    lines = [
        "# Keys of each strategy",
        "",
        "Made from `configs/schemas`. TRL's keys have its words.",
    ]
    for path in sorted((ROOT / "configs" / "schemas").glob("*.json")):
        schema = json.loads(path.read_text(encoding="utf-8"))
        lines += ["", f"## {path.stem}", "", "| key | default | meaning |", "|---|---|---|"]
        for key, said in schema["properties"].items():
            default = f"`{json.dumps(said['default'])}`" if "default" in said else ""
            lines.append(f"| `{key}` | {_cell(default)} | {_cell(said.get('description', ''))} |")
    return "\n".join(lines) + "\n"


def commands() -> str:
    """Every command with its options, as `--help` says them."""
    from modelforge.cli.main import app

    return "\n".join(["# Commands", "", *_commands(app)]) + "\n"


def _commands(app: Any, before: str = "modelforge") -> Iterator[str]:
    import inspect
    from typing import get_args, get_type_hints

    for command in app.registered_commands:
        name = command.name or command.callback.__name__
        yield from (f"## `{before} {name}`", "", inspect.getdoc(command.callback) or "", "")
        yield from ("| option | meaning |", "|---|---|")
        hints = get_type_hints(inspect.unwrap(command.callback), include_extras=True)
        for hint in hints.values():
            for info in get_args(hint)[1:]:
                names = info.param_decls or (info.metavar or "argument",)
                said = ", ".join(f"`{name}`" for name in names)
                yield f"| {said} | {_cell(info.help)} |"
        yield ""
    for group in app.registered_groups:
        yield from _commands(group.typer_instance, f"{before} {group.name}")


def _cell(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|").replace("<", "&lt;")
