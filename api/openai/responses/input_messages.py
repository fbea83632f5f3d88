"""Items of /v1/responses -> the messages of a chat."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, cast

from api.openai.chat_images import FILE_SCHEME, IMAGE_LEFT_OUT
from api.openai.responses.input_tools import shown_name
from api.openai.responses.item_kinds import CALLS, FILE, OUTPUTS
from api.openai.system_messages import in_place
from penstock.errors import InvalidParameter, UnsupportedFeature

if TYPE_CHECKING:
    from api.http.warnings import Warnings
    from api.openai.responses.input_tools import InputTools
    from api.openai.responses.item_kinds import Item

Json = dict[str, Any]

TEXT_PARTS: Final = frozenset(
    {"input_text", "output_text", "text", "summary_text", "reasoning_text"}
)
SYSTEM_ROLES: Final = ("system", "developer")


class InputMessages:
    """Puts items together to messages: an assistant's text, reasoning and calls are one.

    A system message in the midst of a conversation keeps its place; see
    `api.openai.system_messages`. Neighbouring messages of a user are one, as many templates demand.
    """

    def __init__(self, tools: InputTools, warnings: Warnings) -> None:
        self.messages: list[Json] = []
        self._tools = tools
        self._warnings = warnings
        self._reasoning = ""

    def system(self, text: str) -> None:
        """Add a system message."""
        self._words("system", [{"type": "text", "text": text}])

    def item(self, item: Item, where: str) -> None:
        """Add an item.

        :raises InvalidParameter: it lacks something.
        :raises UnsupportedFeature: a user's content that is no text.
        """
        kind = item["type"]
        match kind:
            case "message":
                self._message(item, where)
            case "function_call":
                self._call(item, where, _needed(item, "arguments", where))
            case "custom_tool_call":
                self._custom_call(item, where)
            case "function_call_output" | "custom_tool_call_output":
                self._output(_needed(item, "call_id", where), _needed(item, "output", where))
            case "reasoning":
                parts = item.get("content") or item.get("summary")
                self._reasoning += "".join(
                    str(part.get("text", "")) for part in _objects(parts) if "text" in part
                )
            case "additional_tools" | "tool_search_output":
                self._tools.add(_objects(item.get("tools")))
            case _ if kind in CALLS:
                name, member = CALLS[kind]
                self._foreign_call(item, name, item.get(member))
            case _ if kind in OUTPUTS:
                self._foreign_output(item)
            case _:
                self._left_out(str(kind))

    def _left_out(self, kind: str) -> None:
        self._warnings.add(f"items of type {kind[:60]!r} are left out")

    def _message(self, item: Item, where: str) -> None:
        role = _needed(item, "role", where)
        content = _needed(item, "content", where)
        if role == "assistant":
            self._assistant(content)
            return
        parts = _text_parts(content, where)
        if role in SYSTEM_ROLES:
            self._words("system", parts)
        elif role == "user":
            self._words("user", parts)
        else:
            self.messages.append({"role": role, "content": parts})  # refused by the chat's schema

    def _words(self, role: str, parts: list[Json]) -> None:
        """Add a system's or a user's text, to the last message if that is of the same."""
        last = self.messages[-1] if self.messages else {}
        if role == "system" and last.get("role") not in (None, "system"):
            role = "user"
            parts = [
                {**part, "text": in_place(part["text"])} if "text" in part else part
                for part in parts
            ]
        if last.get("role") == role:
            last["content"] = [*last["content"], *parts]
        else:
            self.messages.append({"role": role, "content": parts})

    def _assistant(self, content: Any) -> None:
        parts: list[Json] = []
        for part in [content] if isinstance(content, str) else _objects(content):
            if isinstance(part, str):
                parts.append({"type": "text", "text": part})
            elif part.get("type") == "refusal":
                parts.append({"type": "refusal", "refusal": str(part.get("refusal") or "")})
            elif part.get("type") in TEXT_PARTS and isinstance(part.get("text"), str):
                parts.append({"type": "text", "text": part["text"]})
            else:
                self._warnings.add(
                    f"an assistant's content of type {str(part.get('type'))[:40]!r} is left out"
                )
        self.messages.append({"role": "assistant", "content": parts, **self._thoughts()})

    def _call(self, item: Item, where: str, arguments: Any) -> None:
        function = {"name": _name(item, where), "arguments": arguments}
        call_id = _needed(item, "call_id", where)
        self._add_call({"id": call_id, "type": "function", "function": function})

    def _custom_call(self, item: Item, where: str) -> None:
        custom = {"name": _name(item, where), "input": _needed(item, "input", where)}
        call_id = _needed(item, "call_id", where)
        self._add_call({"id": call_id, "type": "custom", "custom": custom})

    def _foreign_call(self, item: Item, name: str, arguments: Any) -> None:
        function = {"name": name, "arguments": json.dumps(arguments or {}, ensure_ascii=False)}
        call_id = str(item.get("call_id") or item.get("id") or name)
        self._add_call({"id": call_id, "type": "function", "function": function})

    def _add_call(self, call: Json) -> None:
        last = self.messages[-1] if self.messages else {}
        if last.get("role") == "assistant" and not self._reasoning:
            last.setdefault("tool_calls", []).append(call)
        else:
            message = {"role": "assistant", "content": None, "tool_calls": [call]}
            self.messages.append({**message, **self._thoughts()})

    def _foreign_output(self, item: Item) -> None:
        output: Any = item.get("output")
        if isinstance(output, dict):  # a computer's screenshot
            output = [cast("Json", output)]
        call_id = item.get("call_id") or item.get("id") or item["type"]
        self._output(call_id, "" if output is None else output)

    def _output(self, call_id: Any, output: Any) -> None:
        if not isinstance(output, str):
            parts = [self._output_part(part) for part in _objects(output)]
            texts = [part.get("text") for part in parts]
            output = parts if None in texts else "\n".join(map(str, texts))
        self.messages.append({"role": "tool", "tool_call_id": call_id, "content": output})

    def _output_part(self, part: Any) -> Json:
        """Return a part of a tool's output: an image, or a text."""
        if isinstance(part, dict) and (image := _image(cast("Json", part))) is not None:
            return image
        return {"type": "text", "text": self._output_text(part)}

    def _output_text(self, part: Any) -> str:
        """Return a part of a tool's output as text; what is none leaves a text in its place."""
        if isinstance(part, str):
            return part
        kind = str(part.get("type"))
        if isinstance(part.get("text"), str):
            return part["text"]
        if "image" in kind or "screenshot" in kind:
            self._warnings.add("images without a URL or a file are left out")
            return IMAGE_LEFT_OUT
        if "file" in kind:
            self._warnings.add("files in the outputs of tools are left out")
            return FILE
        return json.dumps(part, ensure_ascii=False)

    def _thoughts(self) -> dict[str, str]:
        reasoning, self._reasoning = self._reasoning, ""
        return {"reasoning_content": reasoning} if reasoning else {}


