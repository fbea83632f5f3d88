"""Custom tools, whose input is text: shown to the model as functions with one argument.

Chat templates know functions alone, so that is what a model is shown, with the input's grammar in
its description. A call's arguments are read back into the input (`api.parsing.custom_inputs`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from api.openai.chat.lark_pattern import pattern_of
from penstock.contract.structure import ToolFunction
from penstock.errors import InvalidParameter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from api.openai.chat.structure_schema import CustomGrammar, CustomTool, Tool

INPUT: Final = "input"
"""The one argument."""
MOST_CHARACTERS: Final = 100_000
"""Of the grammars of all custom tools of a request that must call one."""
_SYNTAXES: Final = {"lark": "this Lark grammar", "regex": "this regular expression"}


def shown_function(tool: CustomTool) -> dict[str, Any]:
    """Return the function that the model is shown in place of a custom tool."""
    grammar = _grammar(tool)
    texts = [tool.custom.description or ""]
    if grammar is not None:
        syntax = _SYNTAXES[grammar.syntax]
        texts.append(f"`{INPUT}` is text by {syntax}:\n{grammar.definition}")
    function: dict[str, Any] = {"name": tool.name}
    if description := "\n\n".join(filter(None, texts)):
        function["description"] = description
    return {"type": "function", "function": {**function, "parameters": _parameters({})}}


def constrained_parameters(tool: CustomTool) -> dict[str, Any]:
    """Return the JSON schema of the arguments of a call that must be made.

    :raises InvalidParameter: the grammar cannot be enforced.
    """
    grammar = _grammar(tool)
    if grammar is None:
        return _parameters({})
    regex = grammar.definition if grammar.syntax == "regex" else pattern_of(grammar.definition)
    return _parameters({"pattern": f"^(?:{regex})$"})


def enforced_functions(tools: Sequence[Tool]) -> tuple[tuple[ToolFunction, ...], list[str]]:
    """Return the structure of calls of custom tools with a grammar, if no call is required.

    Beside it a line for each grammar that cannot be enforced.
    """
    functions: list[ToolFunction] = []
    reasons: list[str] = []
    for tool in tools:
        if tool.type != "custom" or _grammar(tool) is None:
            continue
        try:
            check_size(tools)
            functions.append(ToolFunction(tool.name, constrained_parameters(tool), strict=True))
        except InvalidParameter as error:
            reasons.append(f"tools: {tool.name}: its grammar is not enforced: {error.message}")
    return tuple(functions), reasons


def check_size(tools: Sequence[Tool]) -> None:
    """Check that the grammars of the tools, one of which must be called, are not too long.

    :raises InvalidParameter: they are.
    """
    grammars = [_grammar(tool) for tool in tools if tool.type == "custom"]
    if sum(len(grammar.definition) for grammar in grammars if grammar) > MOST_CHARACTERS:
        raise InvalidParameter(
            f"tools: the grammars of custom tools have over {MOST_CHARACTERS} characters together",
            param="tools",
        )


def _grammar(tool: CustomTool) -> CustomGrammar | None:
    form = tool.custom.format
    return form.grammar if form is not None and form.type == "grammar" else None


def _parameters(form: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {INPUT: {"type": "string", **form}},
        "required": [INPUT],
        "additionalProperties": False,
    }
