"""Rules of a Lark grammar, and what all dialects' grammars need to write them."""

from __future__ import annotations

import importlib
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec

from penstock.contract import schema_keywords, schema_types
from penstock.errors import InvalidParameter
from penstock.models.structured import json_schema, limits

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from penstock.contract.structure import ToolFunction

_BLANKS: Final = r"[ \t]{0,4}|\r?\n[ \t]{0,40}"
"""Between JSON's tokens. Without a limit, a weak model writes blanks until its tokens run out."""

_NOTHING: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {},
    "additionalProperties": False,
}

_ANY_TEXT: Final = "(?s:.*)"
_LONGEST_COUNTED: Final = 1_000
"""Largest enforced `maxLength` of text without quotes: a pattern grows with it."""

_DEFINITIONS: Final = ("$defs", "definitions")

_OF_TEXT: Final = ("pattern", "format", "minLength", "maxLength")
"""Keywords of strings: only some of them can be enforced in text without quotes."""


def text(value: str) -> str:
    """Return a Lark literal."""
    return json.dumps(value, ensure_ascii=False)


def pattern(value: str) -> str:
    """Return a regular expression that matches the text, escaped for use between slashes."""
    return re.escape(value).replace("\\\n", "\\n").replace("/", "\\/")


def literal(value: str, markers: Mapping[str, int]) -> str:
    """Return a text in which markers are their tokens and everything else is text."""
    contained = sorted((marker for marker in markers if marker in value), key=len, reverse=True)
    parts = re.split(f"({'|'.join(map(re.escape, contained))})", value) if contained else [value]
    return " ".join(
        f"<[{markers[part]}]>" if part in markers else text(part) for part in parts if part
    )


def with_options(schema: dict[str, Any] | bool, lenient: bool) -> dict[str, Any]:
    """Return a JSON schema with llguidance's options: leniency, and where blanks may be.

    :raises InvalidParameter: it exceeds a limit, or allows nothing.
    """
    if schema is False:
        raise InvalidParameter("the schema false allows nothing")
    limits.check_schema(schema)
    if schema is True:
        schema = {}
    closed = json_schema.closed(schema_keywords.enforceable(schema) if lenient else schema)
    return {**closed, "x-guidance": {"whitespace_pattern": _BLANKS, "lenient": lenient}}


@dataclass(frozen=True, slots=True)
class Scope:
    """A schema's context: the document that its references point into, and how strict it is."""

    root: dict[str, Any]
    strict: bool

    @classmethod
    def of(cls, function: ToolFunction) -> Scope:
        """Return the scope of a function's parameters."""
        return cls(function.parameters, function.strict)

    def resolved(self, schema: Any) -> Mapping[str, Any]:
        """Return a schema's keywords, or those of the schema that it refers to."""
        if not isinstance(schema, dict):
            return {}
        return schema_types.resolved(cast("dict[str, Any]", schema), self.root)


class Rules:
    """A grammar under construction.

    `markers` are the tokenizer's tokens that do not come from text.
    """

    def __init__(self, markers: Mapping[str, int]) -> None:
        self._markers = markers
        self._bodies: dict[str, str] = {}

    def literal(self, value: str) -> str:
        """Return a text with its markers as tokens; see the function `literal`."""
        return literal(value, self._markers)

    def add(self, name: str, body: str) -> str:
        """Add a rule, unless one of this name exists, and return its name."""
        self._bodies.setdefault(name, body)
        return name

    def json(self, name: str, schema: Any, scope: Scope) -> str:
        """Add a rule for JSON that a schema within `scope` describes."""
        fields = cast("dict[str, Any]", schema) if isinstance(schema, dict) else {}
        root = scope.root
        definitions = {key: root[key] for key in _DEFINITIONS if key in root and key not in fields}
        chosen = with_options({**fields, **definitions}, not scope.strict)
        return self.add(name, f"%json {msgspec.json.encode(chosen).decode()}")

    def arguments(self, name: str, function: ToolFunction) -> str:
        """Add a rule for a function's arguments as one JSON object, and return its name."""
        nothing = json_schema.names_nothing(function.parameters)
        return self.json(name, _NOTHING if nothing else function.parameters, Scope.of(function))

    def text_up_to(self, name: str, end: str, form: str = _ANY_TEXT) -> str:
        """Return the rule body of text that matches the expression `form`, followed by `end`."""
        places = [end.find(marker) for marker in self._markers if marker in end]
        if places:
            # Text ends at a token in any case, so its length needs no limit.
            head, rest = end[: min(places)], end[min(places) :]
            body = f"/{form}{pattern(head)}/"
            existing = next((key for key, text_ in self._bodies.items() if text_ == body), None)
            text_name = existing or self.add(f"TEXT_{len(self._bodies)}", body)
            return f"{text_name} {self.literal(rest)}"
        return self.add(f"{name}[lazy]", f"/{form}{pattern(end)}/").removesuffix("[lazy]")

    def source(self) -> str:
        """Return the grammar's source."""
        return "\n".join(f"{name}: {body}" for name, body in self._bodies.items())


