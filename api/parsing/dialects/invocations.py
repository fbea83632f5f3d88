"""Functions that are invoked in tags with attributes, whatever the tags are called."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from api.parsing import tagged_values
from api.parsing.arriving_text import Malformed
from api.parsing.object_call import ObjectCall
from api.parsing.parameters import STRING

if TYPE_CHECKING:
    from api.parsing.arriving_text import Step
    from api.parsing.source import Source

_QUOTED: Final = re.compile(r'[^"<>\n]')
_ANY: Final[tuple[str, ...]] = ("array", "boolean", "integer", "null", "number", "object")


@dataclass(frozen=True, slots=True)
class Invocations:
    """`<invoke name="f">` with `<parameter name="k">` in it, between the tags of `blocks`.

    `prefix` stands in each tag's name. A parameter's type is its attribute `string`, else the
    schema's.
    """

    blocks: tuple[str, ...]
    prefix: str

    def read(self, source: Source) -> Step[None]:
        """See `Dialect`."""
        while block := (yield from source.text(*(f"<{block_name}>" for block_name in self.blocks))):
            try:
                yield from source.blanks()
                yield from self._invocation(source)
                while not (yield from source.skip_after_blanks(f"</{block[1:]}")):
                    source.mark()
                    yield from source.blanks()
                    yield from self._invocation(source)
            except Malformed:
                source.give_up()

    def _invocation(self, source: Source) -> Step[None]:
        name = yield from self._named(source, "invoke")
        yield from source.expect(">")
        call = ObjectCall(source, name)
        end = f"</{self.prefix}invoke>"
        try:
            yield from source.blanks()
            while not (yield from source.skip(end)):
                key = yield from self._named(source, "parameter")
                types = yield from self._types(source, name, key)
                call.key(key)
                begin = f"<{self.prefix}parameter"
                ending = tagged_values.Ending(f"</{self.prefix}parameter>", (begin, end))
                yield from tagged_values.read(source, types, (ending,))
                call.value_ended()
                yield from source.blanks()
        except Malformed:
            call.fail()
            raise
        call.finish()

    def _named(self, source: Source, tag: str) -> Step[str]:
        yield from source.expect(f'<{self.prefix}{tag} name="')
        name = yield from source.word(_QUOTED)
        yield from source.expect('"')
        return name

    def _types(self, source: Source, name: str, key: str) -> Step[list[str] | None]:
        types = source.functions.get(name, {}).get(key)
        if (yield from source.skip_after_blanks('string="true"')):
            types = [STRING]
        elif (yield from source.skip_after_blanks('string="false"')):
            types = [*_ANY]
        yield from source.expect(">")
        return types
