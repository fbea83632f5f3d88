"""`<tool_call>f <arg_key>city</arg_key><arg_value>Paris</arg_value></tool_call>` (GLM-4.5 and later)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from api.parsing import json_values, tagged_values
from api.parsing.arriving_text import Malformed
from api.parsing.object_call import ObjectCall

if TYPE_CHECKING:
    from api.parsing.arriving_text import Step
    from api.parsing.source import Source

BEGIN: Final = "<tool_call>"
END: Final = "</tool_call>"
KEY: Final = "<arg_key>"
END_KEY: Final = "</arg_key>"
VALUE: Final = "<arg_value>"
ENDING: Final = tagged_values.Ending("</arg_value>", (KEY, END))

_NAME: Final = re.compile(r"[\w.:-]")
_KEY: Final = re.compile(r"[^<\n]")


def read(source: Source) -> Step[None]:
    """See `Dialect`."""
    while (yield from source.text(BEGIN)):
        try:
            yield from source.blanks()
            if (yield from source.ahead("{")):
                yield from json_values.call(source)
                yield from source.skip_after_blanks(END)
            else:
                yield from _call(source)
        except Malformed:
            source.give_up()


def _call(source: Source) -> Step[None]:
    name = yield from source.word(_NAME)
    call = ObjectCall(source, name)
    try:
        yield from source.blanks()
        while not (yield from source.skip(END)):
            yield from source.expect(KEY)
            key = (yield from source.word(_KEY)).strip()
            yield from source.expect(END_KEY)
            yield from source.blanks()
            yield from source.expect(VALUE)
            call.key(key)
            types = source.functions.get(name, {}).get(key)
            yield from tagged_values.read(source, types, (ENDING,))
            call.value_ended()
            yield from source.blanks()
    except Malformed:
        call.fail()
        raise
    call.finish()
