"""Anthropic's blocks of content -> text, and the messages of a chat.

`SERVED` and `LEFT_OUT` name every kind of block. One that this server does not know is left out
like those of `LEFT_OUT`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

import msgspec

from api.openai.chat_images import FILE_SCHEME, IMAGE_LEFT_OUT
from api.openai.system_messages import in_place
from penstock.errors import InvalidParameter, UnsupportedFeature

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from api.anthropic.schema import Block, Content
    from api.anthropic.tools import Tools
    from api.http.warnings import Warnings

Json = dict[str, Any]

Piece = str | Json
"""A text, or an image as a part of a chat's message."""

SEPARATOR: Final = "\n"

SERVED: Final = frozenset(
    {
        "compaction",
        "document",
        "image",
        "redacted_thinking",
        "search_result",
        "text",
        "thinking",
        "tool_addition",
        "tool_reference",
        "tool_removal",
        "tool_result",
        "tool_use",
    }
)

LEFT_OUT: Final = frozenset(
    {
        "advisor_tool_result",
        "bash_code_execution_tool_result",
        "browser_state",
        "code_execution_tool_result",
        "container_upload",
        "fallback",
        "mcp_tool_listing",
        "mcp_tool_result",
        "mcp_tool_use",
        "server_tool_use",
        "text_editor_code_execution_tool_result",
        "tool_search_tool_result",
        "web_fetch_tool_result",
        "web_search_tool_result",
    }
)
"""What Anthropic's servers ran by themselves, or what only they can read."""

DOCUMENT: Final = "[A document was left out here: this model reads text only.]"


class InputBlocks:
    """Turns the messages of one request into a chat's."""

    def __init__(self, tools: Tools, warnings: Warnings) -> None:
        self.messages: list[Json] = []
        self._tools = tools
        self._warnings = warnings

    def message(self, role: str, content: Content, where: str) -> None:
        """Add a message.

        :raises InvalidParameter: a block lacks something.
        :raises UnsupportedFeature: a user's block that is no text.
        """
        match role:
            case "system":
                self._system(content, where)
            case "user":
                self._user(content, where)
            case _:
                self._assistant(content, where)

    def _append(self, message: Json) -> None:
        """Put a message behind the others; Anthropic takes neighbours of one role for one."""
        last = self.messages[-1] if self.messages else {}
        plain = {"role", "content"}
        if message["role"] == last.get("role") != "tool" and set(message) == set(last) == plain:
            last["content"] = _content([*_pieces(last["content"]), *_pieces(message["content"])])
        else:
            self.messages.append(message)

    # -- roles

    def _system(self, content: Content, where: str) -> None:
        text = self._words(content, where)
        if not text:
            return
        if self.messages and self.messages[-1]["role"] != "system":
            self._append({"role": "user", "content": in_place(text)})
        else:
            self._append({"role": "system", "content": text})

    def _user(self, content: Content, where: str) -> None:
        """Add the results of tools, each a message of its own, then the user's words."""
        results: list[Json] = []
        words: list[Piece] = []
        for at, block in _blocks(content, where):
            if block.get("type") != "tool_result":
                words += self._pieces(block, at)
                continue
            result = _content(list(self._result(block, at)))
            call_id = _needed(block, "tool_use_id", at, str)
            results.append({"role": "tool", "tool_call_id": call_id, "content": result})
        self.messages += results
        if words or not (results or isinstance(content, list)):
            self._append({"role": "user", "content": _content(words)})

    def _assistant(self, content: Content, where: str) -> None:
        words: list[Piece] = []
        thoughts: list[str] = []
        calls: list[Json] = []
        for at, block in _blocks(content, where):
            match block.get("type"):
                case "thinking":
                    thoughts.append(str(block.get("thinking") or ""))
                case "redacted_thinking":
                    continue
                case "tool_use":
                    arguments = msgspec.json.encode(_needed(block, "input", at, dict)).decode()
                    function = {"name": _needed(block, "name", at, str), "arguments": arguments}
                    call_id = _needed(block, "id", at, str)
                    calls.append({"id": call_id, "type": "function", "function": function})
                case _:
                    words += self._pieces(block, at)
        message: Json = {"role": "assistant", "content": self._texts(words)}
        if thoughts:
            message["reasoning_content"] = "".join(thoughts)
        if calls:
            message["tool_calls"] = calls
        self._append(message)

    # -- blocks

    def _words(self, content: Content, where: str) -> str:
        return self._texts(
            [piece for at, block in _blocks(content, where) for piece in self._pieces(block, at)]
        )

    def _texts(self, pieces: Sequence[Piece]) -> str:
        """Return text, with a line in place of each image."""
        if any(not isinstance(piece, str) for piece in pieces):
            self._warnings.add("images outside of users' messages and tools' results are left out")
        return SEPARATOR.join(
            piece if isinstance(piece, str) else IMAGE_LEFT_OUT for piece in pieces
        )

    def _pieces(self, block: Block, where: str, *, in_result: bool = False) -> Sequence[Piece]:
        """Return a block's text, or its image as a chat's part; nothing of one that is left out."""
        if block.get("type") == "image":
            return [_image(block, where)]
        match block.get("type"):
            case "text":
                texts = [_needed(block, "text", where, str)]
            case "compaction":
                texts = [str(block["content"])] if block.get("content") else []
            case "search_result":
                texts = self._titled(block, where)
            case "document":
                texts = self._document(block, where, in_result=in_result)
            case "tool_reference":
                texts = [f"Tool: {block.get('tool_name')}"]
            case "tool_addition" | "tool_removal":
                self._tools.change(block)
                texts = []
            case kind:
                self._warnings.add(f"blocks of type {str(kind)[:60]!r} are left out")
                texts = []
        return texts

    def _result(self, block: Block, where: str) -> Iterator[Piece]:
        content = cast("Content", block.get("content") or "")
        for at, inner in _blocks(content, f"{where}.content"):
            yield from self._pieces(inner, at, in_result=True)

    def _titled(self, block: Block, where: str) -> list[str]:
        """Return the title, the source and the text of a search's result."""
        text = self._words(cast("Content", block.get("content") or ""), where)
        return [*(str(block[name]) for name in ("title", "source") if block.get(name)), text]

    def _document(self, block: Block, where: str, *, in_result: bool) -> Sequence[str]:
        source: Any = block.get("source")
        fields = cast("Json", source) if isinstance(source, dict) else {}
        title = [str(block[name]) for name in ("title", "context") if block.get(name)]
        match fields.get("type"):
            case "text":
                return [*title, str(fields.get("data") or "")]
            case "content":
                content = cast("Content", fields.get("content") or "")
                return [*title, self._words(content, f"{where}.source.content")]
            case _:
                return [*title, self._unread(DOCUMENT, "document", where, in_result=in_result)]

    def _unread(self, text: str, kind: str, where: str, *, in_result: bool) -> str:
        """Return the text in the place of what only other models read.

        :raises UnsupportedFeature: it is a user's own, and the question may be about it.
        """
        if not in_result:
            raise UnsupportedFeature(
                f"{where}: blocks of type {kind!r} are not supported: this model takes text only",
                param=where,
            )
        self._warnings.add(f"{kind}s in the results of tools are left out")
        return text


