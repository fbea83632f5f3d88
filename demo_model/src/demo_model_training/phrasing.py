"""Random phrasings: a tiny pattern language, and the noise of real typing.

`expand(rng, "{How do I|How can I} start{| up} a worker?")` picks one branch of each brace.
Braces nest. Values go in afterwards with `str.replace`, so they need no escaping.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import random

# Shorthands, so that the question lists read as questions.
MACROS = {
    "<HOW>": "{How do I|How can I|How would I|How do you|How should I|How does one"
    "|What is the command to|Which command do I use to|Which command lets me|What do I type to"
    "|Show me how to|Tell me how to|Explain how to|I want to|I need to|What's the way to"
    "|What is the best way to|How to|What do I run to|How can one|Help me|Command to}",
    "<WHATIS>": "{What is|What's|What exactly is|Explain|Tell me about|Describe|Define"
    "|Can you explain|Could you explain|Do you know what|What do you know about"
    "|Tell me something about|I would like to know about|Give me an explanation of|what about}",
    "<WHATDOES>": "{What does|What will|What would}",
    "<MEANS>": "{I get|I got|I see|I'm getting|We get|My client gets|The API answers"
    "|The server returns|The fleet answers|There is|I keep getting|It says|Why do I get}",
    "<FIX>": "{What should I do|What do I do|How do I fix it|What now|What can I do|Help"
    "|What does it mean|How can I solve this|Any idea|What's wrong}",
    "<WHICH>": "{Which|What}",
    "<TELL>": "{Tell me|Can you tell me|Could you tell me|Do you know|Please tell me"
    "|I'd like to know|I want to know|Give me|Remind me}",
}

PREFIXES = (
    "Hi, ", "Hello! ", "Hey, ", "Please, ", "Quick question: ", "Tell me, ", "Excuse me, ",
    "OK, ", "Okay. ", "Next: ", "And ", "So, ", "Now, ", "One more: ", "Question: ", "Well, ",
    "Sorry, ", "Good. ", "Thanks. ", "Great. ", "Also, ", "By the way, ", "Alright, ",
    "I was wondering: ", "My question is: ", "Could you help me? ", "Good morning. ", "Oh, ",
    "Let's see: ", "Hmm, ", "Assistant, ", "Dear assistant, ", "Let me ask: ", "Maybe you know: ",
    "Here is a question: ", "I have a question: ", "Right, ", "Then ", "But ", "Perfect. ",
)  # fmt: skip
SUFFIXES = (
    " please",
    ", please",
    ", thanks",
    " Thanks!",
    " Thank you.",
    " :)",
    ", my friend",
    ", if you can",
    " for me",
    " then",
    "? I forgot",
    "? I can't remember",
)

# Text, or a tuple of alternatives, each of them again a tree.
Tree = tuple[Any, ...]


@cache
def _parse(pattern: str) -> Tree:
    """A pattern as nested tuples: text, or a tuple of alternatives, each again a tuple."""
    position = 0

    def sequence(inside: bool) -> Tree:
        nonlocal position
        parts: list[str | tuple[Tree, ...]] = []
        text: list[str] = []
        while position < len(pattern):
            char = pattern[position]
            if inside and char in "|}":
                break
            position += 1
            if char != "{":
                text.append(char)
                continue
            if text:
                parts.append("".join(text))
                text = []
            branches = [sequence(True)]
            while pattern[position] == "|":
                position += 1
                branches.append(sequence(True))
            position += 1  # the closing brace
            parts.append(tuple(branches))
        if text:
            parts.append("".join(text))
        return tuple(parts)

    for name, text in MACROS.items():
        pattern = pattern.replace(name, text)
    return sequence(False)


def _walk(rng: random.Random, tree: Tree) -> str:
    return "".join(
        part if isinstance(part, str) else _walk(rng, part[int(rng.random() * len(part))])
        for part in tree
    )


def expand(rng: random.Random, pattern: str, **values: str) -> str:
    """One random reading of `pattern`; `[name]` in it becomes `values["name"]`."""
    text = _walk(rng, _parse(pattern))
    for name, value in values.items():
        text = text.replace(f"[{name}]", value)
    return text


def lower_first(text: str) -> str:
    """'What is it' -> 'what is it'; 'I see' and 'OpenAI' stay."""
    first = text.split(" ", 1)[0].rstrip(",.?!:'")
    if first[1:].islower() and first not in NEVER_LOWERED and "'" not in first[:2]:
        return text[0].lower() + text[1:]
    return text


NEVER_LOWERED = {"Penstock", "Celery", "Redis", "Paris", "Uvicorn"}


def _typo(rng: random.Random, text: str, kept: tuple[str, ...]) -> str:
    """Swap, drop or double one letter of a longer word that carries no value."""
    words = text.split(" ")
    candidates = [
        i
        for i, word in enumerate(words)
        if len(word) > 4 and word.isalpha() and not any(word in value for value in kept)
    ]
    if not candidates:
        return text
    index = rng.choice(candidates)
    word = words[index]
    at = rng.randrange(1, len(word) - 1)
    kind = rng.random()
    if kind < 0.4:
        word = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    elif kind < 0.8:
        word = word[:at] + word[at + 1 :]
    else:
        word = word[:at] + word[at] + word[at:]
    words[index] = word
    return " ".join(words)


FILLERS = ("just", "really", "actually", "maybe", "then", "exactly", "so", "please", "perhaps", "also",
           "simply", "again", "here", "well", "quickly", "always", "usually")  # fmt: skip
DROPPED = {"the", "a", "do", "is", "of", "to", "does", "are", "me", "you", "i", "for"}


def _reworded(rng: random.Random, text: str, kept: tuple[str, ...]) -> str:
    """Put in a filler word, or leave out a small one."""
    words = text.split(" ")
    free = [not any(w and w in value for value in kept for w in words[i - 1 : i + 1])
            for i in range(len(words))]  # fmt: skip
    places = [i for i in range(1, len(words)) if free[i]]
    if len(words) < 4 or not places:
        return text
    if rng.random() < 0.4:
        small = [i for i in places if words[i].lower() in DROPPED]
        if small:
            del words[rng.choice(small)]
    else:
        words.insert(rng.choice(places), rng.choice(FILLERS))
    return " ".join(words)


def typed(rng: random.Random, text: str, *kept: str) -> str:
    """`text` as people type it: prefixes, no capitals, no question mark, a typo now and then.

    The substrings `kept` carry values (a word to reverse, a city) and are never altered.
    """
    roll = rng.random()
    if roll < 0.12 and not any(text.startswith(value) for value in kept):
        prefix = rng.choice(PREFIXES)
        text = prefix + (lower_first(text) if prefix.endswith((", ", "nd ", ": ")) else text)
    elif roll < 0.16:
        text = text.rstrip("?.") + rng.choice(SUFFIXES)
    if rng.random() < 0.05:
        text = _typo(rng, text, kept)
    if rng.random() < 0.06:
        text = _reworded(rng, text, kept)
    roll = rng.random()
    if roll < 0.22 and text[-1:] in "?.":
        text = text[:-1]
    elif roll < 0.25 and text[-1:] == "?":
        text += rng.choice("?!")
    if rng.random() < 0.18:
        text = lower_except(text, kept)
    return text


def lower_except(text: str, kept: tuple[str, ...]) -> str:
    """`text` in lower case, but for the substrings `kept`."""
    lowered = text.lower()
    for value in kept:
        at = text.find(value)
        if value and at >= 0 and len(lowered) == len(text):
            lowered = lowered[:at] + value + lowered[at + len(value) :]
    return lowered
