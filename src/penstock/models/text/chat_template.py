"""A model's chat templates: choosing one, and putting messages into the form that it accepts."""

from __future__ import annotations

import json
import re
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, cast

from penstock.contract.job import IMAGE_PART
from penstock.errors import InvalidParameter, ModelNotLoadable
from penstock.models.catalogue.model_folder import read_config
from penstock.models.loading import checkpoint
from penstock.models.text import dialect, flat_messages, rendering, template_process
from penstock.models.text.history import History

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from penstock.contract.job import ChatPrompt
    from penstock.models.text.dialect import Dialect, ToolParser

CHATML = """\
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""

PLAIN = """\
{%- for message in messages %}
{{- message.role + ': ' + message.content }}
{%- if not loop.last or add_generation_prompt %}{{- '\\n' }}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- 'assistant:' }}{%- endif %}
"""

TOOL_USE: Final = "tool_use"
"""The name of Transformers' template for chats with tools, if a tokenizer has several."""

_PHI4: Final = "You are a helpful assistant with some tools."
"""The system message of Phi-4-mini's model card; its template takes the tools from there."""

_PARTS: Final = re.compile(r"\btype\b")
"""How a template that reads parts tests each of them."""
_SAMPLE: Final = "penstockreadsthis"

_RESERVED: Final = frozenset(
    (
        "conversation",
        "messages",
        "tools",
        "chat_template",
        "add_generation_prompt",
        "continue_final_message",
        "tokenize",
        "padding",
        "truncation",
        "max_length",
        "return_tensors",
        "return_dict",
        "return_assistant_tokens_mask",
        "tokenizer_kwargs",
    )
)


def own(tokenizer: Any) -> tuple[str | None, str | None]:
    """Return a tokenizer's template, and the one for chats with tools if that is a different one."""
    template: Any = tokenizer.chat_template
    if not isinstance(template, dict):
        return template or None, None
    named = cast("dict[str, str]", template)
    default = named.get("default") or next(iter(named.values()), None)
    return default, named.get(TOOL_USE) or None


def of_processor(path: Path) -> str | None:
    """Return the template that older checkpoints with images store separately, for their processor."""
    template = read_config(path, "chat_template.json").get("chat_template")
    return template if isinstance(template, str) and template else None


class ChatTemplates:
    """A model's templates for chats, with and without tools. Thread-safe.

    `variables` are what templates see besides the chat: the tokenizer's special tokens.
    """

    def __init__(
        self,
        default: str,
        for_tools: str | None,
        variables: dict[str, Any],
        *,
        tool_parser: ToolParser | None = None,
        model_type: str = "",
    ) -> None:
        self._default = default
        self._for_tools = for_tools or default
        self._variables = variables
        found = dialect.of_template(default, tool_parser=tool_parser, model_type=model_type)
        if for_tools is not None:
            found = dialect.of_template(
                for_tools, tool_parser=tool_parser, model_type=model_type
            ).reasoning_of(found)
        self.dialect: Dialect = found
        self.image_token: str | None = None

    def render(self, prompt: ChatPrompt, most_characters: int | None) -> str:
        """Return the text of a chat for the model.

        :raises InvalidParameter: the template refuses the messages, fails on them, or exceeds its
            limits of time and memory.
        :raises rendering.TooManyCharacters, rendering.TakesLong: see there.
        """
        _check(prompt)
        images = sum(flat_messages.images_in(message) for message in prompt.messages)
        if not images or self.image_token is None:
            return self._render(prompt, None, most_characters)
        text = self._render(prompt, IMAGE_PART, most_characters)
        if text.count(self.image_token) == images:
            return text
        # The template takes no parts, or passes over those that it does not know.
        return self._render(prompt, self.image_token, most_characters)

    def _render(self, prompt: ChatPrompt, image: str | None, most_characters: int | None) -> str:
        """Render a chat with its images as parts, or as this text.

        :raises InvalidParameter, rendering.TooManyCharacters, rendering.TakesLong: see `render`.
        """
        conversation = [flat_messages.flattened(message, image) for message in prompt.messages]
        if any(message.get("tool_calls") for message in conversation):
            conversation = self._history.prepared(conversation)
        variables = {
            "add_generation_prompt": prompt.add_generation_prompt,
            **self._variables,
            **prompt.template_kwargs,
        }
        how: Any = {
            "continues": prompt.continue_final_message,
            "most_characters": most_characters,
        }
        try:
            try:
                return self._rendered(conversation, prompt.tools, variables, **how)
            except rendering.TemplateRefuses:
                tools = [_completed(tool) for tool in prompt.tools]
                if tools == list(prompt.tools):
                    raise
                # Many templates concatenate descriptions without checking that there are any.
                return self._rendered(conversation, tools, variables, **how)
        except rendering.TemplateRefuses as error:
            reason = checkpoint.first_line(error)
            raise InvalidParameter(
                f"the model's chat template refuses these messages: {reason}", param="messages"
            ) from error

    def _rendered(
        self,
        conversation: list[dict[str, Any]],
        tools: Sequence[dict[str, Any]],
        variables: dict[str, Any],
        *,
        continues: bool = False,
        most_characters: int | None = None,
    ) -> str:
        template = self._for_tools if tools else self._default
        if self._takes_parts:
            conversation = [_in_parts(message) for message in conversation]
        if tools and "message['tools']" in template:
            conversation = _with_tools_in_system(conversation, tools)
        return rendering.render(
            template,
            conversation,
            {"tools": list(tools) or None, "documents": None, **variables},
            continues=continues,
            most_characters=most_characters,
        )

    @cached_property
    def _takes_parts(self) -> bool:
        """Whether the template reads lists of parts and ignores content that is a string.

        Templates of some models with images do. Found by rendering two small chats at the first
        chat.
        """
        if not _PARTS.search(self._default):
            return False
        variables = {"add_generation_prompt": True, **self._variables}
        message = {"role": "user", "content": _SAMPLE}

        def shows(message_: dict[str, Any]) -> bool:
            try:
                text = rendering.render(
                    self._default, [message_], variables, continues=False, most_characters=None
                )
            except rendering.TemplateRefuses:
                return False
            return _SAMPLE in text

        return not shows(message) and shows(_in_parts(message))

    @cached_property
    def _history(self) -> History:
        """How the template takes calls.

        Found by rendering small chats at the first one with calls.
        """

        def render(messages: Sequence[dict[str, Any]], tools: Sequence[Any]) -> str | None:
            try:
                return self._rendered(
                    list(messages), tools, {"add_generation_prompt": True, **self._variables}
                )
            except rendering.TemplateRefuses:
                return None

        return History.of(self.dialect.tool_parser, render)


