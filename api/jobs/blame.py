"""Which field of a request is named by the error of a job."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


@dataclass(frozen=True)
class Blame:
    """A request's names for the parts of a job that a worker may reject."""

    prompt: str
    """The field that the prompt was made of; also named when the worker names no part."""
    parts: Mapping[str, str] = field(default_factory=dict[str, str])
    """The fields of other parts, such as `structure`."""

    def param(self, part: str) -> str:
        """Return the request's field for a job's part; parts without an entry keep their name."""
        names = {"prompt": self.prompt, "messages": self.prompt, **self.parts}
        return names.get(part, part) or self.prompt

    def renamed(self, rename: Callable[[str | None], str | None]) -> Blame:
        """Return the blame of a request that was translated into this one."""
        parts = {part: rename(param) or param for part, param in self.parts.items()}
        return Blame(rename(self.prompt) or self.prompt, parts)
