"""What a generated dialogue is made of, and its ChatML text.

`render` writes exactly what `chat_template.jinja` writes; a unit test holds them together.
The template is Jinja and slow; training text is rendered a few hundred thousand times a second.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, Literal

from demo_model_training.phrasing import typed

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

    from demo_model_training.skills.tool_kinds import Offer

END_OF_TEXT, IM_START, IM_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
FIM_PREFIX, FIM_SUFFIX, FIM_MIDDLE = "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"
TOOL_CALL, TOOL_CALL_END = "<tool_call>", "</tool_call>"
TOOL_RESPONSE, TOOL_RESPONSE_END = "<tool_response>", "</tool_response>"

TOOLS_HEAD = "# Tools\n\nCall a tool when one fits the request.\n<tools>\n"
TOOLS_TAIL = (
    "</tools>\n\nTo call one, answer:\n"
    f'{TOOL_CALL}\n{{"name": NAME, "arguments": {{...}}}}\n{TOOL_CALL_END}'
)

HELD_OUT_ONE_IN = 20


class Style(Enum):
    """How the system prompt asks the assistant to speak."""

    PLAIN = "plain"
    TERSE = "terse"
    POLITE = "polite"


@dataclass(frozen=True)
class Message:
    """One message. An assistant's `tool_calls` are `{"name": ..., "arguments": {...}}`.

    `given` is how many characters of its text a grammar would write, so that they are not learnt:
    the model must go on from them without ever choosing them by itself.
    """

    role: Literal["system", "user", "assistant", "tool"]
    content: str
    tool_calls: tuple[dict[str, Any], ...] = ()
    given: int = 0


@dataclass(frozen=True)
class Exchange:
    """A user's message and what follows until the assistant is done.

    `key` names the thing asked. It alone decides whether the exchange is held out of training.
    """

    skill: str
    key: str
    messages: tuple[Message, ...]

    @property
    def held_out(self) -> bool:
        """True for about one key in twenty, the same for ever."""
        return zlib.crc32(f"{self.skill}:{self.key}".encode()) % HELD_OUT_ONE_IN == 0


@dataclass
class Scene:
    """The state of one dialogue while it is written."""

    rng: random.Random
    style: Style = Style.PLAIN
    assistant_name: str | None = None
    tools: dict[str, dict[str, Any]] = field(default_factory=dict)  # family -> function schema
    offers: dict[str, Offer] = field(default_factory=dict)  # what is known of some of these tools
    facts: dict[str, str] = field(default_factory=dict)  # what the user told of themselves
    history: list[Message] = field(default_factory=list)


def in_style(style: Style, plain: str, terse: str) -> str:
    """The answer that `style` asks for."""
    if style is Style.TERSE:
        return terse
    if style is Style.POLITE:
        return f"Of course. {plain} Please ask if you need anything else."
    return plain


TERSE_ASIDES = (
    ("", " Answer briefly."), ("", " One word, please."), ("", " Just the answer."),
    ("Briefly: ", ""), ("In short: ", ""), ("", " Keep it short."), ("", " Be brief."),
    ("Answer in as few words as possible: ", ""), ("", " Only the answer."),
)  # fmt: skip


def ask(
    scene: Scene, skill: str, question: str, plain: str, terse: str, *kept: str, key: str = ""
) -> Exchange:
    """One question and its answer in the scene's style; `kept` are values not to be altered."""
    style = scene.style
    question = typed(scene.rng, question, *kept)
    key = key or "".join(c for c in question.lower() if c.isalnum() or c in "+-*/")
    if plain != terse and style is Style.PLAIN and scene.rng.random() < 0.04:
        before, after = scene.rng.choice(TERSE_ASIDES)
        if after and question[-1:] not in "?.!":
            question += "."
        question, style = before + question + after, Style.TERSE
    answer = in_style(style, plain, terse)
    return Exchange(skill, key, (Message("user", question), Message("assistant", answer)))


def tool_call_text(call: dict[str, Any]) -> str:
    """One call as the assistant writes it."""
    name = json.dumps(call["name"], ensure_ascii=False)
    arguments = json.dumps(call["arguments"], ensure_ascii=False)
    return f'{TOOL_CALL}\n{{"name": {name}, "arguments": {arguments}}}\n{TOOL_CALL_END}'


def assistant_text(message: Message) -> str:
    """All that the assistant says in one message, calls included."""
    calls = [tool_call_text(call) for call in message.tool_calls]
    return "\n".join([message.content, *calls] if message.content else calls)


def render_system(content: str, tools: Sequence[dict[str, Any]]) -> str:
    """The opening system message, or nothing when there is neither content nor a tool."""
    if tools:
        listed = "".join(json.dumps(tool, ensure_ascii=False) + "\n" for tool in tools)
        content = (content + "\n\n" if content else "") + TOOLS_HEAD + listed + TOOLS_TAIL
    return f"{IM_START}system\n{content}{IM_END}\n" if content else ""


def given_spans(messages: Sequence[Message]) -> list[tuple[int, int]]:
    """Where the characters that are given stand in `render(messages)`."""
    spans: list[tuple[int, int]] = []
    for i, message in enumerate(messages):
        if message.given:
            start = len(render(messages[:i])) + len(f"{IM_START}assistant\n")
            spans.append((start, start + message.given))
    return spans


def render(messages: Sequence[Message]) -> str:
    """Messages after the system message, as ChatML. Tool results share one user message."""
    parts: list[str] = []
    for i, message in enumerate(messages):
        if message.role == "tool":
            first = i == 0 or messages[i - 1].role != "tool"
            last = i + 1 == len(messages) or messages[i + 1].role != "tool"
            parts.append(f"{IM_START}user" if first else "")
            parts.append(f"\n{TOOL_RESPONSE}\n{message.content}\n{TOOL_RESPONSE_END}")
            parts.append(f"{IM_END}\n" if last else "")
            continue
        text = assistant_text(message) if message.role == "assistant" else message.content
        parts.append(f"{IM_START}{message.role}\n{text}{IM_END}\n")
    return "".join(parts)
