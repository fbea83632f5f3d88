"""What a dialect is to the parser of an answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from api.parsing.arriving_text import Step
    from api.parsing.source import Source


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a family of models writes calls of tools.

    `read` reads an answer's text behind its reasoning, to the end, and emits content and calls. A
    call that is none is content, exactly as it was written. One that `has_channels` reads the
    reasoning too, and is needed without tools as well. One that is `untyped` writes values without
    quotes: their types are the schema's.
    """

    read: Callable[[Source], Step[None]]
    has_channels: bool = False
    untyped: bool = False
