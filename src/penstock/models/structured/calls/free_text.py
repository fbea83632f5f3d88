"""Calls within free text: an answer may be anything, but a call that it begins keeps to a schema.

The text before a call's arguments, with the function's name in it, is what begins a call. It is
looked for in the form that the model's template writes. llguidance's lexer ends a lazy lexeme as
soon as it matches, so that no other reading of the text is left (see its docs/syntax.md on tool
calling). A marker is a token of its own, which no lexeme reaches over.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Final

from penstock.errors import UnsupportedFeature
from penstock.models.structured.calls.json_calls import JSON_CALLS
from penstock.models.structured.calls.rules import Rules, pattern
from penstock.models.structured.calls.typed_calls import TYPED_CALLS

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

    `tokens` are the markers that free text may hold.

    :raises UnsupportedFeature: how this model calls tools is not known.
    :raises InvalidParameter: a schema asks for what this dialect cannot be held to.
    """
    calls = JSON_CALLS.get(dialect) or TYPED_CALLS.get(dialect)
    if calls is None:
        raise UnsupportedFeature("how this model calls tools is not known", param="tools")
    rules = Rules(markers)
    names: list[str] = []
    excluded: list[str] = []
    for index, function in enumerate(functions):
        opening = _Opening(calls, function.name, markers)
        rest = calls.rest(rules, index, function)
        if opening.behind:  # a marker follows: the text before it must be nothing but this
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

    `expression` matches it from the marker before it on, or from anywhere in a text; `behind` are
    the markers and texts between it and the arguments. Blanks of a `loose` one may differ.
    """

    def __init__(
        self, calls: JsonCalls | TypedCalls, name: str, markers: Mapping[str, int]
    ) -> None:
        known = sorted((one for one in markers if one in calls.head), key=len, reverse=True)
        between = f"({'|'.join(map(re.escape, known))})" if known else "(?!)"
        pieces = [piece for piece in re.split(between, calls.head) if piece]
        place = next(at for at, piece in enumerate(pieces) if "NAME" in piece or "QUOTED" in piece)
        own = pieces[place]
        self.behind = pieces[place + 1 :]
        self.is_loose = '"' in own and not self.behind
        lead = _ANYTHING
        if own.startswith("NAME"):
            lead = "" if place else _lead(calls, markers)
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
    """Return what must stand before a call that begins with the function's name.

    Such calls are a list with a beginning of its own, or the whole answer. Behind a call of the
    list the next one may follow at once.
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
