"""What an entry of ``constraints`` may say: a section of a config, and of a file of principles."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from modelforge.common.paths import IsPath
from modelforge.common.sections import Section

Words = Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]
Count = Annotated[int, Field(ge=0)]
Action = Literal["block", "rewrite", "warn", "log"]


class ConstraintEntry(Section):
    """One thing that prompts or answers are held to: one rule, where it holds, what is done."""

    name: Annotated[str, Field(description="What it is called in figures and messages.",
                               min_length=1)]  # fmt: skip
    on: Annotated[
        Literal["output", "input", "both"],
        Field(description="Whether answers, prompts or both are held to it."),
    ] = "output"
    action: Annotated[
        Action,
        Field(
            description="What is done where it is broken. block: not shown, and steered around "
            "where it can be; rewrite: the place is replaced; warn and log: counted."
        ),
    ] = "block"
    banned: Annotated[
        Words | None, Field(description="Texts of which none may stand there, within words too.")
    ] = None
    required: Annotated[
        Words | None, Field(description="Texts of which each must stand there.")
    ] = None
    pattern: Annotated[
        str | None,
        Field(description="A regular expression that may match nowhere.", min_length=1),
    ] = None
    required_pattern: Annotated[
        str | None,
        Field(description="A regular expression that must match somewhere.", min_length=1),
    ] = None
    min_characters: Annotated[Count | None, Field(description="The fewest characters.")] = None
    max_characters: Annotated[Count | None, Field(description="The most characters.")] = None
    min_words: Annotated[Count | None, Field(description="The fewest words.")] = None
    max_words: Annotated[Count | None, Field(description="The most words.")] = None
    scripts: Annotated[
        Words | None,
        Field(description="The scripts that letters may be of, such as Latin or Cyrillic."),
    ] = None
    classifier: Annotated[
        Annotated[str, IsPath(True, "classifier")] | None,
        Field(description="A text classifier's folder or hub id.", min_length=1),
    ] = None
    label: Annotated[
        str | None,
        Field(description="The classifier's label that breaks it; by default its last.",
              min_length=1),
    ] = None  # fmt: skip
    judge: Annotated[
        Annotated[str, IsPath(True, "judge")] | None,
        Field(description="A model's folder or hub id, or an endpoint's address.", min_length=1),
    ] = None
    judge_model: Annotated[
        str | None, Field(description="The judge's name at its endpoint.", min_length=1)
    ] = None
    question: Annotated[
        str | None,
        Field(description="What the judge is asked; yes breaks the constraint.", min_length=1),
    ] = None
    threshold: Annotated[
        float | None,
        Field(
            description="From which probability on the classifier's label or the judge's yes "
            "counts; by default 0.5.",
            gt=0,
            le=1,
        ),
    ] = None
    ignore_case: Annotated[
        bool | None,
        Field(description="Whether case is ignored; by default for texts, and not for patterns."),
    ] = None
    whole_words: Annotated[
        bool | None, Field(description="Whether banned or required texts are whole words.")
    ] = None
    replacement: Annotated[
        str | None,
        Field(description="What stands in the place of what rewrite takes out."),
    ] = None
    message: Annotated[
        str | None,
        Field(description="What is answered in place of a whole answer that is blocked.",
              min_length=1),
    ] = None  # fmt: skip
    critique: Annotated[
        str | None,
        Field(description="For `feedback pairs --principles`: asks what offends against it.",
              min_length=1),
    ] = None  # fmt: skip
    revision: Annotated[
        str | None,
        Field(description="For `feedback pairs --principles`: asks to write it anew.",
              min_length=1),
    ] = None  # fmt: skip

    @model_serializer(mode="wrap")
    def _as_said(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without the keys that say nothing: an entry has a few of many."""
        return {key: value for key, value in plain(self).items() if value is not None}


Constrained = Annotated[list[ConstraintEntry], Field(min_length=1)]
