"""Rules of a Lark grammar, and what every dialect's grammar needs to write them."""

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
"""Between JSON's tokens. Without a bound, a weak model goes on with blanks until its tokens end."""

_NOTHING: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {},
    "additionalProperties": False,
}

_ANY_TEXT: Final = "(?s:.*)"
_LONGEST_COUNTED: Final = 1_000
"""`maxLength` that is counted in text without quotes: an expression grows with it."""

_DEFINITIONS: Final = ("$defs", "definitions")

_OF_TEXT: Final = ("pattern", "format", "minLength", "maxLength")
"""Keywords of text, which stands without quotes: only some of them can be enforced then."""


def text(value: str) -> str:
    """Return a literal of Lark."""
    return json.dumps(value, ensure_ascii=False)


def pattern(value: str) -> str:
    """Return a pattern of a text for a place between slashes."""
    return re.escape(value).replace("\\\n", "\\n").replace("/", "\\/")


def literal(value: str, markers: Mapping[str, int]) -> str:
    """Return a text whose markers are the tokens that they are, and all else text."""
    known = sorted((one for one in markers if one in value), key=len, reverse=True)
    parts = re.split(f"({'|'.join(map(re.escape, known))})", value) if known else [value]
    return " ".join(
        f"<[{markers[part]}]>" if part in markers else text(part) for part in parts if part
    )


def with_options(schema: dict[str, Any] | bool, lenient: bool) -> dict[str, Any]:
    """Return a JSON schema with llguidance's options: how to read it, and where blanks may stand.

    :raises InvalidParameter: it is over a bound, or allows nothing.
    """
    if schema is False:
        raise InvalidParameter("the schema false allows nothing")
    limits.check_schema(schema)
    if schema is True:
        schema = {}
    known = json_schema.closed(schema_keywords.enforceable(schema) if lenient else schema)
    return {**known, "x-guidance": {"whitespace_pattern": _BLANKS, "lenient": lenient}}


@dataclass(frozen=True, slots=True)
class Scope:
    """Where a schema stands: the whole that its references point into, and how it is taken."""

    root: dict[str, Any]
    strict: bool

    @classmethod
    def of(cls, function: ToolFunction) -> Scope:
        """Return the scope of a function's parameters."""
        return cls(function.parameters, function.strict)

    def resolved(self, schema: Any) -> Mapping[str, Any]:
        """Return a schema's keywords, of what it refers to if it does."""
        if not isinstance(schema, dict):
            return {}
        return schema_types.resolved(cast("dict[str, Any]", schema), self.root)


class Rules:
    """A grammar in the making. `markers` are the tokenizer's tokens that no text makes."""

    def __init__(self, markers: Mapping[str, int]) -> None:
        self._markers = markers
        self._bodies: dict[str, str] = {}

    def literal(self, value: str) -> str:
        """Return a text with markers in it; see `literal`."""
        return literal(value, self._markers)

    def add(self, name: str, body: str) -> str:
        """Add a rule, unless there is one of this name already, and return its name."""
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
        """Add a rule for a function's arguments as one JSON object."""
        nothing = json_schema.names_nothing(function.parameters)
        return self.json(name, _NOTHING if nothing else function.parameters, Scope.of(function))

    def text_up_to(self, name: str, end: str, form: str = _ANY_TEXT) -> str:
        """Return text that the regular expression `form` matches, and the `end` behind it."""
        places = [end.find(one) for one in self._markers if one in end]
        if places:
            # A text ends at a token in any case, so it may be as long as it likes.
            head, rest = end[: min(places)], end[min(places) :]
            body = f"/{form}{pattern(head)}/"
            known = next((key for key, one in self._bodies.items() if one == body), None)
            text_name = known or self.add(f"TEXT_{len(self._bodies)}", body)
            return f"{text_name} {self.literal(rest)}"
        return self.add(f"{name}[lazy]", f"/{form}{pattern(end)}/").removesuffix("[lazy]")

    def source(self) -> str:
        """Return the grammar."""
        return "\n".join(f"{name}: {body}" for name, body in self._bodies.items())


