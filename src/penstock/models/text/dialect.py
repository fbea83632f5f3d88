"""What a chat template reveals about its model: how it calls tools and marks reasoning."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import Final, Literal, TypeAlias

ToolParser: TypeAlias = Literal[
    "command",
    "deepseek_v3",
    "deepseek_v31",
    "deepseek_v32",
    "functiongemma",
    "gemma3",
    "gemma4",
    "glm4",
    "glm45",
    "granite",
    "harmony",
    "hermes",
    "internlm",
    "kimi_k2",
    "lfm2",
    "llama3_json",
    "minimax_m2",
    "mistral",
    "mistral_args",
    "nemotron",
    "phi4",
    "phi4_mini",
    "pythonic",
    "qwen3_coder",
    "seed_oss",
    "",
]
"""A dialect's name, by how the model writes tool calls; "" if its template has none."""


class Reasoning(Enum):
    """Whether an answer begins with reasoning."""

    NONE = "none"  # there is no reasoning
    POSSIBLE = "possible"  # the model may begin it
    OPENED = "opened"  # the prompt has begun it


@dataclass(frozen=True, slots=True)
class Family:
    """How the models of a family call tools.

    `name` is the dialect's name, on the model's card too. A chat template belongs to the family if
    it contains all of `signs`, or if the model's type begins with one of `model_types` and the
    template lists tools. `tokens` must be visible in an answer's text, even if special.
    """

    name: ToolParser
    signs: tuple[str, ...] = ()
    tokens: tuple[str, ...] = ()
    model_types: tuple[str, ...] = ()


_DEEPSEEK: Final = (
    "<｜tool▁calls▁begin｜>",
    "<｜tool▁calls▁end｜>",
    "<｜tool▁call▁begin｜>",
    "<｜tool▁call▁end｜>",
    "<｜tool▁sep｜>",
)
_LFM2: Final = ("<|tool_call_start|>", "<|tool_call_end|>")
_PHI4: Final = ("<|tool_call|>", "<|/tool_call|>")

FAMILIES: Final = (
    Family(
        "harmony",
        ("<|channel|>", "<|message|>"),
        ("<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", "<|end|>"),
    ),
    Family("deepseek_v32", ("｜DSML｜",), ("｜DSML｜",)),
    Family(
        "deepseek_v3",
        ("<｜tool▁sep｜>", "```json"),
        _DEEPSEEK,
    ),
    Family("deepseek_v31", ("<｜tool▁sep｜>",), _DEEPSEEK),
    Family(
        "kimi_k2",
        ("<|tool_call_begin|>",),
        (
            "<|tool_calls_section_begin|>",
            "<|tool_calls_section_end|>",
            "<|tool_call_begin|>",
            "<|tool_call_argument_begin|>",
            "<|tool_call_end|>",
        ),
    ),
    Family("minimax_m2", ("minimax:tool_call",), ("<minimax:tool_call>", "</minimax:tool_call>")),
    Family("gemma4", ("<|tool_call>call:",), ("<|tool_call>", "<tool_call|>", '<|"|>')),
    Family(
        "functiongemma",
        ("<start_function_call>",),
        ("<start_function_call>", "<end_function_call>", "<escape>"),
    ),
    Family("seed_oss", ("<seed:tool_call>",), ("<seed:tool_call>", "</seed:tool_call>")),
    Family("qwen3_coder", ("<function=", "<parameter="), ("<tool_call>", "</tool_call>")),
    Family(
        "glm45",
        ("<arg_key>",),
        (
            "<tool_call>",
            "</tool_call>",
            "<arg_key>",
            "</arg_key>",
            "<arg_value>",
            "</arg_value>",
        ),
    ),
    Family("mistral_args", ("[TOOL_CALLS]", "[ARGS]"), ("[TOOL_CALLS]", "[CALL_ID]", "[ARGS]")),
    Family("mistral", ("[TOOL_CALLS]",), ("[TOOL_CALLS]", "[CALL_ID]", "[ARGS]")),
    Family("command", ("<|START_ACTION|>",), ("<|START_ACTION|>", "<|END_ACTION|>")),
    Family("nemotron", ("<TOOLCALL>",), ("<TOOLCALL>", "</TOOLCALL>")),
    Family("internlm", ("<|action_start|>",), ("<|action_start|>", "<|action_end|>", "<|plugin|>")),
    Family("internlm", ("<|plugin|>",), ("<|action_start|>", "<|action_end|>", "<|plugin|>")),
    Family("lfm2", ("<|tool_call_start|>",), _LFM2),
    Family("lfm2", ("<|tool_list_start|>",), _LFM2),
    Family("phi4", ("<|/tool_call|>",), _PHI4),
    Family("phi4", ("<|/tool|>",), _PHI4),
    Family("phi4_mini", ("functools",), _PHI4),
    Family("granite", ("<|tool_call|>",), ("<|tool_call|>",)),
    Family("hermes", ("<tool_call>",), ("<tool_call>", "</tool_call>")),
    Family("pythonic", ("func_name1(",)),
    Family("gemma3", ("tool_code",), model_types=("gemma3",)),
    Family("llama3_json", ("<|python_tag|>", '"parameters"')),
    Family("llama3_json", ("ipython", '"parameters"')),
    Family("llama3_json", ("<|header_start|>", '"parameters"')),
    Family("glm4", ("<|observation|>",), model_types=("chatglm", "glm")),
)
"""The first match counts: families with distinctive signs precede the common ones."""

