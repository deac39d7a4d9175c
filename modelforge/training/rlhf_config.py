"""``RLHFConfig``: the keys of an RLHF run, for Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from modelforge.configfile.load import load_config, raw_config
from modelforge.configfile.peers import project_of
from modelforge.errors import ConfigError, Problem


class RLHFConfig(dict[str, Any]):
    """The keys of an RLHF run, checked as it is made; see ``docs/rlhf.md``.

    Raises:
        ConfigError: With every problem found.
    """

    def __init__(self, **values: Any) -> None:
        super().__init__(values, strategy="rlhf")
        load_config(self)

    @classmethod
    def from_yaml(cls, path: str | Path) -> RLHFConfig:
        """The keys of a YAML or JSON file; its paths are relative to the working folder.

        Raises:
            ConfigError: With every problem found; another trainer's file is led to the command
                that carries it over.
        """
        values = raw_config(Path(path))
        if project_of(values) is not None:
            load_config(path)
        said = values.pop("strategy", "rlhf")
        if said != "rlhf":
            fix = f'write modelforge.train("{path}")'
            raise ConfigError(
                Problem(f"{Path(path).name}: strategy", f"is {said!r}, not rlhf", fix)
            )
        values.pop("$schema", None)
        return cls(**values)
