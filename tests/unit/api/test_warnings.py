"""Warnings of one request: each once, bounded, in ASCII."""

from __future__ import annotations

import json

from api.http.warnings import LONGEST, MOST, MOST_BYTES, Warnings


def test_each_once_and_in_order() -> None:
    warnings = Warnings()
    assert not warnings
    assert warnings.member() == {}
    for text in ("b", "a", "b"):
        warnings.add(text)
    assert warnings.texts == ["b", "a"]
    assert warnings.member() == {"warnings": ["b", "a"]}
    assert json.loads(warnings.header) == ["b", "a"]


def test_bounds() -> None:
    warnings = Warnings()
    for number in range(MOST + 5):
        warnings.add(f"{number} \u65e5\n" * 1_000)
    assert len(warnings.texts) == MOST + 1
    assert warnings.texts[-1] == "5 more"
    assert max(map(len, warnings.texts)) == LONGEST
    header = warnings.header
    assert len(header) <= MOST_BYTES
    assert header.isascii()
    assert "\n" not in header
    shown = json.loads(header)
    assert shown[-1] == f"{MOST + 5 - (len(shown) - 1)} more"
