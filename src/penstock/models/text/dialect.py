"""What a chat template tells of its model: how it calls tools, how it marks its reasoning."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final, Literal, TypeAlias

ToolParser: TypeAlias = Literal["hermes", "llama3_json", "mistral", ""]
"""How a model writes its tool calls; empty if its template knows none."""

_REASONING: Final = (("<think>", "</think>"), ("[THINK]", "[/THINK]"))

_FOREIGN: Final = ("<function=", "<arg_key>", "<parameter=")
"""Formats that stand inside of `<tool_call>` as well, but hold no JSON."""


class Reasoning(Enum):
    """Where an answer begins."""

    NONE = "none"  # no reasoning is to come
    POSSIBLE = "possible"  # the model may open it
    OPENED = "opened"  # the prompt has opened it


@dataclass(frozen=True, slots=True)
class Dialect:
    """`reasoning` holds the markers that open and close it."""

    tool_parser: ToolParser = ""
    reasoning: tuple[str, str] | None = None

    @property
    def markers(self) -> tuple[str, ...]:
        """What has to be visible in an answer's text, special token or not."""
        calls = {"mistral": ("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]")}.get(self.tool_parser, ())
        return (*calls, *(self.reasoning or ()))


def of_template(template: str | None, *, tool_parser: ToolParser | None = None) -> Dialect:
    """Return the dialect of a chat template; `tool_parser` is the operator's word, if any."""
    if template is None:
        return Dialect()
    reasoning = next((pair for pair in _REASONING if pair[1] in template), None)
    parser = _tool_parser(template) if tool_parser is None else tool_parser
    return Dialect(parser if "tools" in template else "", reasoning)


def _tool_parser(template: str) -> ToolParser:
    if "[TOOL_CALLS]" in template:
        return "mistral"
    if "<tool_call>" in template and not any(foreign in template for foreign in _FOREIGN):
        return "hermes"
    is_llama = "<|python_tag|>" in template or "ipython" in template
    return "llama3_json" if is_llama and '"parameters"' in template else ""