_REASONING: Final = (
    ("<|channel|>analysis<|message|>", "<|end|>"),
    ("<|channel>thought", "<channel|>"),
    ("<seed:think>", "</seed:think>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("[THINK]", "[/THINK]"),
    ("<think>", "</think>"),
    ("Here is my thought process:", "Here is my response:"),
)
"""Pairs of markers around reasoning.

A template has the second, or, for the first two pairs, the token of the first.
"""

_SIGNS_OF_REASONING: Final = {
    "<|end|>": "<|channel|>analysis",
    "<channel|>": "<|channel>thought",
}
"""Second markers that templates have for other reasons too, and what confirms reasoning."""

_ANSWERS: Final = (
    ("<|START_RESPONSE|>", "<|END_RESPONSE|>"),
    ("<|START_TEXT|>", "<|END_TEXT|>"),
    ("<response>", "</response>"),
    ("<answer>", "</answer>"),
)
"""Markers around the answer, in models that also mark their reasoning."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """`tool_parser` names a family or is empty; `reasoning` and `answer` are two markers each.

    `between` comes between reasoning and what follows it, `before_answer` before an answer that is
    not a call; both are for dialects with channels.
    """

    tool_parser: ToolParser = ""
    reasoning: tuple[str, str] | None = None
    answer: tuple[str, str] | None = None
    between: str = ""
    before_answer: str = ""

    def reasoning_of(self, other: Dialect) -> Dialect:
        """Return this dialect, with another's reasoning if it has none itself."""
        if self.reasoning is not None:
            return self
        return replace(self, reasoning=other.reasoning, answer=other.answer)

    @property
    def markers(self) -> tuple[str, ...]:
        """Tokens that must be visible in an answer's text, special or not."""
        tokens = (
            token
            for family in FAMILIES
            if family.name == self.tool_parser
            for token in family.tokens
        )
        return (*tokens, *(self.reasoning or ()), *(self.answer or ()))

    def shows(self, token: str) -> bool:
        """Return whether a special token's text belongs in an answer's text."""
        return bool(token) and any(token in marker for marker in self.markers)

    @property
    def card_markers(self) -> tuple[str, ...]:
        """Return the markers in the card's order: those of reasoning, then those of the answer."""
        return (*self.reasoning, *(self.answer or ())) if self.reasoning else ()


def of_template(
    template: str | None, *, tool_parser: ToolParser | None = None, model_type: str = ""
) -> Dialect:
    """Return the dialect of a chat template; `tool_parser` is the operator's choice, if any."""
    if template is None:
        return Dialect()
    parser = _tool_parser(template, model_type) if tool_parser is None else tool_parser
    if "tools" not in template and parser != "harmony":
        parser = ""
    if parser == "harmony":
        return Dialect(
            parser, _REASONING[0], None, "<|start|>assistant", "<|channel|>final<|message|>"
        )
    reasoning = next((pair for pair in _REASONING if _is_reasoning(pair, template)), None)
    answer = next((pair for pair in _ANSWERS if pair[1] in template), None)
    return Dialect(parser, reasoning, answer if reasoning else None)


def _is_reasoning(pair: tuple[str, str], template: str) -> bool:
    sign = _SIGNS_OF_REASONING.get(pair[1], pair[1])
    return sign in template


def _tool_parser(template: str, model_type: str) -> ToolParser:
    """Return a template's family: by its signs, else by the model's type."""
    for family in FAMILIES:
        if family.signs and all(sign in template for sign in family.signs):
            return family.name
    for family in FAMILIES:
        if any(model_type.startswith(model_type_) for model_type_ in family.model_types):
            return family.name
    return ""
