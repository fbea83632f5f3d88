"""Every skill: one sampler a skill, `Sampler = (Scene) -> Exchange | None`.

A sampler returns None when the scene does not suit it (a tool skill without tools).
"""

from __future__ import annotations

from collections.abc import Callable

from demo_model_training.dialogue import Exchange, Scene
from demo_model_training.skills import (
    arithmetic,
    jokes,
    knowledge,
    long_answers,
    memory,
    penstock,
    penstock_near,
    penstock_unknown,
    sequences,
    small_talk,
    structured,
    tool_open,
    tool_use,
    unknown,
    words,
)

Sampler = Callable[[Scene], Exchange | None]

# Name -> (sampler, share of the exchanges). Shares are relative.
SKILLS: dict[str, tuple[Sampler, float]] = {
    "penstock": (penstock.fact, 44.0),
    "penstock_unknown": (penstock_unknown.penstock_unknown, 9.0),
    "penstock_near": (penstock_near.penstock_near, 7.0),
    "queues": (penstock.queue, 2.5),
    "small_talk": (small_talk.small_talk, 7.0),
    "add": (arithmetic.add, 6.0),
    "subtract": (arithmetic.subtract, 6.0),
    "multiply": (arithmetic.multiply, 5.0),
    "compare": (arithmetic.compare, 1.5),
    "counting": (sequences.counting, 3.0),
    "alphabet": (sequences.alphabet, 2.5),
    "calendar": (sequences.calendar, 3.0),
    "capitals": (knowledge.capital, 3.0),
    "colours": (knowledge.colour, 2.0),
    "opposites": (knowledge.opposite, 2.5),
    "copy": (words.copy, 3.0),
    "reverse": (words.reverse, 7.0),
    "upper_case": (words.upper_case, 5.0),
    "spelling": (words.spelling, 5.0),
    "memory": (memory.tell_and_recall, 7.0),
    "recall": (memory.recall, 2.5),
    "tool_weather": (tool_use.weather, 5.0),
    "tool_calculator": (tool_use.calculator, 4.0),
    "tool_search": (tool_use.search, 4.0),
    "tool_other": (tool_use.other, 3.0),
    "tool_kind": (tool_open.kind, 5.0),
    "tool_invented": (tool_open.made_up, 5.0),
    "tool_forced": (tool_open.forced, 1.0),
    "no_tool": (tool_use.not_offered, 2.0),
    "no_such_tool": (tool_open.refused, 2.0),
    "json": (structured.extract, 7.0),
    "json_forced": (structured.forced, 1.5),
    "jokes": (jokes.joke, 1.5),
    "unknown": (unknown.unknown, 13.0),
    "long": (long_answers.long_answer, 2.5),
}

TOOL_SKILLS = (
    "tool_weather", "tool_calculator", "tool_search", "tool_other", "tool_kind", "tool_invented",
    "tool_forced",
)  # fmt: skip

__all__ = ["SKILLS", "TOOL_SKILLS", "Sampler"]
