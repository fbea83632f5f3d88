"""A call whose arguments are written one by one, as the JSON object that they become."""

from __future__ import annotations

from typing import TYPE_CHECKING

from api.parsing.json_values import escaped

if TYPE_CHECKING:
    from api.parsing.source import Source


class ObjectCall:
    """Emits one call. It begins with its first key, so until then the text may be no call.

    `fail` is for text that goes wrong: what was whole stays a call, the rest is content.
    """

    def __init__(self, source: Source, name: str) -> None:
        self._source = source
        self._name = name
        self._begun = False
        self._whole = True

    def key(self, key: str) -> None:
        """Begin the next argument; its value is to be emitted as JSON by `Source.arguments`."""
        if not self._begun:
            self._source.begin_call(self._name)
        self._source.arguments(f'{", " if self._begun else "{"}"{escaped(key)}": ')
        self._begun, self._whole = True, False
        self._source.forget_mark()

    def value_ended(self) -> None:
        """Note that a value is whole: text from here on may be content."""
        self._whole = True
        self._source.mark()

    def finish(self) -> None:
        """End the call."""
        if not self._begun:
            self._source.begin_call(self._name)
            self._source.arguments("{")
        self._source.arguments("}")
        self._source.forget_mark()

    def fail(self) -> None:
        """End the call early, or, if it has not begun, take its text for content.

        A call cut off by the text's end remains incomplete, so that no client runs it;
        but for one that has only lost some of what closes it.
        """
        source = self._source
        if self._begun and self._whole:
            cut = (source.since_mark() + source.unread).strip()
            if not source.ended or cut.startswith("</"):
                source.arguments("}")
            source.give_up_rest()
        else:
            source.give_up()