class Parameter:
    """A parameter of a function, or a property of an object, that is written separately."""

    def __init__(self, name: str, schema: Any, scope: Scope, *, required: bool = True) -> None:
        self.name = name
        self.required = required
        self.schema = schema
        self.scope = scope
        self.types = schema_types.of_schema(schema, scope.root)
        self.fields = scope.resolved(schema)
        fields = self.fields
        choices = fields.get("enum", [fields["const"]] if "const" in fields else None)
        self.choices = cast("list[Any]", choices) if isinstance(choices, list) else None

    @property
    def alternatives(self) -> list[Parameter]:
        """The alternatives, if the schema consists of nothing but such a choice."""
        members = self.fields.get("anyOf", self.fields.get("oneOf"))
        if "type" in self.fields or not isinstance(members, list):
            return []
        return [Parameter(self.name, member, self.scope) for member in cast("list[Any]", members)]

    @property
    def is_text(self) -> bool:
        """Whether the value is always a string."""
        return self.types == {"string"}

    @property
    def may_be_text(self) -> bool:
        """Whether the value may be a string."""
        return self.types is None or "string" in self.types

    @property
    def has_form(self) -> bool:
        """Whether the schema constrains strings any further."""
        return any(key in self.fields for key in _OF_TEXT)

    def text_form(self) -> str:
        """Return the regular expression of text without quotes, in llguidance's Lark.

        :raises InvalidParameter: the schema is strict, and has a constraint that cannot be
            enforced.
        """
        keywords = [key for key in _OF_TEXT if key in self.fields]
        if keywords == ["pattern"] and (inner := whole_pattern(self.fields["pattern"])) is not None:
            library: Any = importlib.import_module("llguidance")
            return f"(?:{library.regex_to_lark(inner, 'd')})"
        if keywords and not set(keywords) & {"format", "pattern"}:
            least, most = (self.fields.get(key) for key in ("minLength", "maxLength"))
            if isinstance(most, int) and most <= _LONGEST_COUNTED:
                return f"(?s:.{{{least if isinstance(least, int) else 0},{most}}})"
        if keywords and self.scope.strict:
            raise InvalidParameter(
                f"{keywords[0]} of {self.name[:64]!r} cannot be enforced in this model's format "
                "of strings"
            )
        return _ANY_TEXT


def whole_pattern(expression: Any) -> str | None:
    """Return the part of a pattern between `^` and `$`; None unless it covers the entire text."""
    if not isinstance(expression, str) or schema_keywords.needs_look_around(expression):
        return None
    if not expression.startswith("^") or not expression.endswith("$"):
        return None
    inner, depth, position, in_class = expression[1:-1], 0, 0, False
    while position < len(inner):
        character = inner[position]
        if character == "\\":
            position += 1
        elif in_class:
            in_class = character != "]"
        elif character == "[":
            in_class = True
        elif character in "()":
            depth += 1 if character == "(" else -1
        elif character == "|" and depth == 0:
            return None
        position += 1
    return inner if position == len(inner) else None  # else the `$` is escaped


def members(schema: Any, scope: Scope) -> tuple[list[Parameter], bool]:
    """Return the properties in an object's schema, and whether others are allowed."""
    fields = scope.resolved(schema)
    listed = fields.get("properties")
    properties = cast("dict[str, Any]", listed) if isinstance(listed, dict) else {}
    required = fields.get("required")
    needed = set(cast("list[str]", required)) if isinstance(required, list) else set[str]()
    named = [
        Parameter(name, inner, scope, required=name in needed) for name, inner in properties.items()
    ]
    is_open = fields.get(
        "additionalProperties", not properties or json_schema.is_laid_on(dict(fields))
    )
    return named, is_open is not False


def parameters(function: ToolFunction) -> tuple[list[Parameter], bool]:
    """Return a function's parameters, and whether others are allowed.

    :raises InvalidParameter: the schema exceeds a limit.
    """
    if json_schema.names_nothing(function.parameters):
        return [], False
    limits.check_schema(function.parameters)
    return members(function.parameters, Scope.of(function))


def in_order(named: Sequence[Parameter], written: Sequence[str], more: str, comma: str) -> str:
    """Return the rule body of arguments in order, optional ones omissible, followed by any `more`.

    `written` are the rule bodies of the parameters, `comma` separates two.
    """
    first = f"({more} ({comma} {more})*)?" if more else ""
    later = f"({comma} {more})*" if more else ""
    for parameter, argument in zip(reversed(named), reversed(written), strict=True):
        first, later = (
            (f"{argument} {later}", f"{comma} {argument} {later}")
            if parameter.required
            else (_either(f"{argument} {later}", first), f"({comma} {argument})? {later}")
        )
    return first.strip()


def _either(first: str, second: str) -> str:
    return f"({first} | {second})" if second else f"({first})?"
