"""Print what Penstock needs, one requirement a line, so that an image has it in a layer of its own.

Usage: `python scripts/needed.py [extra,extra]` in the folder of pyproject.toml. torch is left out: it
comes from an index of its own, before the rest.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

OWN = re.compile(r"penstock\[([\w,-]+)\]")


def needed(extras: list[str]) -> list[str]:
    """Return the requirements, those of extras within extras too."""
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    lines: list[str] = list(project["dependencies"])
    left, done = list(extras), set[str]()
    while left:
        extra = left.pop()
        if extra in done:
            continue
        done.add(extra)
        for line in project["optional-dependencies"][extra]:
            if own := OWN.match(line):
                left += own[1].split(",")
            else:
                lines.append(line)
    return sorted({line for line in lines if not line.startswith("torch==")})


def main() -> None:
    extras = sys.argv[1].split(",") if len(sys.argv) > 1 else []
    print(*needed(extras), sep="\n")


if __name__ == "__main__":
    main()
