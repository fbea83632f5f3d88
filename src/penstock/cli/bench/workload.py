"""What a benchmark is to send."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import random
    from pathlib import Path

ShapeName = Literal["words", "sharegpt", "agents", "images"]


@dataclass(frozen=True)
class Span:
    """A range that lengths are drawn from, both ends included."""

    low: int
    high: int

    def draw(self, source: random.Random) -> int:
        """Return a random length."""
        return source.randint(self.low, self.high)


@dataclass(frozen=True)
class Load:
    """What to send. Exactly one of `rate` (requests/s) and `concurrency` is set.

    `burstiness` 1 is a Poisson process; less comes in bursts, more at even distances. `dataset` is
    a file of conversations in ShareGPT's form, in place of a shape.
    """

    url: str
    key: str
    model: str
    requests: int
    duration_s: float
    rate: float | None
    concurrency: int | None
    prompt_words: Span
    answer_tokens: Span
    seed: int = 0
    timeout_s: float = 600.0
    shape: ShapeName = "words"
    burstiness: float = 1.0
    dataset: Path | None = None
