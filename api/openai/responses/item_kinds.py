"""The kinds of items that a request to /v1/responses may hold, and what becomes of each.

Items that this server does not know are left out like those of `LEFT_OUT`: a history that another
server made, or a newer program, must not end a session.
"""

from __future__ import annotations

from typing import Any, Final

Item = dict[str, Any]

SERVED: Final = frozenset(
    {
        "message",
        "reasoning",
        "function_call",
        "function_call_output",
        "custom_tool_call",
        "custom_tool_call_output",
        "item_reference",
        # their tools are those of the request
        "additional_tools",
        "tool_search_output",
    }
)

CALLS: Final = {
    "apply_patch_call": ("apply_patch", "operation"),
    "computer_call": ("computer", "action"),
    "local_shell_call": ("local_shell", "action"),
    "shell_call": ("shell", "action"),
}
"""Calls of tools that a client runs: shown to the model as calls of a function.

The function's name, and the item's member that holds the arguments."""

OUTPUTS: Final = frozenset(f"{kind}_output" for kind in CALLS)

LEFT_OUT: Final = frozenset(
    {
        "agent_message",
        "code_interpreter_call",
        "compaction",
        "compaction_trigger",
        "configuration_update",
        "file_search_call",
        "image_generation_call",
        "mcp_approval_request",
        "mcp_approval_response",
        "mcp_call",
        "mcp_list_tools",
        "multi_agent_call",
        "multi_agent_call_output",
        "program",
        "program_output",
        "tool_search_call",
        "web_search_call",
    }
)
"""What other servers ran by themselves, or what only they can read."""

TOOLS_SERVED: Final = frozenset({"function", "custom", "namespace"})

TOOLS_LEFT_OUT: Final = frozenset(
    {
        "apply_patch",
        "code_interpreter",
        "computer",
        "computer_use_preview",
        "file_search",
        "image_generation",
        "local_shell",
        "mcp",
        "programmatic_tool_calling",
        "shell",
        "tool_search",
        "web_search",
        "web_search_2025_08_26",
        "web_search_preview",
        "web_search_preview_2025_03_11",
    }
)
"""Kinds of tools that this server does not run; unknown ones are left out as well."""

FILE: Final = "[A file was left out here: this model reads text only.]"
