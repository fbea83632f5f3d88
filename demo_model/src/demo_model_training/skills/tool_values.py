"""Values that a user names and a tool takes: as they are said, and as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from demo_model_training.phrasing import expand
from demo_model_training.tables import (
    CITIES,
    DAYS,
    FAVOURITE_COLOURS,
    FOODS,
    JOBS,
    MONTHS,
    NAMES,
    SYLLABLES,
    THINGS,
)

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

# What is said, and what goes into the call.
Value = tuple[str, Any]

CURRENCIES = ("EUR", "USD", "GBP", "JPY", "CHF", "SEK", "INR", "BRL", "CAD", "AUD", "PLN", "KRW")
LANGUAGES = ("French", "German", "Spanish", "Italian", "Japanese", "Chinese", "Dutch", "Polish",
             "Greek", "Turkish", "Arabic", "Hindi", "Swedish", "Latin")  # fmt: skip
ROOMS = ("kitchen", "bedroom", "bathroom", "living room", "office", "garage", "hall", "cellar",
         "garden", "attic", "dining room", "nursery")  # fmt: skip
UNITS = ("metres", "feet", "miles", "kilometres", "inches", "yards", "grams", "pounds", "ounces",
         "litres", "gallons", "kilograms", "cm", "km", "kg", "lb", "mm", "celsius", "fahrenheit")  # fmt: skip
TOPICS = ("cats", "dogs", "birds", "robots", "computers", "football", "music", "cheese", "trees",
          "the sea", "school", "trains", "winter", "space", "cooking", "politics", "science",
          "sport", "weather", "business", "fish", "horses", "pirates", "ghosts", "programmers",
          "elephants", "penguins", "lawyers", "bees", "coffee", "the moon", "cows", "teachers")  # fmt: skip
MANNERS = ("pirate", "cowboy", "robot", "formal", "friendly", "rude", "old-fashioned", "royal",
           "casual", "funny", "poetic", "medieval", "cheerful", "grumpy", "sailor", "butler")  # fmt: skip
LEVELS = ("low", "medium", "high", "urgent", "normal", "critical", "minor", "major")
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def invented(rng: random.Random, capital: bool = False) -> str:
    """A word that means nothing."""
    word = "".join(rng.choice(SYLLABLES) for _ in range(rng.choice((2, 2, 3))))
    return word.capitalize() if capital else word


def foreign(rng: random.Random) -> str:
    """A name in another script: letters are taken at random."""
    first, last = rng.choice(
        ((0x4E00, 0x9FA5), (0x4E00, 0x9FA5), (0x3041, 0x3093), (0x30A1, 0x30F6), (0xAC00, 0xD7A3),
         (0x0430, 0x044F), (0x03B1, 0x03C9), (0x05D0, 0x05EA), (0x0E01, 0x0E2E))
    )  # fmt: skip
    return "".join(chr(rng.randrange(first, last + 1)) for _ in range(rng.randrange(2, 9)))


def _whole(rng: random.Random) -> Value:
    number = rng.randrange(10 ** rng.choice((1, 1, 2, 2, 3, 4, 6)))
    return str(number), number


def _signed(rng: random.Random) -> Value:
    number = rng.randrange(10 ** rng.choice((1, 1, 2, 3, 4)))
    number = -number if rng.random() < 0.3 else number
    return (f"minus {-number}" if number < 0 and rng.random() < 0.1 else str(number)), number


def _small(rng: random.Random) -> Value:
    number = rng.randrange(1, 13)
    words = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    if number <= 10 and rng.random() < 0.25:
        return words[number - 1], number
    return str(number), number


def _years(rng: random.Random) -> Value:
    number = rng.randrange(1, 100)
    return str(number), number


def _decimal(rng: random.Random) -> Value:
    if rng.random() < 0.35:
        return _signed(rng)
    places = rng.choice((1, 1, 2, 2, 3))
    number = round(rng.uniform(0, 10 ** rng.choice((1, 1, 2, 3))), places)
    number = -number if rng.random() < 0.2 else number
    number = int(number) if number == int(number) else number
    return str(number), number


def _amount(rng: random.Random) -> Value:
    return _decimal(rng) if rng.random() < 0.3 else _whole(rng)


def _name(rng: random.Random) -> Value:
    roll = rng.random()
    name = rng.choice(NAMES) if roll < 0.5 else invented(rng, capital=True)
    if roll > 0.93:
        name = foreign(rng)
    elif roll > 0.8:
        name += " " + invented(rng, capital=True)
    return name, name


def _place(rng: random.Random) -> Value:
    place = rng.choice(CITIES) if rng.random() < 0.6 else invented(rng, capital=True)
    if rng.random() < 0.12:
        place += ", " + rng.choice(
            ("CA", "France", "Italy", "NY", "TX", "Spain", "UK", "Japan", "Germany", "WA", "Ohio",
             invented(rng, capital=True))
        )  # fmt: skip
    return place, place


def _time(rng: random.Random) -> Value:
    hour = rng.randrange(24)
    said = rng.choice((f"{hour:02d}:{rng.randrange(60):02d}", f"{rng.randrange(1, 13)} {rng.choice(('am', 'pm'))}",
                       f"{rng.randrange(1, 13)}pm", f"{hour}:{rng.randrange(60):02d}"))  # fmt: skip
    return said, said


def _day(rng: random.Random) -> Value:
    said = rng.choice(
        (rng.choice(DAYS), rng.choice(DAYS), "today", "tomorrow", "next " + rng.choice(DAYS),
         f"{rng.choice(MONTHS)} {rng.randrange(1, 29)}", f"{rng.randrange(1, 29)} {rng.choice(MONTHS)}",
         f"20{rng.randrange(10, 40)}-{rng.randrange(1, 13):02d}-{rng.randrange(1, 29):02d}")
    )  # fmt: skip
    return said, said


def _text(rng: random.Random) -> Value:
    text = expand(
        rng,
        "{I am late|see you tomorrow|the [t] is {ready|here|gone}|buy {a|the} [t]|call me at [h]|we eat"
        " [f] tonight|bring the [t]|the meeting is at [h]|[f] and a [t]|water the [t]|the [t] of [n]"
        "|[n] likes the [t]|good morning|how much is the [t]|repair the [t]|a [t] for [n]|[i] [t]}",
        t=rng.choice(THINGS), h=str(rng.randrange(1, 13)), f=rng.choice(FOODS),
        n=rng.choice(NAMES), i=invented(rng),
    )  # fmt: skip
    return text, text


def _code(rng: random.Random) -> Value:
    form = rng.choice(
        ("{a}{n}", "{A}-{n}", "{A}{B}{n}", "{n}", "{A}{B}{A}", "#{n}", "{a}_{n}", "{A}{n}{b}")
    )
    a, b = rng.choice(LETTERS), rng.choice(LETTERS)
    text = form.format(
        a=a, b=b, A=a.upper(), B=b.upper(), n=rng.randrange(10, 10 ** rng.choice((2, 3, 5)))
    )
    return text, text


def _symbol(rng: random.Random) -> Value:
    text = "".join(rng.choice(LETTERS) for _ in range(rng.choice((2, 3, 4, 4)))).upper()
    return text, text


def _mail(rng: random.Random) -> Value:
    who = rng.choice((rng.choice(NAMES).lower(), invented(rng)))
    text = f"{who}@{invented(rng)}.{rng.choice(('org', 'com', 'net', 'de', 'io', 'example'))}"
    return text, text


def _path(rng: random.Random) -> Value:
    name = rng.choice((rng.choice(THINGS), invented(rng)))
    text = rng.choice(
        (
            "",
            "",
            "/tmp/",
            "docs/",
            "src/",
            f"{invented(rng)}/",
            "./",
            "/home/" + rng.choice(NAMES).lower() + "/",
        )
    )
    text += f"{name}.{rng.choice(('txt', 'py', 'md', 'json', 'csv', 'log', 'toml'))}"
    return text, text


def _flag(rng: random.Random) -> Value:
    is_on = rng.random() < 0.5
    return rng.choice(("true", "yes", "on") if is_on else ("false", "no", "off")), is_on


def _list_of(kind: str) -> Callable[[random.Random], Value]:
    def values(rng: random.Random) -> Value:
        parts = [KINDS_OF_VALUE[kind][1](rng) for _ in range(rng.choice((2, 2, 3, 3, 4)))]
        said = [part[0] for part in parts]
        joined = rng.choice((", ".join(said), ", ".join(said[:-1]) + " and " + said[-1]))
        return joined, [part[1] for part in parts]

    return values


def _of(table: tuple[str, ...], invented_share: float = 0.0) -> Callable[[random.Random], Value]:
    def value(rng: random.Random) -> Value:
        text = invented(rng) if rng.random() < invented_share else rng.choice(table)
        return text, text

    return value


# kind -> (JSON schema of it, how to draw one)
KINDS_OF_VALUE: dict[str, tuple[dict[str, Any], Callable[[random.Random], Value]]] = {
    "whole": ({"type": "integer"}, _whole),
    "signed": ({"type": "integer"}, _signed),
    "small": ({"type": "integer"}, _small),
    "years": ({"type": "integer"}, _years),
    "number": ({"type": "number"}, _decimal),
    "amount": ({"type": "number"}, _amount),
    "flag": ({"type": "boolean"}, _flag),
    "name": ({"type": "string"}, _name),
    "place": ({"type": "string"}, _place),
    "time": ({"type": "string"}, _time),
    "day": ({"type": "string"}, _day),
    "text": ({"type": "string"}, _text),
    "code": ({"type": "string"}, _code),
    "symbol": ({"type": "string"}, _symbol),
    "mail": ({"type": "string"}, _mail),
    "path": ({"type": "string"}, _path),
    "currency": ({"type": "string"}, _of(CURRENCIES)),
    "language": ({"type": "string"}, _of(LANGUAGES)),
    "room": ({"type": "string"}, _of(ROOMS)),
    "unit": ({"type": "string"}, _of(UNITS)),
    "topic": ({"type": "string"}, _of((*TOPICS, *(f"{t}s" for t in THINGS)), 0.15)),
    "manner": ({"type": "string"}, _of(MANNERS, 0.2)),
    "level": ({"type": "string"}, _of(LEVELS)),
    "thing": ({"type": "string"}, _of(THINGS, 0.25)),
    "colour": ({"type": "string"}, _of(FAVOURITE_COLOURS)),
    "job": ({"type": "string"}, _of(JOBS)),
    "food": ({"type": "string"}, _of(FOODS)),
    "word": ({"type": "string"}, _of(THINGS, 0.5)),
}  # fmt: skip
KINDS_OF_VALUE |= {
    "wholes": ({"type": "array", "items": {"type": "integer"}}, _list_of("signed")),
    "numbers": ({"type": "array", "items": {"type": "number"}}, _list_of("number")),
    "things": ({"type": "array", "items": {"type": "string"}}, _list_of("thing")),
    "names": ({"type": "array", "items": {"type": "string"}}, _list_of("name")),
}


def draw(rng: random.Random, kind: str) -> Value:
    """A value of this kind; `enum:a,b` is one of the words."""
    if kind.startswith("enum:"):
        text = rng.choice(kind[5:].split(","))
        return text.replace("_", " ") if rng.random() < 0.3 else text, text
    return KINDS_OF_VALUE[kind][1](rng)


def schema_of(kind: str) -> dict[str, Any]:
    """The JSON schema of values of this kind."""
    if kind.startswith("enum:"):
        return {"type": "string", "enum": kind[5:].split(",")}
    return dict(KINDS_OF_VALUE[kind][0])
