"""Structured output: the form that an answer must have, compiled to token masks by the worker."""

from __future__ import annotations

from typing import Any

import msgspec


class JsonStructure(msgspec.Struct, frozen=True, tag="json"):
    """JSON that a schema describes; `{"type": "object"}` is any object.

    `lenient` ignores keywords that cannot be enforced; otherwise they are an error.
    """

    schema: dict[str, Any] | bool
    lenient: bool = False


class RegexStructure(msgspec.Struct, frozen=True, tag="regex"):
    """Text that a regular expression (Rust's syntax, no look-around) matches entirely."""

    pattern: str


class ChoiceStructure(msgspec.Struct, frozen=True, tag="choice"):
    """Exactly one of these texts."""

    choices: tuple[str, ...]


class GrammarStructure(msgspec.Struct, frozen=True, tag="grammar"):
    """Text of a context-free grammar, in Lark's notation or in llama.cpp's (GBNF)."""

    grammar: str


class ToolFunction(msgspec.Struct, frozen=True):
    """A function that may be called; `parameters` is the JSON schema of its arguments."""

    name: str
    parameters: dict[str, Any] = {}
    strict: bool = False


class ToolStructure(msgspec.Struct, frozen=True, tag="tool_calls"):
    """One call, or with `parallel` several, of these functions in the model's own format."""

    functions: tuple[ToolFunction, ...]
    parallel: bool = False


AnswerStructure = JsonStructure | RegexStructure | ChoiceStructure | GrammarStructure
"""Forms of an answer that is not a tool call."""


class FreeToolStructure(msgspec.Struct, frozen=True, tag="free_tool_calls"):
    """Any text; a call of one of these functions that it begins keeps to the function's schema.

    Calls of other functions are text like any other.
    """

    functions: tuple[ToolFunction, ...]


class EitherStructure(msgspec.Struct, frozen=True, tag="either"):
    """Either tool calls, or an answer of the given form."""

    calls: ToolStructure
    answer: AnswerStructure


Structure = AnswerStructure | ToolStructure | FreeToolStructure | EitherStructure
