"""A chat request's tools: which calls the model may make, and how its answer is parsed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from api.openai.chat import structures
from api.openai.chat.custom_tools import (
    INPUT,
    check_size,
    constrained_parameters,
    enforced_functions,
)
from api.openai.chat.structure_schema import CustomTool, NamedTool
from api.parsing.answer import AnswerParser, Functions, functions_of
from api.parsing.custom_inputs import CustomAnswerParser
from penstock.contract.structure import (
    EitherStructure,
    FreeToolStructure,
    ToolFunction,
    ToolStructure,
)
from penstock.errors import InvalidParameter, UnsupportedFeature

if TYPE_CHECKING:
    from collections.abc import Sequence

    from api.openai.chat.structure_schema import Tool
    from api.openai.schema import ChatRequest
    from penstock.contract.structure import Structure
    from penstock.contract.worker import ModelCard

ID_DIGITS: Final = 24
MISTRAL_ID_DIGITS: Final = 9
"""Mistral's templates refuse ids of any other length."""


@dataclass(frozen=True)
class Reading:
    """How the text of one request's answers is parsed. `plain` text is not parsed at all."""

    reasoning: tuple[str, ...] = ()
    format_name: str = ""
    functions: Functions = field(default_factory=dict[str, dict[str, list[str]]])
    most_calls: int | None = None
    show_reasoning: bool = True
    custom: tuple[str, ...] = ()
    """Custom tools among the functions: their calls' arguments are read into an input."""
    older: bool = False
    """Whether a call is shown in the older form, `function_call`."""

    @property
    def plain(self) -> bool:
        """Whether all of an answer's text is its content."""
        return not self.reasoning and not self.functions

    def parser(self) -> AnswerParser | CustomAnswerParser:
        """Return a parser of one answer."""
        parser = self._parser()
        return CustomAnswerParser(parser, self.custom, INPUT) if self.custom else parser

    def _parser(self) -> AnswerParser:
        return AnswerParser(
            reasoning=self.reasoning,
            format_name=self.format_name,
            functions=self.functions,
            most_calls=self.most_calls,
        )

    def call_id(self, job_id: str, index: int) -> str:
        """Return a call's id: the same each time that the job's events are read."""
        digest = hashlib.sha256(f"{job_id}:{index}".encode()).hexdigest()
        if self.format_name in ("mistral", "mistral_args"):
            return digest[:MISTRAL_ID_DIGITS]
        return "call_" + digest[:ID_DIGITS]


@dataclass(frozen=True)
class AnswerForm:
    """The form of one request's answers: its constraints, and how it is parsed."""

    structure: Structure | None
    structure_param: str
    """The field that is named if the worker rejects the structure."""
    reading: Reading
    unenforced: tuple[str, ...] = ()
    """A line for each grammar of a tool that is not enforced."""


def answer_form(asked: ChatRequest, tools: Sequence[dict[str, Any]], card: ModelCard) -> AnswerForm:
    """Return the form of a chat's answers; `tools` are those of its prompt.

    :raises UnsupportedFeature: the model calls no tools, or has no structured output.
    :raises InvalidParameter: contradictory tools, or see `structures`.
    """
    _check(asked, tools, card)
    reading = _reading(asked, tools, card)
    form = structures.form_of(asked)
    if tools and asked.tool_choice not in (None, "auto"):
        structures.check("tool_choice", asked, card)
        return AnswerForm(_calls(asked), "tools", reading)
    if form is None:
        return _free_form(asked, tools, card, reading)
    param, structure = form
    structures.check(param, asked, card)
    return AnswerForm(
        EitherStructure(_calls(asked), structure) if tools else structure, param, reading
    )


def _free_form(
    asked: ChatRequest, tools: Sequence[dict[str, Any]], card: ModelCard, reading: Reading
) -> AnswerForm:
    """Return the form of answers that may call a tool, and may be any text."""
    functions, reasons = enforced_functions(asked.tools or ()) if tools else ((), [])
    if not functions or structures.CAPABILITY not in card.capabilities or asked.ignore_eos:
        return AnswerForm(None, "response_format", reading, tuple(reasons))
    return AnswerForm(FreeToolStructure(functions), "tools", reading, tuple(reasons))


def _check(asked: ChatRequest, tools: Sequence[dict[str, Any]], card: ModelCard) -> None:
    """Check that the tools are consistent and that this model can call them.

    :raises UnsupportedFeature: its chat template has no tools.
    :raises InvalidParameter: `tool_choice` without tools, or of an unknown one.
    """
    names = [tool.name for tool in asked.tools or ()]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InvalidParameter(f"tools: {twice} is there twice", param="tools")
    choice = asked.tool_choice
    if choice not in (None, "none", "auto"):
        if not names:
            raise InvalidParameter("tool_choice: there are no tools", param="tool_choice")
        if isinstance(choice, NamedTool) and choice.name not in names:
            raise InvalidParameter(
                f"tool_choice: there is no tool {choice.name[:64]!r}", param="tool_choice"
            )
    if tools and not card.tool_parser:
        raise UnsupportedFeature(
            f"tools: how {card.name} calls tools is unknown (set tool_parser in models.toml)",
            param="tools",
        )


def _reading(asked: ChatRequest, tools: Sequence[dict[str, Any]], card: ModelCard) -> Reading:
    parallel = asked.parallel_tool_calls is not False
    return Reading(
        reasoning=card.reasoning,
        format_name=card.tool_parser,
        functions=functions_of(tools, card.tool_parser),
        most_calls=None if parallel else 1,
        show_reasoning=asked.include_reasoning is not False,
        custom=tuple(tool.name for tool in asked.tools or () if tool.type == "custom")
        if tools
        else (),
        older=asked.is_older,
    )


def _calls(asked: ChatRequest) -> ToolStructure:
    check_size(asked.tools or ())
    choice = asked.tool_choice
    named = choice.name if isinstance(choice, NamedTool) else None
    return ToolStructure(
        tuple(_callable(tool) for tool in asked.tools or () if named in (None, tool.name)),
        parallel=named is None and asked.parallel_tool_calls is not False,
    )


def _callable(tool: Tool) -> ToolFunction:
    """Return the function that constrains a tool's calls."""
    if isinstance(tool, CustomTool):
        return ToolFunction(tool.name, constrained_parameters(tool), strict=True)
    function = tool.function
    return ToolFunction(function.name, function.parameters or {}, bool(function.strict))
