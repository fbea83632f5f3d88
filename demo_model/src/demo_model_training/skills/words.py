"""Copy, reverse, upper-case and spell a given word.

The tokenizer holds a common word as one token and a rare one letter by letter, and always spells
words in capitals or backwards. So an answer first repeats the word in quotes, then transforms it.
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING

from demo_model_training import tables
from demo_model_training.dialogue import Exchange, Message, Scene, ask
from demo_model_training.facts import TOPICS, Topic
from demo_model_training.phrasing import MACROS, expand, typed
from demo_model_training.skills import long_answers, memory, small_talk, unknown
from demo_model_training.tables import ORDINALS, SYLLABLES

if TYPE_CHECKING:
    from collections.abc import Iterator


def _strings(value: object) -> Iterator[str]:
    """All text in nested tuples, dicts and topics."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Topic):
        yield from _strings((value.questions, value.plain, value.terse))
    elif isinstance(value, dict):
        yield from _strings(tuple(value.items()))
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _strings(item)


@cache
def lexicon() -> tuple[str, ...]:
    """Known words of 3 to 11 letters: those of which the generator's own texts are made."""
    texts = (TOPICS, small_talk.TALK, memory.KINDS, unknown.PATTERNS, unknown.SUBJECTS,
             long_answers.ANSWERS, MACROS, tables.OPPOSITES, tables.COLOURS, tables.THINGS,
             tables.NAMES, tables.CITIES, tables.CAPITALS, tables.DAYS, tables.MONTHS, tables.FOODS,
             tables.JOBS, tables.PETS, long_answers.HEROES)  # fmt: skip
    found = {word.lower() for text in _strings(texts) for word in re.findall("[A-Za-z]+", text)}
    return tuple(sorted(word for word in found if 3 <= len(word) <= 11))


def any_word(scene: Scene) -> str:
    """A known word, or an invented one of two to four syllables or of random letters."""
    rng = scene.rng
    roll = rng.random()
    if roll < 0.04:
        return rng.choice(tables.THINGS) + "s"
    if roll < 0.55:
        word = rng.choice(lexicon())
        return word.capitalize() if roll < 0.08 else word
    if roll < 0.93:
        count = rng.choice((2, 2, 3, 3, 4))
        return "".join(rng.choice(SYLLABLES) for _ in range(count))[:11]
    return "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randrange(3, 9)))


def _shown(scene: Scene, word: str) -> str:
    return scene.rng.choice((word, word, f'"{word}"', f"'{word}'", f"the word {word}",
                             f'the word "{word}"', f"the word '{word}'"))  # fmt: skip


def _task(  # noqa: PLR0917
    scene: Scene, skill: str, word: str, pattern: str, plain: str, terse: str, key: str = ""
) -> Exchange:
    question = expand(scene.rng, pattern, w=_shown(scene, word))
    return ask(scene, skill, question, plain, terse, word, key=key or word)


def copy(scene: Scene) -> Exchange:
    """Repeat a word or a few words, and nothing else, whatever the style."""
    rng = scene.rng
    count = rng.choice((1, 1, 2, 3, 4, 5))
    text = " ".join(any_word(scene) for _ in range(count))
    if rng.random() < 0.2:
        text = text.capitalize()
    shown = rng.choice((text, f'"{text}"')) if count > 1 else _shown(scene, text)
    question = expand(
        rng, "{Repeat|Say|Write|Echo|Copy|Print|Repeat after me|Please repeat|Please say|Repeat"
        " this|Echo this|Copy this|Type}{:|} [t]{.|}", t=shown,
    )  # fmt: skip
    if shown != text:  # what follows an unquoted text would be part of it
        question = typed(rng, question, shown)
    return Exchange("copy", text, (Message("user", question), Message("assistant", text)))


def reverse(scene: Scene) -> Exchange:
    """A word backwards."""
    word = any_word(scene)
    pattern = (
        "{{Reverse|Please reverse|Can you reverse|Turn around} [w]{.||?}|Spell [w] backwards{.|}"
        "|{Write|Say} [w] {backwards|in reverse|reversed}{.|}|What is [w] {backwards|reversed"
        "|spelled backwards|in reverse}?|How do you {write|spell} [w] backwards?}"
    )
    back = word[::-1]
    return _task(scene, "reverse", word, pattern, f'"{word}" backwards is "{back}".', back)


def upper_case(scene: Scene) -> Exchange:
    """A word in capital letters."""
    word = any_word(scene)
    pattern = (
        "{{Write|Put|Say|Print|Give me|Type} [w] in {capitals|upper case|capital letters"
        "|uppercase|all caps}{.|}|{Upper-case|Uppercase|Capitalise|Make uppercase:} [w]{.|}"
        "|What is [w] in {capitals|upper case|capital letters|uppercase|all caps}?|Convert [w] to"
        " {upper case|uppercase|capitals}{.|}|Turn [w] into {capitals|upper case|uppercase}{.|}}"
    )
    upper = word.upper()
    return _task(scene, "upper_case", word, pattern, f'"{word}" in capitals is "{upper}".', upper)


def spelling(scene: Scene) -> Exchange:
    """Letters of a word: all of them, the first, the last, the n-th, and how many."""
    rng = scene.rng
    word = any_word(scene)
    kind = rng.random()
    if kind < 0.5:
        pattern = (
            "{{Spell|Please spell|Can you spell} [w]{.||?}|How do you spell [w]?|What are the"
            " letters of [w]?|{List|Give me} the letters of [w]{.|}}"
        )
        spelt = "-".join(word)
        return _task(scene, "spelling", word, pattern, f'"{word}" is spelt {spelt}.', spelt)
    if kind < 0.75:
        pattern = (
            "{How many letters {does [w] have|are in [w]|has [w]|are there in [w]}?|Count the"
            " letters {of|in} [w]{.|}|How long is [w]?}"
        )
        count = str(len(word))
        plain = f'"{word}" has {count} letters.'
        return _task(scene, "spelling", word, pattern, plain, count, "n" + word)
    i = rng.choice((0, -1, *range(1, min(5, len(word)))))
    which = "last" if i == -1 else ORDINALS[i]
    pattern = (
        f"{{What is the {which} letter {{of|in}} [w]?|Which letter is the {which} {{of|in}} [w]?"
        f"|Tell me the {which} letter of [w].|{which.capitalize()} letter of [w]?}}"
    )
    plain = f'The {which} letter of "{word}" is {word[i]}.'
    return _task(scene, "spelling", word, pattern, plain, word[i], which + word)
