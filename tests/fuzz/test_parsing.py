"""Streams of every dialect's tool calls, damaged and cut anywhere: what comes out is the same."""

from __future__ import annotations

import itertools
import os
from typing import Any, cast

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from api.parsing.dialects import DIALECTS
from tests.unit.api.parsing.cuts import TOOLS, functions_of, parsed
from tests.unit.api.parsing.written import written

EXAMPLES = 20 * int(os.environ.get("PENSTOCK_FUZZ_EXAMPLES", "3"))
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
def answers(draw: st.DrawFn) -> tuple[str, str]:
    """Return a dialect and an answer in it, with text around its calls and some damage."""
    variant = draw(st.sampled_from(VARIANTS))
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
    return variant.partition(",")[0], text


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    derandomize=EXAMPLES < 100,
    suppress_health_check=cast("Any", list(HealthCheck)),
)
@given(answers(), st.lists(st.integers(0, 2_000), max_size=12), st.booleans())
def test_no_cut_changes_a_damaged_answer(
    answer: tuple[str, str], places: list[int], reasons: bool
) -> None:
    dialect, text = answer
    how: dict[str, Any] = {"format_name": dialect, "functions": functions_of(TOOLS, dialect)}
    if reasons:
        how["reasoning"] = THINK
    whole = parsed([text], **how)
    borders = sorted({0, len(text), *(place % (len(text) + 1) for place in places)})
    pieces = [text[a:b] for a, b in itertools.pairwise(borders)]
    assert parsed(pieces, **how) == whole
    assert parsed(list(text), **how) == whole
