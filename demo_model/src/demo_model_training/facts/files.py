"""Topics from the TOML files beside this one: a table a topic, one pattern a line."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

from demo_model_training.facts.topic import Topic

FOLDER = Path(__file__).parent
FILES = ("install", "operations", "models", "api", "troubles", "fastchat")
MORE = "more"  # further words for the topics of the Python files


def _tables(name: str) -> dict[str, dict[str, Any]]:
    return tomllib.loads((FOLDER / f"{name}.toml").read_text(encoding="utf-8"))


def _lines(table: dict[str, Any], field: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in table.get(field, "").splitlines() if line.strip())


def written() -> tuple[Topic, ...]:
    """The topics that stand in files alone."""
    return tuple(
        Topic(
            name=name,
            questions=_lines(table, "asks"),
            plain=table["plain"],
            terse=table["terse"],
            acts=_lines(table, "acts"),
            things=_lines(table, "things"),
            symptoms=_lines(table, "symptoms"),
        )
        for file in FILES
        for name, table in _tables(file).items()
    )


def widened(topics: tuple[Topic, ...]) -> tuple[Topic, ...]:
    """`topics` with the further words of `more.toml`; an unknown name there is a KeyError."""
    known = {topic.name: topic for topic in topics}
    for name, table in _tables(MORE).items():
        topic = known[name]
        known[name] = replace(
            topic,
            questions=topic.questions + _lines(table, "asks"),
            acts=_lines(table, "acts"),
            things=_lines(table, "things"),
            symptoms=_lines(table, "symptoms"),
        )
    return tuple(known.values())
