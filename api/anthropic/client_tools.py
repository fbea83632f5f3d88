"""Anthropic's tools that a client runs, as functions: their schemas are not a part of a request."""

from __future__ import annotations

from typing import Any, Final

Json = dict[str, Any]


def _object(required: list[str], **properties: Json) -> Json:
    return {"type": "object", "properties": properties, "required": required}


_TEXT: Final = {"type": "string"}
_PAIR: Final = {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 2}

_BASH: Final = (
    "Run a command in a persistent bash session. `restart` starts the session again.",
    _object([], command=_TEXT, restart={"type": "boolean"}),
)
_EDITING: Final = (
    "View, create and edit text files. `view` shows a file (lines `view_range`) or a folder; "
    "`create` writes `file_text`; `str_replace` replaces `old_str`, which must be there once, "
    "by `new_str`; `insert` puts `insert_text` after line `insert_line`."
)
_NOTES: Final = (
    "Keep notes in files below /memories. `view` shows a file or a folder; `create`, `str_replace` "
    "and `insert` write; `delete` removes `path`; `rename` moves `old_path` to `new_path`."
)
_EDITOR_COMMANDS: Final = ["view", "create", "str_replace", "insert"]


def _editor(commands: list[str]) -> tuple[str, Json]:
    return (
        _EDITING,
        _object(
            ["command", "path"],
            command={"type": "string", "enum": commands},
            path=_TEXT,
            view_range=_PAIR,
            file_text=_TEXT,
            old_str=_TEXT,
            new_str=_TEXT,
            insert_line={"type": "integer"},
            insert_text=_TEXT,
        ),
    )


_OLD_EDITOR: Final = _editor([*_EDITOR_COMMANDS, "undo_edit"])
_EDITOR: Final = _editor(_EDITOR_COMMANDS)
_MEMORY: Final = (
    _NOTES,
    _object(
        ["command"],
        command={"type": "string", "enum": [*_EDITOR_COMMANDS, "delete", "rename"]},
        path=_TEXT,
        view_range=_PAIR,
        file_text=_TEXT,
        old_str=_TEXT,
        new_str=_TEXT,
        insert_line={"type": "integer"},
        insert_text=_TEXT,
        old_path=_TEXT,
        new_path=_TEXT,
    ),
)
_OLD_ACTIONS: Final = [
    "key", "type", "mouse_move", "left_click", "left_click_drag", "right_click", "middle_click",
    "double_click", "screenshot", "cursor_position",
]  # fmt: skip
_ACTIONS: Final = [
    *_OLD_ACTIONS, "left_mouse_down", "left_mouse_up", "scroll", "hold_key", "wait", "triple_click",
]  # fmt: skip


def _computer(actions: list[str]) -> tuple[str, Json]:
    return (
        "Use the mouse and the keyboard of a computer, and take screenshots.",
        _object(
            ["action"],
            action={"type": "string", "enum": actions},
            coordinate=_PAIR,
            start_coordinate=_PAIR,
            text=_TEXT,
            duration={"type": "number"},
            scroll_direction={"type": "string", "enum": ["up", "down", "left", "right"]},
            scroll_amount={"type": "integer"},
            region={"type": "array", "items": {"type": "integer"}},
        ),
    )


CLIENT_TOOLS: Final[dict[str, tuple[str, Json]]] = {
    "bash_20241022": _BASH,
    "bash_20250124": _BASH,
    "text_editor_20241022": _OLD_EDITOR,
    "text_editor_20250124": _OLD_EDITOR,
    "text_editor_20250429": _EDITOR,
    "text_editor_20250728": _EDITOR,
    "memory_20250818": _MEMORY,
    "computer_20241022": _computer(_OLD_ACTIONS),
    "computer_20250124": _computer(_ACTIONS),
    "computer_20251124": _computer([*_ACTIONS, "zoom"]),
}
"""Description and schema by the tool's type."""
