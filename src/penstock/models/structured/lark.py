"""Sources of grammars, in llguidance's dialect of Lark."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from penstock.errors import InvalidParameter
from penstock.models.structured.calls.rules import literal, pattern, text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from penstock.models.text.dialect import Dialect


def after_reasoning(
    dialect: Dialect, markers: Mapping[str, int], *, opened: bool, body: str
) -> str:
    """Return the grammar of reasoning between the dialect's markers, followed by the rule `body`.

    `opened` reasoning must follow; otherwise it may, if its first marker begins with a token.
    """
    begin, end = dialect.reasoning or ("", "")
    if end in markers:
        thought = f"thought: THOUGHT {literal(end, markers)}\nTHOUGHT: /(?s:.*)/"
    else:
        thought = f"thought[lazy]: /(?s:.*){pattern(end)}/"
    rules = thought + "\nBLANKS: /[ \\t\\r\\n]{0,8}/"
    between = literal(dialect.between, markers) if dialect.between else "BLANKS"
    if opened:
        return f"start: thought {between} {body}\n{rules}"
    if not any(begin.startswith(marker) for marker in markers):
        return f"start: {body}"
    return f"start: ({literal(begin, markers)} thought {between})? {body}\n{rules}"


def wrapped(dialect: Dialect, markers: Mapping[str, int], body: str) -> str:
    """Return an answer's rule with the dialect's markers around it."""
    before = f"{literal(dialect.before_answer, markers)} " if dialect.before_answer else ""
    if dialect.answer is None:
        return f"{before}{body}"
    begin, end = (literal(marker, markers) for marker in dialect.answer)
    return f"{before}(({begin} {body} {end}) | {body})"


def of_regex(library: Any, expression: str) -> str:
    """Return a regular expression's grammar; only ASCII digits count as digits."""
    if not expression:
        raise InvalidParameter("the regular expression is empty")
    return f"start: /{library.regex_to_lark(expression, 'd')}/"


def of_choices(choices: Sequence[str]) -> str:
    """Return the grammar of several texts, one of which is chosen."""
    return "start: " + " | ".join(text(choice) for choice in choices)


def of_grammar(grammar: str) -> str:
    """Return a client's grammar in Lark; GBNF is translated.

    :raises InvalidParameter: it is neither.
    """
    try:
        translate: Any = importlib.import_module("llguidance.gbnf_to_lark").any_to_lark
        return translate(grammar)
    except Exception as error:  # the translator's own errors
        raise InvalidParameter(f"the grammar: {str(error)[:200]}") from error
