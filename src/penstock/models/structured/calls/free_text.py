"""Calls within free text: an answer may be anything, but a call that it begins follows a schema.

A call begins with the text before its arguments, including the function's name, in the form that
the model's template writes. llguidance's lexer ends a lazy lexeme as soon as it matches, so that no
other reading of the text remains (see its docs/syntax.md on tool calling). A marker is a separate
token, which no lexeme extends over.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Final

from penstock.errors import UnsupportedFeature
from penstock.models.structured.calls import CALLS
from penstock.models.structured.calls.rules import Rules, pattern

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from penstock.contract.structure import ToolFunction
    from penstock.models.structured.calls.json_calls import JsonCalls
    from penstock.models.structured.calls.typed_calls import TypedCalls

_ANYTHING: Final = "(?s:.*)"
_BLANKS: Final = r"[ \t\r\n]*"


def grammar(
    functions: Sequence[ToolFunction],
    dialect: str,
    markers: Mapping[str, int],
    tokens: Sequence[int],
) -> str:
    """Return the grammar of free text with calls of `functions` in it.

    `tokens` are the markers that free text may contain.

    :raises UnsupportedFeature: the format of this model's calls is unknown.
    :raises InvalidParameter: a schema demands something that this dialect cannot enforce.
    """
    calls = CALLS.get(dialect)
    if calls is None:
        raise UnsupportedFeature("this model's format of tool calls is unknown", param="tools")
    rules = Rules(markers)
    names: list[str] = []
    excluded: list[str] = []
    for index, function in enumerate(functions):
        opening = _Opening(calls, function.name, markers)
        rest = calls.rest(rules, index, function)
        if opening.behind:  # a marker follows, so the text before it must be exactly this
            named = rules.add(f"NAMED_{index}", f"/{opening.expression}/")
            excluded.append(f"/{opening.expression}/")
            rest = f"{named} {' '.join(map(rules.literal, opening.behind))} {rest}"
        else:
            named = rules.add(f"opening_{index}[lazy]", f"/{opening.expression}/")
            blanks = rules.add("BLANKS", r"/[ \t\r\n]{0,8}/") if opening.is_loose else ""
            rest = f"{named.removesuffix('[lazy]')} {blanks} {rest}"
        names.append(rules.add(f"call_{index}", rest))
    words = "/(?s:.+)/"
    text = f"{words} & ~({' | '.join(excluded)})" if excluded else words
    names.append(rules.add("TEXT", text))
    if tokens:
        names.append(rules.add("marker", f"<[{','.join(map(str, sorted(tokens)))}]>"))
    rules.add("start", f"({' | '.join(names)})*")
    return rules.source()


class _Opening:
    """The text that begins a call of one function.

    `expression` matches it from the preceding marker on, or from anywhere in a text; `behind` are
    the markers and texts between it and the arguments. Blanks in a `loose` one may vary.
    """

    def __init__(
        self, calls: JsonCalls | TypedCalls, name: str, markers: Mapping[str, int]
    ) -> None:
        contained = sorted(
            (marker for marker in markers if marker in calls.head), key=len, reverse=True
        )
        between = f"({'|'.join(map(re.escape, contained))})" if contained else "(?!)"
        pieces = [piece for piece in re.split(between, calls.head) if piece]
        name_at = next(
            at for at, piece in enumerate(pieces) if "NAME" in piece or "QUOTED" in piece
        )
        own = pieces[name_at]
        self.behind = pieces[name_at + 1 :]
        self.is_loose = '"' in own and not self.behind
        lead = _ANYTHING
        if own.startswith("NAME"):
            lead = "" if name_at else _lead(calls, markers)
        self.expression = lead + self._written(own, name)

    def _written(self, own: str, name: str) -> str:
        """Return the expression of the piece with the function's name in it."""
        words = own.rstrip() if self.is_loose else own
        parts = re.split(r"(\s+)", words) if self.is_loose else [words]
        written = ""
        for part in parts:
            if self.is_loose and part.isspace():
                written += _BLANKS
                continue
            filled = pattern(part).replace("QUOTED", pattern(json.dumps(name)))
            written += filled.replace("NAME", pattern(name)).replace("NUMBER", "[0-9]{1,4}")
        return written


def _lead(calls: JsonCalls | TypedCalls, markers: Mapping[str, int]) -> str:
    """Return the text required before a call that begins with the function's name.

    Such calls form a list with its own beginning, or the entire answer. After a call in the list,
    the next one may follow at once.
    """
    before = calls.before
    for marker in markers:
        before = before.rpartition(marker)[2]
    anywhere = _ANYTHING if len(before) > 1 else ""  # a bracket alone begins the answer
    first = f"{anywhere}{pattern(before)}"
    if not calls.between:
        return first
    comma = pattern(calls.between)
    return f"({first}({_ANYTHING}{comma})?|{comma})"
