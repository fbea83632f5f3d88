"""The sources of grammars, in the dialect of Lark that llguidance reads."""

from __future__ import annotations

import importlib
import json
import re
from typing import TYPE_CHECKING, Any, Final

import msgspec

from penstock.errors import InvalidParameter, UnsupportedFeature
from penstock.models.structured import json_schema, limits

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from penstock.contract.structure import ToolFunction, ToolStructure

_BLANKS: Final = r"[ \t]{0,4}|\r?\n[ \t]{0,40}"
"""Between JSON's tokens. Without a bound, a weak model goes on with blanks until its tokens end."""

_NOTHING: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {},
    "additionalProperties": False,
}


def text(value: str) -> str:
    """Return a literal of Lark."""
    return json.dumps(value, ensure_ascii=False)


def literal(marker: str, markers: Mapping[str, int]) -> str:
    """Return a marker as the token that it is, else as text."""
    return f"<[{markers[marker]}]>" if marker in markers else text(marker)


def after_reasoning(
    between: tuple[str, str], markers: Mapping[str, int], *, opened: bool, body: str
) -> str:
    """Return the grammar of reasoning between two markers, and then the rule `body`.

    `opened` reasoning has to come; else it may, where its first marker is a token.
    """
    begin, end = between
    if end in markers:
        thought = f"thought: THOUGHT {literal(end, markers)}\nTHOUGHT: /(?s:.*)/"
    else:
        thought = f"thought[lazy]: /(?s:.*){_escaped(end)}/"
    rules = thought + "\nBLANKS: /[ \\t\\r\\n]{0,8}/"
    if opened:
        return f"start: thought BLANKS {body}\n{rules}"
    if begin not in markers:
        return f"start: {body}"
    return f"start: ({literal(begin, markers)} thought BLANKS)? {body}\n{rules}"


def _escaped(value: str) -> str:
    """Return a pattern of a text for a place between slashes."""
    return re.escape(value).replace("/", "\\/")


def schema_with_options(schema: dict[str, Any] | bool, lenient: bool) -> dict[str, Any]:
    """Return a JSON schema with llguidance's options: how to read it, and where blanks may stand.

    :raises InvalidParameter: it is over a bound, or allows nothing.
    """
    if schema is False:
        raise InvalidParameter("the schema false allows nothing")
    limits.check_schema(schema)
    known = {} if schema is True else json_schema.closed(schema)
    return {**known, "x-guidance": {"whitespace_pattern": _BLANKS, "lenient": lenient}}


def of_regex(library: Any, pattern: str) -> str:
    """Return a regular expression's grammar; its digits are ASCII's."""
    if not pattern:
        raise InvalidParameter("the regular expression is empty")
    return f"start: /{library.regex_to_lark(pattern, 'd')}/"


def of_choices(choices: Sequence[str]) -> str:
    """Return the grammar of a few texts."""
    return "start: " + " | ".join(text(choice) for choice in choices)


def of_grammar(grammar: str) -> str:
    """Return a client's grammar; GBNF is translated.

    :raises InvalidParameter: it is neither.
    """
    try:
        translate: Any = importlib.import_module("llguidance.gbnf_to_lark").any_to_lark
        return translate(grammar)
    except Exception as error:  # the translator's own
        raise InvalidParameter(f"the grammar: {str(error)[:200]}") from error


def of_tools(structure: ToolStructure, parser: str, markers: Mapping[str, int]) -> str:
    """Return the grammar of tool calls as the model writes them.

    :raises UnsupportedFeature: how this model calls tools is not known.
    """
    calls = " | ".join(f"call_{index}" for index in range(len(structure.functions)))
    more = structure.parallel
    match parser:
        case "hermes":
            begin, end = (literal(one, markers) for one in ("<tool_call>", "</tool_call>"))
            start = f'{begin} "\\n" call "\\n" {end}'
            start += f' ("\\n" {start})*' if more else ""
            arguments = "arguments"
        case "mistral":
            rest = ' (", " call)*' if more else ""
            start = f'{literal("[TOOL_CALLS]", markers)} "[" call{rest} "]"'
            arguments = "arguments"
        case "llama3_json":
            start = 'call ("; " call)*' if more else "call"
            arguments = "parameters"
        case _:
            raise UnsupportedFeature("how this model calls tools is not known", param="tools")
    rules = [f"start: {start}", f"call: {calls}"]
    for index, function in enumerate(structure.functions):
        opening = '{"name": ' + json.dumps(function.name) + f', "{arguments}": '
        rules += [
            f'call_{index}: {text(opening)} arguments_{index} "}}"',
            f"arguments_{index}: %json {_schema(function)}",
        ]
    return "\n".join(rules)


def _schema(function: ToolFunction) -> str:
    schema = _NOTHING if json_schema.names_nothing(function.parameters) else function.parameters
    chosen = schema_with_options(schema, not function.strict)
    return msgspec.json.encode(chosen).decode()
