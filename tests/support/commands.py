"""The command line: its result, and the JSON keys that its help lists."""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

from gpusoftmax import cli


class Result(NamedTuple):
    """Exit code and output of a command."""

    code: Any
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one object on the standard output."""
        return json.loads(self.out)


def documented_keys(command: str) -> set[str]:
    """The JSON keys that a command's epilog lists, explanations in parentheses left out."""
    function = cli.sweep_command if command == "sweep" else getattr(cli, command)
    (epilog,) = [c.epilog for c in cli.app.registered_commands if c.callback is function]
    listed = re.sub(r"\([^)]*\)", "", epilog.split("JSON keys:")[1])
    return {key.strip(" .\n") for key in listed.split(",")}
