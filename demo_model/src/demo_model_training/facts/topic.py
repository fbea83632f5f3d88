"""The shape of one fact."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Topic:
    """One fact: what asks for it, the answer, and the answer in few words.

    `questions` are whole; the others are put into the frames of `frames.py`: `acts` are what
    somebody wants to do ("start a worker"), `things` what is asked about ("the queue's name"),
    `symptoms` what is seen ("the port is taken"). All are patterns of `phrasing.py`.
    """

    name: str
    questions: tuple[str, ...]
    plain: str
    terse: str
    acts: tuple[str, ...] = ()
    things: tuple[str, ...] = ()
    symptoms: tuple[str, ...] = ()
