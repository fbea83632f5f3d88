"""Tokens and latencies of the last minutes, small enough to be added up in Redis.

Latencies are counted in buckets whose bounds grow by a constant factor, so that the counts of
several processes and minutes can be added and a percentile read from the sum is within a few
per cent of the true one (the idea of DDSketch, Masson et al., 2019).
"""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

GROWTH: Final = 1.1
"""A bucket's upper bound over its lower one; a percentile is off by at most half of that."""
SMALLEST_S: Final = 0.0005
LARGEST_BUCKET: Final = 160
"""Half an hour; longer latencies count as this."""

Latency = Literal["ttft", "itl"]
Amount = Literal["tokens", "prompt_tokens", "answers"]


def bucket_of(seconds: float) -> int:
    """Return the number of the bucket that a latency falls into."""
    if seconds <= SMALLEST_S:
        return 0
    return min(math.ceil(math.log(seconds / SMALLEST_S, GROWTH)), LARGEST_BUCKET)


def seconds_of(bucket: int) -> float:
    """Return the middle of a bucket, in seconds."""
    return SMALLEST_S * GROWTH**bucket * (1 + 1 / GROWTH) / 2


def percentile(buckets: Mapping[int, int], share: float) -> float | None:
    """Return the latency, in seconds, that a `share` (0 to 1) of the counted ones do not exceed.

    None if nothing was counted.
    """
    total = sum(buckets.values())
    if total <= 0:
        return None
    rank, passed = share * total, 0
    for bucket in sorted(buckets):
        passed += buckets[bucket]
        if passed >= rank:
            return seconds_of(bucket)
    return seconds_of(max(buckets))


class History:
    """Counts since the last `take`, by field. Owned by the event loop.

    A field is `<amount>::<queue>` or `<latency>:<bucket>:<queue>`.
    """

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def add(self, amount: Amount, queue: str, count: int = 1) -> None:
        """Count tokens or answers."""
        if count:
            self._counts[f"{amount}::{queue}"] += count

    def observe(self, latency: Latency, queue: str, seconds: float, count: int = 1) -> None:
        """Count a latency that `count` tokens had."""
        self._counts[f"{latency}:{bucket_of(seconds)}:{queue}"] += count

    def take(self) -> dict[str, int]:
        """Return the counts and reset them."""
        taken, self._counts = self._counts, Counter()
        return dict(taken)

    def give_back(self, counts: Mapping[str, int]) -> None:
        """Add back counts that could not be written."""
        self._counts.update(counts)
