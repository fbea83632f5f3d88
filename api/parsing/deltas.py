"""What a parser finds in an answer's text, piece by piece, in no protocol's shape."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Content:
    """Text of the answer itself."""

    text: str


@dataclass(frozen=True, slots=True)
class Thought:
    """Text of the model's reasoning."""

    text: str


@dataclass(frozen=True, slots=True)
class CallBegin:
    """The model calls function `name`; calls are numbered from 0."""

    index: int
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """A further piece of a call's arguments, which all together are JSON."""

    index: int
    text: str


Delta = Content | Thought | CallBegin | CallArguments


def joined(deltas: list[Delta]) -> list[Delta]:
    """Return deltas with neighbours of one kind as one."""
    result: list[Delta] = []
    for delta in deltas:
        last = result[-1] if result else None
        match last, delta:
            case (Content(before), Content(text)):
                result[-1] = Content(before + text)
            case (Thought(before), Thought(text)):
                result[-1] = Thought(before + text)
            case (CallArguments(index, before), CallArguments(same, text)) if index == same:
                result[-1] = CallArguments(index, before + text)
            case _:
                result.append(delta)
    return result


@dataclass
class Call:
    """A whole call."""

    name: str
    arguments: str = ""


@dataclass
class Message:
    """A whole answer, put together from its deltas."""

    content: str = ""
    thought: str = ""
    calls: list[Call] = field(default_factory=list[Call])

    def add(self, delta: Delta) -> None:
        """Take the next piece."""
        match delta:
            case Content(text):
                self.content += text
            case Thought(text):
                self.thought += text
            case CallBegin(_, name):
                self.calls.append(Call(name))
            case CallArguments(index, text):
                self.calls[index].arguments += text
