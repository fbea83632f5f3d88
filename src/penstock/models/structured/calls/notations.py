"""Notations of one argument of a call: between tags, or as a literal of Python's or Gemma's."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from penstock.models.structured.calls.rules import Parameter, in_order, members, text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from penstock.models.structured.calls.rules import Rules

_DEEPEST: Final = 6
"""Nesting of objects and lists whose schemas are enforced; deeper ones may contain anything."""


_BOUNDS: Final = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
"""Keywords of a number that are enforced in every notation."""


class Notation(Protocol):
    """Writes one argument as grammar rules."""

    def argument(self, rules: Rules, name: str, parameter: Parameter) -> str:
        """Return the rule body of an argument; its own rules are named after `name`."""
        ...

    def any_argument(self, rules: Rules) -> str:
        """Return the rule body of an argument with any name and value."""
        ...


@dataclass(frozen=True, slots=True)
class Tagged:
    """An argument between tags. In `begin`, KEY is its name and IS_TEXT whether it is a string."""

    begin: str
    end: str

    def argument(self, rules: Rules, name: str, parameter: Parameter) -> str:
        """See `Notation`."""
        if not parameter.may_be_text:
            return self._json(rules, name, parameter)
        if parameter.is_text or "IS_TEXT" not in self.begin or parameter.types is None:
            return self._text(rules, name, parameter)
        return f"({self._json(rules, name, parameter)} | {self._text(rules, name, parameter)})"

    def any_argument(self, rules: Rules) -> str:
        """See `Notation`."""
        key = rules.add("KEY", "/[A-Za-z_][A-Za-z0-9_.-]{0,63}/")
        head, _, tail = self.begin.replace("IS_TEXT", "true").partition("KEY")
        end = rules.text_up_to("any_value", self.end)
        return f"{rules.literal(head)} {key} {rules.literal(tail)} {end}"

    def _text(self, rules: Rules, name: str, parameter: Parameter) -> str:
        begin = self._begin(rules, parameter, "true")
        if parameter.choices is not None:
            choices = [_bare(choice) for choice in parameter.choices]
            return f"{begin} ({' | '.join(map(text, choices))}) {rules.literal(self.end)}"
        return f"{begin} {rules.text_up_to(f'{name}_text', self.end, parameter.text_form())}"

    def _json(self, rules: Rules, name: str, parameter: Parameter) -> str:
        value = rules.json(f"{name}_json", parameter.schema, parameter.scope)
        return f"{self._begin(rules, parameter, 'false')} {value} {rules.literal(self.end)}"

    def _begin(self, rules: Rules, parameter: Parameter, is_text: str) -> str:
        words = self.begin.replace("KEY", parameter.name).replace("IS_TEXT", is_text)
        return rules.literal(words)


class Literals:
    """An argument as a name and a literal, in a notation in which types are distinguishable."""

    def __init__(self, quotes: Quotes, assign: str, comma: str, colon: str, words: Words) -> None:
        self._quotes = quotes
        self._assign = assign
        self._comma = comma
        self._colon = colon
        self._words = words

    def argument(self, rules: Rules, name: str, parameter: Parameter) -> str:
        """See `Notation`."""
        value = self._value(rules, name, parameter, _DEEPEST)
        return f"{rules.literal(parameter.name + self._assign)} {value}"

    def any_argument(self, rules: Rules) -> str:
        """See `Notation`."""
        key = rules.add("KEY", "/[A-Za-z_][A-Za-z0-9_]{0,63}/")
        return f"{key} {text(self._assign)} {self._any(rules)}"

    def _value(self, rules: Rules, name: str, parameter: Parameter, depth: int) -> str:
        if parameter.choices is not None:
            return f"({' | '.join(self._choice(rules, choice) for choice in parameter.choices)})"
        if parameter.types is None or not depth:
            return self._any(rules)
        if parameter.alternatives:
            ways = [
                self._value(rules, f"{name}_{number}", alternative, depth - 1)
                for number, alternative in enumerate(parameter.alternatives)
            ]
            return f"({' | '.join(ways)})"
        kinds = [
            self._kind(rules, kind, f"{name}_{kind}", parameter, depth)
            for kind in sorted(parameter.types)
        ]
        return f"({' | '.join(kinds)})"

    def _kind(self, rules: Rules, kind: str, name: str, parameter: Parameter, depth: int) -> str:
        match kind:
            case "string":
                return self._quotes.of(rules, name, parameter)
            case "object":
                return rules.add(name, self._object(rules, name, parameter, depth))
            case "array":
                item = Parameter(name, parameter.fields.get("items"), parameter.scope)
                value = self._value(rules, name, item, depth - 1)
                return rules.add(f"{name}_of", self._list(rules, value, parameter.fields))
            case "boolean":
                return " | ".join(map(text, self._words[:2]))
            case "null":
                return text(self._words[2])
            case _:
                bounds = {key: parameter.fields[key] for key in _BOUNDS if key in parameter.fields}
                return rules.json(name, {"type": kind, **bounds}, parameter.scope)

    def _object(self, rules: Rules, name: str, parameter: Parameter, depth: int) -> str:
        properties, is_open = members(parameter.schema, parameter.scope)
        colon = self._mark(rules, "COLON", self._colon)
        written = [
            f"{self._quotes.one(rules, property_.name)} {colon} "
            + self._value(rules, f"{name}_{number}", property_, depth - 1)
            for number, property_ in enumerate(properties)
        ]
        more = f"{self._quotes.any(rules)} {colon} {self._any(rules)}" if is_open else ""
        comma = self._mark(rules, "COMMA", self._comma)
        return f'"{{" {in_order(properties, written, more, comma)} "}}"'

    def _list(self, rules: Rules, value: str, fields: Mapping[str, Any] | None = None) -> str:
        least, most = (fields or {}).get("minItems"), (fields or {}).get("maxItems")
        least = least if isinstance(least, int) else 0
        if isinstance(most, int) and most < max(least, 1):
            return '"[]"'
        more = f"{{{max(least - 1, 0)},{most - 1 if isinstance(most, int) else ''}}}"
        items = f"{value} ({self._mark(rules, 'COMMA', self._comma)} {value}){more}"
        return f'"[" {items} "]"' if least > 0 else f'"[" ({items})? "]"'

    def _any(self, rules: Rules) -> str:
        name = "any_value"
        colon = self._mark(rules, "COLON", self._colon)
        comma = self._mark(rules, "COMMA", self._comma)
        pair = f"{self._quotes.any(rules)} {colon} {name}"
        pairs = f'"{{" ({pair} ({comma} {pair})*)? "}}"'
        number = rules.add("number", '%json {"type": "number"}')
        words = " | ".join(map(text, self._words))
        body = (
            f"{self._quotes.any(rules)} | {number} | {words} | {self._list(rules, name)} | {pairs}"
        )
        return rules.add(name, body)

    def _choice(self, rules: Rules, choice: Any) -> str:
        if isinstance(choice, str):
            return self._quotes.one(rules, choice)
        word = {True: self._words[0], False: self._words[1], None: self._words[2]}
        is_word = isinstance(choice, bool) or choice is None
        return text(word[choice] if is_word else json.dumps(choice))

    @staticmethod
    def _mark(rules: Rules, name: str, mark: str) -> str:
        """Return a separator between values; the blank after it is optional."""
        return rules.add(name, f"/{mark.strip()} ?/") if mark.endswith(" ") else text(mark)


Words = tuple[str, str, str]
"""A notation's words for true, false and null."""


