"""Streams of every dialect's tool calls, damaged and cut anywhere: what comes out is the same."""

from __future__ import annotations

import itertools
import os
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from api.parsing.dialects import DIALECTS
from tests.unit.api.parsing.cuts import TOOLS, functions_of, parsed
from tests.unit.api.parsing.written import written

EXAMPLES = int(os.environ.get("PENSTOCK_FUZZ_EXAMPLES", "3"))
"""Of each dialect."""
MANY = 5
"""With so many, each run draws others."""
VARIANTS = (*sorted(DIALECTS), "lfm2, json", "glm45, one line", "gemma3, list")
THINK = ("<think>", "</think>")

texts = st.text(st.characters(codec="utf-8"), max_size=12)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
names = st.sampled_from(["get_weather", "now", "write-file", "nobody", "f"])
calls = st.lists(
    st.tuples(names, st.dictionaries(st.sampled_from(["city", "days", "note", "x"]), values)),
    min_size=1,
    max_size=3,
)


@st.composite
def answers(draw: st.DrawFn, variant: str) -> str:
    """Return an answer in a dialect, with text around its calls and some damage."""
    text = draw(texts) + written(variant, draw(calls)) + draw(texts)
    if draw(st.booleans()):
        text = f"{THINK[0]}{draw(texts)}{THINK[1]}{text}"
    for _ in range(draw(st.integers(0, 3))):
        begin = draw(st.integers(0, len(text)))
        end = draw(st.integers(begin, min(begin + 20, len(text))))
        match draw(st.sampled_from(["drop", "repeat", "insert", "end"])):
            case "drop":
                text = text[:begin] + text[end:]
            case "repeat":
                text = text[:end] + text[begin:]
            case "insert":
                text = text[:begin] + draw(texts) + text[begin:]
            case _:
                text = text[:end]
    return text


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_cut_changes_a_damaged_answer(variant: str) -> None:
    dialect = variant.partition(",")[0]
    how: dict[str, Any] = {"format_name": dialect, "functions": functions_of(TOOLS, dialect)}

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=EXAMPLES < MANY,
        suppress_health_check=cast("Any", list(HealthCheck)),
    )
    @given(answers(variant), st.lists(st.integers(0, 2_000), max_size=12), st.booleans())
    def check(text: str, places: list[int], reasons: bool) -> None:
        with_reasoning = how | ({"reasoning": THINK} if reasons else {})
        whole = parsed([text], **with_reasoning)
        borders = sorted({0, len(text), *(place % (len(text) + 1) for place in places)})
        pieces = [text[a:b] for a, b in itertools.pairwise(borders)]
        assert parsed(pieces, **with_reasoning) == whole
        assert parsed(list(text), **with_reasoning) == whole

    check()
