"""docs/agents.md, read as a user reads it: files to write, variables to set, commands to give."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field

from tests.fixtures.forced.fleet import MODEL
from tests.fixtures.processes import ROOT

_PAGE = ROOT / "docs" / "agents.md"
_BLOCK = re.compile(
    r"(?:^`~/(?P<path>[^`]+)`:\n\n)?^```(?P<kind>\w+)\n(?P<text>.*?)^```", re.MULTILINE | re.DOTALL
)
_ADDRESS = "http://127.0.0.1:8000"


@dataclass
class Guide:
    """What a section of the page says, with another server's address."""

    files: dict[str, str] = field(default_factory=dict[str, str])
    """By their paths in the user's home."""
    environment: dict[str, str] = field(default_factory=dict[str, str])
    commands: list[list[str]] = field(default_factory=list[list[str]])
    python: str = ""

    @classmethod
    def of(cls, name: str, url: str) -> Guide:
        """Read the section of a program."""
        page = _PAGE.read_text(encoding="utf-8")
        assert MODEL in page
        assert _ADDRESS in page
        section = re.split(rf"^## {re.escape(name)}$", page, flags=re.MULTILINE)[1]
        section = section.partition("\n## ")[0].replace(_ADDRESS, url)
        guide = cls()
        for block in _BLOCK.finditer(section):
            if block["path"]:
                guide.files[block["path"]] = block["text"]
            elif block["kind"] == "python":
                guide.python = block["text"]
            else:
                guide._shell(block["text"])
        return guide

    def _shell(self, text: str) -> None:
        for line in text.splitlines():
            words = shlex.split(line)
            if words[0] == "export":
                name, _, value = words[1].partition("=")
                self.environment[name] = value
            else:
                self.commands.append(words)