def _image(part: Json) -> Json | None:
    """Return an image as a part of a chat's message; None for what is none."""
    kind, url, file_id = part.get("type"), part.get("image_url"), part.get("file_id")
    if kind not in ("input_image", "image_url", "computer_screenshot"):
        return None
    if isinstance(url, dict):
        url = cast("Json", url).get("url")
    if url is None and isinstance(file_id, str):
        url = FILE_SCHEME + file_id
    return {"type": "image_url", "image_url": {"url": url}} if isinstance(url, str) else None


def _objects(value: Any) -> list[Any]:
    """Return the objects and texts of a list; nothing of another value."""
    items = cast("list[Any]", value) if isinstance(value, list) else []
    return [item for item in items if isinstance(item, dict | str)]


def _name(item: Item, where: str) -> str:
    name, namespace = _needed(item, "name", where), item.get("namespace")
    return shown_name(namespace, str(name)) if isinstance(namespace, str) and namespace else name


def _needed(item: Item, name: str, where: str) -> Any:
    if item.get(name) is None:
        raise InvalidParameter(f"{where}.{name}: Field required", param=f"{where}.{name}")
    return item[name]


def _text_parts(content: Any, where: str) -> list[Json]:
    """Return a user's or a system's content in the shape of a chat's messages."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if not isinstance(content, list):
        raise InvalidParameter(f"{where}: must be a string or a list of parts", param=where)
    parts: list[Json] = []
    for position, given in enumerate(cast("list[object]", content)):
        part: Json = cast("Json", given) if isinstance(given, dict) else {}
        if (image := _image(part)) is not None:
            parts.append(image)
            continue
        kind: object = part.get("type")
        if kind not in TEXT_PARTS or not isinstance(part.get("text"), str):
            at = f"{where}.content[{position}]"
            raise UnsupportedFeature(
                f"{at}: content of type {str(kind)[:40]!r} is not supported",
                param=at,
            )
        parts.append({"type": "text", "text": part["text"]})
    return parts
