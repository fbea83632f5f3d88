"""A Lark grammar as one regular expression, as far as it is regular: no rule may lead to itself.

A custom tool's input stands in a string of JSON. There llguidance can hold a model to a regular
expression (`pattern` of a JSON schema), but not to a grammar. The grammars that programs send with
their tools, such as the patches of Codex, are regular.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Final

from penstock.errors import InvalidParameter

if TYPE_CHECKING:
    from collections.abc import Sequence

LONGEST: Final = 100_000
"""Characters of the expression: a rule that is used twice is written twice."""
MOST_WRITTEN: Final = 10 * LONGEST
"""Characters of all rules together."""
DEEPEST: Final = 100

COMMON: Final = {
    "CNAME": "[_A-Za-z][_A-Za-z0-9]*",
    "CR": r"\r",
    "DECIMAL": r"(?:[0-9]+\.[0-9]*|\.[0-9]+)",
    "DIGIT": "[0-9]",
    "ESCAPED_STRING": r'"(?:[^"\\\n]|\\.)*"',
    "FLOAT": r"(?:[0-9]+(?:\.[0-9]*)?[eE][+-]?[0-9]+|[0-9]+\.[0-9]*|\.[0-9]+)",
    "HEXDIGIT": "[0-9a-fA-F]",
    "INT": "[0-9]+",
    "LCASE_LETTER": "[a-z]",
    "LETTER": "[A-Za-z]",
    "LF": r"\n",
    "NEWLINE": r"(?:\r?\n)+",
    "NUMBER": r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?",
    "SIGNED_INT": "[+-]?[0-9]+",
    "SIGNED_NUMBER": r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?",
    "UCASE_LETTER": "[A-Z]",
    "WORD": "[A-Za-z]+",
    "WS": r"[ \t\f\r\n]+",
    "WS_INLINE": r"[ \t]+",
}
"""Terminals of Lark's library."""

_TOKEN: Final = re.compile(
    r"""(?P<blank>[ \t]+|//[^\n]*|\\\r?\n)
    |(?P<line>\r?\n)
    |(?P<string>"(?:[^"\\\n]|\\.)*"i?)
    |(?P<regex>/(?:[^/\\\n]|\\.)+/[imslux]*)
    |(?P<import>%import[ ]+common[ ]*\.[ ]*[A-Z_]+(?:[ ]*->[ ]*[A-Z_]+)?|%import[ ]+common[ ]*\([A-Z_, ]+\))
    |(?P<name>[?!]?_?[a-z][a-z0-9_]*|_?[A-Z][A-Z0-9_]*)
    |(?P<priority>\.-?\d+(?=[ ]*:))
    |(?P<repeat>~[ ]*\d+(?:[ ]*\.\.[ ]*\d+)?)
    |(?P<range>\.\.)
    |(?P<alias>->[ ]*[a-z_][a-z0-9_]*)
    |(?P<sign>[:|()?*+\[\]])""",
    re.VERBOSE,
)
_IN_CLASS: Final = re.compile(r"[\]\[^&~-]|\\(?![nr])")
_SPECIAL: Final = re.compile(r"[.+*?()|\[\]{}^$\\]")

Token = tuple[str, str]


def pattern_of(grammar: str) -> str:
    """Return the regular expression (in Rust's syntax) of what a grammar's `start` describes.

    :raises InvalidParameter: it is no Lark grammar, not regular, or too large.
    """
    return _Rules(_split(_tokens(grammar))).of("start", 0)


def _fault(message: str) -> InvalidParameter:
    return InvalidParameter(
        f"tools: a custom tool's grammar cannot be enforced: {message}", param="tools"
    )


def _check_length(length: int) -> None:
    if length > LONGEST:
        raise _fault(f"as a regular expression it has over {LONGEST} characters")


def _tokens(grammar: str) -> list[Token]:
    tokens: list[Token] = []
    position = 0
    while position < len(grammar):
        match = _TOKEN.match(grammar, position)
        if match is None or match.lastgroup is None:
            raise _fault(f"{grammar[position : position + 20]!r} is not known")
        position = match.end()
        if match.lastgroup != "blank":
            tokens.append((match.lastgroup, match.group()))
    return tokens


def _split(tokens: Sequence[Token]) -> dict[str, list[Token]]:
    """Return the bodies of the rules by their names, without the ends of lines."""
    rules: dict[str, list[Token]] = {}
    body: list[Token] | None = None
    solid = [token for token in tokens if token[0] not in ("line", "priority")]
    position = 0
    while position < len(solid):
        kind, text = solid[position]
        if kind == "import":
            _import(text, rules)
            body = None
        elif kind == "name" and solid[position + 1 : position + 2] == [("sign", ":")]:
            body = rules.setdefault(text.lstrip("?!"), [])
            if body:
                raise _fault(f"{text[:40]} is there twice")
            position += 1
        elif body is None:
            raise _fault(f"{text[:40]!r} stands outside of a rule")
        elif kind != "alias":
            body.append((kind, text))
        position += 1
    return rules