class Quotes(Protocol):
    """Writes strings."""

    def any(self, rules: Rules) -> str:
        """Return the rule body of any string."""
        ...

    def of(self, rules: Rules, name: str, parameter: Parameter) -> str:
        """Return the rule body of a parameter's strings; its own rules are named after `name`."""
        ...

    def one(self, rules: Rules, words: str) -> str:
        """Return the rule body of a certain string."""
        ...


class PythonQuotes:
    """Python's strings, with either kind of quotes."""

    def any(self, rules: Rules) -> str:
        """See `Quotes`."""
        inner = r"[^Q\\\x00-\x1f]|\\[\\'\"nrt]"
        return rules.add("STRING", " | ".join(f"/Q({inner})*Q/".replace("Q", q) for q in "'\""))

    def of(self, rules: Rules, name: str, parameter: Parameter) -> str:
        """See `Quotes`. A schema's constraints on strings are enforced by writing them as JSON."""
        if not parameter.has_form:
            return self.any(rules)
        return rules.json(name, {**parameter.fields, "type": "string"}, parameter.scope)

    def one(self, rules: Rules, words: str) -> str:  # noqa: ARG002 - the protocol's
        """See `Quotes`."""
        ways = {repr(words), json.dumps(words, ensure_ascii=False)}
        return f"({' | '.join(map(text, sorted(ways)))})"


@dataclass(frozen=True, slots=True)
class MarkedQuotes:
    """Text between two marks, without escapes."""

    mark: str

    def any(self, rules: Rules) -> str:
        """See `Quotes`."""
        body = f"{rules.literal(self.mark)} {rules.text_up_to('text_end', self.mark)}"
        return rules.add("quoted_text", body)

    def of(self, rules: Rules, name: str, parameter: Parameter) -> str:
        """See `Quotes`."""
        if not parameter.has_form:
            return self.any(rules)
        text_and_end = rules.text_up_to(name, self.mark, parameter.text_form())
        return f"{rules.literal(self.mark)} {text_and_end}"

    def one(self, rules: Rules, words: str) -> str:
        """See `Quotes`."""
        mark = rules.literal(self.mark)
        return f"{mark} {text(words)} {mark}"


def _bare(choice: Any) -> str:
    return choice if isinstance(choice, str) else json.dumps(choice, ensure_ascii=False)
