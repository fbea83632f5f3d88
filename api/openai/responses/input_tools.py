"""Tools of /v1/responses -> tools of a chat completion.

The functions of a namespace become functions whose names begin with the namespace's. `Namespaces`
gives the calls of such a function their two names back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

from api.openai.chat.tool_forms import left_out

if TYPE_CHECKING:
    from collections.abc import Iterable

    from api.http.warnings import Warnings

Json = dict[str, Any]
Namespaces = dict[str, tuple[str, str]]
"""Namespace and name by the name that the model is shown."""

JOINT: Final = "__"


def shown_name(namespace: str, name: str) -> str:
    """Return the name by which the model is shown a namespace's function.

    A namespace that ends with the joint, like those of Codex for MCP's servers, gets no second one.
    """
    return f"{namespace}{'' if namespace.endswith(JOINT) else JOINT}{name}"


class InputTools:
    """The tools of one request: what of them a chat completion takes."""

    def __init__(self, warnings: Warnings) -> None:
        self._warnings = warnings
        self._tools: dict[str, Json] = {}
        self._unnamed: list[Json] = []
        self.namespaces: Namespaces = {}

    @property
    def tools(self) -> list[Json]:
        """The chat completion's tools."""
        return [*self._tools.values(), *self._unnamed]

    def add(self, tools: Iterable[Any], namespace: str = "") -> None:
        """Add tools; a name that is there already is replaced, as items of a history repeat it."""
        for tool in tools:
            fields = cast("Json", tool) if isinstance(tool, dict) else {}
            kind = fields.get("type")
            match kind:
                case "function" | "custom":
                    self._one(fields, kind, namespace)
                case "namespace" if not namespace:
                    inner = fields.get("tools")
                    self.add(
                        cast("list[Any]", inner) if isinstance(inner, list) else (),
                        str(fields.get("name") or ""),
                    )
                case _:
                    self._warnings.add(left_out(str(kind)))

    def _one(self, fields: Json, kind: str, namespace: str) -> None:
        inner = {name: value for name, value in fields.items() if name != "type"}
        name = inner.get("name")
        if kind == "custom" and isinstance(inner.get("format"), dict):
            inner["format"] = _chat_format(inner["format"])
        if namespace and isinstance(name, str):
            inner["name"] = shown_name(namespace, name)
            self.namespaces[inner["name"]] = (namespace, name)
        tool = {"type": kind, kind: inner}
        if isinstance(name, str):
            self._tools[inner["name"]] = tool
        else:
            self._unnamed.append(tool)  # refused by the chat completion's schema

    def choice(self, choice: str | Json) -> Any:
        """Return the chat completion's `tool_choice`; None for what this server does not run."""
        if isinstance(choice, str):
            return self._if_any(choice)
        kind = choice.get("type")
        if kind in ("function", "custom") and "name" in choice:
            return {"type": kind, kind: {"name": self._choice_name(choice)}}
        if kind == "allowed_tools":
            return self._allowed(choice)
        if kind in ("function", "custom"):
            return choice  # refused by the chat completion's schema
        return self._lost()

    def _if_any(self, choice: str) -> str | None:
        return self._lost() if choice == "required" and not self._tools else choice

    def _lost(self) -> None:
        self._warnings.add("tool_choice asks for a tool that was left out, ignored")

    def _choice_name(self, choice: Json) -> str:
        namespace = choice.get("namespace")
        name = str(choice.get("name"))
        return shown_name(namespace, name) if isinstance(namespace, str) and namespace else name

    def _allowed(self, choice: Json) -> Any:
        given = choice.get("tools")
        allowed: list[Json] = []
        for tool in cast("list[Any]", given) if isinstance(given, list) else []:
            fields = cast("Json", tool) if isinstance(tool, dict) else {}
            kind = str(fields.get("type"))
            if kind in ("function", "custom"):
                allowed.append({"type": kind, kind: {"name": self._choice_name(fields)}})
            elif kind == "namespace":
                allowed += self._of_namespace(str(fields.get("name")))
            else:
                self._warnings.add(left_out(kind))
        if not allowed and given:
            return self._lost()
        return {
            "type": "allowed_tools",
            "allowed_tools": {"mode": choice.get("mode"), "tools": allowed},
        }

    def _of_namespace(self, namespace: str) -> list[Json]:
        return [
            {"type": tool["type"], tool["type"]: {"name": shown}}
            for shown, tool in self._tools.items()
            if self.namespaces.get(shown, ("",))[0] == namespace
        ]


def _chat_format(form: Json) -> Json:
    """Return a custom tool's format; chat completions put a grammar's fields one level deeper."""
    if form.get("type") != "grammar" or "grammar" in form:
        return form
    grammar = {name: value for name, value in form.items() if name != "type"}
    return {"type": "grammar", "grammar": grammar}
