"""Data sets as a config names them."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from modelforge.common.paths import LocalText

Path = Annotated[LocalText, Field(min_length=1)]
Share = Annotated[float, Field(ge=0, lt=1)]


class DatasetSource(BaseModel):
    """One of several data sets mixed into one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: Annotated[LocalText, Field(description="File, folder or hub id.", min_length=1)]
    split: Annotated[
        str | None, Field(description="The split of a hub data set or a folder to read.")
    ] = None
    name: Annotated[str | None, Field(description="Configuration of a hub data set.")] = None
    columns: Annotated[
        dict[str, str] | None,
        Field(description="Maps our column names to this set's; in place of the config's columns."),
    ] = None
    max_samples: Annotated[
        Annotated[int, Field(ge=1)] | None,
        Field(description="The most rows to read of this set, drawn at random by the seed."),
    ] = None
    weight: Annotated[
        Annotated[float, Field(gt=0)] | None, Field(description="Share of the mix; all or none.")
    ] = None
    eval: Annotated[
        Share | Annotated[int, Field(ge=1)] | Path | None,
        Field(
            description="What of this set is held out: a share (below 1) or a number of its rows, "
            "or a file, folder or hub id beside it."
        ),
    ] = None


Dataset = Path | Annotated[list[Path | DatasetSource], Field(min_length=1)]


class Splits(BaseModel):
    """What to train on and what to hold out, each a data set or several."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    train: Annotated[Dataset, Field(description="What to train on.")]
    validation: Annotated[Dataset | None, Field(description="What to hold out.")] = None
    test: Annotated[
        Dataset | None, Field(description="What to hold out where validation is not given.")
    ] = None
