"""DeepSeek V3.2's markup: `<｜DSML｜function_calls><｜DSML｜invoke name="f">...`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from api.parsing.dialects.invocations import Invocations

if TYPE_CHECKING:
    from api.parsing.arriving_text import Step
    from api.parsing.source import Source

INVOCATIONS: Final = Invocations(
    ("｜DSML｜function_calls", "｜DSML｜tool_calls"), prefix="｜DSML｜"
)


def read(source: Source) -> Step[None]:
    """See `Dialect`. A parameter declares whether it is text: `string="true"`."""
    yield from INVOCATIONS.read(source)
