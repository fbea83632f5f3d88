"""`<minimax:tool_call><invoke name="f"><parameter name="city">Paris</parameter></invoke>...`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from api.parsing.dialects.invocations import Invocations

if TYPE_CHECKING:
    from api.parsing.arriving_text import Step
    from api.parsing.source import Source

INVOCATIONS: Final = Invocations(("minimax:tool_call",), prefix="")


def read(source: Source) -> Step[None]:
    """See `Dialect`."""
    yield from INVOCATIONS.read(source)