def _import(text: str, rules: dict[str, list[Token]]) -> None:
    names = re.findall(r"[A-Z_]+", text.partition("common")[2])
    pairs = [(names[0], names[-1])] if "->" in text else [(name, name) for name in names]
    for name, alias in pairs:
        if name not in COMMON:
            raise _fault(f"common.{name[:40]} is not known")
        rules[alias] = [("regex", f"/{COMMON[name]}/")]


class _Rules:
    """The rules of one grammar, written out."""

    def __init__(self, rules: dict[str, list[Token]]) -> None:
        self._rules = rules
        self._written: dict[str, str] = {}
        self._open: set[str] = set()
        self._characters = 0

    def of(self, name: str, depth: int) -> str:
        """Return the expression of a rule."""
        if name in self._written:
            return self._written[name]
        if name in self._open:
            raise _fault(f"the rule {name[:40]} leads to itself")
        if name not in self._rules:
            raise _fault(f"there is no rule {name[:40]}")
        self._open.add(name)
        body = _Body(self, self._rules[name], depth + 1)
        written = body.alternatives()
        body.expect_end()
        self._open.discard(name)
        self._characters += len(written)
        if self._characters > MOST_WRITTEN:
            raise _fault(f"its rules, written out, have over {MOST_WRITTEN} characters")
        self._written[name] = written
        return written


class _Body:
    """A rule's body while it is read."""

    def __init__(self, rules: _Rules, tokens: Sequence[Token], depth: int) -> None:
        self._rules = rules
        self._tokens = tokens
        self._place = 0
        self._depth = depth
        if depth > DEEPEST:
            raise _fault("its rules are nested too deeply")

    def expect_end(self) -> None:
        """Check that all has been read.

        :raises InvalidParameter: it has not.
        """
        if self._place < len(self._tokens):
            raise _fault(f"{self._next[1][:40]!r} is unexpected")

    @property
    def _next(self) -> Token:
        return self._tokens[self._place] if self._place < len(self._tokens) else ("end", "")

    def _take(self) -> Token:
        token = self._next
        self._place += 1
        return token

    def alternatives(self) -> str:
        """Return `a | b | c`."""
        parts = [self._sequence()]
        length = len(parts[0])
        while self._next == ("sign", "|"):
            self._take()
            parts.append(self._sequence())
            length += len(parts[-1])
            _check_length(length)
        return parts[0] if len(parts) == 1 else f"(?:{'|'.join(parts)})"

    def _sequence(self) -> str:
        written = ""
        while self._next[0] in ("name", "string", "regex") or self._next[1] in ("(", "["):
            written += self._repeated()
            _check_length(len(written))
        return written

    def _repeated(self) -> str:
        item = self._item()
        kind, text = self._next
        if text in ("?", "*", "+"):
            self._take()
            return f"(?:{item}){text}"
        if kind == "repeat":
            self._take()
            counts = re.findall(r"\d+", text)
            return f"(?:{item}){{{','.join(counts)}}}"
        return item

    def _item(self) -> str:
        kind, text = self._take()
        match kind:
            case "name":
                return self._rules.of(text, self._depth)
            case "regex":
                return _regex(text)
            case "string" if self._next[0] == "range":
                self._take()
                return f"[{_class(_unquoted(text))}-{_class(_unquoted(self._take()[1]))}]"
            case "string":
                written = _escaped(_unquoted(text))
                return f"(?i:{written})" if text.endswith("i") else written
            case _:
                return self._group(text)

    def _group(self, opening: str) -> str:
        self._depth += 1
        if self._depth > DEEPEST:
            raise _fault("its groups are nested too deeply")
        inner = self.alternatives()
        self._depth -= 1
        if self._take()[1] != {"(": ")", "[": "]"}[opening]:
            raise _fault(f"{opening} is not closed")
        return f"(?:{inner}){'?' if opening == '[' else ''}"


def _unquoted(text: str) -> str:
    try:
        return json.loads(text.removesuffix("i"))
    except ValueError:
        raise _fault(f"{text[:40]} is no string") from None


def _escaped(text: str) -> str:
    return _SPECIAL.sub(r"\\\g<0>", text).replace("\n", r"\n").replace("\r", r"\r")


def _class(character: str) -> str:
    """Return one end of a range within a class of characters."""
    if len(character) != 1:
        raise _fault("a range has one character at each end")
    return _IN_CLASS.sub(r"\\\g<0>", _escaped(character) if character in "\r\n" else character)


def _regex(text: str) -> str:
    pattern, _, flags = text[1:].rpartition("/")
    used_flags = "".join(flag for flag in "ims" if flag in flags)
    return f"(?{used_flags}:{pattern})" if used_flags else f"(?:{pattern})"