class Parameter:
    """One parameter of a function, or property of an object, that has a place of its own."""

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
        """The schemas of which one has to fit, if the schema is nothing but such a choice."""
        members = self.fields.get("anyOf", self.fields.get("oneOf"))
        if "type" in self.fields or not isinstance(members, list):
            return []
        return [Parameter(self.name, one, self.scope) for one in cast("list[Any]", members)]

    @property
    def is_text(self) -> bool:
        """Whether the value is a string in any case."""
        return self.types == {"string"}

    @property
    def may_be_text(self) -> bool:
        """Whether the value may be a string."""
        return self.types is None or "string" in self.types

    @property
    def has_form(self) -> bool:
        """Whether the schema says more of a text than that it is one."""
        return any(key in self.fields for key in _OF_TEXT)

    def text_form(self) -> str:
        """Return the regular expression of text without quotes, as llguidance's Lark has it.

        :raises InvalidParameter: the schema is strict, and says of the text what is not enforced.
        """
        said = [key for key in _OF_TEXT if key in self.fields]
        if said == ["pattern"] and (inner := whole_pattern(self.fields["pattern"])) is not None:
            library: Any = importlib.import_module("llguidance")
            return f"(?:{library.regex_to_lark(inner, 'd')})"
        if said and not set(said) & {"format", "pattern"}:
            least, most = (self.fields.get(key) for key in ("minLength", "maxLength"))
            if isinstance(most, int) and most <= _LONGEST_COUNTED:
                return f"(?s:.{{{least if isinstance(least, int) else 0},{most}}})"
        if said and self.scope.strict:
            raise InvalidParameter(
                f"{said[0]} of {self.name[:64]!r} cannot be enforced in the way in which this model "
                "writes text"
            )
        return _ANY_TEXT


def whole_pattern(expression: Any) -> str | None:
    """Return what a pattern has between `^` and `$`; None unless all of a text has to match it."""
    if not isinstance(expression, str) or schema_keywords.needs_look_around(expression):
        return None
    if not expression.startswith("^") or not expression.endswith("$"):
        return None
    inner, depth, place, in_class = expression[1:-1], 0, 0, False
    while place < len(inner):
        character = inner[place]
        if character == "\\":
            place += 1
        elif in_class:
            in_class = character != "]"
        elif character == "[":
            in_class = True
        elif character in "()":
            depth += 1 if character == "(" else -1
        elif character == "|" and depth == 0:
            return None
        place += 1
    return inner if place == len(inner) else None  # else the `$` is escaped


def members(schema: Any, scope: Scope) -> tuple[list[Parameter], bool]:
    """Return the properties that an object's schema names, and whether there may be others."""
    fields = scope.resolved(schema)
    named = fields.get("properties")
    properties = cast("dict[str, Any]", named) if isinstance(named, dict) else {}
    required = fields.get("required")
    needed = set(cast("list[str]", required)) if isinstance(required, list) else set[str]()
    known = [
        Parameter(name, inner, scope, required=name in needed) for name, inner in properties.items()
    ]
    is_open = fields.get(
        "additionalProperties", not properties or json_schema.is_laid_on(dict(fields))
    )
    return known, is_open is not False


def parameters(function: ToolFunction) -> tuple[list[Parameter], bool]:
    """Return a function's parameters, and whether there may be others.

    :raises InvalidParameter: the schema is over a bound.
    """
    if json_schema.names_nothing(function.parameters):
        return [], False
    limits.check_schema(function.parameters)
    return members(function.parameters, Scope.of(function))


def in_order(known: Sequence[Parameter], written: Sequence[str], more: str, comma: str) -> str:
    """Return arguments one after the other, those left out that may be, `more` of them behind all.

    `written` are the arguments of `known`, `comma` stands between two.
    """
    first = f"({more} ({comma} {more})*)?" if more else ""
    later = f"({comma} {more})*" if more else ""
    for parameter, one in zip(reversed(known), reversed(written), strict=True):
        first, later = (
            (f"{one} {later}", f"{comma} {one} {later}")
            if parameter.required
            else (_either(f"{one} {later}", first), f"({comma} {one})? {later}")
        )
    return first.strip()


def _either(one: str, other: str) -> str:
    return f"({one} | {other})" if other else f"({one})?"
