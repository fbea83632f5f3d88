"""Uniform numbers by counter: a hash of (seed, position), with no state to carry or to lose."""

from __future__ import annotations

from typing import Final

_MASK: Final = (1 << 64) - 1
_GAMMA: Final = 0x9E3779B97F4A7C15


def uniform(seed: int, position: int) -> float:
    """Return the number in [0, 1), of 53 bits, that belongs to a position of a seed's text.

    SplitMix64 (Steele, Lea and Flood, 2014) read at its `position`-th output, from a start that
    is itself hashed so that neighbouring seeds share nothing. Any integer may be a seed.
    """
    start = _mix(seed & _MASK)
    return (_mix((start + (position + 1) * _GAMMA) & _MASK) >> 11) * 2.0**-53


def _mix(value: int) -> int:
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)