def _image(block: Block, where: str) -> Json:
    """Return an image as a part of a chat's message.

    :raises UnsupportedFeature: its source is of an unknown type.
    :raises InvalidParameter: the block lacks something.
    """
    source: Any = block.get("source")
    fields = cast("Json", source) if isinstance(source, dict) else {}
    match fields.get("type"):
        case "base64":
            kind = _needed(fields, "media_type", f"{where}.source", str)
            url = f"data:{kind};base64,{_needed(fields, 'data', f'{where}.source', str)}"
        case "url":
            url = _needed(fields, "url", f"{where}.source", str)
        case "file":
            url = FILE_SCHEME + _needed(fields, "file_id", f"{where}.source", str)
        case kind:
            raise UnsupportedFeature(
                f"{where}.source: images of type {str(kind)[:40]!r} are not supported", param=where
            )
    return {"type": "image_url", "image_url": {"url": url}}


def _pieces(content: str | list[Json]) -> list[Piece]:
    """Return what `_content` was made of."""
    if isinstance(content, str):
        return [content] if content else []
    return [part["text"] if part["type"] == "text" else part for part in content]


def _content(pieces: Sequence[Piece]) -> str | list[Json]:
    """Return texts as one, or as parts if there are images between them."""
    parts: list[Json] = []
    for piece in pieces:
        last = parts[-1] if parts else {}
        if not isinstance(piece, str):
            parts.append(piece)
        elif last.get("type") == "text":
            last["text"] += SEPARATOR + piece
        else:
            parts.append({"type": "text", "text": piece})
    if all(part["type"] == "text" for part in parts):
        return SEPARATOR.join(part["text"] for part in parts)
    return parts


def _blocks(content: Content, where: str) -> Iterator[tuple[str, Block]]:
    """Yield each block of a content, with its place."""
    if isinstance(content, str):
        if content:
            yield where, {"type": "text", "text": content}
        return
    for position, block in enumerate(content):
        if not isinstance(block, dict):  # pyright: ignore[reportUnnecessaryIsInstance] - a client's
            raise InvalidParameter(f"{where}[{position}]: must be a block", param=where)
        yield f"{where}[{position}]", block


def _needed(block: Block, name: str, where: str, kind: type[Any]) -> Any:
    value = block.get(name)
    if not isinstance(value, kind):
        raise InvalidParameter(
            f"{where}.{name}: a {kind.__name__} is needed", param=f"{where}.{name}"
        )
    return value
