"""The shape of one fact."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Topic:
    """One fact: patterns that ask for it, the answer, and the answer in few words."""

    name: str
    questions: tuple[str, ...]
    plain: str
    terse: str
