"""Long prompts in `cpu_engine.py`: how fast one stream reads them, and decodes after them.

Of each length there are two figures: `d8192` are the tokens a second that come after 8,192 others,
`p8192` those of the prompt a second. llama.cpp's keys are in 8 bit too (`-ctk q8_0`); its values are
in 16, as it has 8 bit for both with one way of attention only.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from benchmarks import llama_cpp

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from benchmarks.cpu_engine import Process

_SPARE = 1024
"""Positions of a model beyond its longest prompt."""


def positions(contexts: Sequence[int]) -> int:
    """Return how many positions a model for these prompts has."""
    return max(contexts) + _SPARE


def one_round(
    chosen: argparse.Namespace,
    processes: Sequence[Process],
    figures: dict[str, dict[str, list[float]]],
    deadline: float,
) -> bool:
    """Add figures of each length from all contenders; return False if time ran out."""
    for tokens in chosen.context:
        for process in processes:
            if time.monotonic() > deadline:
                return False
            decode, prefill = process.measure(1, tokens, chosen.steps)
            _add(figures, process.name, tokens, decode, prefill)
        if chosen.llama_batched_bench and chosen.gguf:
            options = ("-ctk", "q8_0")
            row = llama_cpp.rows(chosen, tokens, chosen.steps, [1], *options)[0]
            speeds = float(row["speed_tg"]), float(row["speed_pp"])
            _add(figures, "llama.cpp", tokens, *speeds)
    return True


def _add(
    figures: dict[str, dict[str, list[float]]],
    name: str,
    tokens: int,
    decode: float,
    prefill: float,
) -> None:
    row = figures.setdefault(name, {})
    row.setdefault(f"d{tokens}", []).append(decode)
    row.setdefault(f"p{tokens}", []).append(prefill)
