"""What a chat request says of tools, and how its answer is read."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from api.openai.chat import structures
from api.openai.chat.structure_schema import NamedTool
from api.parsing.answer import AnswerParser
from penstock.contract.structure import EitherStructure, ToolFunction, ToolStructure
from penstock.errors import InvalidParameter, UnsupportedFeature

if TYPE_CHECKING:
    from collections.abc import Mapping

    from api.openai.schema import ChatRequest
    from penstock.contract.structure import Structure
    from penstock.contract.worker import ModelCard

ID_DIGITS: Final = 24
MISTRAL_ID_DIGITS: Final = 9
"""Mistral's templates refuse ids of any other length."""


def rendered_tools(asked: ChatRequest) -> tuple[dict[str, Any], ...]:
    """Return the tools that the model is told of: none where it must not call any."""
    if not asked.tools or asked.tool_choice == "none":
        return ()
    return tuple(tool.model_dump(exclude_none=True) for tool in asked.tools)


def check(asked: ChatRequest, card: ModelCard) -> None:
    """See that this model can be asked with these tools.

    :raises UnsupportedFeature: its template knows of none.
    :raises InvalidParameter: `tool_choice` without tools, or of one that is not there.
    """
    names = [tool.function.name for tool in asked.tools or ()]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InvalidParameter(f"tools: {twice} is there twice", param="tools")
    if asked.tool_choice not in (None, "none", "auto"):
        if not names:
            raise InvalidParameter("tool_choice: there are no tools", param="tool_choice")
        if (
            isinstance(asked.tool_choice, NamedTool)
            and asked.tool_choice.function.name not in names
        ):
            raise InvalidParameter(
                f"tool_choice: there is no tool {asked.tool_choice.function.name[:64]!r}",
                param="tool_choice",
            )
    if rendered_tools(asked) and not card.tool_parser:
        raise UnsupportedFeature(
            f"tools: how {card.name} calls tools is not known (models.toml can say: tool_parser)",
            param="tools",
        )


def structure_of(asked: ChatRequest, card: ModelCard) -> Structure | None:
    """Return the form of a chat's answer: a call that has to be, or what the request asks for.

    :raises UnsupportedFeature, InvalidParameter: see `check` and `structures`.
    """
    check(asked, card)
    form = structures.form_of(asked)
    tools = rendered_tools(asked)
    if tools and asked.tool_choice not in (None, "auto"):
        structures.check("tool_choice", asked, card)
        return _calls(asked)
    if form is None:
        return None
    param, structure = form
    structures.check(param, asked, card)
    return EitherStructure(_calls(asked), structure) if tools else structure


def structure_param(asked: ChatRequest) -> str:
    """Return the field that an error of the form is blamed on."""
    if rendered_tools(asked) and asked.tool_choice not in (None, "auto"):
        return "tools"
    form = structures.form_of(asked)
    return form[0] if form else "response_format"


def _calls(asked: ChatRequest) -> ToolStructure:
    choice = asked.tool_choice
    named = choice.function.name if isinstance(choice, NamedTool) else None
    return ToolStructure(
        tuple(
            ToolFunction(
                tool.function.name, tool.function.parameters or {}, bool(tool.function.strict)
            )
            for tool in asked.tools or ()
            if named in (None, tool.function.name)
        ),
        parallel=named is None and asked.parallel_tool_calls is not False,
    )


@dataclass(frozen=True)
class Reading:
    """How the answers of one request are read. Without tools and reasoning, as they are."""

    reasoning: tuple[str, ...] = ()
    format_name: str = ""
    functions: tuple[str, ...] = ()
    most_calls: int | None = None
    show_reasoning: bool = True

    @property
    def plain(self) -> bool:
        """Whether all of an answer's text is its content."""
        return not self.reasoning and not self.functions

    def parser(self) -> AnswerParser:
        """Return a parser of one answer."""
        return AnswerParser(
            reasoning=self.reasoning,
            format_name=self.format_name,
            functions=self.functions,
            most_calls=self.most_calls,
        )

    def call_id(self, job_id: str, index: int) -> str:
        """Return a call's id: the same each time that the job's events are read."""
        digest = hashlib.sha256(f"{job_id}:{index}".encode()).hexdigest()
        if self.format_name == "mistral":
            return digest[:MISTRAL_ID_DIGITS]
        return "call_" + digest[:ID_DIGITS]


def reading_of(asked: ChatRequest, card: ModelCard) -> Reading:
    """Return how the answers to a request are to be read."""
    functions = tuple(tool["function"]["name"] for tool in rendered_tools(asked))
    parallel = asked.parallel_tool_calls is not False
    return Reading(
        reasoning=card.reasoning,
        format_name=card.tool_parser,
        functions=functions,
        most_calls=None if parallel else 1,
        show_reasoning=asked.include_reasoning is not False,
    )


def fault_params(asked: ChatRequest) -> Mapping[str, str]:
    """Return the request's names for the parts of a job that a worker may find at fault."""
    return {"structure": structure_param(asked)}
