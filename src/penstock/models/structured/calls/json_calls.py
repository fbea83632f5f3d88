"""Calls whose arguments are one JSON object, within the text that each dialect puts around it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from penstock.contract.structure import ToolFunction, ToolStructure
    from penstock.models.structured.calls.rules import Rules


@dataclass(frozen=True, slots=True)
class JsonCalls:
    """The notation: `before` all calls, each as `call`, `between` two, `behind` all.

    In `call`, NAME is the function's name, QUOTED the same as JSON, ARGUMENTS its arguments, and
    NUMBER any number, for dialects that number calls. Dialects with `one` write at most one call.
    """

    call: str
    before: str = ""
    between: str = ""
    behind: str = ""
    one: bool = False

    def write(self, rules: Rules, structure: ToolStructure) -> None:
        """Add the rules of calls, beginning with `start`."""
        calls: list[str] = []
        for index, function in enumerate(structure.functions):
            parts = [_filled(rules, self.head, function.name), self.rest(rules, index, function)]
            calls.append(rules.add(f"call_{index}", " ".join(filter(None, parts))))
        call = rules.add("call", " | ".join(calls))
        parts = [rules.literal(self.before), call]
        if structure.parallel and not self.one:
            parts.append(f"({rules.literal(self.between)} {call})*")
        parts.append(rules.literal(self.behind))
        rules.add("start", " ".join(filter(None, parts)))

    @property
    def head(self) -> str:
        """The part of a call before its arguments."""
        return self.call.partition("ARGUMENTS")[0]

    def rest(self, rules: Rules, index: int, function: ToolFunction) -> str:
        """Return the rule body of a call's arguments and what follows; rules are named by `index`."""
        arguments = rules.arguments(f"arguments_{index}", function)
        tail = _filled(rules, self.call.partition("ARGUMENTS")[2], function.name)
        return f"{arguments} {tail}".rstrip()

    def written(self, calls: Sequence[tuple[str, str]]) -> str:
        """Return the text of calls, each a function's name and its arguments as JSON."""
        texts = [
            self.call.replace("QUOTED", json.dumps(name))
            .replace("NAME", name)
            .replace("NUMBER", str(number))
            .replace("ARGUMENTS", arguments)
            for number, (name, arguments) in enumerate(calls)
        ]
        return f"{self.before}{self.between.join(texts)}{self.behind}"


def _filled(rules: Rules, words: str, name: str) -> str:
    """Return the grammar of a part of a call, with the function's name filled in."""
    parts: list[str] = []
    filled = words.replace("QUOTED", json.dumps(name)).replace("NAME", name)
    for position, part in enumerate(filled.split("NUMBER")):
        if position:
            parts.append(rules.add("NUMBER", "/0|[1-9][0-9]{0,3}/"))
        parts.append(rules.literal(part))
    return " ".join(filter(None, parts))


_NAMED = '{"name": QUOTED, "arguments": ARGUMENTS}'
_COHERE = '{"tool_call_id": "NUMBER", "tool_name": QUOTED, "parameters": ARGUMENTS}'
_SEP = "<｜tool▁sep｜>"

JSON_CALLS = {
    "hermes": JsonCalls(f"<tool_call>\n{_NAMED}\n</tool_call>", between="\n"),
    "llama3_json": JsonCalls('{"name": QUOTED, "parameters": ARGUMENTS}', between="; "),
    "mistral": JsonCalls(_NAMED, "[TOOL_CALLS][", ", ", "]"),
    "mistral_args": JsonCalls("[TOOL_CALLS]NAME[ARGS]ARGUMENTS"),
    "granite": JsonCalls(_NAMED, "<|tool_call|>[", ", ", "]"),
    "phi4": JsonCalls(_NAMED, "<|tool_call|>[", ", ", "]<|/tool_call|>"),
    "phi4_mini": JsonCalls(_NAMED, "functools[", ", ", "]"),
    "nemotron": JsonCalls(_NAMED, "<TOOLCALL>[", ", ", "]</TOOLCALL>"),
    "command": JsonCalls(_COHERE, "<|START_ACTION|>[\n    ", ",\n    ", "\n]<|END_ACTION|>"),
    "internlm": JsonCalls(
        '<|action_start|><|plugin|>\n{"name": QUOTED, "parameters": ARGUMENTS}<|action_end|>'
    ),
    "deepseek_v3": JsonCalls(
        f"<｜tool▁call▁begin｜>function{_SEP}NAME\n```json\nARGUMENTS\n```<｜tool▁call▁end｜>",
        "<｜tool▁calls▁begin｜>",
        "\n",
        "<｜tool▁calls▁end｜>",
    ),
    "deepseek_v31": JsonCalls(
        f"<｜tool▁call▁begin｜>NAME{_SEP}ARGUMENTS<｜tool▁call▁end｜>",
        "<｜tool▁calls▁begin｜>",
        "",
        "<｜tool▁calls▁end｜>",
    ),
    "kimi_k2": JsonCalls(
        "<|tool_call_begin|>functions.NAME:NUMBER"
        "<|tool_call_argument_begin|>ARGUMENTS<|tool_call_end|>",
        "<|tool_calls_section_begin|>",
        "",
        "<|tool_calls_section_end|>",
    ),
    "glm4": JsonCalls("NAME\nARGUMENTS", one=True),
    "harmony": JsonCalls(
        "<|channel|>commentary to=functions.NAME <|constrain|>json<|message|>ARGUMENTS", one=True
    ),
}
"""By the dialect's name."""