def _in_parts(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message whose text is a part; one that has parts already as it is."""
    content = message.get("content")
    if not isinstance(content, str):
        return message
    return {**message, "content": [{"type": "text", "text": content}]}


def _check(prompt: ChatPrompt) -> None:
    """:raises InvalidParameter: the prompt's options are not available."""
    reserved = _RESERVED.intersection(prompt.template_kwargs)
    if reserved:
        raise InvalidParameter(
            f"chat_template_kwargs may not set {', '.join(sorted(reserved))}",
            param="chat_template_kwargs",
        )
    if prompt.continue_final_message and prompt.add_generation_prompt:
        raise InvalidParameter(
            "continue_final_message and add_generation_prompt exclude each other",
            param="continue_final_message",
        )


def _completed(tool: dict[str, Any]) -> dict[str, Any]:
    """Return a tool with an empty description, for itself and each parameter, if one is missing."""
    function: Any = tool.get("function")
    if not isinstance(function, dict):
        return tool
    own = cast("dict[str, Any]", function)
    parameters: Any = own.get("parameters") or {"type": "object"}
    properties: Any = parameters.get("properties") or {}
    described = {
        name: {"description": "", **cast("dict[str, Any]", schema)}
        if isinstance(schema, dict)
        else schema
        for name, schema in properties.items()
    }
    filled = {**parameters, "properties": described}
    return {**tool, "function": {"description": "", **own, "parameters": filled}}


def _with_tools_in_system(
    conversation: list[dict[str, Any]], tools: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return a chat whose system message contains the tools as JSON."""
    listed = json.dumps([tool.get("function", tool) for tool in tools], ensure_ascii=False)
    first, rest = conversation[0] if conversation else {}, conversation[1:]
    if first.get("role") != "system":
        first, rest = {"role": "system", "content": _PHI4}, conversation
    return [{**first, "tools": listed}, *rest]


def check(path: Path, template: str | None) -> None:
    """:raises ModelNotLoadable: the chat template cannot be parsed."""
    if template is None:
        return
    try:
        template_process.parse(template)
    except Exception as error:
        line = getattr(error, "lineno", None)
        where = f" in line {line}" if line else ""
        raise ModelNotLoadable(
            f"{path}: the chat template does not parse{where}: {checkpoint.first_line(error)}"
        ) from error


def default(tokenizer: Any) -> str:
    """Return ChatML if the tokenizer has its markers, else plain lines of `role: text`."""
    added: dict[str, int] = tokenizer.get_added_vocab()
    return CHATML if "<|im_start|>" in added else PLAIN
