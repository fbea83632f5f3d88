"""Anthropic's tools -> a chat completion's functions.

Tools that a client runs and whose schema is known (`CLIENT_TOOLS`) are functions like any other.
Tools that Anthropic's own servers run are left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

from api.anthropic.client_tools import CLIENT_TOOLS
from api.openai.chat.tool_forms import left_out
from penstock.errors import InvalidParameter

if TYPE_CHECKING:
    from collections.abc import Iterable

    from api.anthropic.schema import AnthropicToolChoice
    from api.http.warnings import Warnings

Json = dict[str, Any]

TOOL_CHOICES: Final = {"auto": "auto", "any": "required", "none": "none"}


LEFT_OUT: Final = frozenset(
    {
        "advisor_20260301",
        "browser_toolset_20260801",
        "code_execution_20250522",
        "code_execution_20250825",
        "code_execution_20260120",
        "code_execution_20260521",
        "computer_toolset_20260801",
        "mcp_toolset",
        "tool_search_tool_bm25",
        "tool_search_tool_bm25_20251119",
        "tool_search_tool_regex",
        "tool_search_tool_regex_20251119",
        "web_fetch_20250910",
        "web_fetch_20260209",
        "web_fetch_20260309",
        "web_fetch_20260318",
        "web_search_20250305",
        "web_search_20260209",
        "web_search_20260318",
    }
)
"""Types that this server does not run; unknown ones are left out as well."""


class Tools:
    """The tools of one request: those declared, and those that its messages add or remove."""

    def __init__(self, warnings: Warnings) -> None:
        self._warnings = warnings
        self._functions: dict[str, Json] = {}
        self._unnamed: list[Json] = []
        self._left_out: set[str] = set()

    @property
    def functions(self) -> list[Json]:
        """The chat completion's tools."""
        return [*self._functions.values(), *self._unnamed]

    def add(self, tools: Iterable[Json]) -> None:
        """Add tools.

        :raises InvalidParameter: one of the client's own lacks its schema.
        """
        for position, tool in enumerate(tools):
            function = self._function(tool, f"tools[{position}]")
            if function is None:
                continue
            name = function["function"].get("name")
            if isinstance(name, str) and name not in self._functions:
                self._functions[name] = function
            else:
                self._unnamed.append(function)  # refused by the chat completion's schema

    def change(self, block: Json) -> None:
        """Take a block that adds or removes a tool in the midst of a conversation.

        The model is shown the tools of the last message from the first on.
        """
        tool: Any = block.get("tool")
        fields = cast("Json", tool) if isinstance(tool, dict) else {}
        definition: Any = fields.get("definition")
        if isinstance(definition, dict):
            name = cast("Json", definition).get("name")
            if isinstance(name, str):
                self._functions.pop(name, None)
            self.add([cast("Json", definition)])
        elif block.get("type") == "tool_removal" and fields.get("type") == "tool_reference":
            self._functions.pop(str(fields.get("name")), None)

    def _function(self, tool: Json, where: str) -> Json | None:
        kind: Any = tool.get("type") or "custom"
        known = CLIENT_TOOLS.get(kind) if isinstance(kind, str) else None
        if known is not None:
            description, schema = known
            name = tool.get("name")
            return {
                "type": "function",
                "function": {"name": name, "description": description, "parameters": schema},
            }
        if kind != "custom":
            self._warnings.add(left_out(str(kind)))
            self._left_out.add(str(tool.get("name")))
            return None
        schema: Any = tool.get("input_schema")
        if not isinstance(schema, dict):
            at = f"{where}.input_schema"
            raise InvalidParameter(f"{at}: a dict is needed", param=at)
        fields_kept = {
            name: tool[name] for name in ("description", "strict") if tool.get(name) is not None
        }
        return {
            "type": "function",
            "function": {"name": tool.get("name"), "parameters": schema, **fields_kept},
        }

    def choice(self, choice: AnthropicToolChoice) -> Json:
        """Return the chat completion's fields of a `tool_choice`.

        :raises InvalidParameter: it names no tool.
        """
        chat: Json = {}
        if choice.type == "tool" and choice.name is None:
            raise InvalidParameter("tool_choice.name: Field required", param="tool_choice.name")
        forced = choice.type in ("any", "tool")
        if forced and (not self._functions or choice.name in self._left_out):
            if self._left_out:
                self._warnings.add("tool_choice asks for a tool that was left out, ignored")
                return chat
        elif not self._functions:
            return chat
        if choice.type == "tool":
            chat["tool_choice"] = {"type": "function", "function": {"name": choice.name}}
        else:
            chat["tool_choice"] = TOOL_CHOICES[choice.type]
        if choice.disable_parallel_tool_use is not None:
            chat["parallel_tool_calls"] = not choice.disable_parallel_tool_use
        return chat
